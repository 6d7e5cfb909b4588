"""Measure the geometry of a feature space under neural collapse, from sums over a data set.

Shape shorthands:

    N: samples; C: embedding channels; L: embeddings per sample; K: classes
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sar.regularizers.labels import match_labels

GEOMETRY_METRICS = (
    "NC1",
    "NC1_trace_ratio",
    "NC2_equinorm",
    "NC2_equiangularity",
    "NC2_maximal_angle",
    "NC3",
)
# Number of embeddings that are converted to float64 at a time.
_CHUNK = 2**14


class FeatureGeometry:
    """Distance of embeddings and classifier from neural collapse. 0 is full collapse.

    The metrics are from Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal
    phase of deep learning training", PNAS 2020. m_k is the mean of the embeddings labelled k. m is
    the mean of these K centres, and d_k = m_k - m. W has the rows of the classifier, D the rows
    d_k.

    - NC1 = Tr(S_W S_B^+) / K, the variability within classes. S_W is the covariance about the
      centres, S_B = mean_k d_k d_k^T, and ^+ the pseudo-inverse.
    - NC2_equinorm = std_k |d_k| / mean_k |d_k|.
    - NC2_equiangularity = std of cos(d_j, d_k) over j != k.
    - NC2_maximal_angle = mean of |cos(d_j, d_k) + 1 / (K - 1)| over j != k. It is 0 for a simplex
      equiangular tight frame.
    - NC3 = | W / |W|_F - D / |D|_F |_F, the distance of the classifier, without its bias, from the
      centred centres.

    In the paper, all classes have the same size; here they do not. m and S_B are means over
    classes, since only then can centres of classes of different sizes form a simplex. S_W is the
    mean over all embeddings, so frequent classes dominate NC1. Therefore there is one more metric:

    - NC1_trace_ratio = mean_k Tr(S_k) / Tr(S_B), where every class counts the same. S_k is the
      covariance of class k.

    Classes without an embedding are left out of all metrics, and K does not count them.

    Only sums are kept, not the embeddings. These are K * (C + 2) + C^2 numbers in float64.

    Example::

        >>> geometry = FeatureGeometry(num_classes=2, embed_dim=2)
        >>> geometry.update(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]), torch.tensor([0, 1]))
        >>> numbers = geometry.compute(torch.tensor([[0.0, 2.0], [0.0, -2.0]]))
        >>> round(numbers["NC1"], 3), round(numbers["NC3"], 3)
        (0.0, 1.414)
    """

    def __init__(self, num_classes: int, embed_dim: int, *, ignore_value: int = 255):
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.ignore_value = ignore_value
        # One tensor, for one all-reduce. float64 counts exactly up to 2^53.
        size = num_classes * (embed_dim + 2) + embed_dim**2
        self._totals = torch.zeros(size, dtype=torch.float64)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add embeddings to the sums, on their device and without host synchronisation.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W) of any floating type.
            labels: (N,), (N, L0) or (N, H0, W0) class ids in [0, K), or `ignore_value`. They are
                resized to the embeddings by nearest neighbour, as in training.

        Raises:
            ValueError: the shape of the labels does not fit the embeddings.
        """
        labels = match_labels(embeddings, labels).flatten()
        embeddings = embeddings.transpose(0, 1).reshape(self.embed_dim, -1)
        self._totals = self._totals.to(embeddings.device)
        counts, squares, sums, products = self._parts()
        for chunk, ids in zip(embeddings.split(_CHUNK, 1), labels.split(_CHUNK), strict=True):
            valid = ids != self.ignore_value
            # Ignored pixels add zeros to class 0. Selecting valid pixels would make the host wait
            # for their number.
            ids = torch.where(valid, ids, 0)
            chunk = torch.where(valid, chunk, 0).double()
            counts.index_add_(0, ids, valid.double())
            squares.index_add_(0, ids, chunk.square().sum(0))
            sums.index_add_(1, ids, chunk)
            products.addmm_(chunk, chunk.T)

    def reduce(self) -> "FeatureGeometry":
        """Return the geometry over all processes. Every process must call it."""
        total = FeatureGeometry(self.num_classes, self.embed_dim, ignore_value=self.ignore_value)
        total._totals = sum_on_cpu(self._totals)
        return total

    def absent_classes(self) -> list[int]:
        """Return the ids of the classes without an embedding."""
        return (self._parts()[0] == 0).nonzero().flatten().tolist()

    def compute(self, classifier_weight: Tensor) -> dict[str, float]:
        """Return the values of GEOMETRY_METRICS.

        All values are NaN with fewer than two classes, with equal centres, or if an embedding is
        not finite.

        Args:
            classifier_weight: (K, C), or (K, C, 1, 1) for a 1x1 convolution.
        """
        counts, squares, sums, products = (part.cpu() for part in self._parts())
        present = counts > 0
        num_present = int(present.sum())
        if num_present < 2 or not products.isfinite().all():
            return dict.fromkeys(GEOMETRY_METRICS, float("nan"))
        counts, squares, sums = counts[present], squares[present], sums[:, present].T
        centres = sums / counts[:, None]
        centred = centres - centres.mean(0)
        if centred.norm() <= 1e-12 * centres.norm():  # only rounding errors
            return dict.fromkeys(GEOMETRY_METRICS, float("nan"))

        within = (products - sums.T @ centres) / counts.sum()
        # The centred centres are the rows of D. S_B = D^T D / K, so S_B^+ = K D^+ (D^+)^T, and K
        # cancels out. The rows of D add up to zero, so one singular value is only rounding error.
        inverse = torch.linalg.pinv(centred, rtol=1e-7)
        nc1 = (inverse * (within @ inverse)).sum()
        class_variances = squares / counts - centres.square().sum(1)
        between = centred.square().sum(1).mean()

        norms = centred.norm(dim=1)
        directions = F.normalize(centred)
        others = ~torch.eye(num_present, dtype=torch.bool)
        cosines = (directions @ directions.T)[others]

        weight = classifier_weight.detach().cpu().double().flatten(1)[present]
        values = (
            nc1.clamp(min=0),  # rounding can make differences of sums negative
            (class_variances.mean() / between).clamp(min=0),
            norms.std(correction=0) / norms.mean(),
            cosines.std(correction=0),
            (cosines + 1 / (num_present - 1)).abs().mean(),
            (weight / weight.norm() - centred / centred.norm()).norm(),
        )
        return {name: value.item() for name, value in zip(GEOMETRY_METRICS, values, strict=True)}

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return views of the sums over the embeddings e.

        They are counts (K,), sums of |e|^2 (K,), sums of e (C, K), and the sum of all e e^T (C, C).
        """
        num_classes, channels = self.num_classes, self.embed_dim
        sizes = [num_classes, num_classes, channels * num_classes, channels**2]
        counts, squares, sums, products = self._totals.split(sizes)
        return counts, squares, sums.view(channels, num_classes), products.view(channels, channels)


def sum_on_cpu(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes, on the CPU, without a gradient.

    Every process must call it.
    """
    total = values.clone()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        total = total.to(torch.cuda.current_device() if on_gpu else "cpu")
        dist.all_reduce(total)
    return total.cpu()
