"""Class weights from the counts of a training set.

Each function takes the pixels of each class (K,) and the number of images that show it (K,). It
returns float64 weights (K,).
"""

from collections.abc import Sequence

import torch


def inverse_frequency_weights(pixels: Sequence[int], images: Sequence[int]) -> torch.Tensor:
    """Return w_k = n / (K n_k), with n_k pixels of class k and n pixels in all.

    K is the number of classes that occur. These are the "balanced" weights after King and Zeng,
    "Logistic Regression in Rare Events Data", 2001. Each class has the same sum of weights, and a
    pixel weighs 1 on average. A class that never occurs gets weight 1.

    Example::

        >>> inverse_frequency_weights([600, 300, 100], images=[10, 10, 5])
        tensor([0.5556, 1.1111, 3.3333], dtype=torch.float64)
    """
    pixels = torch.tensor(pixels, dtype=torch.float64)
    occurs = pixels > 0
    return torch.where(occurs, pixels.sum() / (occurs.sum() * pixels), 1.0)


def enet_weights(pixels: Sequence[int], images: Sequence[int]) -> torch.Tensor:
    """Return w_k = 1 / ln(1.02 + p_k), with p_k the share of class k in all labelled pixels.

    Paszke et al., "ENet", arXiv 1606.02147. Not normalised: the weights lie between 1.42 and 50.5.
    A class that never occurs gets 50.5.
    """
    pixels = torch.tensor(pixels, dtype=torch.float64)
    return 1.0 / (1.02 + pixels / pixels.sum()).log()


def median_frequency_weights(pixels: Sequence[int], images: Sequence[int]) -> torch.Tensor:
    """Return w_k = median(f) / f_k, with f_k the share of class k in the images that show it.

    Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015. SegNet
    uses these weights too. All images are taken to have the mean size, which is exact if they have
    one size. Not normalised: a class of median frequency has weight 1. The median is over the
    classes that occur, and a class that never occurs gets weight 1.
    """
    pixels = torch.tensor(pixels, dtype=torch.float64)
    images = torch.tensor(images, dtype=torch.float64)
    occurs = pixels > 0
    # quantile() averages the middle two of an even number; torch.median takes the lower.
    median = (pixels / images)[occurs].quantile(0.5)
    return torch.where(occurs, median * images / pixels, 1.0)


def effective_number_weights(
    pixels: Sequence[int], images: Sequence[int], beta: float = 0.999
) -> torch.Tensor:
    """Return w_k proportional to (1 - beta) / (1 - beta^n_k), for n_k images with class k.

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, Proposition
    1. There, beta is (N - 1) / N, with N the number of different samples that a class can have. As
    in the paper, the weights of the classes that occur have a mean of 1. A class that never occurs
    gets weight 1.

    A sample is an image that shows the class. Pixels of an image resemble each other, and there are
    so many of them that the paper's values of beta would make all weights equal.

    Args:
        beta: in [0, 1). 0 gives equal weights. Near 1, the weights are inverse to the images. The
            paper has 0.999 for its large data sets, and up to 0.9999.

    Example::

        >>> effective_number_weights([9000, 800, 200], images=[1000, 100, 10])
        tensor([0.0422, 0.2800, 2.6778], dtype=torch.float64)
    """
    images = torch.tensor(images, dtype=torch.float64)
    occurs = images > 0
    weights = (1 - beta) / (1 - beta**images)
    return torch.where(occurs, weights / weights[occurs].mean(), 1.0)


CLASS_WEIGHTS = {
    "inverse_frequency": inverse_frequency_weights,
    "enet": enet_weights,
    "median_frequency": median_frequency_weights,
    "effective_number": effective_number_weights,
}
