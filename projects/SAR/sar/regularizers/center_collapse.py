"""Center Collapse Regularizer (CeCo), Zhong et al., CVPR 2023, arXiv 2301.01100.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, P projected
channels, K classes, D dimensions of the simplex ETF.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sar.ops.over_processes import sum_over_processes
from sar.regularizers.class_means import class_means
from sar.regularizers.classifier import check_classifier
from sar.regularizers.labels import as_points, check_channels, match_labels
from sar.regularizers.simplex_etf import simplex_etf

PIXEL_PROJECTION_DIM = 128  # P, as in the authors' code
BATCH_NORM_EPS = 1e-5


class CenterCollapseRegularizer(nn.Module):
    """Pulls the centres of the classes to a simplex equiangular tight frame (ETF).

    A frozen ETF W classifies the mean embedding of each class in the batch. Rare and frequent
    classes count the same. The K rows of W are as far from each other as possible. As in the
    authors' code, projections give the D dimensions that an ETF of K classes needs:

    1. every pixel: 1x1 convolution C -> P without bias, batch norm (batch statistics);
    2. z_k = mean over the valid pixels labelled k;
    3. every mean: linear layer P -> D, ReLU, L2-normalization, dropout;
    4. logits = scale * z W^T + log(f_k + 1e-12), with the class frequencies f if given;
    5. `loss_ceco` = weight * mean over the classes present of the cross-entropy; 0 without a
       valid pixel.

    All projections stay frozen at their initialization: only the network learns. For the same
    reason, batch norm has no affine part. Its statistics include ignored pixels, as in the authors'
    code; otherwise ignored pixels have no effect. `projection_dim=None` is the paper's direct form:
    without steps 1 and 3, embeddings are not projected or normalized.

    In distributed training, statistics and centres are computed from the whole batch. Each process
    computes the same loss, except for dropout. Gradients that DistributedDataParallel averages
    equal the gradients of one process with the whole batch.

    No decision waits for the device, so the graph is the same in every step.

    Args:
        num_classes: K, at least 2.
        embed_dim: C, channels of the embedding.
        weight: of the loss.
        scale: of the logits, an inverse temperature.
        projection_dim: D, at least K; None for the direct form, where D = C.
        class_frequencies: how often each of the K classes occurs, such as the number of training
            images that show it; normalized here to sum to 1. For logit adjustment.
        dropout: probability; unused in the direct form.
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: K < 2, K > D, or class frequencies that are not K numbers of 0 or more, one of
            them above 0.

    Example::

        >>> regularizer = CenterCollapseRegularizer(num_classes=5, embed_dim=64)
        >>> embeddings, labels = torch.randn(2, 64, 16, 16), torch.randint(5, (2, 64, 64))
        >>> losses = regularizer(embeddings, labels)
        >>> sorted(losses)
        ['loss_ceco']
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        weight: float = 0.4,
        scale: float = 5.0,
        projection_dim: int | None = 512,
        class_frequencies: Sequence[float] | torch.Tensor | None = None,
        dropout: float = 0.1,
        ignore_value: int = 255,
    ):
        super().__init__()
        self.is_projected = projection_dim is not None
        key, etf_dim = (
            ("projection_dim", projection_dim) if self.is_projected else ("embed_dim", embed_dim)
        )
        if num_classes > etf_dim:
            raise ValueError(
                f"CeCo of num_classes={num_classes} needs as many dimensions, but {key}={etf_dim}"
            )

        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.weight = weight
        self.scale = scale
        self.ignore_value = ignore_value

        if self.is_projected:
            # A 1x1 convolution, for any number of spatial dimensions.
            self.pixel_projection = nn.Linear(embed_dim, PIXEL_PROJECTION_DIM, bias=False)
            self.centre_projection = nn.Linear(PIXEL_PROJECTION_DIM, etf_dim)
            self.dropout = nn.Dropout(dropout)
            self.requires_grad_(False)
        dtype = torch.get_default_dtype()
        self.register_buffer("etf", simplex_etf(num_classes, etf_dim).to(dtype))
        if class_frequencies is not None:
            class_frequencies = _checked_frequencies(class_frequencies, num_classes).to(dtype)
        # Given to every new object, so not in the state_dict.
        self.register_buffer("class_frequencies", class_frequencies, persistent=False)

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        classifier: nn.Module | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the loss of this step.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W): the input of the classifier.
            labels: (N,), (N, L0) or (N, H0, W0) class ids; resized to the embeddings by nearest
                neighbour.
            classifier: only checked, if given; all regularizers are called with one.

        Returns:
            {"loss_ceco": scalar}.

        Raises:
            ValueError: shapes that do not go together, or a classifier that `check_classifier`
                refuses.
        """
        check_channels(embeddings, self.embed_dim)
        if classifier is not None:
            check_classifier(classifier, self.num_classes, self.embed_dim, embeddings.device)
        vectors, labels = as_points(embeddings, match_labels(embeddings, labels))
        with torch.autocast(embeddings.device.type, enabled=False):
            centres, counts = self._class_centres(vectors.to(self.etf.dtype), labels)
            logits = self.scale * centres @ self.etf.T
            if self.class_frequencies is not None:
                shares = self.class_frequencies / self.class_frequencies.sum()
                logits = logits + torch.log(shares + 1e-12)
            targets = torch.arange(self.num_classes, device=logits.device)
            cross_entropy = F.cross_entropy(logits, targets, reduction="none")
            is_present = counts > 0
            total = torch.where(is_present, cross_entropy, 0.0).sum()
            return {"loss_ceco": self.weight * total / is_present.sum().clamp(min=1)}

    def _class_centres(self, vectors, labels) -> tuple[torch.Tensor, torch.Tensor]:
        """Return centres (K, D), undefined for an absent class, and numbers of pixels (K,)."""
        if self.is_projected:
            weight = self.pixel_projection.weight.expand(len(vectors), -1, -1)
            vectors = torch.bmm(weight, vectors)
        centres, counts = class_means(vectors, labels, self.num_classes, self.ignore_value)
        if self.is_projected:
            # Batch norm is affine in each channel, so it may come after the mean.
            mean, variance = _batch_statistics(vectors)
            centres = (centres - mean) / (variance + BATCH_NORM_EPS).sqrt()
            centres = F.normalize(F.relu(self.centre_projection(centres)), dim=1)
            centres = self.dropout(centres)
        return centres, counts


def _batch_statistics(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance (P,) of (N, P, L) over all pixels of all processes."""
    num_pixels = vectors.new_full((1,), vectors.shape[0] * vectors.shape[2])
    totals = sum_over_processes(torch.cat([vectors.sum(dim=(0, 2)), num_pixels]))
    num_pixels = totals[-1:].detach()
    mean = totals[:-1] / num_pixels
    squares = (vectors - mean[:, None]).square().sum(dim=(0, 2))
    return mean, sum_over_processes(squares) / num_pixels


def _checked_frequencies(class_frequencies, num_classes: int) -> torch.Tensor:
    frequencies = torch.as_tensor(class_frequencies, dtype=torch.float64)
    if frequencies.shape != (num_classes,):
        raise ValueError(
            f"class_frequencies: expected {num_classes} numbers (num_classes), "
            f"found shape {tuple(frequencies.shape)}"
        )
    bad_ids = torch.nonzero(~(frequencies.isfinite() & (frequencies >= 0)))
    if len(bad_ids):
        class_id = int(bad_ids[0])
        raise ValueError(
            "class_frequencies: expected finite numbers of 0 or more, "
            f"found {frequencies[class_id]} for class id {class_id}"
        )
    if not frequencies.any():
        raise ValueError("class_frequencies: expected a number above 0, found only zeros")
    return frequencies
