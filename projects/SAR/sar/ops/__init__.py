"""Computations that training repeats for every pixel, in plain PyTorch.

Each costly computation has an interface, a reference `*_pytorch.py` and a fast `*_triton.py`.
"""
