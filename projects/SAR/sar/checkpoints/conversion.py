"""Rename the weights in other projects' checkpoints to our names, by tables of rules.

A layout describes how another project names its weights. Each rule is a pair of patterns: their
name and our name. In a pattern, `#` stands for a number and `*` for any text. Our name keeps the
numbers and texts of their name. The first rule that leads to a weight of our model is used, so
special rules come before general rules. `{backbone}` stands for the path of the backbone in the
model.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from sar.errors import InputError, dimensions, listed

State = dict[str, torch.Tensor]

# Paths of a backbone in a model, innermost first: below an FPN, in the adapter to timm.
BACKBONE_PREFIXES = (
    "backbone.bottom_up.body.",
    "backbone.bottom_up.",
    "backbone.body.",
    "backbone.",
)
HEAD, AUXILIARY = "sem_seg_head.", "auxiliary_head."
SAR = "regularizers.SemanticAnchorRegularizer."


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Rule(NamedTuple):
    """Two patterns with the same wildcards in the same order, and a change of the tensor."""

    theirs: str
    ours: str
    convert: Callable[[torch.Tensor], torch.Tensor] = _same


@dataclass(frozen=True)
class Layout:
    """How another project names its weights.

    Attributes:
        rules: from their names to our names.
        unused: patterns of names that our models do not use.
    """

    rules: tuple[Rule, ...]
    unused: tuple[str, ...]


@dataclass
class Conversion:
    """The result of `convert`.

    Attributes:
        weights: the renamed weights.
        unused: weights that our model does not use, by their names.
        missing: weights that the checkpoint lacks, by our names.
    """

    weights: State = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


_TO_THE_SAME_NAME = Rule("*", "{backbone}*")

# From ResNets of torchvision and timm to detectron2's ResNets.
_RESNET = (
    Rule("conv1.*", "{backbone}stem.conv1.*"),
    Rule("bn1.*", "{backbone}stem.conv1.norm.*"),
    *(
        Rule(f"layer{n}.#.{theirs}.*", f"{{backbone}}res{n + 1}.#.{ours}.*")
        for n in (1, 2, 3, 4)
        for theirs, ours in (
            ("downsample.1", "shortcut.norm"),
            ("downsample.0", "shortcut"),
            ("bn#", "conv#.norm"),
            ("conv#", "conv#"),
        )
    ),
)

# torchvision numbers stages and the patch mergings between them in one sequence.
_TORCHVISION_SWIN = (
    Rule("features.0.0.*", "{backbone}patch_embed.proj.*"),
    Rule("features.0.2.*", "{backbone}patch_embed.norm.*"),
    *(
        Rule(f"features.{2 * n}.{part}.*", f"{{backbone}}layers.{n}.downsample.{part}.*")
        for n in (1, 2, 3)
        for part in ("reduction", "norm")
    ),
    *(
        Rule(f"features.{2 * n + 1}.#.{theirs}.*", f"{{backbone}}layers.{n}.blocks.#.{ours}.*")
        for n in (0, 1, 2, 3)
        for theirs, ours in (
            ("mlp.0", "mlp.fc1"),
            ("mlp.3", "mlp.fc2"),
            ("norm#", "norm#"),
            ("attn", "attn"),
        )
    ),
)

# Classifiers of ImageNet, the neck of HRNet, and tables that Swin computes itself.
_CLASSIFIERS = ("fc.*", "head.*", "classifier.*", "norm.*")
# EfficientNet and MobileNet have layers between the last stage and the classifier.
_MOBILE_HEAD = ("conv_head.*", "bn2.*", "norm_head.*")
_HRNET_NECK = ("incre_modules.*", "downsamp_modules.*", "final_layer.*", "neck.*")
_SWIN_TABLES = ("*.relative_position_index", "*.attn_mask")

LAYOUTS = {
    # Models of mmsegmentation with SAR, as the authors of SAR published them, and HRNet backbones.
    "mmseg": Layout(
        rules=(
            Rule("backbone.*", "{backbone}*"),
            *(
                Rule(f"{their_head}.{theirs}.*", f"{our_head}{ours}.*")
                for their_head, our_head in (("decode_head", HEAD), ("auxiliary_head", AUXILIARY))
                for theirs, ours in (
                    ("conv_seg", "predictor"),
                    ("convs.#.bn", "convs.#.norm"),
                    ("convs.#.conv", "convs.#"),
                )
            ),
            *(Rule(f"projecter_linear.{i}.*", f"{SAR}projector.{i}.*") for i in (0, 1, 3, 4)),
            Rule(
                "projecter.conv.weight",
                f"{SAR}projector.6.weight",
                lambda convolution: convolution.flatten(1),
            ),
            Rule("projecter.bn.*", f"{SAR}projector.7.*"),
            Rule("random_center", f"{SAR}anchors"),
            Rule("momentum_center_feat", f"{SAR}semantic_anchors"),
            Rule("update_flag", f"{SAR}gate_has_opened", torch.Tensor.bool),
            _TO_THE_SAME_NAME,
        ),
        # The auxiliary head is unused if the config has none.
        unused=(
            "center_lbl",
            "local_iter",
            "auxiliary_head.*",
            *_CLASSIFIERS,
            *_HRNET_NECK,
        ),
    ),
    "timm": Layout(
        rules=(*_RESNET, _TO_THE_SAME_NAME),
        unused=(*_CLASSIFIERS, *_MOBILE_HEAD, *_HRNET_NECK, *_SWIN_TABLES),
    ),
    "torchvision": Layout(
        rules=(*_RESNET, *_TORCHVISION_SWIN, _TO_THE_SAME_NAME),
        unused=(*_CLASSIFIERS, *_SWIN_TABLES),
    ),
    # The original release of Swin merges patches at the end of a stage.
    "swin": Layout(
        rules=(
            *(
                Rule(f"layers.{n}.downsample.*", f"{{backbone}}layers.{n + 1}.downsample.*")
                for n in (0, 1, 2)
            ),
            _TO_THE_SAME_NAME,
        ),
        unused=(*_CLASSIFIERS, *_SWIN_TABLES),
    ),
}


def convert(state: Mapping[str, torch.Tensor], layout: Layout, model: State) -> Conversion:
    """Rename and check the weights of another project.

    Args:
        state: their names and weights.
        layout: the layout of these names.
        model: the state dict of our model, for its names and shapes.

    Raises:
        InputError: the layout or the model does not know a name; two names lead to one weight; a
            shape differs from the model; a part of the model is incomplete.
    """
    rules = _at_backbone(layout.rules, model)
    result, sources, unknown = Conversion(), {}, []
    for name, value in state.items():
        # A layout has rules for several models. Use the rules that lead to a name in this model.
        found = [
            (ours, rule)
            for rule in rules
            if (ours := _rename(name, rule.theirs, rule.ours)) in model
        ]
        if found:
            ours, rule = found[0]
            if ours in sources:
                raise InputError(f"{sources[ours]} and {name} both become {ours}: remove one")
            sources[ours] = name
            result.weights[ours] = rule.convert(value)
        elif any(_rename(name, pattern, pattern) for pattern in layout.unused):
            result.unused.append(name)
        elif _is_count_of_frozen_norm(name, rules, model):
            result.unused.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise InputError(
            f"{len(unknown)} of its names are unknown to this layout or to the model of the "
            f"config: {listed(unknown)}. Is it from another model, or does it need another --from?"
        )
    _check_shapes(result.weights, sources, model)
    result.missing = [name for name in model if name not in result.weights]
    _check_parts(result, rules)
    return result


def _at_backbone(rules: tuple[Rule, ...], model: State) -> list[Rule]:
    prefix = next(p for p in (*BACKBONE_PREFIXES, "") if any(name.startswith(p) for name in model))
    return [rule._replace(ours=rule.ours.replace("{backbone}", prefix)) for rule in rules]


def _rename(name: str, pattern: str, other: str) -> str:
    """Rename a name from `pattern` to `other`; return "" if the pattern does not match."""
    wildcards = {"#": r"(\d+)", "*": r"(.+)"}
    parts = [wildcards.get(part, re.escape(part)) for part in re.split(r"([#*])", pattern)]
    match = re.fullmatch("".join(parts), name)
    if match is None:
        return ""
    kept = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(kept), other)


def _is_count_of_frozen_norm(name: str, rules: list[Rule], model: State) -> bool:
    """Return True for the batch count of a norm that is frozen in our model.

    Frozen norms have no batch count.
    """
    stem, _, last = name.rpartition(".")
    return last == "num_batches_tracked" and any(
        _rename(f"{stem}.running_mean", rule.theirs, rule.ours) in model for rule in rules
    )


def _check_shapes(weights: State, sources: dict[str, str], model: State) -> None:
    mismatched = [
        f"{sources[name]} is {dimensions(value.shape)}, "
        f"but {name} is {dimensions(model[name].shape)}"
        for name, value in weights.items()
        if value.shape != model[name].shape
    ]
    if mismatched:
        raise InputError(
            f"{len(mismatched)} of its {len(weights)} arrays have another shape than in the model "
            f"of the config: {listed(mismatched, separator='; ')}. Is it another variant, or "
            "does it have other classes?"
        )


def _check_parts(result: Conversion, rules: list[Rule]) -> None:
    """Raise InputError if a part of the model has some of its weights, but not all."""
    backbone = next(rule.ours.rstrip("*") for rule in rules if rule.theirs == "*")
    for part in (backbone, HEAD, AUXILIARY, SAR):
        missing = [
            name
            for name in result.missing
            if name.startswith(part) and not name.endswith("num_batches_tracked")
        ]
        if missing and any(name.startswith(part) for name in result.weights):
            raise InputError(
                f"{part.rstrip('.')} is incomplete: the checkpoint lacks {len(missing)} arrays of "
                f"the config's model ({listed(missing)}). Is it another variant?"
            )
