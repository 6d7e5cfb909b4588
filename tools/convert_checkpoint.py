#!/usr/bin/env python
"""Convert weights of other projects for the model of a config.

--from names the origin of the weights:
  mmseg        a model of mmsegmentation that SAR's authors trained (HRNet with the FCN head), or
               ImageNet weights of HRNet with mmsegmentation's names
  timm         ImageNet weights of timm, for build_timm_backbone or detectron2's ResNet
  torchvision  ImageNet weights of torchvision: ResNets for detectron2's ResNet or timm's,
               Swin for timm's
  swin         ImageNet weights of Swin, as its authors published them, for timm's

Every name must be known, and every shape must be as in the model. Weights that the model does not
use, such as the classifier of ImageNet, are listed and left out. Start a training from the result
with MODEL.WEIGHTS.
"""

import argparse
import logging
import pickle
import sys
from collections import Counter
from pathlib import Path

from sar import cli

EXAMPLES = """example:
  python tools/convert_checkpoint.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml \\
      --from torchvision --input resnet18-f37072fd.pth --output output/resnet18.pth
"""

FORMATS = ("mmseg", "timm", "torchvision", "swin")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_config(parser)
    parser.add_argument(
        "--from", choices=FORMATS, dest="source", required=True, help="origin of the weights"
    )
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="a .pth, .pt or .safetensors file"
    )
    cli.add_output(parser, "FILE", "the file to write, NAME.pth")
    args = parser.parse_args(argv)
    if args.output.suffix != ".pth":
        parser.error(f"--output {args.output} has to end in .pth")
    return args


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import torch
from torch import nn

from sar.checkpoints.conversion import LAYOUTS, Conversion, State, convert
from sar.checkpoints.tensor_file import save_tensors, verify_checksums
from sar.config import load_config
from sar.data.locations import folders_of_config
from sar.errors import InputError, listed
from sar.files.program_outputs import Outputs
from sar.modeling.backbones.timm_backbone import TimmBackbone, warn_of_normalization
from sar.modeling.build import build_model
from sar.preflight.checks import check_config

from detectron2.config import CfgNode

logger = logging.getLogger("convert_checkpoint")


def main(argv: list[str] | None = None) -> int:
    return cli.run(convert_file, parse_args(argv))


def convert_file(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    outputs = Outputs.of_file(
        args.output,
        overwrite=args.overwrite,
        inputs=[args.config_file, args.input],
        data=folders_of_config(cfg),
    )
    state, other_keys = read(args.input)
    model = build(cfg, args.output)
    try:
        conversion = convert(state, LAYOUTS[args.source], model.state_dict())
    except InputError as error:
        raise InputError(f"checkpoint {args.input}: {error}") from error
    if not conversion.weights:
        raise InputError(f"checkpoint {args.input} holds nothing for the model of the config")
    with outputs.writing(args.output) as temporary:
        save_tensors({"model": conversion.weights}, temporary)
    if not args.quiet:
        report(conversion, other_keys, in_full=args.verbose)
    warn_of_settings(cfg, model)
    if not args.quiet:
        print(f"Written: {args.output}")


def build(cfg: CfgNode, weights: Path) -> nn.Module:
    """Build the model of a config, which will have `weights`, with random numbers."""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(weights)  # so that no other weights are loaded or asked for
    check_config(cfg)
    return build_model(cfg)


def read(path: str) -> tuple[State, list[str]]:
    """Read the weights in a file, without executing anything in it.

    Returns:
        the weights, and the names of what else is in the file.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint.
    """
    if not Path(path).is_file():  # also for a pipe: reading it would wait forever
        raise InputError(f"checkpoint {path} cannot be read: No such file")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file  # comes with timm

            content = load_file(path)
        else:
            verify_checksums(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} is truncated, not a checkpoint, or holds objects whose loading "
            "could run code. In the last case, save only its state dict"
        ) from error
    except Exception as error:  # a broken file fails in any way
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"checkpoint {path} cannot be read: {reason[0]}") from error
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict")
    key = next((key for key in ("state_dict", "model") if isinstance(content.get(key), dict)), None)
    state = content.pop(key) if key else content
    strange = [name for name, value in state.items() if not is_weight(name, value)]
    if strange or not state:
        raise InputError(
            f"checkpoint {path} holds no state dict, neither alone nor in state_dict or model: "
            f"{listed(strange) or 'it is empty'}"
        )
    return dict(state), sorted(map(str, content)) if key else []


def is_weight(name: object, value: object) -> bool:
    if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
        return False
    return value.layout == torch.strided and not value.is_complex() and not value.is_meta


def warn_of_settings(cfg: CfgNode, model: nn.Module) -> None:
    """Warn of settings of the config that differ from the training of such weights."""
    settings = {}
    backbones = [module for module in model.modules() if isinstance(module, TimmBackbone)]
    if backbones:
        warn_of_normalization(cfg, backbones[0].body.pretrained_cfg)
    else:
        settings = {
            "INPUT.FORMAT": (cfg.INPUT.FORMAT, "RGB"),
            "MODEL.PIXEL_MEAN": (list(cfg.MODEL.PIXEL_MEAN), [123.675, 116.28, 103.53]),
            "MODEL.PIXEL_STD": (list(cfg.MODEL.PIXEL_STD), [58.395, 57.12, 57.375]),
        }
    if any(name.endswith("res2.0.conv3.weight") for name in model.state_dict()):
        settings["MODEL.RESNETS.STRIDE_IN_1X1"] = (cfg.MODEL.RESNETS.STRIDE_IN_1X1, False)
    for key, (found, usual) in settings.items():
        if found != usual:
            logger.warning(f"Most such weights need {key} {usual}, but the config has {found}")


def report(conversion: Conversion, other_keys: list[str], *, in_full: bool) -> None:
    """Print what became of the arrays, by layers or, in full, by their names."""
    print(f"{len(conversion.weights)} arrays converted")
    for what, names in (
        ("not used by the model", conversion.unused),
        ("not in the checkpoint; the model initializes them", conversion.missing),
    ):
        if names:
            groups = Counter(name if in_full else ".".join(name.split(".")[:2]) for name in names)
            print(f"{len(names)} arrays {what}:")
            for group, number in groups.items():
                print(f"  {group}" + (f" ({number} arrays)" if number > 1 else ""))
    if other_keys:
        print(f"Not weights, left out: {', '.join(other_keys)}")


if __name__ == "__main__":
    sys.exit(main())
