"""Sparse networks for 3-D point clouds, in plain PyTorch."""
