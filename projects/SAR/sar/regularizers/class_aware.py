"""Class-aware regularization (CAR), Huang et al., ECCV 2022, arXiv 2203.07160.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sar.ops.over_processes import sum_over_processes
from sar.regularizers.class_means import class_means
from sar.regularizers.labels import as_points, check_channels, match_labels

# Shares of a relation to other classes that cost nothing, as in the authors' code.
CENTRE_THRESHOLD = 0.5
PIXEL_THRESHOLD = 0.25


class ClassAwareRegularizer(nn.Module):
    """Pulls pixels to the centre of their class, and pushes them and the centres from the others.

    m_k is the mean embedding of class k in the batch, 0 if it is absent; [.] is detached.

    * `loss_car_intra` = intra_weight * (mean_{i, c} |[m_{y_i}] - e_i|)^2 over the valid pixels and
      the channels;
    * `loss_car_inter` = inter_weight * (centres^2 + pixels^2), where

      - centres: mean over k of sum_{j != k} max(R_kj - 0.5 / (K - 1), 0), with the relation
        R_k = softmax_j(m_k . [m_j] / sqrt(C));
      - pixels: mean over the valid pixels i of sum_{j != y_i} max(R_ij - 0.25 / (K - 1), 0), with
        R_i = softmax_j(e_i . [m_j] / sqrt(C)), where |m_{y_i}|^2 replaces e_i . m_{y_i}.

    This follows the authors' code, with two changes: ignored pixels do not count, and no 1x1
    convolution comes before the losses. In distributed training, means are over all processes, and
    each process computes the same loss.

    Args:
        num_classes: K, at least 2.
        embed_dim: C, channels of the embedding.
        intra_weight, inter_weight: weights of the two losses.
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: K < 2.

    Example::

        >>> regularizer = ClassAwareRegularizer(num_classes=5, embed_dim=64)
        >>> embeddings, labels = torch.randn(2, 64, 16, 16), torch.randint(5, (2, 64, 64))
        >>> sorted(regularizer(embeddings, labels))
        ['loss_car_inter', 'loss_car_intra']
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        intra_weight: float = 1.0,
        inter_weight: float = 1.0,
        ignore_value: int = 255,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"CAR needs at least 2 classes, got num_classes={num_classes}")
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.intra_weight = intra_weight
        self.inter_weight = inter_weight
        self.ignore_value = ignore_value

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        classifier: nn.Module | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the losses of this step.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W): the input of the classifier.
            labels: (N,), (N, L0) or (N, H0, W0) class ids; resized to the embeddings by nearest
                neighbour.
            classifier: not used; all regularizers are called with one.

        Returns:
            {"loss_car_intra": scalar, "loss_car_inter": scalar}.

        Raises:
            ValueError: shapes that do not go together.
        """
        check_channels(embeddings, self.embed_dim)
        vectors, labels = as_points(embeddings, match_labels(embeddings, labels))
        with torch.autocast(embeddings.device.type, enabled=False):
            if vectors.dtype in (torch.float16, torch.bfloat16):
                vectors = vectors.float()
            centres, counts = class_means(vectors, labels, self.num_classes, self.ignore_value)
            num_valid = counts.sum().clamp(min=1)
            is_valid = labels != self.ignore_value
            own = torch.where(is_valid, labels, 0)
            fixed = centres.detach()

            distances = (fixed[own].movedim(-1, 1) - vectors).abs().mean(dim=1)
            intra = _mean(distances, is_valid, num_valid)
            to_pixels = _mean(self._relation_to_others(vectors, fixed, own), is_valid, num_valid)
            to_centres = self._relation_of_centres(centres, fixed)
            return {
                "loss_car_intra": self.intra_weight * intra.square(),
                "loss_car_inter": self.inter_weight * (to_centres.square() + to_pixels.square()),
            }

    def _relation_of_centres(self, centres, fixed) -> torch.Tensor:
        relation = (centres @ fixed.T / math.sqrt(self.embed_dim)).softmax(dim=1)
        others = F.relu(relation - CENTRE_THRESHOLD / (self.num_classes - 1))
        return (others.sum() - others.diagonal().sum()) / self.num_classes

    def _relation_to_others(self, vectors, fixed, own) -> torch.Tensor:
        """Return the relation (N, L) of each pixel to all classes but its own."""
        energies = torch.einsum("ncl,kc->nkl", vectors, fixed)
        is_own = F.one_hot(own, self.num_classes).movedim(-1, 1).bool()
        energies = torch.where(is_own, fixed.square().sum(dim=1)[:, None], energies)
        relation = (energies / math.sqrt(self.embed_dim)).softmax(dim=1)
        others = F.relu(relation - PIXEL_THRESHOLD / (self.num_classes - 1))
        return torch.where(is_own, 0.0, others).sum(dim=1)


def _mean(values: torch.Tensor, is_valid: torch.Tensor, num_valid: torch.Tensor) -> torch.Tensor:
    """Return the mean over the valid pixels of all processes."""
    return sum_over_processes(torch.where(is_valid, values, 0.0).sum()) / num_valid
