#!/usr/bin/env python
"""Count the cost of models: parameters and FLOPs in inference, parameters and memory in training.

The program prints one table in Markdown, with one row per config. With --quiet, it prints only the
table.

  FLOPs        counted by fvcore: a multiplication and its addition are one FLOP; images are padded
               as the model pads them
  parameters   inference only counts the layers that run in inference
  memory       on a GPU, the largest memory that a training step allocates; on a CPU, the memory
               that the forward pass saves for the backward pass, without parameters

Write another option, such as --size, between the files and the KEY VALUE pairs.
"""

import argparse
import logging
import math
import sys
from pathlib import Path

from sar import cli

EXAMPLES = """example:
  python tools/analyze_model.py --config-file configs/CamVid/{baseline,sar}_sem_fpn_R_18.yaml \\
      --size 360 480
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_model(parser, nargs="+")
    parser.add_argument(
        "--size", nargs=2, type=cli.positive, metavar=("H", "W"), default=(512, 1024),
        help="size of the images (default: 512 1024)",
    )  # fmt: skip
    parser.add_argument(
        "--batch",
        type=cli.positive,
        default=2,
        metavar="N",
        help="images per training step (default: 2)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import get_shape
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from sar.config import load_config
from sar.errors import InputError, forward_errors
from sar.modeling.build import build_model
from sar.preflight.checks import check_config
from sar.preflight.device import choose_device

from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor


def main(argv: list[str] | None = None) -> int:
    return cli.run(print_table, parse_args(argv))


def print_table(args: argparse.Namespace) -> None:
    if not args.verbose:
        logging.getLogger("sar").setLevel(logging.ERROR)  # hides "no GPU found" for each row
    # The bar ends with the block, before an error is printed.
    with tqdm(args.config_file, "Counting", disable=args.quiet) as configs:
        rows = [analyze(config, tuple(args.size), args.batch, args.opts) for config in configs]
    align = ("left", *["right"] * (len(rows[0]) - 1))
    print(tabulate(rows, "keys", tablefmt="pipe", disable_numparse=True, colalign=align))


def analyze(
    config_file: str, size: tuple[int, int], batch: int, overrides: list[str]
) -> dict[str, str]:
    """Return one row of the table: the costs of a config for images of `size` (height, width).

    Raises:
        InputError: the config is wrong, or its model is not a semantic segmentor, or cannot take
            such images.
    """
    cfg = load_config(config_file, overrides)
    if cfg.INPUT.POINTS.VOXEL_SIZE:
        raise InputError(
            f"config {config_file} is for point clouds, whose costs depend on the cloud, and this "
            "program only analyzes models of images. The log of a training has the number of "
            "parameters and the time of a step"
        )
    model = build(cfg)
    if not isinstance(model, SemanticSegmentor):
        raise InputError(
            f"config {config_file}: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} is not "
            "a semantic segmentor, and this program only analyzes semantic segmentors"
        )
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    with forward_errors(
        lambda reason: (
            f"config {config_file}: its model cannot take {batch} images of {size[0]} x "
            f"{size[1]} ({reason}): change --size or --batch"
        )
    ):
        parameters, flops = inference_cost(model, size)
        memory = (peak_memory if on_gpu else saved_memory)(model, samples(cfg, size, batch))
    what = "peak GPU memory" if on_gpu else "saved activations"
    return {
        "model": Path(config_file).stem,
        "inference: parameters": f"{parameters:,}",
        f"inference: GFLOPs at {size[0]}x{size[1]}": f"{flops / 1e9:.3f}",
        "training: parameters": f"{parameter_count(model)['']:,}",
        f"training: {what}, MiB, {batch} images": f"{memory / 2**20:.2f}",
    }


def build(cfg: CfgNode) -> nn.Module:
    """Build the model of a config on its device, without reading data or weights."""
    choose_device(cfg)
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    check_config(cfg)
    return build_model(cfg)


def samples(cfg: CfgNode, size: tuple[int, int], batch: int) -> list[dict]:
    """Return images of noise, with labels that cycle through all classes."""
    labels = torch.arange(size[0] * size[1]).view(size) % cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    return [{"image": image, "sem_seg": labels} for _ in range(batch)]


class OneImage(nn.Module):
    """A wrapper for tracing: it takes one image tensor and returns the logits of the model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model([{"image": image}])[0]["sem_seg"]


def inference_cost(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of parameters that run in inference, and the FLOPs for one image."""
    traced = OneImage(model).eval()
    with torch.no_grad():
        counts = FlopCountAnalysis(traced, torch.zeros(3, *size, dtype=torch.uint8))
        counts.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counts.tracer_warnings("none")
        counts.set_op_handle("aten::scaled_dot_product_attention", attention_flops)
        flops, idle = counts.total(), counts.uncalled_modules()
    used = [
        parameter.numel()
        for name, parameter in traced.named_parameters()
        if name.rpartition(".")[0] not in idle
    ]
    return sum(used), int(flops)


def attention_flops(inputs: list, outputs: list) -> int:
    """Return the FLOPs of attention, which fvcore does not count.

    The inputs are queries (..., L, D), keys (..., S, D) and values (..., S, E).
    """
    (*batch, length, dim), keys, values = (get_shape(value) for value in inputs[:3])
    return math.prod(batch) * length * keys[-2] * (dim + values[-1])


def saved_memory(model: nn.Module, batch: list[dict]) -> int:
    """Return the bytes that the forward pass of a training step saves for its backward pass.

    Each storage counts once, even if several tensors share it. Parameters and buffers do not count.
    """
    model.train()
    counted = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    total = 0

    def save(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    # The losses keep the saved tensors alive, so no address is used twice.
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        losses = model(batch)
    del losses
    return total


def peak_memory(model: nn.Module, batch: list[dict]) -> int:
    """Return the largest number of bytes on the GPU in a training step, forward and backward."""
    model.train()
    torch.cuda.reset_peak_memory_stats(model.device)
    sum(model(batch).values()).backward()
    return torch.cuda.max_memory_allocated(model.device)


if __name__ == "__main__":
    sys.exit(main())
