"""Names of weights in other projects' checkpoints, and in ours: tables of rules, used both ways.

A layout says how another project names its weights. Each of its rules is a pair of patterns, theirs
and ours, where `#` stands for a number and `*` for any text; what stands at a wildcard is kept. The
first rule that fits wins, so the special ones come before the general ones. `{backbone}` is where
the config's model has its backbone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from sar.errors import InputError, dimensions, listed

State = dict[str, torch.Tensor]

# Where a model can have its backbone, innermost first: below an FPN, in the adapter to timm.
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
    """A pair of patterns with the same wildcards in the same order, and of inverse functions."""

    theirs: str
    ours: str
    value_to_ours: Callable[[torch.Tensor], torch.Tensor] = _same
    value_to_theirs: Callable[[torch.Tensor], torch.Tensor] = _same


@dataclass(frozen=True)
class Layout:
    """How another project names its weights.

    Attributes:
        rules: from their names to ours, and back.
        without_counterpart: patterns of theirs that our models have no use for.
        ours_without_counterpart: patterns of ours that theirs have no use for.
    """

    rules: tuple[Rule, ...]
    without_counterpart: tuple[str, ...]
    ours_without_counterpart: tuple[str, ...] = ()


@dataclass
class Conversion:
    """Converted weights; `unused` are those left out on purpose, under their names of before, and
    `missing` the names of the model's weights that the checkpoint does not hold."""

    weights: State = field(default_factory=dict)
    unused: State = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


_TO_THE_SAME_NAME = Rule("*", "{backbone}*")

# torchvision's and timm's ResNets to detectron2's.
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

# torchvision counts stages and the mergings between them in one sequence.
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

# The classifiers of ImageNet, and tables that Swin computes anew.
_CLASSIFIERS = ("fc.*", "head.*", "classifier.*", "norm.*")
_HRNET_NECK = ("incre_modules.*", "downsamp_modules.*", "final_layer.*", "neck.*")
_SWIN_TABLES = ("*.relative_position_index", "*.attn_mask")

LAYOUTS = {
    # Models of mmsegmentation with SAR's branch, as its authors wrote it, and bare HRNets.
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
                lambda linear: linear[:, :, None, None],
            ),
            Rule("projecter.bn.*", f"{SAR}projector.7.*"),
            Rule("random_center", f"{SAR}anchors"),
            Rule("momentum_center_feat", f"{SAR}semantic_anchors"),
            Rule("update_flag", f"{SAR}gate_has_opened", torch.Tensor.bool, torch.Tensor.long),
            _TO_THE_SAME_NAME,
        ),
        # The auxiliary head where the config has none.
        without_counterpart=(
            "center_lbl",
            "local_iter",
            "auxiliary_head.*",
            *_CLASSIFIERS,
            *_HRNET_NECK,
        ),
        ours_without_counterpart=("regularizers.CenterCollapseRegularizer.*", "loss.*"),
    ),
    "timm": Layout(
        rules=(*_RESNET, _TO_THE_SAME_NAME),
        without_counterpart=(*_CLASSIFIERS, *_HRNET_NECK, *_SWIN_TABLES),
    ),
    "torchvision": Layout(
        rules=(*_RESNET, *_TORCHVISION_SWIN, _TO_THE_SAME_NAME),
        without_counterpart=(*_CLASSIFIERS, *_SWIN_TABLES),
    ),
    # The release of Swin's authors, which merges patches at the end of a stage, as timm once did.
    "swin": Layout(
        rules=(
            *(
                Rule(f"layers.{n}.downsample.*", f"{{backbone}}layers.{n + 1}.downsample.*")
                for n in (0, 1, 2)
            ),
            _TO_THE_SAME_NAME,
        ),
        without_counterpart=(*_CLASSIFIERS, *_SWIN_TABLES),
    ),
}


def to_ours(state: Mapping[str, torch.Tensor], layout: Layout, model: State) -> Conversion:
    """Weights of another project under the names of ours.

    Args:
        state: names and weights of the other project.
        layout: how that names them.
        model: the state dict of our model, for its names and shapes.

    Returns:
        The weights under our names; `unused` of theirs.

    Raises:
        InputError: names that neither the rules nor the model know, two of one meaning, weights of
            other shapes than the model's, or a part of the model that is there by halves.
    """
    rules = _at_backbone(layout.rules, model)
    result, source, unknown = Conversion(), {}, []
    for name, value in state.items():
        # Rules for several models stand side by side: one that fits leads to a name of this one.
        found = [
            (ours, rule)
            for rule in rules
            if (ours := _rename(name, rule.theirs, rule.ours)) in model
        ]
        if found:
            ours, rule = found[0]
            _refuse_second(source, ours, name)
            result.weights[ours] = rule.value_to_ours(value)
        elif name in model and _is_any_of(name, layout.ours_without_counterpart):
            _refuse_second(source, name, name)
            result.weights[name] = value  # left out on the way there, and kept
        elif _is_any_of(name, layout.without_counterpart) or _is_count_of_frozen_norm(
            name, rules, model
        ):
            result.unused[name] = value
        else:
            unknown.append(name)
    _refuse_unknown(unknown, "the names of this layout or the config's model")
    _check_shapes(result.weights, source, model)
    result.missing = [name for name in model if name not in result.weights]
    _refuse_halves(result, rules)
    return result


def to_theirs(state: Mapping[str, torch.Tensor], layout: Layout, model: State) -> Conversion:
    """The way back: our weights under the names of another project.

    Raises:
        InputError: names that the model does not have or the other project has no place for, or
            weights of other shapes than the model's.
    """
    rules = _at_backbone(layout.rules, model)
    result, source, unknown = Conversion(), {}, []
    for name, value in state.items():
        if name not in model:
            if _is_any_of(name, layout.without_counterpart):
                result.weights[name] = value  # left out on the way here, and kept
            else:
                unknown.append(name)
            continue
        found = [
            (theirs, rule) for rule in rules if (theirs := _rename(name, rule.ours, rule.theirs))
        ]
        if found:
            theirs, rule = found[0]
            _refuse_second(source, theirs, name)
            result.weights[theirs] = rule.value_to_theirs(value)
        elif _is_any_of(name, layout.ours_without_counterpart):
            result.unused[name] = value
        else:
            unknown.append(name)
    _refuse_unknown(unknown, "the names of the config's model or of this layout")
    _check_shapes({name: value for name, value in state.items() if name in model}, {}, model)
    result.missing = [name for name in model if name not in state]
    return result


def _at_backbone(rules: tuple[Rule, ...], model: State) -> list[Rule]:
    prefix = next(p for p in (*BACKBONE_PREFIXES, "") if any(name.startswith(p) for name in model))
    return [rule._replace(ours=rule.ours.replace("{backbone}", prefix)) for rule in rules]


def _rename(name: str, pattern: str, other: str) -> str:
    """The name after `other`, or "" where the pattern does not fit."""
    wildcards = {"#": r"(\d+)", "*": r"(.+)"}
    parts = [wildcards.get(part, re.escape(part)) for part in re.split(r"([#*])", pattern)]
    match = re.fullmatch("".join(parts), name)
    if match is None:
        return ""
    kept = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(kept), other)


def _is_any_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(_rename(name, pattern, pattern) for pattern in patterns)


def _is_count_of_frozen_norm(name: str, rules: list[Rule], model: State) -> bool:
    """Whether a norm counts its batches in the checkpoint, but has no count where it is frozen."""
    stem, _, last = name.rpartition(".")
    return last == "num_batches_tracked" and any(
        _rename(f"{stem}.running_mean", rule.theirs, rule.ours) in model for rule in rules
    )


def _refuse_second(source: dict[str, str], new: str, old: str) -> None:
    if new in source:
        raise InputError(f"{source[new]} and {old} both are {new}: one of them is to be removed")
    source[new] = old


def _refuse_unknown(names: list[str], known: str) -> None:
    if names:
        raise InputError(
            f"{len(names)} of its names are not among {known}: {listed(names)}. Is it of another "
            "model than the config's, or of another --from?"
        )


def _check_shapes(state: Mapping[str, torch.Tensor], source: dict[str, str], model: State) -> None:
    mismatched = [
        f"{source.get(name, name)} is {dimensions(value.shape)}, "
        f"but {name} {dimensions(model[name].shape)}"
        for name, value in state.items()
        if value.shape != model[name].shape
    ]
    if mismatched:
        raise InputError(
            f"{len(mismatched)} of its {len(state)} arrays are of another shape than the config's "
            f"model: {listed(mismatched, separator='; ')}. Another variant, or other classes?"
        )


def _refuse_halves(result: Conversion, rules: list[Rule]) -> None:
    """A head may be absent, and counts of batches, but no layer out of the middle of a part."""
    backbone = next(rule.ours.rstrip("*") for rule in rules if rule.theirs == "*")
    for part in (backbone, HEAD, AUXILIARY, SAR):
        missing = [
            name
            for name in result.missing
            if name.startswith(part) and not name.endswith("num_batches_tracked")
        ]
        if missing and any(name.startswith(part) for name in result.weights):
            raise InputError(
                f"{part.rstrip('.')} is there by halves: it lacks {len(missing)} arrays of the "
                f"config's model: {listed(missing)}. Is it of another variant?"
            )
