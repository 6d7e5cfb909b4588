"""Load weights into a timm model: timm's own, a file, or a file of an installed package."""

import importlib.util
import logging
import os
import pickle
import re
import sys
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import nn

from sar.checkpoints.tensor_file import verify_checksums
from sar.errors import InputError, listed

logger = logging.getLogger(__name__)

# In front of PACKAGE/PATH in MODEL.TIMM.CHECKPOINT.
PACKAGE = "package://"


def find_weights(checkpoint: str) -> str:
    """Return the path of a file of weights.

    Args:
        checkpoint: a path, or package://PACKAGE/PATH for a file of an installed package. The
            package is not imported.

    Raises:
        InputError: the package is not installed, or the file is missing.
    """
    path = checkpoint
    if checkpoint.startswith(PACKAGE):
        package, _, file = checkpoint.removeprefix(PACKAGE).partition("/")
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise InputError(
                f"MODEL.TIMM.CHECKPOINT {checkpoint}: the package {package} is not installed: pip "
                f"install {package}"
            )
        path = os.path.join(found.submodule_search_locations[0], file)
    if not os.path.isfile(path):
        raise InputError(f"MODEL.TIMM.CHECKPOINT: file not found: {path}")
    return path


def load_weights(body: nn.Module, name: str, checkpoint: str, in_channels: int) -> list[str]:
    """Load weights into a model of timm.

    Args:
        body: the model, with all its layers.
        name: timm's name of the model, for messages.
        checkpoint: as in `find_weights`, in any format that timm reads, or with the names of
            EfficientNet-PyTorch; "" for timm's weights, from a download or timm's cache.
        in_channels: number of channels of the images.

    Returns:
        The names of the weights that are missing. Older files have no batch counts.

    Raises:
        InputError: the weights cannot be found, read or downloaded.
    """
    from timm.models import load_pretrained

    source = dict(body.pretrained_cfg)
    path = find_weights(checkpoint) if checkpoint else ""
    missing: list[str] = []

    def take_names(_, incompatible) -> None:
        missing.extend(incompatible.missing_keys)
        unexpected = incompatible.unexpected_keys
        if unexpected:
            logger.warning(f"{name} does not use {len(unexpected)} arrays: {listed(unexpected)}")
        unexpected.clear()  # timm would print every name

    hook = body.register_load_state_dict_post_hook(take_names)
    try:
        if path.endswith(".npz"):
            source |= {"file": path, "custom_load": True}
        elif path:
            source["state_dict"] = _rename(_read_weights(path), body)
        load_pretrained(
            body,
            source,
            num_classes=0,
            in_chans=in_channels,
            # timm's modules name the function that renames published weights this way.
            filter_fn=getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None),
            strict=False,
        )
    except Exception as error:  # a broken file or a failed download can raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if checkpoint:
            raise InputError(
                f"MODEL.TIMM.CHECKPOINT {checkpoint} cannot be loaded into {name}: {reason}"
            ) from error
        raise InputError(
            f"MODEL.TIMM.PRETRAINED: the weights of {name} cannot be downloaded: {reason} Without "
            "network, set MODEL.TIMM.PRETRAINED False and MODEL.TIMM.CHECKPOINT to a file of these "
            "weights, or set MODEL.WEIGHTS to a checkpoint of the whole model"
        ) from error
    finally:
        hook.remove()
    return missing


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    """Read a file of weights without executing code in it.

    timm's own `load_state_dict` executes code in the file in some versions of timm.
    """
    from timm.models import clean_state_dict

    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    verify_checksums(path)
    try:
        # timm's training script saves its arguments (names and values) with the weights.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"refused, since it would run {refused[1]}"
            if refused
            else "it is damaged or not a .pth file"
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if content.get(key) is not None:
            content = content[key]
            break
    if not content:  # timm would download weights instead
        raise InputError("it has no weights")
    return clean_state_dict(content)


def _rename(state: dict[str, torch.Tensor], body: nn.Module) -> dict[str, torch.Tensor]:
    """Give weights of EfficientNet-PyTorch the names of timm. Both list their layers in order."""
    if "_conv_stem.weight" not in state:
        return state
    arrays = [array for name, array in state.items() if not name.startswith("_fc.")]
    expected = body.state_dict()
    shapes = [[array.shape for array in list(part)[1:]] for part in (arrays, expected.values())]
    if shapes[0] != shapes[1]:  # the first array depends on the channels of the images
        raise InputError("its layers have other shapes: is it from another model?")
    return dict(zip(expected, arrays, strict=True))


def require_all(body: nn.Module, missing: Sequence[str], name: str, checkpoint: str) -> None:
    """Raise InputError if weights of a model were missing. Pruned layers need no weights.

    Args:
        body: the model, after pruning.
        missing: the result of `load_weights`.
        name, checkpoint: as in `load_weights`.
    """
    expected = [key for key in body.state_dict() if not key.endswith("num_batches_tracked")]
    lacking = [key for key in expected if key in set(missing)]
    if lacking:
        raise InputError(
            f"MODEL.TIMM: {checkpoint or 'the download'} lacks {len(lacking)} of the "
            f"{len(expected)} arrays of {name}, such as {', '.join(lacking[:3])}: is it from "
            "another model?"
        )
