#!/usr/bin/env python
"""Converts weights of other projects to the model of a config, and back.

--from and --to name whose weights the other file holds:
  mmseg        a model of mmsegmentation that SAR's authors trained (HRNet with the FCN head), or
               ImageNet weights of HRNet under mmsegmentation's names
  timm         ImageNet weights of timm, for build_timm_backbone or detectron2's ResNet
  torchvision  ImageNet weights of torchvision: ResNets for detectron2's ResNet or for timm's,
               Swin for timm's
  swin         ImageNet weights of Swin as its authors released them, for timm's

Every name must have its place, and every shape be that of the config's model. What is left out
on purpose, such as the classifier of ImageNet, is listed, and kept in the file under "unused", from
where the way back takes it. Backbones are for MODEL.WEIGHTS of a training.
"""

import argparse
import logging
import pickle
import sys
from collections import Counter
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python tools/convert_checkpoint.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml \\
      --from torchvision --input resnet18-f37072fd.pth --output output/resnet18.pth
  python tools/convert_checkpoint.py --config-file C --to mmseg --input output/model_final.pth \\
      --output sar_mmseg.pth
"""

FORMATS = ("mmseg", "timm", "torchvision", "swin")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_config(parser)
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", choices=FORMATS, dest="source", help="convert to ours")
    direction.add_argument("--to", choices=["mmseg"], help="convert from ours")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="a .pth, .pt or .safetensors file"
    )
    cli.add_output(parser, "FILE", "the file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import torch

from sar.checkpoints.conversion import LAYOUTS, Conversion, State, to_ours, to_theirs
from sar.config import load_config
from sar.data.locations import folders_of_config
from sar.errors import InputError, listed
from sar.files.program_outputs import Outputs
from sar.modeling.build import build_model
from sar.preflight.checks import check_config

from detectron2.config import CfgNode

logger = logging.getLogger("convert_checkpoint")


def main(argv: list[str] | None = None) -> int:
    return cli.run(convert, parse_args(argv))


def convert(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    outputs = Outputs.of_file(
        args.output,
        overwrite=args.overwrite,
        inputs=[args.config_file, args.input],
        data=folders_of_config(cfg),
    )
    state, left = read(args.input)
    state |= left.pop("unused", {})  # what the way here left out comes home
    model = model_state(cfg)
    try:
        if args.source:
            conversion = to_ours(state, LAYOUTS[args.source], model)
        else:
            conversion = to_theirs(state, LAYOUTS[args.to], model)
    except InputError as error:
        raise InputError(f"checkpoint {args.input}: {error}") from error
    if not conversion.weights:
        raise InputError(f"checkpoint {args.input} holds nothing for the config's model")
    content = {"model" if args.source else "state_dict": conversion.weights}
    if conversion.unused:
        content["unused"] = conversion.unused
    try:
        with outputs.writing(args.output) as temporary:
            torch.save(content, temporary)
    except RuntimeError as error:  # torch raises it where Python raises an OSError
        raise InputError(f"{args.output} cannot be written ({error}): make room") from error
    if not args.quiet:
        report(conversion, sorted(left), in_full=args.verbose)
    if args.source:
        warn_of_settings(cfg, model)
    if not args.quiet:
        print(f"Written: {args.output}")


def model_state(cfg: CfgNode) -> State:
    """The state dict of the config's model, as it is before any weights are loaded."""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    check_config(cfg)
    return build_model(cfg).state_dict()


def read(path: str) -> tuple[State, dict]:
    """The weights in a file, and what else is in it. Nothing in the file is executed.

    Raises:
        InputError: the file is not there, or no checkpoint.
    """
    if not Path(path).is_file():  # nor a pipe, which would be waited for
        raise InputError(f"checkpoint {path} cannot be read: No such file")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file  # comes with timm

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} is truncated, no checkpoint, or holds more than plain data and "
            "weights, which is not read since it could run code: save its state dict alone"
        ) from error
    except Exception as error:  # a broken file fails in any way
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"checkpoint {path} cannot be read: {reason[0]}") from error
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__}, no state dict")
    key = next((key for key in ("state_dict", "model") if isinstance(content.get(key), dict)), None)
    state = content.pop(key) if key else content
    strange = [name for name, value in state.items() if not is_weight(name, value)]
    if strange or not state:
        raise InputError(
            f"checkpoint {path} holds no state dict, plain or under state_dict or model: "
            f"{listed(strange) or 'it is empty'}"
        )
    return dict(state), content if key else {}


def is_weight(name: object, value: object) -> bool:
    if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
        return False
    return value.layout == torch.strided and not value.is_complex() and not value.is_meta


def warn_of_settings(cfg: CfgNode, model: State) -> None:
    """Says which settings of the config are not those that such weights were trained with."""
    settings = {
        "INPUT.FORMAT": (cfg.INPUT.FORMAT, "RGB"),
        "MODEL.PIXEL_MEAN": (list(cfg.MODEL.PIXEL_MEAN), [123.675, 116.28, 103.53]),
        "MODEL.PIXEL_STD": (list(cfg.MODEL.PIXEL_STD), [58.395, 57.12, 57.375]),
    }
    if any(name.endswith("res2.0.conv3.weight") for name in model):
        settings["MODEL.RESNETS.STRIDE_IN_1X1"] = (cfg.MODEL.RESNETS.STRIDE_IN_1X1, False)
    for key, (found, usual) in settings.items():
        if found != usual:
            logger.warning(f"Such weights mostly want {key} {usual}, but the config has {found}")


def report(conversion: Conversion, left: list[str], *, in_full: bool) -> None:
    """Prints what became of the arrays, by layers or, in full, by their names."""
    print(f"{len(conversion.weights)} arrays converted")
    for what, names in (
        ('left out, kept under "unused"', conversion.unused),
        ("not in the checkpoint, left to the model's initialization", conversion.missing),
    ):
        if names:
            groups = Counter(name if in_full else ".".join(name.split(".")[:2]) for name in names)
            print(f"{len(names)} arrays {what}:")
            for group, number in groups.items():
                print(f"  {group}" + (f" ({number} arrays)" if number > 1 else ""))
    if left:
        print(f"Left out beside the weights: {', '.join(left)}")


if __name__ == "__main__":
    sys.exit(main())
