import torch

import sar  # noqa: F401  before detectron2, which test modules import

# The tests' tensors are small: more threads only get into each other's way.
torch.set_num_threads(1)
