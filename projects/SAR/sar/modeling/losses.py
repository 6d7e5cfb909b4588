"""What people use for long tails, in the place of a semantic head's own loss.

Shape shorthands: N images, K classes, h x w the resolution of the head, H x W of the labels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError, nearest
from sar.regularizers.functional import sum_over_processes

from detectron2.config import CfgNode
from detectron2.projects.deeplab.loss import DeepLabCE

LOSSES = ("cross_entropy", "hard_pixel_mining", "logit_adjustment", "seesaw")


class SegmentationLoss(nn.Module):
    """Stands in for `losses(predictions, targets)` of detectron2's semantic heads.

    As these do, it upsamples the logits to the labels' resolution, bilinearly and in float32.

    Args:
        criterion: called with logits (N, K, H, W) and labels (N, H, W), gives a scalar.
        stride: H / h, the head's `common_stride`.
        loss_weight: factor of the loss.
    """

    def __init__(self, criterion: nn.Module, *, stride: int, loss_weight: float = 1.0):
        super().__init__()
        self.criterion = criterion
        self.stride = stride
        self.loss_weight = loss_weight

    def forward(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"loss_sem_seg": scalar} of logits (N, K, h, w) and int64 labels (N, H, W)."""
        logits = F.interpolate(
            predictions.float(), scale_factor=self.stride, mode="bilinear", align_corners=False
        )
        return {"loss_sem_seg": self.criterion(logits, targets) * self.loss_weight}


class CrossEntropy(nn.Module):
    """Cross-entropy, class-weighted where weights are given.

    sum_i w_(y_i) ce_i / sum_i w_(y_i) over the pixels i that are not ignored, as
    `F.cross_entropy`. Where all are ignored it is 0 with a gradient of 0; `F.cross_entropy` gives
    NaN there. The same holds of every loss in this module.

    Args:
        ignore_value: label of pixels that do not count.
        weights: (K,), of the classes.
    """

    def __init__(self, ignore_value: int, weights: torch.Tensor | None = None):
        super().__init__()
        self.ignore_value = ignore_value
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(logits, targets, weight=self.weights, ignore_index=self.ignore_value)
        # Not nan_to_num: a training that diverges must still be seen.
        return torch.where((targets != self.ignore_value).any(), loss, torch.zeros_like(loss))


class LogitAdjustment(nn.Module):
    """Cross-entropy of logits + tau * log(prior), in training only: the logit-adjusted loss of
    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.

    The prior of a class is its share of the labelled training pixels. A class that never occurs,
    whose logarithm does not exist, is taken to have one pixel.

    Args:
        pixels: (K,) training pixels of each class.
        ignore_value: label of pixels that do not count.
        tau: strength; 1 is consistent with the balanced error, 0 is plain cross-entropy.
    """

    def __init__(self, pixels: torch.Tensor, ignore_value: int, tau: float = 1.0):
        super().__init__()
        self.cross_entropy = CrossEntropy(ignore_value)
        pixels = pixels.double().clamp(min=1)
        adjustment = (tau * (pixels / pixels.sum()).log()).float()
        self.register_buffer("adjustment", adjustment, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.cross_entropy(logits + self.adjustment[:, None, None], targets)


class Seesaw(nn.Module):
    """Seesaw loss (Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021),
    with pixels for the paper's instances.

    Of a pixel labelled i with logits z and softmax s:

        L = -log(exp(z_i) / (exp(z_i) + sum_(j != i) M_ij C_ij exp(z_j)))
        M_ij = min(1, N_j / N_i)^p      mitigation: few gradients from i push a rarer j down
        C_ij = max(1, s_j / s_i)^q      compensation: more, where j is mistaken for i

    averaged over the pixels that are not ignored. M and C are constants to the gradient. As the
    authors' code has it, s_i is at least `min_score` in C, and N is what training has shown of a
    class up to and with this step, at least 1. N is a buffer in the checkpoint, so that a resumed
    run goes on with it, and counts the pixels of all processes. The paper's normalised linear
    layer is not part of it: the head's classifier stays as it is.

    Args:
        num_classes: K.
        ignore_value: label of pixels that do not count.
        p, q: exponents of mitigation and compensation; 0 turns one off.
        min_score: see above.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_value: int,
        *,
        p: float = 0.8,
        q: float = 2.0,
        min_score: float = 0.01,
    ):
        super().__init__()
        self.cross_entropy = CrossEntropy(ignore_value)
        self.p, self.q, self.min_score = p, q, min_score
        self.register_buffer("pixels_seen", torch.zeros(num_classes, dtype=torch.int64))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        valid = targets != self.cross_entropy.ignore_value
        self._count(targets, valid)
        log_factors = self._log_factors(logits.detach(), targets.where(valid, 0))
        return self.cross_entropy(logits + log_factors, targets)

    def _count(self, targets: torch.Tensor, valid: torch.Tensor) -> None:
        # Not bincount, which makes the host wait for a GPU.
        counts = self.pixels_seen.new_zeros(len(self.pixels_seen))
        counts.scatter_add_(0, targets.where(valid, 0).flatten(), valid.flatten().long())
        self.pixels_seen += sum_over_processes(counts)

    def _log_factors(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """log(M_ij C_ij) for every pixel's class i and every j; it is 0 at j = i."""
        log_scores = F.log_softmax(logits, dim=1)
        log_own = log_scores.gather(1, classes[:, None]).clamp(min=math.log(self.min_score))
        log_compensation = (log_scores - log_own).clamp_(min=0).mul_(self.q)
        log_seen = self.pixels_seen.clamp(min=1).to(logits.dtype).log()
        log_ratios = log_seen[:, None, None] - log_seen[classes][:, None]
        return log_compensation.add_(log_ratios.clamp_(max=0), alpha=self.p)


def inverse_frequency_weights(frequency: ClassFrequency) -> torch.Tensor:
    """(K,) w_k = n / (K n_k), with n_k the training pixels of class k and n those of all classes.

    The "balanced" weights that follow King and Zeng, "Logistic Regression in Rare Events Data",
    2001: each class has the same sum of weights, and a pixel weighs 1 on average. K counts the
    classes that occur; one that never does gets weight 1.
    """
    pixels = torch.tensor(frequency.pixels, dtype=torch.float64)
    occurs = pixels > 0
    return torch.where(occurs, pixels.sum() / (occurs.sum() * pixels), 1.0)


def enet_weights(frequency: ClassFrequency) -> torch.Tensor:
    """(K,) w_k = 1 / ln(1.02 + p_k), with p_k the share of class k of all labelled pixels.

    Paszke et al., "ENet", arXiv 1606.02147. Not normalised: between 1.42 and, for a
    class that never occurs, 50.5.
    """
    pixels = torch.tensor(frequency.pixels, dtype=torch.float64)
    return 1.0 / (1.02 + pixels / pixels.sum()).log()


def median_frequency_weights(frequency: ClassFrequency) -> torch.Tensor:
    """(K,) w_k = median(f) / f_k, with f_k the share of class k of the pixels of the images that
    show it.

    Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015; SegNet
    uses it too. The pixels of the images that show a class are taken to be their number times the
    mean size of an image, which is exact where all have one size. Not normalised: the class of
    median frequency has weight 1. The median is over the classes that occur; one that never does
    gets weight 1.
    """
    pixels = torch.tensor(frequency.pixels, dtype=torch.float64)
    images = torch.tensor(frequency.images, dtype=torch.float64)
    occurs = pixels > 0
    # Of an even number of classes it is the mean of the middle two; torch.median takes the lower.
    median = (pixels / images)[occurs].quantile(0.5)
    return torch.where(occurs, median * images / pixels, 1.0)


CLASS_WEIGHTS = {
    "inverse_frequency": inverse_frequency_weights,
    "enet": enet_weights,
    "median_frequency": median_frequency_weights,
}


def check_loss(cfg: CfgNode) -> None:
    """Raises InputError for anything wrong with the keys of MODEL.LOSS."""
    loss = cfg.MODEL.LOSS
    for key, name, known in (
        ("NAME", loss.NAME, LOSSES),
        ("CLASS_WEIGHTS", loss.CLASS_WEIGHTS, tuple(CLASS_WEIGHTS)),
    ):
        if name and name not in known:
            raise InputError(
                f'unknown MODEL.LOSS.{key} "{name}".{nearest(name, known)} '
                f'Known are {", ".join(known)}, and "" for none'
            )
    weighted = ("cross_entropy", "hard_pixel_mining")
    if loss.CLASS_WEIGHTS and loss.NAME not in weighted:
        raise InputError(
            f'MODEL.LOSS.CLASS_WEIGHTS "{loss.CLASS_WEIGHTS}" has no use with MODEL.LOSS.NAME '
            f'"{loss.NAME}": set that to {" or ".join(weighted)}'
        )
    for key, is_possible, expected in (
        ("TAU", 0 <= loss.TAU < math.inf, "0 or more"),
        ("TOP_K", 0 < loss.TOP_K <= 1, "above 0, up to 1"),
        ("SEESAW_P", 0 <= loss.SEESAW_P < math.inf, "0 or more"),
        ("SEESAW_Q", 0 <= loss.SEESAW_Q < math.inf, "0 or more"),
    ):
        if not is_possible:
            raise InputError(f"MODEL.LOSS.{key} is {loss[key]}, expected {expected}")


def build_loss(cfg: CfgNode, head: nn.Module) -> SegmentationLoss | None:
    """MODEL.LOSS for a semantic head, or None where the head keeps its own.

    A class-frequency file that is missing or wrong is an InputError in the first training step
    and not here, as inference does without it.

    Raises:
        InputError: keys of MODEL.LOSS that are wrong, or a head that has nothing to replace.
    """
    check_loss(cfg)
    name = cfg.MODEL.LOSS.NAME
    if not name:
        return None
    needed = ("losses", "common_stride", "loss_weight", "ignore_value")
    lacking = [attribute for attribute in needed if not hasattr(head, attribute)]
    if lacking:
        raise InputError(
            f'MODEL.LOSS.NAME "{name}" replaces the method losses(predictions, targets) of a '
            f"semantic head, but {type(head).__name__} (MODEL.SEM_SEG_HEAD.NAME) lacks "
            f'{", ".join(lacking)}: set MODEL.LOSS.NAME to "" for its own loss, or take a head '
            "with these attributes, such as SemSegFPNHead"
        )
    try:
        criterion = _build_criterion(cfg, head.ignore_value)
    except InputError as error:
        criterion = _NotTrainable(error)
    return SegmentationLoss(criterion, stride=head.common_stride, loss_weight=head.loss_weight)


def _build_criterion(cfg: CfgNode, ignore_value: int) -> nn.Module:
    loss = cfg.MODEL.LOSS
    if loss.NAME == "seesaw":
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        return Seesaw(num_classes, ignore_value, p=loss.SEESAW_P, q=loss.SEESAW_Q)
    if loss.NAME == "logit_adjustment":
        pixels = torch.tensor(_class_frequency(cfg).pixels)
        return LogitAdjustment(pixels, ignore_value, loss.TAU)
    weights = None
    if loss.CLASS_WEIGHTS:
        weights = CLASS_WEIGHTS[loss.CLASS_WEIGHTS](_class_frequency(cfg)).float()
    if loss.NAME == "cross_entropy":
        return CrossEntropy(ignore_value, weights)
    mining = DeepLabCE(ignore_label=ignore_value, top_k_percent_pixels=loss.TOP_K)
    mining.criterion.register_buffer("weight", weights, persistent=False)
    return mining


def _class_frequency(cfg: CfgNode) -> ClassFrequency:
    path = cfg.DATASETS.CLASS_FREQUENCY
    if not path:
        raise InputError(
            "DATASETS.CLASS_FREQUENCY is empty, but this MODEL.LOSS takes the pixels of each class "
            "from there: set it to what tools/check_dataset.py writes (train_net.py finds it for "
            "itself)"
        )
    frequency = ClassFrequency.load(path)
    found, expected = len(frequency.pixels), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if found != expected:
        raise InputError(
            f"DATASETS.CLASS_FREQUENCY {path}: expected {expected} classes "
            f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES), found {found}"
        )
    return frequency


class _NotTrainable(nn.Module):
    """Says in the first training step what kept a loss from being built."""

    def __init__(self, error: InputError):
        super().__init__()
        self.error = error

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise self.error
