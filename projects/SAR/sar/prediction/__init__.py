"""Predict with a trained model, and export it for programs without detectron2."""
