"""Pull to class prototypes, the paradigm that SAR argues against (arXiv 2312.11872, section 1).

Shape shorthands: N samples, C embedding channels, K classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sar.ops.squared_distance import PIXELS, mean_squared_distance
from sar.regularizers.arguments import check_pull_over, check_share
from sar.regularizers.class_means import PrototypeMemory, class_means
from sar.regularizers.classifier import check_classifier
from sar.regularizers.classify import classify
from sar.regularizers.gate import recognized
from sar.regularizers.labels import as_points, check_channels, match_labels


class PrototypeRegularizer(nn.Module):
    """Pulls each pixel embedding to the prototype of its class: the moving average of its mean.

    Everything but the target equals SAR, so that a comparison shows the effect of the anchors:

    * P_k is the moving average of the mean embedding of class k (`PrototypeMemory`), detached;
    * the gate is open iff the classifier predicts every known prototype correctly, with a
      probability above gate_confidence;
    * `loss_prototype_pull` = pull_weight * mean_i |e_i - P_{y_i}|^2 / C while the gate is open,
      else 0. It trains the embeddings only.

    Args:
        num_classes: K.
        embed_dim: C, channels of the embedding that the classifier reads.
        pull_weight: weight of the loss.
        gate_confidence: in [0, 1]. 0: the gate is always open.
        momentum: of the moving average.
        pull_over: "pixels" or "classes": the pull is a mean over these.
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: momentum or confidence out of range, another `pull_over`.

    Example::

        >>> classifier = nn.Conv2d(64, 5, kernel_size=1)
        >>> regularizer = PrototypeRegularizer(num_classes=5, embed_dim=64)
        >>> embeddings, labels = torch.randn(2, 64, 16, 16), torch.randint(5, (2, 64, 64))
        >>> sorted(regularizer(embeddings, labels, classifier))
        ['loss_prototype_pull']
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        pull_weight: float = 0.1,
        gate_confidence: float = 0.8,
        momentum: float = 0.999,
        pull_over: str = PIXELS,
        ignore_value: int = 255,
    ):
        super().__init__()
        check_share("gate_confidence", gate_confidence)
        check_pull_over(pull_over)
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.pull_weight = pull_weight
        self.gate_confidence = gate_confidence
        self.pull_over = pull_over
        self.ignore_value = ignore_value
        self.memory = PrototypeMemory(num_classes, embed_dim, momentum)
        # State of the gate in the last step, for logs; not in the state_dict.
        self.register_buffer("gate_is_open", torch.tensor(False), persistent=False)

    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, classifier: nn.Module
    ) -> dict[str, torch.Tensor]:
        """Return the loss of this step. In training mode, update the prototypes first.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W): the input of the classifier.
            labels: (N,), (N, L0) or (N, H0, W0) class ids; resized to the embeddings by nearest
                neighbour.
            classifier: as for `SemanticAnchorRegularizer`.

        Returns:
            {"loss_prototype_pull": scalar}.

        Raises:
            ValueError: shapes that do not go together, or a classifier that `check_classifier`
                refuses.
        """
        check_channels(embeddings, self.embed_dim)
        check_classifier(classifier, self.num_classes, self.embed_dim, embeddings.device)
        labels = match_labels(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            prototypes = self.memory.prototypes
            if self.training:
                vectors, flat_labels = as_points(embeddings.detach(), labels)
                vectors = vectors.to(prototypes.dtype)
                self.memory.update(
                    *class_means(vectors, flat_labels, self.num_classes, self.ignore_value)
                )
            gate = self._gate(classifier)
            if self.training:
                self.gate_is_open.copy_(gate)
            pull = mean_squared_distance(
                embeddings, labels, prototypes, self.ignore_value, self.pull_weight, self.pull_over
            )
            return {"loss_prototype_pull": torch.where(gate, pull, 0.0)}

    @torch.no_grad()
    def _gate(self, classifier) -> torch.Tensor:
        logits = classify(classifier, self.memory.prototypes)
        targets = torch.arange(self.num_classes, device=logits.device)
        cross_entropy = F.cross_entropy(logits, targets, reduction="none")
        is_recognized = recognized(logits, cross_entropy, self.gate_confidence)
        return (is_recognized | ~self.memory.is_known).all()
