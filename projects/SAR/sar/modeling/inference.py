"""Inference modes: whole images or sliding windows, one scale or several, with flips.

Shape shorthands:

    K: classes
    H, W: height and width of the output
    h, w: height and width of an image or window that the network reads
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sar.data.augmentation import resize_shortest_edge
from sar.data.cloud_mapper import CloudMapper
from sar.errors import InputError, nearest
from sar.modeling.point_inference import VotingPointSegmentor, check_voting
from sar.modeling.point_segmentor import PointSegmentor

from detectron2.config import CfgNode
from detectron2.layers import ASPP
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList

MODES = ("whole", "slide")
# Rows whose probabilities are computed at a time.
_STRIP = 64
# Bytes of the logits of an image that stay on the device. Larger logits go to main memory.
_MOST_ON_DEVICE = 2**29


def is_meta_architecture(cfg: CfgNode, kind: type) -> bool:
    """Return True if MODEL.META_ARCHITECTURE is a class, or a subclass of it."""
    found = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return isinstance(found, type) and issubclass(found, kind)


def has_own_forward(cfg: CfgNode) -> bool:
    """Return True if a subclass of SemanticSegmentor, as MODEL.META_ARCHITECTURE, overrides it."""
    found = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return found.forward is not SemanticSegmentor.forward


def memory_remedy(cfg: CfgNode) -> str:
    """Return what a user can do if the memory is too small for an image or a cloud."""
    slides, augments = cfg.TEST.MODE == "slide", cfg.TEST.AUG.ENABLED
    is_of_clouds = is_meta_architecture(cfg, PointSegmentor)
    can_slide = is_meta_architecture(cfg, SemanticSegmentor) and not has_own_forward(cfg)
    remedies = []
    if cfg.TEST.WINDOWS_PER_BATCH > 1 and (slides or (is_of_clouds and augments)):
        remedies.append("set TEST.WINDOWS_PER_BATCH 1")
    elif slides:
        remedies.append("set TEST.CROP_SIZE lower")
    elif can_slide:
        remedies.append("set TEST.MODE slide")
    if augments and not is_of_clouds:
        remedies.append("set TEST.AUG.ENABLED False")
    elif cfg.INPUT.MIN_SIZE_TEST and not (slides or is_of_clouds):
        remedies.append("set INPUT.MIN_SIZE_TEST lower")
    return ", or ".join([*remedies, "cut it into parts"])


def check_inference(cfg: CfgNode) -> None:
    """Raise InputError if the keys of TEST describe no possible inference mode.

    This includes modes that do not work with the model, with TEST.GEOMETRY or with TEST.LOSS.
    """
    test = cfg.TEST
    if test.MODE not in MODES:
        hint = nearest(str(test.MODE), MODES)
        raise InputError(f'unknown TEST.MODE "{test.MODE}".{hint} Known are {", ".join(MODES)}')
    slides, augments = test.MODE == "slide", test.AUG.ENABLED
    if not (slides or augments):
        return
    key = "TEST.MODE slide" if slides else "TEST.AUG.ENABLED"
    name = cfg.MODEL.META_ARCHITECTURE
    if is_meta_architecture(cfg, PointSegmentor):
        check_voting(cfg)
    elif not is_meta_architecture(cfg, SemanticSegmentor):
        raise InputError(
            f"{key}: MODEL.META_ARCHITECTURE {name} is not a SemanticSegmentor, so it needs whole "
            'images: set TEST.MODE "whole" and TEST.AUG.ENABLED False'
        )
    elif has_own_forward(cfg):
        raise InputError(
            f"{key}: MODEL.META_ARCHITECTURE {name} has a forward of its own, which windows and "
            'scales would not call: set TEST.MODE "whole" and TEST.AUG.ENABLED False'
        )
    if test.GEOMETRY:
        raise InputError(
            f"{key}: TEST.GEOMETRY needs one embedding of the whole image: set TEST.MODE "
            '"whole" and TEST.AUG.ENABLED False, or turn TEST.GEOMETRY off'
        )
    if test.LOSS and augments:
        raise InputError(
            "TEST.AUG.ENABLED: it averages probabilities, but TEST.LOSS needs logits: turn one of "
            "them off"
        )
    if slides:
        _check_numbers("TEST.CROP_SIZE", test.CROP_SIZE, minimum=1, length=2)
        _check_numbers("TEST.CROP_STRIDE", test.CROP_STRIDE, minimum=1, length=2)
        if any(s > c for s, c in zip(test.CROP_STRIDE, test.CROP_SIZE, strict=True)):
            raise InputError(
                f"TEST.CROP_STRIDE {tuple(test.CROP_STRIDE)} is larger than TEST.CROP_SIZE "
                f"{tuple(test.CROP_SIZE)}: no window would cover the pixels in between. Set it to "
                "the size of the windows or less"
            )
        _check_numbers("TEST.WINDOWS_PER_BATCH", [test.WINDOWS_PER_BATCH], minimum=1)
    if augments:
        _check_numbers("TEST.AUG.MIN_SIZES", test.AUG.MIN_SIZES, minimum=0)
        _check_numbers("TEST.AUG.MAX_SIZE", [test.AUG.MAX_SIZE], minimum=1)


def _check_numbers(key: str, values: Sequence, *, minimum: int, length: int | None = None) -> None:
    # type() instead of isinstance(), which accepts True as a number
    if (
        not values
        or length not in (None, len(values))
        or not all(type(value) is int and value >= minimum for value in values)
    ):
        amount = f"{length} " if length else ""
        raise InputError(f"{key} is {values}, expected {amount}whole numbers of {minimum} or more")


def check_pooling(cfg: CfgNode, model: nn.Module, shapes: Iterable[tuple[int, int]]) -> None:
    """Raise InputError if DeepLab's head without ASPP_GLOBAL_POOLING cannot process an image.

    Args:
        cfg: config of the model.
        model: model of this config.
        shapes: (H, W) of the images. They are not read if the model has no such head.
    """
    windows = (m.pool_kernel_size for m in model.modules() if isinstance(m, ASPP))
    window = next(filter(None, windows), None)
    if window is None:
        return
    crop_size = cfg.INPUT.CROP.SIZE
    stride = crop_size[0] // window[0]
    key = "INPUT.MIN_SIZE_TEST"
    if cfg.TEST.MODE == "slide":
        key = "TEST.CROP_SIZE"
    elif cfg.TEST.AUG.ENABLED:
        key = "TEST.AUG.MIN_SIZES"
    for height, width in shapes:
        for h, w in _network_shapes(cfg, (height, width)):
            feature = (math.ceil(h / stride), math.ceil(w / stride))
            if any(edge % pooled for edge, pooled in zip(feature, window, strict=True)):
                raise InputError(
                    f"for test images of {height} x {width} pixels (height x width), the network "
                    f"reads {h} x {w}, but its head pools over windows of INPUT.CROP.SIZE "
                    f"{tuple(crop_size)} and needs multiples of it: set "
                    f"MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING True, or another {key}"
                )


def _network_shapes(cfg: CfgNode, shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the (h, w) of every input that the network gets for an image of this (H, W)."""
    inputs, test = cfg.INPUT, cfg.TEST
    sizes = [(inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST)]
    if test.AUG.ENABLED:
        sizes = [(min_size, test.AUG.MAX_SIZE) for min_size in test.AUG.MIN_SIZES]
    for size in sizes:
        h, w = resize_shortest_edge(shape, *size).shape
        if test.MODE == "slide":
            h, w = min(h, test.CROP_SIZE[0]), min(w, test.CROP_SIZE[1])
        yield h, w


def inference_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return a model that predicts in the mode of TEST.MODE and TEST.AUG.

    For whole images and clouds without augmentation, this is `model` itself.

    Args:
        cfg: config of the model.
        model: model of this config, with or without DistributedDataParallel. It is not changed.

    Raises:
        InputError: as `check_inference`.
    """
    check_inference(cfg)
    slides, aug = cfg.TEST.MODE == "slide", cfg.TEST.AUG
    if not (slides or aug.ENABLED):
        return model
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if is_meta_architecture(cfg, PointSegmentor):
        return VotingPointSegmentor(
            model,
            CloudMapper(cfg, False),
            angles=aug.ANGLES,
            scales=aug.SCALES,
            flip=aug.FLIP,
            passes_per_batch=cfg.TEST.WINDOWS_PER_BATCH,
        )
    return MultiPassSegmentor(
        model,
        crop_size=cfg.TEST.CROP_SIZE if slides else None,
        crop_stride=cfg.TEST.CROP_STRIDE,
        windows_per_batch=cfg.TEST.WINDOWS_PER_BATCH,
        min_sizes=aug.MIN_SIZES if aug.ENABLED else (),
        max_size=aug.MAX_SIZE,
        flip=aug.FLIP,
    )


class MultiPassSegmentor(nn.Module):
    """Run a SemanticSegmentor several times on each image, and average its outputs.

    Inputs and outputs are the same as in the model's evaluation mode. Windows are averaged as
    logits, as in mmsegmentation. Scales and flips are averaged as probabilities (softmax), after
    each is resized to the output. Without windows and augmentation, "sem_seg" equals the model's
    output bit for bit. The same holds for one window that covers the whole image.

    Images are resized as by the mapper, and normalised once before they are cut into windows. Each
    pass is padded as by the model. Images are processed one by one. Memory holds the sums of one
    image, and the logits of `windows_per_batch` windows or of one pass of test-time augmentation.

    With windows, the device holds the sums of an image (4 bytes for each of K x H x W) up to 512
    MiB. Larger sums and their "sem_seg" are in main memory, so larger images need no more device
    memory.

    Args:
        model: with `backbone`, `sem_seg_head`, `pixel_mean` and `pixel_std`.
        crop_size: (h, w) of the windows, cut to the size of smaller images. None: no windows.
        crop_stride: rows and columns from one window to the next. The last window ends at the edge
            of the image.
        windows_per_batch: number of windows that the network processes together.
        min_sizes: lengths of the shorter edge after resizing; 0 keeps the size of the image. ():
            no test-time augmentation.
        max_size: longest length of the longer edge after resizing.
        flip: in test-time augmentation, also predict each image flipped from left to right.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        crop_size: tuple[int, int] | None = None,
        crop_stride: tuple[int, int] = (1, 1),
        windows_per_batch: int = 1,
        min_sizes: Sequence[int] = (),
        max_size: int = 4000,
        flip: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # the mode that detectron2 restores after evaluation
        self.crop_size = crop_size
        self.crop_stride = crop_stride
        self.windows_per_batch = windows_per_batch
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip = bool(flip)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Return {"sem_seg": (K, H, W)} for each image: logits, or probabilities with augmentation.

        Args:
            batched_inputs: dicts with "image" (3, h, w), which is uint8 with augmentation. "height"
                and "width" set H and W of the output; by default they equal h and w.
        """
        return [{"sem_seg": self._scores(sample)} for sample in batched_inputs]

    def _scores(self, sample: dict) -> Tensor:
        image = sample["image"]
        size = (sample.get("height", image.shape[1]), sample.get("width", image.shape[2]))
        if not self.min_sizes:
            return self._logits(self._normalized(image), size)
        pixels = image.permute(1, 2, 0).cpu().numpy()
        total = None
        for min_size in self.min_sizes:
            resize = resize_shortest_edge(pixels.shape[:2], min_size, self.max_size)
            resized = torch.tensor(resize.apply_image(pixels)).permute(2, 0, 1)
            resized = self._normalized(resized)
            for flipped in (False, True) if self.flip else (False,):
                logits = self._logits(resized.flip(2) if flipped else resized, size)
                if total is None:
                    total = torch.zeros_like(logits, dtype=torch.float32)
                # In strips, since the probabilities of all rows would be another (K, H, W).
                for rows, sums in zip(logits.split(_STRIP, 1), total.split(_STRIP, 1), strict=True):
                    probabilities = rows.float().softmax(dim=0)
                    if flipped:
                        probabilities = probabilities.flip(2)
                    sums += probabilities.to(sums.device)
                del logits, rows  # free the memory before the next pass
        return total.div_(len(self.min_sizes) * (1 + self.flip))

    def _normalized(self, image: Tensor) -> Tensor:
        return (image.to(self.model.device) - self.model.pixel_mean) / self.model.pixel_std

    def _logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits (K, H, W) of a normalised image (3, h, w)."""
        logits = self._slide(image, size) if self.crop_size else self._network([image])[0]
        if logits.shape[1:] == size:
            return logits  # interpolation would copy them
        if self.crop_size:
            logits = logits.to(_device_of_sums(logits, size))
        return sem_seg_postprocess(logits, image.shape[1:], *size)

    def _slide(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits (K, h, w) of an image, averaged over windows.

        They are on the device that can hold float32 sums at the image's size and at `size`.
        """
        height, width = image.shape[1:]
        crop = min(self.crop_size[0], height), min(self.crop_size[1], width)
        tops = window_starts(height, crop[0], self.crop_stride[0])
        lefts = window_starts(width, crop[1], self.crop_stride[1])
        corners = [(top, left) for top in tops for left in lefts]
        if len(corners) == 1:
            return self._network([image])[0]
        sums = None
        for start in range(0, len(corners), self.windows_per_batch):
            windows = [
                (slice(None), slice(top, top + crop[0]), slice(left, left + crop[1]))
                for top, left in corners[start : start + self.windows_per_batch]
            ]
            batch = self._network([image[window] for window in windows])
            if sums is None:
                device = _device_of_sums(batch[0], (height, width), size)
                shape = (batch.shape[1], height, width)
                sums = torch.zeros(shape, dtype=torch.float32, device=device)
            for window, logits in zip(windows, batch, strict=True):
                sums[window] += logits.to(device)
            del batch, logits  # free the memory before the next batch
        # Windows that cover a pixel = windows that cover its row x windows that cover its column.
        rows = _coverage(tops, crop[0], height).to(sums.device)
        columns = _coverage(lefts, crop[1], width).to(sums.device)
        return sums.div_(rows[:, None] * columns)

    def _network(self, images: list[Tensor]) -> Tensor:
        """Return the logits (n, K, h, w) of n normalised images (3, h, w)."""
        backbone, (h, w) = self.model.backbone, images[0].shape[1:]
        # detectron2 0.6 does not have this attribute.
        constraints = getattr(backbone, "padding_constraints", None)
        padding = {"padding_constraints": constraints} if constraints else {}
        padded = ImageList.from_tensors(images, backbone.size_divisibility, **padding).tensor
        logits, _ = self.model.sem_seg_head(backbone(padded), None)
        return logits[..., :h, :w]


def _device_of_sums(logits: Tensor, *sizes: tuple[int, int]) -> torch.device:
    """Return the device for float32 sums of logits (K, ...) at the largest of some (H, W)."""
    num_pixels = max(height * width for height, width in sizes)
    num_bytes = torch.float32.itemsize * logits.shape[0] * num_pixels
    return logits.device if num_bytes <= _MOST_ON_DEVICE else torch.device("cpu")


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Return where windows of `crop` pixels start along an edge of `length`, as mmsegmentation.

    They start every `stride` pixels. The last window is shifted back to end at the edge's end.
    """
    last = max(length - crop, 0)
    return [min(start, last) for start in range(0, last + stride, stride)]


def _coverage(starts: list[int], crop: int, length: int) -> Tensor:
    """Return the number of windows that cover each pixel along an edge, as (length,)."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + crop] += 1
    return counts
