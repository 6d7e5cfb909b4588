#!/usr/bin/env python
"""Export a trained model to a file that runs without this project, or to a small checkpoint.

The suffix of --output chooses the format:

  .onnx    ONNX, for ONNX Runtime and other runtimes; does not need PyTorch
  .pt2     PyTorch's own format, read by torch.export.load
  .pth     weights, classes and config, as in model_inference.pth: for --weights of other programs

A .onnx or .pt2 file needs no detectron2. Its graph takes "image", uint8 (1, 3, H, W), with any H
and W. The channels are in the order of INPUT.FORMAT. The graph returns "logits", float32 (1, K, H,
W). It includes normalisation, padding to the strides of the network, and upsampling. It does not
include resizing or the branch that only runs in training.

The file also stores metadata as JSON: class_names, colors, image_format, min_size, max_size,
black_point and white_point. The sizes are the shorter and the longer edge of an image in
evaluation; 0 means not resized. The points are the values of 16-bit grey images that become 0 and
255. examples/onnx_inference.py reads them from ONNX. torch.export.load reads them from .pt2:

  about = dict.fromkeys(["class_names", "min_size"], "")
  program = torch.export.load("model.pt2", extra_files=about)  # writes the JSON into about

The program runs the exported graph at several image sizes and compares the logits with the model.
It makes no graph of panoptic models, models of point clouds, models with TEST.MODE slide or
TEST.AUG, or heads that only accept certain image sizes. The error message then says why.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python tools/export.py --weights output/run/model_inference.pth --output model.onnx
  python tools/export.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml --output camvid.onnx \\
      MODEL.WEIGHTS output/CamVid/sar_sem_fpn_R_18/model_best.pth
  python examples/onnx_inference.py camvid.onnx street.jpg labels.png
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_model(parser)
    cli.add_output(parser, "FILE", "NAME.onnx, NAME.pt2 or NAME.pth")
    args = parser.parse_args(argv)
    if args.output.suffix not in (".onnx", ".pt2", ".pth"):
        parser.error(f"--output {args.output} has to end in .onnx, .pt2 or .pth")
    return args


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
import torch
from tabulate import tabulate
from torch import nn
from torch.export import ExportedProgram

from sar.checkpoints.classes import Classes
from sar.checkpoints.inference_file import inference_state
from sar.checkpoints.tensor_file import save_tensors
from sar.config import load_config, portable_config
from sar.data.locations import folders_of_config
from sar.errors import InputError
from sar.files.program_outputs import Outputs
from sar.prediction.export import SegmentationGraph, check_exportable, trace
from sar.prediction.predictor import load_for_inference

# (height, width): small and large sizes; some are multiples of the strides.
SIZES = ((33, 47), (128, 160), (97, 161), (360, 480))
# Largest difference that rounding can explain, as a share of the largest logit.
TOLERANCE = 1e-3

Run = Callable[[np.ndarray], np.ndarray]


def main(argv: list[str] | None = None) -> int:
    return cli.run(export_and_report, parse_args(argv))


def export_and_report(args: argparse.Namespace) -> None:
    if not args.verbose:  # warnings of torch about its own code
        warnings.filterwarnings("ignore", module="torch")
        logging.getLogger("torch").setLevel("ERROR")
    rows = export(args)
    if not args.quiet:
        size = args.output.stat().st_size / 2**20
        if rows:
            print(tabulate(rows, "keys", tablefmt="pipe"))
        print(f"Written: {args.output}, {size:.1f} MiB")


def export(args: argparse.Namespace) -> list[dict]:
    """Write the file, run it, and compare it with the model.

    Returns:
        The result of the comparison at each size, as a row; no rows for a .pth.

    Raises:
        InputError: the config is wrong or cannot be exported, a package is missing, or the exported
            model gives other logits. The file is then not written. Also as `Outputs.check`.
    """
    cfg = load_config(args.config_file, args.opts)
    trained = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    makes_graph = args.output.suffix != ".pth"
    if makes_graph:
        check_exportable(cfg)
    outputs = Outputs.of_file(
        args.output,
        overwrite=args.overwrite,
        inputs=[args.config_file, cfg.MODEL.WEIGHTS],
        data=folders_of_config(cfg),
    )
    model, class_names, colors = load_for_inference(cfg)
    if not makes_graph:
        trained.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(class_names)
        classes = Classes(tuple(class_names), tuple(map(tuple, colors.tolist())))
        with outputs.writing(args.output) as temporary:
            save_tensors(inference_state(model, classes, portable_config(trained)), temporary)
        return []
    write, load = (
        (write_onnx, load_onnx) if args.output.suffix == ".onnx" else (write_pt2, load_pt2)
    )
    description = {
        "class_names": class_names,
        "colors": colors.tolist(),
        "image_format": cfg.INPUT.FORMAT,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "black_point": cfg.INPUT.BLACK_POINT,
        "white_point": cfg.INPUT.WHITE_POINT,
    }
    traced = trace(SegmentationGraph(model))
    with outputs.writing(args.output) as temporary:
        write(traced, temporary, {key: json.dumps(x) for key, x in description.items()})
        return compare(model, load(temporary))


def write_onnx(traced: ExportedProgram, path: Path, description: dict[str, str]) -> None:
    try:
        import onnx_ir
        import onnxruntime  # noqa: F401  for the comparison
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install -e .[export]") from error

    exported = torch.onnx.export(
        traced, dynamo=True, input_names=["image"], output_names=["logits"], verbose=False
    )
    graph = exported.model.graph
    for value in (graph.inputs[0], graph.outputs[0]):
        value.shape = onnx_ir.Shape([*value.shape[:2], "height", "width"])
    exported.model.metadata_props.update(description)
    exported.save(path, external_data=False)


def load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def write_pt2(traced: ExportedProgram, path: Path, description: dict[str, str]) -> None:
    torch.export.save(traced, path, extra_files=description)


def load_pt2(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda image: module(torch.from_numpy(image)).numpy()


@torch.no_grad()
def compare(model: nn.Module, run: Run) -> list[dict]:
    """Compare the logits of the exported model with the logits of the original model.

    Returns:
        One row for each size.

    Raises:
        InputError: the exported model does not run at a size, or gives other logits.
    """
    generator = np.random.default_rng(0)
    rows = []
    for height, width in SIZES:
        image = generator.integers(256, size=(1, 3, height, width), dtype=np.uint8)
        expected = model([{"image": torch.from_numpy(image[0])}])[0]["sem_seg"].numpy()
        try:
            found = run(image)[0]
        except Exception as error:  # each runtime has its own exceptions
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"the exported model does not run on images of {width} x {height} pixels: "
                f"{reason}. Export to the other format"
            ) from error
        difference, scale = np.abs(found - expected).max(), np.abs(expected).max()
        if not difference <= TOLERANCE * scale:
            raise InputError(
                f"the exported model gives other logits: on images of {width} x {height} pixels "
                f"they differ by {difference:.3g}, and the largest logit is {scale:.3g}. "
                "Export to the other format"
            )
        rows.append(
            {
                "height x width": f"{height} x {width}",
                "largest logit": f"{scale:.4g}",
                "max difference": f"{difference:.2e}",
                "pixels of another class": int((found.argmax(0) != expected.argmax(0)).sum()),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
