"""Hot loops. One interface per file, with a reference in PyTorch and a fast version in Triton."""
