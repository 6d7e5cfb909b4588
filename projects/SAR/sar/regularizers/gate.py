"""The gate of SAR: does the classifier recognize the vectors of all classes?

Shape shorthand: K classes.
"""

import math

import torch


def recognized(
    logits: torch.Tensor, cross_entropy: torch.Tensor, confidence: float
) -> torch.Tensor:
    """Return for each class (K,) if the classifier recognizes its vector, such as an anchor.

    Args:
        logits: (K, K), row k of the vector of class k.
        cross_entropy: (K,), of row k with label k.
        confidence: in [0, 1]; the probability of class k must exceed it. 0: all are recognized.
    """
    if confidence == 0:
        return torch.ones_like(cross_entropy, dtype=torch.bool)
    targets = torch.arange(len(logits), device=logits.device)
    return (logits.argmax(dim=1) == targets) & (cross_entropy < -math.log(confidence))
