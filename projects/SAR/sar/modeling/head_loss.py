"""What people use for long tails, in the place of a semantic head's own loss.

Shape shorthands: N images, K classes, h x w the resolution of the head, H x W of the labels.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from sar.data.class_frequency import ClassFrequency, class_frequency_of
from sar.errors import InputError, dimensions, nearest
from sar.ops.upsampled_cross_entropy import upsampled_cross_entropy
from sar.regularizers.embedding_tap import targets_of
from sar.regularizers.functional import class_counts, num_processes, sum_over_processes

from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from detectron2.projects.deeplab.loss import DeepLabCE

LOSSES = ("cross_entropy", "hard_pixel_mining", "logit_adjustment", "seesaw")
_TINY = torch.finfo(torch.float32).tiny  # a divisor in the place of 0
_SEESAW_MIN_SCORE = 0.01


def mean_over_processes(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What a process gives of the mean loss over the pixels of all processes.

    The mean of what the processes give is that of the whole batch, however its valid pixels are
    spread over them; so are gradients that DistributedDataParallel averages. One process that has
    no valid pixel gives 0 with a gradient of 0, where its own mean is 0 / 0.

    Args:
        loss: scalar, the mean over the valid pixels of this process.
        weight: scalar, the number of these pixels, or the sum of their weights where they have any.
    """
    total = sum_over_processes(weight).clamp(min=_TINY)
    share = weight * num_processes() / total  # 1 in one process
    # Not nan_to_num: a training that diverges must still be seen.
    return torch.where(weight > 0, loss * share, torch.zeros_like(loss))


@contextmanager
def own_losses_over_processes(head: nn.Module) -> Iterator[None]:
    """Apply `mean_over_processes` to the losses that `head(features, targets)` returns in training.

    For a head whose losses are means over the valid pixels of its process, as most third-party
    heads have. The head's `forward` is wrapped inside the `with` only. Hooks of the head still see
    the labels as they are.
    """
    forward = head.forward

    def corrected(*args, **kwargs):
        targets = targets_of(args, kwargs)
        num_valid = (targets != head.ignore_value).sum()
        targets = _with_a_valid_pixel(targets, num_valid)
        if len(args) > 1:
            args = (args[0], targets, *args[2:])
        else:
            kwargs = kwargs | {"targets": targets}
        predictions, losses = forward(*args, **kwargs)
        return predictions, {k: mean_over_processes(v, num_valid) for k, v in losses.items()}

    head.forward = corrected
    try:
        yield
    finally:
        del head.forward  # the method of its class is back


def _with_a_valid_pixel(targets: torch.Tensor, num_valid: torch.Tensor) -> torch.Tensor:
    """Return labels whose first pixel in each image is class 0 if no pixel is valid.

    A mean over no pixel is 0 / 0. `torch.where` hides the NaN in the loss but not in its gradient,
    where NaN * 0 is NaN again.
    """
    targets = targets.clone(memory_format=torch.contiguous_format)
    first = targets.flatten(1)[:, 0]
    first.copy_(torch.where(num_valid > 0, first, 0))
    return targets


class SegmentationLoss(nn.Module):
    """Stands in for `losses(predictions, targets)` of detectron2's semantic heads.

    As these do, it takes the logits to the labels' resolution, bilinearly and in float32. Where the
    backbone has rounded a size up, they reach beyond the labels, at the right and at the bottom,
    and are cropped.

    Args:
        criterion: called with logits (N, K, h, w), labels (N, H, W) and the stride, gives a scalar.
        stride: H / h rounded up, the head's `common_stride`.
        loss_weight: factor of the loss.
        size_divisibility: of the backbone, which may pad images to a multiple of it; 0 if it does
            not. detectron2's models pad the labels as well.

    Raises:
        InputError: in a training step, if the logits have another stride.
    """

    def __init__(
        self,
        criterion: nn.Module,
        *,
        stride: int,
        loss_weight: float = 1.0,
        size_divisibility: int = 0,
    ):
        super().__init__()
        self.criterion = criterion
        self.stride = stride
        self.loss_weight = loss_weight
        self.size_divisibility = size_divisibility

    def forward(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"loss_sem_seg": scalar} of logits (N, K, h, w) and int64 labels (N, H, W)."""
        self._check_stride(predictions.shape[-2:], targets.shape[-2:])
        loss = self.criterion(predictions.float(), targets, self.stride)
        return {"loss_sem_seg": loss * self.loss_weight}

    def _check_stride(self, logit_size: tuple[int, int], label_size: tuple[int, int]) -> None:
        if self._fits(logit_size, label_size, self.stride):
            return
        fitting = max(math.ceil(label_size[i] / logit_size[i]) for i in (0, 1))
        if self._fits(logit_size, label_size, fitting):
            remedy = f"set it to {fitting}"
        else:
            remedy = "no stride fits both edges, so correct the head"
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {self.stride}, but the head gives logits of "
            f"{dimensions(logit_size)} pixels (height x width) for labels of "
            f"{dimensions(label_size)}: {remedy}"
        )

    def _fits(self, logit_size: tuple[int, int], label_size: tuple[int, int], stride: int) -> bool:
        """Whether both edges of the labels, or of the padded images, have this stride."""
        multiple = max(self.size_divisibility, 1)
        return all(
            # The second is for networks that round up a multiple, too, such as 64 / 4 to 17.
            logit == math.ceil(label / stride)
            or stride == math.ceil(label / logit)
            or stride * logit == multiple * math.ceil(label / multiple)
            for logit, label in zip(logit_size, label_size, strict=True)
        )


def upsample(logits: torch.Tensor, stride: int, targets: torch.Tensor) -> torch.Tensor:
    """Logits (N, K, H, W) of logits (N, K, h, w) at a stride, bilinearly, for labels (N, H, W)."""
    if stride > 1:
        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    height, width = targets.shape[-2:]
    return logits[..., :height, :width]


class CrossEntropy(nn.Module):
    """Cross-entropy, class-weighted where weights are given.

    sum_i w_(y_i) ce_i / sum_i w_(y_i) over the pixels i that are not ignored, as
    `F.cross_entropy`, but over those of all processes (see `mean_over_processes`). Where all are
    ignored it is 0 with a gradient of 0; `F.cross_entropy` gives NaN there. The same holds of every
    loss in this module.

    Args:
        ignore_value: label of pixels that do not count.
        weights: (K,), of the classes.
        fused: never hold the upsampled logits (see `upsampled_cross_entropy`). Otherwise it is,
            in one process, `F.cross_entropy` bit for bit.
    """

    def __init__(
        self, ignore_value: int, weights: torch.Tensor | None = None, *, fused: bool = False
    ):
        super().__init__()
        self.ignore_value = ignore_value
        self.fused = fused
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        """Scalar, of logits (N, K, h, w) at a stride and labels (N, H, W)."""
        weight = self.pixel_weights(targets).sum()
        if self.fused:
            mean = self.pixel_losses(logits, targets, stride).sum() / weight.clamp(min=_TINY)
        else:
            logits = upsample(logits, stride, targets)
            mean = F.cross_entropy(logits, targets, self.weights, ignore_index=self.ignore_value)
        return mean_over_processes(mean, weight)

    def pixel_losses(
        self, logits: torch.Tensor, targets: torch.Tensor, stride: int
    ) -> torch.Tensor:
        """w_(y_i) ce_i, (N, H, W); 0 where it is ignored."""
        if self.fused:
            losses = upsampled_cross_entropy(logits, targets, stride, self.ignore_value)
            return losses if self.weights is None else losses * self.pixel_weights(targets)
        logits = upsample(logits, stride, targets)
        return F.cross_entropy(
            logits, targets, self.weights, ignore_index=self.ignore_value, reduction="none"
        )

    def pixel_weights(self, targets: torch.Tensor) -> torch.Tensor:
        """w_(y_i), (N, H, W); 0 where it is ignored."""
        valid = targets != self.ignore_value
        return valid if self.weights is None else valid * self.weights[targets.where(valid, 0)]


class HardPixelMining(CrossEntropy):
    """Cross-entropy of the hardest pixels, as detectron2's DeepLabCE.

    The mean of w_(y_i) ce_i over the pixels i where it is highest, a share `top_k` of them. An
    ignored pixel has a loss of 0, and counts as a pixel. Each process takes the hardest pixels of
    its own images, as in detectron2: how a batch is spread over processes changes this loss.

    Args:
        ignore_value: label of pixels that do not count.
        top_k: share of the pixels that are taken.
        weights, fused: as in `CrossEntropy`.
    """

    def __init__(
        self,
        ignore_value: int,
        top_k: float,
        weights: torch.Tensor | None = None,
        *,
        fused: bool = False,
    ):
        super().__init__(ignore_value, weights, fused=fused)
        self.top_k = top_k

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        losses = self.pixel_losses(logits, targets, stride).flatten()
        if self.top_k < 1:
            losses = losses.topk(int(self.top_k * losses.numel())).values
        return losses.mean()


class LogitAdjustment(nn.Module):
    """Cross-entropy of logits + tau * log(prior), in training only: the logit-adjusted loss of
    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.

    The prior of a class is its share of the labelled training pixels. A class that never occurs,
    whose logarithm does not exist, is taken to have one pixel.

    Args:
        pixels: (K,) training pixels of each class.
        ignore_value: label of pixels that do not count.
        tau: strength; 1 is consistent with the balanced error, 0 is plain cross-entropy.
        fused: as in `CrossEntropy`.
    """

    def __init__(
        self, pixels: torch.Tensor, ignore_value: int, tau: float = 1.0, *, fused: bool = False
    ):
        super().__init__()
        self.cross_entropy = CrossEntropy(ignore_value, fused=fused)
        pixels = pixels.double().clamp(min=1)
        adjustment = (tau * (pixels / pixels.sum()).log()).float()
        self.register_buffer("adjustment", adjustment, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        # The same before the upsampling as after it, whose weights sum to 1.
        return self.cross_entropy(logits + self.adjustment[:, None, None], targets, stride)


class Seesaw(nn.Module):
    """Seesaw loss (Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021),
    with pixels for the paper's instances.

    Of a pixel labelled i with logits z and softmax s:

        L = -log(exp(z_i) / (exp(z_i) + sum_(j != i) M_ij C_ij exp(z_j)))
        M_ij = min(1, N_j / N_i)^p      mitigation: few gradients from i push a rarer j down
        C_ij = max(1, s_j / s_i)^q      compensation: more, where j is mistaken for i

    averaged over the pixels that are not ignored. M and C are constants to the gradient. As the
    authors' code has it, s_i is at least 0.01 in C, and N is what training has shown of a
    class up to and with this step, at least 1. N is a buffer in the checkpoint, so that a resumed
    run goes on with it, and counts the pixels of all processes. The paper's normalised linear
    layer is not part of it: the head's classifier stays as it is.

    Args:
        num_classes: K.
        ignore_value: label of pixels that do not count.
        p, q: exponents of mitigation and compensation; 0 turns one off.
    """

    def __init__(self, num_classes: int, ignore_value: int, *, p: float = 0.8, q: float = 2.0):
        super().__init__()
        self.cross_entropy = CrossEntropy(ignore_value)
        self.p, self.q = p, q
        self.register_buffer("pixels_seen", torch.zeros(num_classes, dtype=torch.int64))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        logits = upsample(logits, stride, targets)
        ignore_value = self.cross_entropy.ignore_value
        counts = class_counts(targets, len(self.pixels_seen), ignore_value)
        self.pixels_seen += sum_over_processes(counts)
        classes = targets.where(targets != ignore_value, 0)
        log_factors = self._log_factors(logits.detach(), classes)
        return self.cross_entropy(logits + log_factors, targets)

    def _log_factors(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """log(M_ij C_ij) for every pixel's class i and every j; it is 0 at j = i."""
        log_scores = F.log_softmax(logits, dim=1)
        log_own = log_scores.gather(1, classes[:, None]).clamp(min=math.log(_SEESAW_MIN_SCORE))
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


def build_loss(
    cfg: CfgNode, head: nn.Module, size_divisibility: int = 0
) -> SegmentationLoss | None:
    """MODEL.LOSS for a semantic head, or None where the head keeps its own.

    Without a name, the losses of detectron2's heads become the same ones over all processes.

    A class-frequency file that is missing or wrong is an InputError in the first training step
    and not here, as inference does without it.

    Args:
        size_divisibility: of the backbone, see `SegmentationLoss`.

    Raises:
        InputError: keys of MODEL.LOSS that are wrong, or a head that has nothing to replace.
    """
    check_loss(cfg)
    if cfg.MODEL.LOSS.NAME:
        criterion = _named_criterion(cfg, head)
    else:
        criterion = _own_criterion(head, fused=cfg.MODEL.LOSS.FUSED)
    if criterion is None:
        return None
    return SegmentationLoss(
        criterion,
        stride=head.common_stride,
        loss_weight=head.loss_weight,
        size_divisibility=size_divisibility,
    )


def _named_criterion(cfg: CfgNode, head: nn.Module) -> nn.Module:
    needed = ("losses", "common_stride", "loss_weight", "ignore_value")
    lacking = [attribute for attribute in needed if not hasattr(head, attribute)]
    if lacking:
        raise InputError(
            f'MODEL.LOSS.NAME "{cfg.MODEL.LOSS.NAME}" replaces the method losses(predictions, '
            f"targets) of a semantic head, but {type(head).__name__} (MODEL.SEM_SEG_HEAD.NAME) "
            f'lacks {", ".join(lacking)}: set MODEL.LOSS.NAME to "" for its own loss, or take a '
            "head with these attributes, such as SemSegFPNHead"
        )
    try:
        return _build_criterion(cfg, head.ignore_value)
    except InputError as error:
        return _NotTrainable(error)


def _build_criterion(cfg: CfgNode, ignore_value: int) -> nn.Module:
    loss = cfg.MODEL.LOSS
    if loss.NAME == "seesaw":
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        return Seesaw(num_classes, ignore_value, p=loss.SEESAW_P, q=loss.SEESAW_Q)
    if loss.NAME == "logit_adjustment":
        pixels = torch.tensor(_class_frequency(cfg).pixels)
        return LogitAdjustment(pixels, ignore_value, loss.TAU, fused=loss.FUSED)
    weights = None
    if loss.CLASS_WEIGHTS:
        weights = CLASS_WEIGHTS[loss.CLASS_WEIGHTS](_class_frequency(cfg)).float()
    if loss.NAME == "cross_entropy":
        return CrossEntropy(ignore_value, weights, fused=loss.FUSED)
    return HardPixelMining(ignore_value, loss.TOP_K, weights, fused=loss.FUSED)


def _own_criterion(head: nn.Module, fused: bool) -> nn.Module | None:
    known = (SemSegFPNHead, DeepLabV3Head, DeepLabV3PlusHead)
    if getattr(type(head), "losses", None) not in [kind.losses for kind in known]:
        return None
    own = getattr(head, "loss", None)  # of DeepLab's heads
    if isinstance(own, DeepLabCE):
        return HardPixelMining(head.ignore_value, own.top_k_percent_pixels, fused=fused)
    return CrossEntropy(head.ignore_value, fused=fused)


def _class_frequency(cfg: CfgNode) -> ClassFrequency:
    frequency = class_frequency_of(cfg)
    if frequency is None:
        raise InputError(
            "MODEL.LOSS needs the pixels of each class in the training set: train with "
            "train_net.py, which counts them, or set DATASETS.CLASS_FREQUENCY to a file of "
            "tools/check_dataset.py"
        )
    return frequency


class _NotTrainable(nn.Module):
    """Says in the first training step what kept a loss from being built."""

    def __init__(self, error: InputError):
        super().__init__()
        self.error = error

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        raise self.error
