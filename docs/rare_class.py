#!/usr/bin/env python
"""Draw the figure of the README: test images of LongTailShapes that show its rarest classes.

The images are the first ones of the test split that show each of the two rarest classes. They are
not selected by result. The README shows seed 0 of the methods "plain" and "SAR over classes" of
experiments/longtail_shapes.yaml, as `python tools/study.py` trains them.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from sar import cli
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import load_dataset, metadata_of
from sar.data.label_files import read_label
from sar.errors import InputError
from sar.files.program_outputs import Outputs
from sar.prediction.predictor import Predictor
from sar.visualization.overlay import class_colors, colorize

EXAMPLES = """example:
  python docs/rare_class.py --plain output/plain --sar output/sar --output rare_class.png
"""
DATASET = "longtail_shapes_test"


def draw(plain: Path, sar: Path) -> plt.Figure:
    """Draw image, ground truth and both predictions, one row for each class.

    Args:
        plain, sar: OUTPUT_DIR of the two trainings.

    Raises:
        InputError: a training is not complete, or the data set does not show a class.
    """
    frequency = ClassFrequency.load(plain / "class_frequency.json")
    rarest = np.argsort(frequency.images, kind="stable")[:2]
    records = load_dataset(DATASET)
    labels = [read_label(record["sem_seg_file_name"]) for record in records]
    colors = class_colors(metadata_of(DATASET))
    predictors = {
        name: Predictor.load(
            str(run / "config.yaml"), "MODEL.WEIGHTS", str(run / "model_final.pth")
        )
        for name, run in (("plain model", plain), ("with SAR", sar))
    }
    figure, rows = plt.subplots(len(rarest), 4, figsize=(9, 3.6), layout="constrained")
    for number, (row, rare) in enumerate(zip(rows, rarest, strict=True)):
        index = next((i for i, label in enumerate(labels) if (label == rare).any()), None)
        if index is None:
            raise InputError(f"no image of {DATASET} shows {frequency.class_names[rare]}")
        file = records[index]["file_name"]
        panels = {"image": np.array(Image.open(file).convert("RGB"))}
        panels["ground truth"] = colorize(labels[index], colors)
        for name, predictor in predictors.items():
            panels[name] = colorize(predictor(file).labels, colors)
        box = [(axis.min() - 2, axis.max() + 2) for axis in np.nonzero(labels[index] == rare)]
        (top, bottom), (left, right) = box
        for axes, (title, panel) in zip(row, panels.items(), strict=True):
            axes.imshow(panel, interpolation="nearest")
            size = (right - left, bottom - top)
            axes.add_patch(plt.Rectangle((left, top), *size, fill=False, edgecolor="red"))
            axes.set(xticks=[], yticks=[])
            if number == 0:
                axes.set_title(title)
        images = frequency.images[rare]
        row[0].set_ylabel(f"{frequency.class_names[rare]}\n({images} training images)")
    return figure


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__, EXAMPLES)
    for name in ("plain", "sar"):
        help = f"OUTPUT_DIR of the {name} model"
        parser.add_argument(f"--{name}", type=cli.path, required=True, metavar="RUN", help=help)
    cli.add_output(parser, "FILE", "a .png file")
    return cli.run(write, parser.parse_args(argv))


def write(args) -> None:
    outputs = Outputs(args.output.parent, overwrite=args.overwrite)
    outputs.check([args.output])
    matplotlib.use("agg")
    with plt.rc_context({"font.size": 9, "axes.titlesize": 9}):
        figure = draw(args.plain, args.sar)
        with outputs.writing(args.output) as temporary:
            figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
