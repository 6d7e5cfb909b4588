"""Semantic Anchor Regularization (SAR), Ge et al., AAAI 2024, arXiv 2312.11872.

Shape shorthands: N samples, C embedding channels, K classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sar.ops.squared_distance import PIXELS, mean_squared_distance
from sar.regularizers.anchors import gaussian_anchors
from sar.regularizers.arguments import check_pull_over, check_share
from sar.regularizers.classifier import check_classifier
from sar.regularizers.classify import classify
from sar.regularizers.gate import recognized
from sar.regularizers.labels import check_channels, match_labels


class SemanticAnchorRegularizer(nn.Module):
    """Pulls each pixel embedding to a semantic anchor of its class, which the classifier knows.

    Each class has a fixed random anchor. A small MLP projects the anchors. Training makes
    the head's own classifier recognize them. When it recognizes all of them (the gate), their slow
    average becomes the target of the embeddings. The pull trains the embeddings only. The anchor
    loss trains the projector and the classifier only.

    The losses, with S the projected anchors, ce_k and p_k cross-entropy and probability of anchor
    k, M the memory and e_i the embedding of a valid pixel i of class y_i:

    * `loss_sar_anchor` = anchor_weight * sum_k w_k ce_k, w_k = log q_k / (sum_j log q_j + 1e-9),
      q_k = 1 if p_k > hard_anchor_confidence else p_k;
    * the gate is open iff every anchor is classified correctly and ce_k < -log(gate_confidence) for
      all k; then M = S the first time, M = momentum * M + (1 - momentum) * S later;
    * `loss_sar_pull` = pull_weight * mean_i |e_i - M_{y_i}|^2 / C while the gate is open, else 0.

    The paper's pull is a mean over pixels, in which frequent classes outweigh rare ones. An option
    that is not in the paper: `pull_over="classes"`, the mean over the classes present of their
    means.

    No decision waits for the device, so the graph is the same in every step.

    Args:
        num_classes: K, at least 2 (the projector normalizes over the K anchors).
        embed_dim: C, channels of the embedding that the classifier reads.
        anchor_weight, pull_weight: weights of the two losses.
        hard_anchor_confidence: anchors classified with more than this are left out of the loss.
        gate_confidence: probability that all anchors must exceed for the gate to open. 0: the gate
            is always open.
        momentum: of the memory of semantic anchors.
        pull_over: "pixels" or "classes": the pull is a mean over these.
        ignore_value: label of pixels that do not count.
        anchors: (K, C) pre-defined anchors; drawn from N(0, 1) by default.

    Raises:
        ValueError: K < 2, anchors of another shape or not finite, momentum or a confidence
            out of range, another `pull_over`.

    Example::

        >>> classifier = nn.Conv2d(64, 5, kernel_size=1)
        >>> regularizer = SemanticAnchorRegularizer(num_classes=5, embed_dim=64)
        >>> embeddings, labels = torch.randn(2, 64, 16, 16), torch.randint(5, (2, 64, 64))
        >>> losses = regularizer(embeddings, labels, classifier)
        >>> sorted(losses)
        ['loss_sar_anchor', 'loss_sar_pull']
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        anchor_weight: float = 1.0,
        pull_weight: float = 0.1,
        hard_anchor_confidence: float = 0.9,
        gate_confidence: float = 0.8,
        momentum: float = 0.999,
        pull_over: str = PIXELS,
        ignore_value: int = 255,
        anchors: torch.Tensor | None = None,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"SAR needs at least 2 classes, got num_classes={num_classes}")
        check_share("momentum", momentum)
        if not 0 < hard_anchor_confidence <= 1:
            raise ValueError(
                f"hard_anchor_confidence must lie in (0, 1], got {hard_anchor_confidence}"
            )
        check_share("gate_confidence", gate_confidence)
        check_pull_over(pull_over)
        if anchors is None:
            anchors = gaussian_anchors(num_classes, embed_dim)
        else:
            # Contiguous, since NCCL broadcasts no other layout.
            anchors = torch.as_tensor(anchors, dtype=torch.get_default_dtype()).detach()
            anchors = anchors.clone(memory_format=torch.contiguous_format)
        if anchors.shape != (num_classes, embed_dim):
            raise ValueError(
                f"expected anchors of shape (num_classes, embed_dim) = ({num_classes}, "
                f"{embed_dim}), found {tuple(anchors.shape)}"
            )
        if not anchors.isfinite().all():
            raise ValueError("expected finite anchors, found NaN or infinity")

        self.num_classes = num_classes
        self.anchor_weight = anchor_weight
        self.pull_weight = pull_weight
        self.hard_anchor_confidence = hard_anchor_confidence
        self.gate_confidence = gate_confidence
        self.momentum = momentum
        self.pull_over = pull_over
        self.ignore_value = ignore_value

        self.register_buffer("anchors", anchors)
        self.projector = nn.Sequential(
            nn.Linear(embed_dim, embed_dim),
            nn.BatchNorm1d(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, embed_dim),
            nn.BatchNorm1d(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, embed_dim, bias=False),
            nn.BatchNorm1d(embed_dim),
            nn.ReLU(),
        )
        self.register_buffer("semantic_anchors", torch.zeros_like(anchors))
        self.register_buffer("gate_has_opened", torch.tensor(False))
        # State of the gate in the last step, for logs; not in the state_dict.
        self.register_buffer("gate_is_open", torch.tensor(False), persistent=False)

    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, classifier: nn.Module
    ) -> dict[str, torch.Tensor]:
        """Return the two losses of this step. In training mode, update the memory.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W): the input of the classifier.
            labels: (N,), (N, L0) or (N, H0, W0) class ids; resized to the embeddings by nearest
                neighbour.
            classifier: linear layer or 1x1 convolution C -> K, shared with the main stream; or
                another linear map of one embedding, from (M, C) to (M, K) for any M.

        Returns:
            {"loss_sar_anchor": scalar, "loss_sar_pull": scalar}, always both.

        Raises:
            ValueError: shapes that do not go together, or a classifier that `check_classifier`
                refuses.
        """
        embed_dim = self.anchors.shape[1]
        check_channels(embeddings, embed_dim)
        check_classifier(classifier, self.num_classes, embed_dim, embeddings.device)
        labels = match_labels(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            projected = self.projector(self.anchors)
            logits = classify(classifier, projected)
            targets = torch.arange(self.num_classes, device=logits.device)
            cross_entropy = F.cross_entropy(logits, targets, reduction="none")

            gate = recognized(logits.detach(), cross_entropy.detach(), self.gate_confidence).all()
            if self.training:
                self._update_memory(gate, projected.detach())
            pull = mean_squared_distance(
                embeddings,
                labels,
                self.semantic_anchors,
                self.ignore_value,
                self.pull_weight,
                self.pull_over,
            )
            return {
                "loss_sar_anchor": self.anchor_weight * self._anchor_loss(cross_entropy),
                "loss_sar_pull": torch.where(gate, pull, 0.0),
            }

    def _anchor_loss(self, cross_entropy: torch.Tensor) -> torch.Tensor:
        # log p_k = -ce_k, which stays finite if p_k underflows.
        is_hard = cross_entropy.detach() < -math.log(self.hard_anchor_confidence)
        log_confidence = torch.where(is_hard, 0.0, -cross_entropy)
        weights = log_confidence / (log_confidence.sum() + 1e-9)
        return (weights * cross_entropy).sum()

    @torch.no_grad()
    def _update_memory(self, gate: torch.Tensor, projected: torch.Tensor) -> None:
        moved = torch.lerp(projected, self.semantic_anchors, self.momentum)
        updated = torch.where(self.gate_has_opened, moved, projected)
        self.semantic_anchors.copy_(torch.where(gate, updated, self.semantic_anchors))
        self.gate_has_opened.logical_or_(gate)
        self.gate_is_open.copy_(gate)
