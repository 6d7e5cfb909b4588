"""Use any feature pyramid of timm (an optional dependency) as a detectron2 backbone.

Shape shorthands: N images, C channels of a feature, H x W the size of a feature. H and W are the
size of the padded images divided by the stride of the feature.
"""

import logging
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sar.errors import InputError, nearest
from sar.modeling.backbones.timm_weights import find_weights, load_weights, require_all
from sar.modeling.heads.base import select_features

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

logger = logging.getLogger(__name__)

NORMS = ("BN", "SyncBN", "FrozenBN", "GN")


class TimmBackbone(Backbone):
    """Backbone that returns the features of a timm model.

    The features have detectron2's names, from res2 (stride 4) to res5 (stride 32). Parameters keep
    timm's names, below `body`.

    HRNet is a special case. The HRNet configs of the SAR paper and the checkpoints of its authors
    need the four plain branches and bilinear upsampling between them. timm's HRNet is made for
    classification: it upsamples by nearest neighbour and widens the branches with convolutions.
    This class sets the upsampling to bilinear and leaves out these convolutions.

    Swin takes images of any size and shifts its windows in every stage, as is usual in
    segmentation.

    Models with one fixed image size (MaxViT) or with a single stride (plain ViT) do not work.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        pretrained: bool = False,
        checkpoint: str = "",
        norm: str = "BN",
        output_norm: bool = False,
        drop_path: float = 0.0,
        output_stride: int = 32,
        freeze_at: int = 0,
    ):
        """
        Args:
            name: timm's name of the model, such as "hrnet_w48". It may include the tag of the
                weights, such as "hrnet_w48.ms_in1k".
            in_channels: number of channels of the images.
            out_features: names of the features to return. Stages after the last one are dropped.
            pretrained: download timm's weights, or read them from timm's cache.
            checkpoint: file of weights to load instead of a download (see `load_weights`).
            norm: "BN" keeps the batch norms of the model. "SyncBN", "FrozenBN" and "GN" (32 groups)
                replace them. Layer norms do not change.
            output_norm: add a layer norm to each feature.
            drop_path: highest rate of stochastic depth.
            output_stride: stride of the coarsest feature. A value below 32 dilates later stages.
            freeze_at: number of stages to freeze. The stem is the first stage.

        Raises:
            InputError: timm is missing; the model is unknown, has no feature pyramid, or lacks a
                feature or an option; the weights are missing or from another model.
        """
        super().__init__()
        check_timm_model(name)
        if norm not in NORMS:
            raise InputError(f'MODEL.TIMM.NORM is "{norm}", expected one of {", ".join(NORMS)}')
        body = _create(name, in_channels, drop_path, output_stride)
        if pretrained or checkpoint:
            missing = load_weights(body, name, checkpoint, in_channels)
        strides = _feature_info(body, "reduction")
        self._size_divisibility = max(strides)
        levels = _levels(strides)
        for feature in out_features:
            if feature not in levels:
                raise InputError(
                    f'MODEL.TIMM.OUT_FEATURES: {name} has no "{feature}". '
                    f"It has {', '.join(levels)}"
                )
        self._out_features = sorted(out_features, key=levels.index)
        self._indices = [levels.index(feature) for feature in self._out_features]
        channels = _feature_info(body, "num_chs")
        self._out_feature_strides = {levels[i]: strides[i] for i in self._indices}
        self._out_feature_channels = {levels[i]: channels[i] for i in self._indices}
        self._gives_branches = _is_hrnet(name)
        if not self._gives_branches:
            body.prune_intermediate_layers(self._indices, prune_norm=True)
            body.head = nn.Identity()  # earlier versions of timm leave a norm here
        if pretrained or checkpoint:
            require_all(body, missing, name, checkpoint)
        _fix_padding(body)
        self.body = body
        self._freeze(freeze_at)
        _convert_batch_norms(body, norm)
        self.output_norms = nn.ModuleDict()
        if output_norm:
            from timm.layers import LayerNorm2d

            for feature, num_channels in self._out_feature_channels.items():
                self.output_norms[feature] = LayerNorm2d(num_channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        options = cfg.MODEL.TIMM
        # MODEL.WEIGHTS would overwrite the pretrained weights, and their file may be gone.
        needs_weights = not cfg.MODEL.WEIGHTS
        return {
            "name": options.NAME,
            "in_channels": input_shape.channels,
            "out_features": options.OUT_FEATURES,
            "pretrained": options.PRETRAINED and needs_weights,
            "checkpoint": options.CHECKPOINT if needs_weights else "",
            "norm": options.NORM,
            "output_norm": options.OUTPUT_NORM,
            "drop_path": options.DROP_PATH,
            "output_stride": options.OUTPUT_STRIDE,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        """Return the largest stride of the model, which the image sides must be multiples of."""
        return self._size_divisibility

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features of images.

        Args:
            images: (N, in_channels, H0, W0). H0 and W0 are multiples of `size_divisibility`.

        Returns:
            {name: (N, C, H, W)} for `out_features`, from fine to coarse.
        """
        if self._gives_branches:
            branches = self.body(images)
            features = [branches[index] for index in self._indices]
        else:
            features = self.body.forward_intermediates(
                images, indices=self._indices, output_fmt="NCHW", intermediates_only=True
            )
        outputs = dict(zip(self._out_features, features, strict=True))
        for name, output_norm in self.output_norms.items():
            outputs[name] = output_norm(outputs[name])
        return outputs

    def _freeze(self, num_stages: int) -> None:
        """Freeze parameters and batch statistics of the first stages, as timm groups them."""
        from timm.models import group_parameters

        stages = group_parameters(self.body, self.body.group_matcher(coarse=True))
        parameters = dict(self.body.named_parameters())
        for stage in sorted(stages)[:num_stages]:
            for name in stages[stage]:
                parameters[name].requires_grad = False
        _convert_batch_norms(self.body, "FrozenBN", lambda bn: not bn.weight.requires_grad)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the backbone of MODEL.TIMM.

    Warn if the image format of the config does not match the pretrained weights, or if random
    weights would be frozen.
    """
    backbone = TimmBackbone(cfg, input_shape)
    options = cfg.MODEL.TIMM
    if cfg.MODEL.WEIGHTS:
        return backbone
    if options.PRETRAINED or options.CHECKPOINT:
        warn_of_normalization(cfg, backbone.body.pretrained_cfg)
    elif cfg.MODEL.BACKBONE.FREEZE_AT:
        logger.warning(
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} freezes layers of "
            f"{options.NAME} at random values: set it to 0, or set MODEL.TIMM.PRETRAINED True"
        )
    return backbone


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a feature pyramid (Lin et al., CVPR 2017) on the backbone of MODEL.TIMM.

    The keys of MODEL.FPN have the same meaning as in detectron2's `build_resnet_fpn_backbone`.

    Raises:
        InputError: as `TimmBackbone`; MODEL.FPN.IN_FEATURES names a feature that is missing.
    """
    bottom_up = build_timm_backbone(cfg, input_shape)
    options = cfg.MODEL.FPN
    select_features(bottom_up.output_shape(), options.IN_FEATURES, "MODEL.FPN.IN_FEATURES")
    return FPN(
        bottom_up,
        options.IN_FEATURES,
        options.OUT_CHANNELS,
        norm=options.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=options.FUSE_TYPE,
    )


def check_timm(cfg: CfgNode) -> None:
    """Check MODEL.TIMM, if MODEL.BACKBONE.NAME is a backbone of timm.

    Raises:
        InputError: as `check_timm_model`; the file of MODEL.TIMM.CHECKPOINT is missing.
    """
    if cfg.MODEL.BACKBONE.NAME not in ("build_timm_backbone", "build_timm_fpn_backbone"):
        return
    check_timm_model(cfg.MODEL.TIMM.NAME)
    if cfg.MODEL.TIMM.CHECKPOINT and not cfg.MODEL.WEIGHTS:
        find_weights(cfg.MODEL.TIMM.CHECKPOINT)


def check_timm_model(name: str) -> None:
    """Raise InputError if timm is missing, or if it has no model or no weights of this name."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"backbones of timm (MODEL.BACKBONE.NAME) need timm ({error}): pip install -e .[timm]"
        ) from error
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise InputError(
            f'MODEL.TIMM.NAME: timm {timm.__version__} has no model "{model}".'
            + nearest(model, timm.list_models())
        )
    known = timm.list_pretrained(f"{model}.*")
    if tag and name not in known:
        raise InputError(
            f'MODEL.TIMM.NAME: timm {timm.__version__} has no weights "{name}".'
            + nearest(name, known)
        )


def _create(name: str, in_channels: int, drop_path: float, output_stride: int) -> nn.Module:
    import timm
    from timm.layers import DropPath
    from timm.models import is_model_in_modules

    options = {"num_classes": 0, "in_chans": in_channels}
    if _is_hrnet(name):
        options |= {"features_only": True, "feature_location": ""}
    if is_model_in_modules(name.partition(".")[0], ["swin_transformer", "swin_transformer_v2"]):
        options |= {"strict_img_size": False, "always_partition": True}
    if drop_path:
        options["drop_path_rate"] = drop_path
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        body = timm.create_model(name, **options)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"MODEL.TIMM: {name} does not accept DROP_PATH {drop_path}, OUTPUT_STRIDE "
            f"{output_stride}: {error or type(error).__name__}"
        ) from error
    if not _is_hrnet(name) and not hasattr(body, "prune_intermediate_layers"):
        raise InputError(f"MODEL.TIMM.NAME: {name} has no intermediate features: choose another")
    if _is_hrnet(name):
        for module in body.modules():
            if isinstance(module, nn.Upsample):
                module.mode, module.align_corners = "bilinear", False
    # Some models accept any option and ignore it.
    drop_paths = [module for module in body.modules() if isinstance(module, DropPath)]
    if drop_path and not drop_paths:
        raise InputError(f"MODEL.TIMM.DROP_PATH: {name} has no stochastic depth: set it to 0")
    if not drop_path:  # Swin has stochastic depth by default
        for module in drop_paths:
            module.drop_prob = 0.0
    strides = _feature_info(body, "reduction")
    if output_stride != 32 and max(strides) != output_stride:
        raise InputError(
            f"MODEL.TIMM.OUTPUT_STRIDE is {output_stride}, but {name} has stride {max(strides)}"
        )
    if output_stride == 32 and len(set(strides)) < len(strides):
        raise InputError(
            f"MODEL.TIMM.NAME: {name} has no feature pyramid, since some of its features have the "
            "same stride: choose another model"
        )
    return body


def _is_hrnet(name: str) -> bool:
    from timm.models import is_model_in_modules

    return is_model_in_modules(name.partition(".")[0], ["hrnet"])


def _feature_info(body: nn.Module, key: str) -> list[int]:
    return [feature[key] for feature in body.feature_info]


def _levels(strides: Sequence[int]) -> list[str]:
    """Return the names of features with these strides, from res2 (stride 4) to res5 (stride 32).

    A dilated stage keeps the name that it has without dilation.
    """
    levels: list[int] = []
    for stride in strides:
        level = int(math.log2(stride))
        levels.append(max(level, levels[-1] + 1) if levels else level)
    return [f"res{level}" for level in levels]


class _PaddedConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding of images whose sides the stride divides.

    The extra row and column are at the end. timm's `Conv2dSame` computes the padding from the size
    of each image. torch.export then needs minutes for a model, because its sizes are symbols.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.sides = []
        for kernel, stride, dilation in zip(
            self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True
        ):
            total = max(dilation * (kernel - 1) + 1 - stride, 0)
            self.sides += [total // 2, total - total // 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.sides))


def _fix_padding(module: nn.Module) -> None:
    """Replace the convolutions below `module` whose padding depends on the size of the image."""
    from timm.layers import Conv2dSame

    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, _PaddedConv2d(child))
        else:
            _fix_padding(child)


def _convert_batch_norms(
    module: nn.Module, norm: str, where: Callable[[nn.Module], bool] = lambda bn: True
) -> None:
    """Replace the batch norms below `module`.

    Activations are kept. Parameters and statistics are kept as well, except for GN.
    """
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm, freeze_batch_norm_2d

    if norm == "BN":
        return
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _convert_batch_norms(child, norm, where)
        elif where(child):
            if norm == "SyncBN":
                child = convert_sync_batchnorm(child)
            elif norm == "FrozenBN":
                child = freeze_batch_norm_2d(child)
            elif child.num_features % 32:
                raise InputError(
                    f"MODEL.TIMM.NORM GN: 32 groups cannot share {child.num_features} channels: "
                    "set it to BN, SyncBN or FrozenBN, or choose another MODEL.TIMM.NAME"
                )
            else:
                is_fused = isinstance(child, BatchNormAct2d)
                tail = (child.drop, child.act) if is_fused else ()
                child = nn.Sequential(nn.GroupNorm(32, child.num_features), *tail)
            setattr(module, name, child)


def warn_of_normalization(cfg: CfgNode, pretrained_cfg: dict) -> None:
    """Warn if the images of a config are not normalized as for weights of timm.

    Args:
        pretrained_cfg: attribute of timm's model.
    """
    mean, std = (
        [round(255 * value, 3) for value in pretrained_cfg[key]] for key in ("mean", "std")
    )
    is_close = all(
        len(given) == len(wanted)
        and all(abs(a - b) < 1 for a, b in zip(given, wanted, strict=True))
        for given, wanted in ((cfg.MODEL.PIXEL_MEAN, mean), (cfg.MODEL.PIXEL_STD, std))
    )
    if cfg.INPUT.FORMAT != "RGB" or not is_close:
        logger.warning(
            f"The weights of {cfg.MODEL.TIMM.NAME} expect INPUT.FORMAT RGB, MODEL.PIXEL_MEAN "
            f"{mean}, MODEL.PIXEL_STD {std}, but the config has {cfg.INPUT.FORMAT}, "
            f"{list(cfg.MODEL.PIXEL_MEAN)}, {list(cfg.MODEL.PIXEL_STD)}"
        )
