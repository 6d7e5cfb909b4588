"""Advice from the counts of a training set, before the first training."""
