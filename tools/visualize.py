#!/usr/bin/env python
"""Draws image, truth and prediction of every image of a config's test set."""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from sar import program
from sar.config import load_config
from sar.data import loader
from sar.data.datasets import load_dataset
from sar.data.labels import read_image, read_label
from sar.engine import Trainer, complete_config
from sar.evaluation.argmax import argmax_over_classes
from sar.fileio import atomic_path, names_below_common_folder
from sar.modeling.inference import inference_model
from sar.visualization import class_colors, side_by_side

from detectron2.data import MetadataCatalog

EXAMPLES = """example:
  python tools/visualize.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml --output pictures \\
      MODEL.WEIGHTS output/CamVid/sar_sem_fpn_R_18/model_final.pth
"""


def main(argv: list[str] | None = None) -> int:
    parser = program.parser(__doc__, EXAMPLES)
    program.add_config(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where pictures go")
    parser.add_argument(
        "--images", type=program.positive, metavar="N", help="draw the first N only (all)"
    )
    return program.run(draw, parser.parse_args(argv))


def draw(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    run = argparse.Namespace(eval_only=True, num_gpus=None, num_machines=1)
    complete_config(cfg, run)
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    colors = class_colors(metadata)
    model = inference_model(cfg, Trainer.load_for_evaluation(cfg))
    dicts = load_dataset(name)[: args.images]
    batches = loader.build_test_loader(cfg, Trainer.build_test_mapper(cfg), dicts)
    names = names_below_common_folder([record["file_name"] for record in dicts])
    progress = tqdm(batches, f"Drawing {name}", len(dicts), unit="image", disable=args.quiet)
    # The bar ends with the block, before an error is printed.
    with torch.inference_mode(), progress as bar:
        for (sample,), name in zip(bar, names, strict=True):
            scores = model([sample])[0]["sem_seg"]
            picture = side_by_side(
                read_image(sample["file_name"]),
                read_label(sample["sem_seg_file_name"]),
                argmax_over_classes(scores).cpu().numpy(),
                metadata.stuff_classes,
                colors,
            )
            path = Path(args.output, name).with_suffix(".png")
            with program.writing(path), atomic_path(path) as temporary:
                picture.save(temporary)
    if not args.quiet:
        print(f"{len(dicts)} pictures in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
