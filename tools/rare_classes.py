#!/usr/bin/env python
"""Draw what several runs predict where the ground truth shows a rare class.

Each row shows one of the rarest classes of the training set: the image, the ground truth, and the
prediction of each run. The image is the first one of the test set that shows the class, so no image
is selected by result. For point clouds, a row shows the part of the cloud around the object.

A RUN is the OUTPUT_DIR of an evaluated training, or NAME=FOLDER. Each run needs a name of its own.
The weights come from model_best.pth, or else from model_final.pth.
"""

import argparse
import sys

from sar import cli

EXAMPLES = """example:
  python tools/rare_classes.py plain=output/CamVid/baseline_sem_fpn_R_18 \\
      SAR=output/CamVid/sar_sem_fpn_R_18 --output rare_classes.png
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_import(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="FOLDER or NAME=FOLDER")
    cli.add_output(parser, "FILE", "the picture to write, NAME.png")
    parser.add_argument(
        "--classes", type=cli.positive, default=3, metavar="N", help="number of classes (3)"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="default: the first DATASETS.TEST of the first run"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
from tqdm import tqdm

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.clouds import is_cloud, read_cloud
from sar.data.datasets import load_dataset, metadata_of
from sar.data.datasets.folder import register_folder
from sar.data.label_files import read_label
from sar.errors import InputError
from sar.evaluation.class_groups import groups_of_dataset
from sar.evaluation.table import GROUP_NAMES
from sar.files.program_outputs import Outputs
from sar.prediction.predictor import Predictor
from sar.report import Run, find_runs
from sar.visualization import class_colors
from sar.visualization.rare_classes import Example, draw_rare_classes
from sar.visualization.rare_cloud_classes import CloudExample


def main(argv: list[str] | None = None) -> int:
    return cli.run(draw, parse_args(argv))


def draw(args: argparse.Namespace) -> None:
    runs = find_runs(args.runs)
    outputs = Outputs.of_file(
        args.output, overwrite=args.overwrite, inputs=[path for run in runs for path in run.files()]
    )
    frequency = runs[0].class_frequency()
    if frequency is None:
        raise InputError(f"{runs[0].folder} has no class_frequency.json: train it again")
    predictors: dict[str, Predictor] = {}
    for run in runs:
        if run.method in predictors:
            raise InputError(f"two runs are called {run.method}: give each a name, NAME=FOLDER")
        predictors[run.method] = _load(run)
        if list(predictors[run.method].class_names) != list(frequency.class_names):
            raise InputError(
                f"{run.folder} has other classes than the class_frequency.json in "
                f"{runs[0].folder}: give runs with the same classes"
            )
    cfg = load_config(str(runs[0].config_file()))
    if cfg.DATASETS.FOLDER:
        register_folder(cfg.DATASETS.FOLDER)
    if not (args.dataset or cfg.DATASETS.TEST):
        raise InputError(f"{runs[0].folder} was trained without DATASETS.TEST: give --dataset")
    dataset = args.dataset or cfg.DATASETS.TEST[0]
    records = _find_images(dataset, frequency, args.classes, quiet=args.quiet)
    examples = [_example(k, record, frequency, predictors) for k, record in records.items()]
    picture = draw_rare_classes(examples, class_colors(metadata_of(dataset)))
    with outputs.writing(args.output) as temporary:
        picture.save(temporary, format="png")
    if not args.quiet:
        print(f"The {len(examples)} rarest classes of {dataset} in {args.output}")


def _example(
    k: int, record: dict, frequency: ClassFrequency, predictors: dict[str, Predictor]
) -> Example | CloudExample:
    """Return the example of a class in an image or a cloud, with the predictions of all models."""
    file, truth = record["file_name"], read_label(record["sem_seg_file_name"])
    title = f"{frequency.class_names[k]}: {frequency.images[k]} training"
    predictions = {name: predictor(file).labels for name, predictor in predictors.items()}
    if is_cloud(file):
        return CloudExample(f"{title} clouds", k, read_cloud(file), truth[0], predictions)
    first = next(iter(predictors.values()))
    return Example(f"{title} images", k, first.mapper.read_image(file), truth, predictions)


def _load(run: Run) -> Predictor:
    checkpoint = run.checkpoint()
    if checkpoint is None:
        raise InputError(f"{run.folder} has no model_best.pth or model_final.pth: train it again")
    return Predictor.load(str(run.config_file()), "MODEL.WEIGHTS", str(checkpoint))


def _find_images(
    dataset: str, frequency: ClassFrequency, number: int, *, quiet: bool
) -> dict[int, dict]:
    """Return the first record that shows each of the rarest classes, the rarest class first.

    Classes that no image of the data set shows are skipped.
    """
    groups = groups_of_dataset(frequency, dataset, metadata_of(dataset).stuff_classes)
    rarest = [k for name in GROUP_NAMES for k in groups[name]][::-1]
    first: dict[int, dict] = {}
    for record in tqdm(load_dataset(dataset), "Looking for rare classes", disable=quiet):
        for k in np.unique(read_label(record["sem_seg_file_name"])):
            first.setdefault(int(k), record)
        if all(k in first for k in rarest[:number]):
            break
    found = [k for k in rarest if k in first][:number]
    if not found:
        raise InputError(f"no image of {dataset} shows a class")
    return {k: first[k] for k in found}


if __name__ == "__main__":
    sys.exit(main())
