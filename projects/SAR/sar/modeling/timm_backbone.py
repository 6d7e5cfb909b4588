"""Any feature pyramid of timm (an optional dependency) as a detectron2 backbone.

Shapes: N images, C channels of a feature, H x W its size: the padded images' size by its stride.
"""

import logging
import math
import os
import pickle
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

import torch
from torch import nn

from sar.errors import InputError, nearest

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

logger = logging.getLogger(__name__)

NORMS = ("BN", "SyncBN", "FrozenBN", "GN")


class TimmBackbone(Backbone):
    """The features of a timm model, named as detectron2 does: res2 of stride 4 to res5 of 32.

    Parameters keep timm's names, below `body`. HRNet gives its four branches as they are, joined by
    bilinear upsampling as is usual in segmentation (timm's is for classification: nearest), without
    the convolutions that widen them for classification. Swin shifts its windows in every stage and
    takes images of any size, as is usual in segmentation. Not for models that are bound to one
    image size (MaxViT), or that have one stride only (plain ViT).
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
            name: of timm, such as "hrnet_w48", or with the tag of its weights, "hrnet_w48.ms_in1k".
            in_channels: of the images.
            out_features: names of the features to give, from fine to coarse. Stages behind the last
                of them are dropped.
            pretrained: download timm's weights (or take them from its cache).
            checkpoint: file of weights, in any format that timm reads, in the place of a download.
            norm: what becomes of the model's batch norms: "BN" leaves them, "SyncBN", "FrozenBN",
                "GN" (32 groups). Layer norms stay.
            output_norm: add a layer norm on each feature.
            drop_path: greatest rate of stochastic depth.
            output_stride: stride of the coarsest feature; less than 32 dilates later stages.
            freeze_at: number of stages to freeze, the stem being the first.

        Raises:
            InputError: timm is missing; the model is unknown, gives no pyramid or lacks a feature
                or an option; the weights are missing or belong to another model.
        """
        super().__init__()
        check_timm_model(name)
        if norm not in NORMS:
            raise InputError(f'MODEL.TIMM.NORM: "{norm}" is none of {", ".join(NORMS)}')
        body = _create(name, in_channels, drop_path, output_stride)
        if pretrained or checkpoint:
            missing = _load_weights(body, name, checkpoint, in_channels)
        strides = _feature_info(body, "reduction")
        self._size_divisibility = max(strides)
        levels = _levels(strides)
        for feature in out_features:
            if feature not in levels:
                raise InputError(
                    f'MODEL.TIMM.OUT_FEATURES: {name} has no "{feature}", only {", ".join(levels)}'
                )
        self._out_features = sorted(out_features, key=levels.index)
        self._indices = [levels.index(feature) for feature in self._out_features]
        channels = _feature_info(body, "num_chs")
        self._out_feature_strides = {levels[i]: strides[i] for i in self._indices}
        self._out_feature_channels = {levels[i]: channels[i] for i in self._indices}
        self._gives_branches = _is_hrnet(name)
        if not self._gives_branches:
            body.prune_intermediate_layers(self._indices, prune_norm=True)
            body.head = nn.Identity()  # where earlier versions of timm leave a norm
        if pretrained or checkpoint:
            _require_all(body, missing, name, checkpoint)
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
        # MODEL.WEIGHTS would overwrite them, and their file may be gone by now.
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
        """The model's greatest stride: every feature is then the images' size by its stride."""
        return self._size_divisibility

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            images: (N, in_channels, H0, W0), sides multiples of `size_divisibility`.

        Returns:
            {name: (N, C, H, W)} of `out_features`, from fine to coarse.
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
        """Parameters and batch statistics of the first stages, as timm groups them, stay."""
        from timm.models import group_parameters

        stages = group_parameters(self.body, self.body.group_matcher(coarse=True))
        parameters = dict(self.body.named_parameters())
        for stage in sorted(stages)[:num_stages]:
            for name in stages[stage]:
                parameters[name].requires_grad = False
        _convert_batch_norms(self.body, "FrozenBN", lambda bn: not bn.weight.requires_grad)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The backbone that MODEL.TIMM describes; warns of what would spoil pretrained weights."""
    backbone = TimmBackbone(cfg, input_shape)
    options = cfg.MODEL.TIMM
    if options.PRETRAINED or options.CHECKPOINT:
        _warn_of_normalization(cfg, backbone.body.pretrained_cfg)
    elif cfg.MODEL.BACKBONE.FREEZE_AT and not cfg.MODEL.WEIGHTS:
        logger.warning(
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} freezes layers of "
            f"{options.NAME} at random values: set it to 0, or MODEL.TIMM.PRETRAINED True"
        )
    return backbone


def check_timm_model(name: str) -> None:
    """Raises InputError where timm is missing, or has no model, or no weights, of that name."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"MODEL.BACKBONE.NAME build_timm_backbone needs timm ({error}): pip install -e .[timm]"
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
            f"MODEL.TIMM: {name} does not take DROP_PATH {drop_path}, OUTPUT_STRIDE "
            f"{output_stride}: {error or type(error).__name__}"
        ) from error
    if not _is_hrnet(name) and not hasattr(body, "prune_intermediate_layers"):
        raise InputError(f"MODEL.TIMM.NAME: {name} gives no intermediate features: take another")
    if _is_hrnet(name):
        for module in body.modules():
            if isinstance(module, nn.Upsample):
                module.mode, module.align_corners = "bilinear", False
    # Some models take any option and leave it.
    drop_paths = [module for module in body.modules() if isinstance(module, DropPath)]
    if drop_path and not drop_paths:
        raise InputError(f"MODEL.TIMM.DROP_PATH: {name} has no stochastic depth: set it to 0")
    if not drop_path:  # Swin has some of itself
        for module in drop_paths:
            module.drop_prob = 0.0
    strides = _feature_info(body, "reduction")
    if output_stride != 32 and max(strides) != output_stride:
        raise InputError(
            f"MODEL.TIMM.OUTPUT_STRIDE: {name} has {max(strides)}, and no {output_stride}"
        )
    if output_stride == 32 and len(set(strides)) < len(strides):
        raise InputError(f"MODEL.TIMM.NAME: {name} has no features of strides that grow")
    return body


def _is_hrnet(name: str) -> bool:
    from timm.models import is_model_in_modules

    return is_model_in_modules(name.partition(".")[0], ["hrnet"])


def _feature_info(body: nn.Module, key: str) -> list[int]:
    return [feature[key] for feature in body.feature_info]


def _levels(strides: Sequence[int]) -> list[str]:
    """res2 for stride 4 to res5 for 32; dilated stages go by the number that they had before."""
    levels: list[int] = []
    for stride in strides:
        level = int(math.log2(stride))
        levels.append(max(level, levels[-1] + 1) if levels else level)
    return [f"res{level}" for level in levels]


def _load_weights(body: nn.Module, name: str, checkpoint: str, in_channels: int) -> list[str]:
    """Loads timm's weights, or a file; returns the names of what these lack."""
    from timm.models import load_pretrained

    source = dict(body.pretrained_cfg)
    if checkpoint:
        if not os.path.isfile(checkpoint):
            raise InputError(f"MODEL.TIMM.CHECKPOINT: file not found: {checkpoint}")
    missing: list[str] = []
    hook = body.register_load_state_dict_post_hook(
        lambda _, incompatible: missing.extend(incompatible.missing_keys)
    )
    try:
        if checkpoint.endswith(".npz"):
            source |= {"file": checkpoint, "custom_load": True}
        elif checkpoint:
            source["state_dict"] = _read_weights(checkpoint)
        load_pretrained(
            body,
            source,
            num_classes=0,
            in_chans=in_channels,
            # Each of timm's files that needs one has it under this name, for weights as published.
            filter_fn=getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None),
            strict=False,
        )
    except Exception as error:  # a broken file fails in any way, and so does a download
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if checkpoint:
            raise InputError(
                f"MODEL.TIMM.CHECKPOINT {checkpoint} cannot be loaded into {name}: {reason}"
            ) from error
        raise InputError(
            f"MODEL.TIMM.PRETRAINED: no weights of {name} to be had: {reason} Without network, set "
            "MODEL.TIMM.PRETRAINED False and MODEL.TIMM.CHECKPOINT to a file of them, or "
            "MODEL.WEIGHTS to a checkpoint of the whole model"
        ) from error
    finally:
        hook.remove()
    return missing


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    """As timm's `load_state_dict`, which in some versions runs what is in the file."""
    from timm.models import clean_state_dict

    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    try:
        # timm's own training saves its arguments (names and values) with the weights.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"refused, since it would run {refused[1]}" if refused else "it is damaged, or no .pth"
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if content.get(key) is not None:
            content = content[key]
            break
    if not content:  # timm would download others
        raise InputError("it has no weights")
    return clean_state_dict(content)


def _require_all(body: nn.Module, missing: Sequence[str], name: str, checkpoint: str) -> None:
    # Early files do not count the batches, and what was pruned is not needed.
    expected = [key for key in body.state_dict() if not key.endswith("num_batches_tracked")]
    lacking = [key for key in expected if key in set(missing)]
    if lacking:
        raise InputError(
            f"MODEL.TIMM: {checkpoint or 'the download'} lacks {len(lacking)} of the "
            f"{len(expected)} arrays of {name}, such as {', '.join(lacking[:3])}: is it of "
            "another model?"
        )


def _convert_batch_norms(
    module: nn.Module, norm: str, where: Callable[[nn.Module], bool] = lambda bn: True
) -> None:
    """Replace batch norms below `module`. Keep their activations and, except for GN, values."""
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
                    "take BN, SyncBN or FrozenBN, or another MODEL.TIMM.NAME"
                )
            else:
                is_fused = isinstance(child, BatchNormAct2d)
                tail = (child.drop, child.act) if is_fused else ()
                child = nn.Sequential(nn.GroupNorm(32, child.num_features), *tail)
            setattr(module, name, child)


def _warn_of_normalization(cfg: CfgNode, pretrained_cfg: dict) -> None:
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
