#!/usr/bin/env python
"""Draw image, ground truth and prediction for every image or cloud in the test set of a config.

If DATASETS.TEST names several data sets, only the first is drawn.

The colours of the classes come from the checkpoint, as in tools/predict.py. Older checkpoints have
no colours; then the colours come from the data set.
"""

import argparse
import os
import sys

from sar import cli

EXAMPLES = """examples:
  python tools/visualize.py --weights model_inference.pth --output pictures DATASETS.FOLDER mine
  python tools/visualize.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml --output pictures \\
      MODEL.WEIGHTS output/CamVid/sar_sem_fpn_R_18/model_final.pth
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_model(parser)
    cli.add_output(parser, "FOLDER", "folder for the pictures")
    parser.add_argument(
        "--images", type=cli.positive, metavar="N", help="only draw the first N images (all)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from sar.checkpoints.classes import Classes
from sar.config import load_config
from sar.data import loader
from sar.data.clouds import is_cloud
from sar.data.datasets import load_dataset
from sar.data.label_files import read_label
from sar.data.locations import folders_of_config
from sar.data.units import units_of_file
from sar.errors import InputError, forward_errors, printable
from sar.evaluation.argmax import argmax_over_classes
from sar.files.atomic import names_below_common_folder
from sar.files.program_outputs import Outputs, collected
from sar.modeling.inference import inference_model, memory_remedy
from sar.preflight.device import choose_device
from sar.preflight.prepare import complete_config
from sar.training.trainer import Trainer, check_test_images
from sar.visualization import class_colors, side_by_side
from sar.visualization.cloud_picture import draw_cloud_file

from detectron2.data import MetadataCatalog


def main(argv: list[str] | None = None) -> int:
    return cli.run(draw, parse_args(argv))


def draw(args: argparse.Namespace) -> None:
    """Draw all pictures.

    Raises:
        InputError: anything is wrong. For a picture that cannot be written, it is raised after the
            others are done.
    """
    cfg = load_config(args.config_file, args.opts)
    choose_device(cfg)
    cfg.TEST.GEOMETRY = cfg.TEST.LOSS = False
    complete_config(cfg, trains=False)
    name = cfg.DATASETS.TEST[0]
    dicts = load_dataset(name)[: args.images]
    files = [record["file_name"] for record in dicts]
    paths = [args.output / f"{stem}.png" for stem in stems(files)]
    outputs = Outputs(
        args.output,
        overwrite=args.overwrite,
        inputs=[args.config_file, cfg.MODEL.WEIGHTS, *files],
        data=folders_of_config(cfg),
    )
    outputs.check(paths)
    metadata = MetadataCatalog.get(name)
    model = Trainer.load_for_evaluation(cfg)
    check_test_images(cfg, model)
    weights = getattr(model, "weights_file", "")
    saved = Classes.from_file(weights) if weights else None
    colors = np.array(saved.colors, dtype=np.uint8) if saved else class_colors(metadata)
    model, remedy = inference_model(cfg, model), memory_remedy(cfg)
    mapper = Trainer.build_test_mapper(cfg)
    batches = loader.build_test_loader(cfg, mapper, dicts)
    unit = units_of_file(files[0]).sample
    progress = tqdm(
        batches, f"Drawing {printable(name)}", len(dicts), unit=unit, disable=args.quiet
    )
    errors: list[InputError] = []
    # The bar ends with the block, before an error is printed.
    with torch.inference_mode(), progress as bar:
        for (sample,), path in zip(bar, paths, strict=True):
            file, label_file = sample["file_name"], sample.get("sem_seg_file_name")
            truth = None if label_file is None else read_label(label_file)
            shown = truth, predict(model, sample, remedy), metadata.stuff_classes, colors
            if is_cloud(file):
                picture = draw_cloud_file(file, *shown)
            else:
                picture = side_by_side(mapper.read_image(file), *shown)
            with collected(errors), outputs.writing(path, sync=False) as temporary:
                picture.save(temporary)
    if errors:
        raise InputError(*map(str, errors), f"{len(errors)} of {len(dicts)} pictures not written")
    if not args.quiet:
        plural = "" if len(dicts) == 1 else "s"
        print(f"{len(dicts)} picture{plural} in {args.output}")


def predict(model: nn.Module, sample: dict, remedy: str) -> np.ndarray:
    """Return the class ids (H, W) of an image, or (1, N) of a cloud.

    Raises:
        InputError: the model cannot process the sample. The message ends with `remedy`.
    """
    with forward_errors(
        lambda reason: (
            f"{sample['file_name']}: the model cannot predict it: {reason}. If memory is too "
            f"small, {remedy}"
        )
    ):
        return argmax_over_classes(model([sample])[0]["sem_seg"]).cpu().numpy()


def stems(files: list[str]) -> list[str]:
    """Return a name for the picture of each file: its path below their common folder.

    The names have no suffix, unless two names would then be equal.
    """
    names = names_below_common_folder(files)
    shortened = [os.path.splitext(name)[0] for name in names]
    return shortened if len(set(shortened)) == len(names) else names


if __name__ == "__main__":
    sys.exit(main())
