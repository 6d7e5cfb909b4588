"""Contrast of pixels and prototypes: ProtoSeg, Zhou et al., CVPR 2022, arXiv 2203.15102.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sar.ops.over_processes import mean_over_processes
from sar.regularizers.class_means import PrototypeMemory, class_means
from sar.regularizers.labels import as_points, check_channels, match_labels


class PrototypeContrastRegularizer(nn.Module):
    """Classifies each pixel embedding by its similarity to the prototypes of all classes.

    All vectors have length 1. P_k is the moving average of the mean embedding of class k
    (`PrototypeMemory`), detached. The paper's two losses, PPC and PPD, for a pixel i of class y_i,
    are means over the valid pixels:

    * `loss_prototype_contrast` = weight * -log softmax_k(e_i . P_k / temperature) at y_i;
    * `loss_prototype_distance` = distance_weight * (1 - e_i . P_{y_i})^2.

    The paper has ten prototypes for each class, and no other classifier. Here each class has one
    prototype, and the losses are added to those of the head. Classes that no step has shown yet
    are not in the softmax.

    Args:
        num_classes: K.
        embed_dim: C, channels of the embedding.
        weight, distance_weight: weights of the two losses.
        temperature: of the softmax, above 0.
        momentum: of the moving average.
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: temperature or momentum out of range.

    Example::

        >>> regularizer = PrototypeContrastRegularizer(num_classes=5, embed_dim=64)
        >>> embeddings, labels = torch.randn(2, 64, 16, 16), torch.randint(5, (2, 64, 64))
        >>> sorted(regularizer(embeddings, labels))
        ['loss_prototype_contrast', 'loss_prototype_distance']
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        weight: float = 0.01,
        distance_weight: float = 0.001,
        temperature: float = 0.1,
        momentum: float = 0.999,
        ignore_value: int = 255,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.weight = weight
        self.distance_weight = distance_weight
        self.temperature = temperature
        self.ignore_value = ignore_value
        self.memory = PrototypeMemory(num_classes, embed_dim, momentum, unit_length=True)

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        classifier: nn.Module | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the losses of this step. In training mode, update the prototypes first.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W): the input of the classifier.
            labels: (N,), (N, L0) or (N, H0, W0) class ids; resized to the embeddings by nearest
                neighbour.
            classifier: not used; all regularizers are called with one.

        Returns:
            {"loss_prototype_contrast": scalar, "loss_prototype_distance": scalar}.

        Raises:
            ValueError: shapes that do not go together.
        """
        check_channels(embeddings, self.embed_dim)
        vectors, labels = as_points(embeddings, match_labels(embeddings, labels))
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = F.normalize(vectors.to(self.memory.prototypes.dtype), dim=1)
            if self.training:
                self.memory.update(
                    *class_means(vectors.detach(), labels, self.num_classes, self.ignore_value)
                )
            similarities = torch.einsum("ncl,kc->nkl", vectors, self.memory.prototypes)
            is_unknown = ~self.memory.is_known[:, None]
            logits = (similarities / self.temperature).masked_fill(is_unknown, -torch.inf)
            contrast = F.cross_entropy(logits, labels, ignore_index=self.ignore_value)

            is_valid = labels != self.ignore_value
            own = similarities.gather(1, torch.where(is_valid, labels, 0)[:, None])[:, 0]
            num_valid = is_valid.sum()
            squares = torch.where(is_valid, (1 - own).square(), 0.0)
            distance = squares.sum() / num_valid.clamp(min=1)
            num_valid = num_valid.to(contrast.dtype)
            return {
                "loss_prototype_contrast": self.weight * mean_over_processes(contrast, num_valid),
                "loss_prototype_distance": self.distance_weight
                * mean_over_processes(distance, num_valid),
            }
