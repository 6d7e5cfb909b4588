"""Export a segmentation model as one graph from images to logits, without its training parts.

Shape shorthands: N images of H x W pixels, of any size; K classes; C channels of a feature.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from sar.errors import InputError, first_line
from sar.modeling.inference import has_own_forward, is_meta_architecture
from sar.modeling.point_segmentor import PointSegmentor

from detectron2.config import CfgNode
from detectron2.layers.aspp import ASPP
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor

# Height and width of the traced image. They are not multiples of a stride: otherwise the graph
# would treat the special case of an image without padding as the general case.
_EXAMPLE_SIZE = (97, 161)


def check_exportable(cfg: CfgNode) -> None:
    """Raise InputError if one graph cannot hold the model of a config, and name the key."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name in META_ARCH_REGISTRY and is_meta_architecture(cfg, PointSegmentor):
        raise InputError(
            f"MODEL.META_ARCHITECTURE {name} cannot be exported to ONNX or .pt2 yet: its sparse "
            "convolutions have no fixed graph. model_inference.pth is its file for predictions: "
            "tools/predict.py --weights"
        )
    # `build_model` refuses unknown names.
    if name in META_ARCH_REGISTRY and not is_meta_architecture(cfg, SemanticSegmentor):
        raise InputError(
            f"MODEL.META_ARCHITECTURE {name} cannot be exported, since it is not a "
            "SemanticSegmentor: choose one"
        )
    if name in META_ARCH_REGISTRY and has_own_forward(cfg):
        raise InputError(
            f"MODEL.META_ARCHITECTURE {name} cannot be exported, since it has a forward of its "
            "own, which the graph would not have: export it with torch.export in a program of yours"
        )
    for key, is_on, remedy in (
        ("TEST.MODE slide", cfg.TEST.MODE == "slide", "TEST.MODE whole"),
        ("TEST.AUG.ENABLED True", cfg.TEST.AUG.ENABLED, "TEST.AUG.ENABLED False"),
    ):
        if is_on:
            raise InputError(
                f"{key} cannot be exported: it runs the network several times on an image, and "
                f"the program that runs the graph has to do this. Set {remedy}"
            )


class SegmentationGraph(nn.Module):
    """Inference of a SemanticSegmentor on tensors.

    Like the model, it normalises images, pads them to the backbone's divisibility, and cuts the
    logits to the image's size. The logits equal the model's bit for bit, except for differences if
    AdaptiveAverage sums in another order.

    Args:
        model: in evaluation mode. It is copied.

    Raises:
        InputError: a part of the model works with some image sizes only.
    """

    def __init__(self, model: SemanticSegmentor) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model.backbone)
        self.sem_seg_head = copy.deepcopy(model.sem_seg_head)
        self.register_buffer("pixel_mean", model.pixel_mean.clone())
        self.register_buffer("pixel_std", model.pixel_std.clone())
        # detectron2 0.6 does not have this attribute.
        padding = getattr(model.backbone, "padding_constraints", {})
        divisibility = padding.get("size_divisibility", model.backbone.size_divisibility)
        self.size_divisibility = max(divisibility, 1)
        if padding.get("square_size", 0) > 0:
            raise InputError(
                f"MODEL.BACKBONE.NAME: {type(model.backbone).__name__} needs images of one fixed "
                "size, so it cannot be exported for all sizes: choose another"
            )
        for module in self.modules():
            if isinstance(module, ASPP) and module.pool_kernel_size is not None:
                raise InputError(
                    "the head pools over windows of INPUT.CROP.SIZE and needs multiples of it, so "
                    "it cannot be exported for all image sizes. Train with MODEL.SEM_SEG_HEAD."
                    "ASPP_GLOBAL_POOLING True, or set this key now and compare the metrics"
                )
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                    setattr(module, name, AdaptiveAverage(child.output_size))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (N, K, H, W) float32 of images (N, 3, H, W) uint8 in INPUT.FORMAT."""
        image = (image.float() - self.pixel_mean) / self.pixel_std
        height, width = image.shape[-2:]
        below, right = (_missing(length, self.size_divisibility) for length in (height, width))
        logits, _ = self.sem_seg_head(self.backbone(F.pad(image, (0, right, 0, below))), None)
        return logits[..., :height, :width]


class AdaptiveAverage(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, since ONNX lacks this pooling.

    Args:
        output_size: number of rows and number of columns, or one number for both.
    """

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (output_size,) * 2 if isinstance(output_size, int) else output_size
        self.output_size = rows, columns

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, h, w) to (N, C, rows, columns)."""
        rows, columns = (
            _averages(length, parts, features)
            for length, parts in zip(features.shape[-2:], self.output_size, strict=True)
        )
        # With the small matrix on the left, it would be expanded to all N and C.
        summed = (features @ columns.transpose(0, 1)).transpose(2, 3)
        return (summed @ rows.transpose(0, 1)).transpose(2, 3)


def _averages(length: int, parts: int, like: Tensor) -> Tensor:
    """Return the weights (parts, length) of an average over each part, as PyTorch divides them."""
    places = torch.arange(length, device=like.device)
    index = torch.arange(parts, device=like.device)[:, None]
    first = index * length // parts
    end = ((index + 1) * length + parts - 1) // parts
    inside = ((places >= first) & (places < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _missing(length: int, divisor: int) -> int:
    """Return the padding from `length` to the next multiple of `divisor`."""
    return (length + divisor - 1) // divisor * divisor - length


def trace(graph: SegmentationGraph) -> ExportedProgram:
    """Trace the graph with torch.export, for one image at a time, of any size.

    Raises:
        InputError: PyTorch is too old or cannot trace the network.
    """
    if not hasattr(_config, "backed_size_oblivious"):
        raise InputError(
            f"PyTorch {torch.__version__} is too old for the export: install 2.9 or later"
        )
    image = torch.zeros(1, 3, *_EXAMPLE_SIZE, dtype=torch.uint8, device=graph.pixel_mean.device)
    sizes = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        # backed_size_oblivious allows edges of one pixel; prefer_deferred_... allows the padding
        # to be a remainder.
        with torch.no_grad(), _config.patch(backed_size_oblivious=True):
            return torch.export.export(
                graph,
                (image,),
                dynamic_shapes=(sizes,),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # a network that cannot be traced can raise anything
        raise InputError(
            f"the network cannot be traced ({type(error).__name__}: {first_line(error)}): choose "
            "another MODEL.BACKBONE.NAME or MODEL.SEM_SEG_HEAD.NAME"
        ) from error
