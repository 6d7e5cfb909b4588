"""A segmentation model as one graph, from images to logits, with nothing of its training.

Shape shorthands: N images of H x W pixels, of any size; K classes; C channels of a feature.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from sar.errors import InputError

from detectron2.config import CfgNode
from detectron2.layers.aspp import ASPP
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor

# Height and width of the image that is traced: no multiples of a stride, so that nothing in the
# graph is taken for the special case of an image that needs no padding.
_EXAMPLE_SIZE = (97, 161)


def check_exportable(cfg: CfgNode) -> None:
    """Raises InputError for what one graph cannot hold, with the key that asks for it."""
    name = cfg.MODEL.META_ARCHITECTURE
    # One that is unknown is refused where the model is built.
    if name in META_ARCH_REGISTRY and not issubclass(
        META_ARCH_REGISTRY.get(name), SemanticSegmentor
    ):
        raise InputError(
            f"MODEL.META_ARCHITECTURE {name} cannot be exported: a graph of logits is a "
            "SemanticSegmentor's, and this one's instances are merged outside of the network"
        )
    for key, is_on, remedy in (
        ("TEST.MODE slide", cfg.TEST.MODE == "slide", "TEST.MODE whole"),
        ("TEST.AUG.ENABLED True", cfg.TEST.AUG.ENABLED, "TEST.AUG.ENABLED False"),
    ):
        if is_on:
            raise InputError(
                f"{key} cannot be exported: it runs the network many times on an image, which is "
                f"up to the program that runs the graph. Set {remedy}"
            )


class SegmentationGraph(nn.Module):
    """What a SemanticSegmentor does in inference, on tensors.

    Images are normalised and padded to the backbone's divisibility, and the logits cut to the
    image's size, all as the model does it: its logits, bit for bit but where AdaptiveAverage sums
    in another order.

    Args:
        model: in evaluation mode; it is copied.

    Raises:
        InputError: a part that takes some image sizes only.
    """

    def __init__(self, model: SemanticSegmentor) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model.backbone)
        self.sem_seg_head = copy.deepcopy(model.sem_seg_head)
        self.register_buffer("pixel_mean", model.pixel_mean.clone())
        self.register_buffer("pixel_std", model.pixel_std.clone())
        # Not in detectron2 0.6.
        padding = getattr(model.backbone, "padding_constraints", {})
        divisibility = padding.get("size_divisibility", model.backbone.size_divisibility)
        self.size_divisibility = max(divisibility, 1)
        if padding.get("square_size", 0) > 0:
            raise InputError(
                f"MODEL.BACKBONE.NAME: a {type(model.backbone).__name__} takes images of one size "
                "only, and cannot be exported for any"
            )
        for module in self.modules():
            if isinstance(module, ASPP) and module.pool_kernel_size is not None:
                raise InputError(
                    "the head pools over windows of INPUT.CROP.SIZE, and takes multiples of it "
                    "only: it cannot be exported for any image size. Train with MODEL.SEM_SEG_HEAD."
                    "ASPP_GLOBAL_POOLING True, or set it here and compare the metrics"
                )
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                    setattr(module, name, AdaptiveAverage(child.output_size))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, H, W) float32 of images (N, 3, H, W) uint8, channels as in INPUT.FORMAT."""
        image = (image.float() - self.pixel_mean) / self.pixel_std
        height, width = image.shape[-2:]
        below, right = (_missing(length, self.size_divisibility) for length in (height, width))
        logits, _ = self.sem_seg_head(self.backbone(F.pad(image, (0, right, 0, below))), None)
        return logits[..., :height, :width]


class AdaptiveAverage(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, since ONNX has no such pooling.

    Args:
        output_size: number of rows and of columns, or one for both.
    """

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (output_size,) * 2 if isinstance(output_size, int) else output_size
        self.output_size = rows, columns

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, rows, columns) of (N, C, h, w)."""
        rows, columns = (
            _averages(length, parts, features)
            for length, parts in zip(features.shape[-2:], self.output_size, strict=True)
        )
        # The small matrix on the right: the other way round, it is expanded to all N and C.
        summed = (features @ columns.transpose(0, 1)).transpose(2, 3)
        return (summed @ rows.transpose(0, 1)).transpose(2, 3)


def _averages(length: int, parts: int, like: Tensor) -> Tensor:
    """(parts, length) shares that `length` places have in their parts, as PyTorch divides them."""
    places = torch.arange(length, device=like.device)
    index = torch.arange(parts, device=like.device)[:, None]
    first = index * length // parts
    end = ((index + 1) * length + parts - 1) // parts
    inside = ((places >= first) & (places < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _missing(length: int, divisor: int) -> int:
    """What is missing from `length` to the next multiple."""
    return (length + divisor - 1) // divisor * divisor - length


def trace(graph: SegmentationGraph) -> ExportedProgram:
    """The graph as torch.export has it, for one image at a time, of any size.

    Raises:
        InputError: PyTorch is too old, or cannot follow the network.
    """
    if not hasattr(_config, "backed_size_oblivious"):
        raise InputError(f"PyTorch {torch.__version__} is too old: the export needs 2.9 or later")
    image = torch.zeros(1, 3, *_EXAMPLE_SIZE, dtype=torch.uint8, device=graph.pixel_mean.device)
    sizes = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        # The first lets an edge have one pixel only; the second, the padding be a remainder.
        with torch.no_grad(), _config.patch(backed_size_oblivious=True):
            return torch.export.export(
                graph,
                (image,),
                dynamic_shapes=(sizes,),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # whatever the network does that cannot be traced
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the network cannot be traced ({type(error).__name__}: {reason}): take another "
            "MODEL.BACKBONE.NAME or MODEL.SEM_SEG_HEAD.NAME"
        ) from error
