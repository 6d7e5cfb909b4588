#!/usr/bin/env python
"""Convert colour masks to labels, with the colours of a class file.

Annotation tools export masks in which each class has a colour, such as CVAT's "Segmentation mask
1.1". Training needs labels with one channel of class ids. For each mask below --labels, this
program writes --output/NAME.png. NAME is the path of the mask below --labels, without its suffix. A
mask is an RGB, RGBA or palette image (png, tif, tiff or bmp).

The class file has a name and a colour on each line, in the order of the ids: classes.txt with lines
such as `kerb 255 0 0` or `kerb #ff0000`, or CVAT's labelmap.txt. Transparent pixels and the colours
of --ignore become 255, which is ignored (65535 for more than 255 classes). A mask with other
colours is not converted; all other masks are.

The masks do not change. A second run writes all files again.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from sar import cli

EXAMPLES = """examples:
  python tools/convert_labels.py --labels mine/labels --classes mine/classes.txt \\
      --output mine_ids/labels
  python tools/convert_labels.py --labels cvat/SegmentationClass --classes cvat/labelmap.txt \\
      --output mine/labels/train --ignore 255,255,255 128,128,128
"""


def color(word: str) -> tuple[int, int, int]:
    """Parse a colour on the command line, such as 255,0,0."""
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", word, re.ASCII)
    values = tuple(map(int, match.groups())) if match else ()
    if not values or max(values) > 255:
        raise argparse.ArgumentTypeError(
            f"expected three numbers from 0 to 255, such as 255,0,0, found {word!r}"
        )
    return values


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--labels",
        required=True,
        type=cli.path,
        metavar="FOLDER",
        help="the colour masks, also in sub-folders",
    )
    parser.add_argument(
        "--classes",
        required=True,
        type=cli.path,
        metavar="FILE",
        help="the names and colours of the classes, in the order of the ids",
    )
    cli.add_output(parser, "FOLDER", "folder for the labels")
    parser.add_argument(
        "--ignore",
        nargs="+",
        type=color,
        default=[],
        metavar="R,G,B",
        help="colours of pixels to ignore, such as 255,255,255",
    )
    parser.add_argument(
        "--max-pixels",
        type=cli.positive,
        metavar="N",
        help="decode masks of up to N pixels, like INPUT.MAX_PIXELS in a config "
        "(default: 178956970)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from sar.data.color_masks import ColorMaskConverter
from sar.data.datasets.class_file import read_class_colors
from sar.data.datasets.folder import IMAGE_SUFFIXES, files_by_stem, ignore_label_for
from sar.data.pillow_files import MAX_PIXELS, allow_pixels
from sar.errors import InputError, printable
from sar.files.program_outputs import Outputs, collected
from sar.threads import map_ahead

NUM_THREADS = min(16, os.cpu_count() or 1)


def main(argv: list[str] | None = None) -> int:
    when_stopped = "Run it again to convert all masks."
    return cli.run(convert_labels, parse_args(argv), when_stopped)


def convert_labels(args: argparse.Namespace) -> None:
    """Convert all masks, and print how often each class was found.

    Raises:
        InputError: anything is wrong. For a mask that cannot be converted, it is raised after the
            others are done.
    """
    names, colors = read_class_colors(args.classes)
    converter = ColorMaskConverter(names, colors, args.ignore, ignore_label_for(len(names)))
    # List other formats too: a JPEG mask is then an error instead of left out.
    files = files_by_stem(args.labels, IMAGE_SUFFIXES, "masks", "--labels needs colour masks.")
    targets = {args.output / f"{stem}.png": file for stem, file in sorted(files.items())}
    outputs = Outputs(
        args.output,
        overwrite=args.overwrite,
        inputs=[args.classes, *files.values()],
        data=[args.labels],
    )
    outputs.check(targets)
    allow_pixels(args.max_pixels or MAX_PIXELS)
    errors: list[InputError] = []

    def convert(target: os.PathLike) -> np.ndarray | None:
        """Return the number of pixels of each class and of ignored pixels; None after an error."""
        with collected(errors):
            mask = converter.convert(targets[target])
            with outputs.writing(target, sync=False) as temporary:
                Image.fromarray(mask.ids).save(temporary)
            return mask.pixels

    results = map_ahead(convert, targets, NUM_THREADS)
    progress = tqdm(results, "Converting", len(targets), unit="mask", disable=args.quiet)
    pixels = np.zeros(len(names) + 1, np.int64)
    num_files = np.zeros_like(pixels)
    with progress as bar:
        for found in bar:
            if found is not None:
                pixels += found
                num_files += found > 0
    if not args.quiet:
        print(table(names, pixels, num_files))
        print(f"{len(targets) - len(errors)} labels in {args.output}")
    if errors:
        messages = sorted(map(str, errors))
        raise InputError(*messages, f"{len(errors)} of {len(targets)} masks not converted")


def table(names: Sequence[str], pixels: np.ndarray, num_files: np.ndarray) -> str:
    """Return a table with a row for each class, in the order of the ids, and for ignored pixels."""
    ids = [*range(len(names)), ignore_label_for(len(names))]
    classes = [*map(printable, names), "(ignored)"]
    rows = list(zip(ids, classes, pixels.tolist(), num_files.tolist(), strict=True))
    align = ("right", "left", "right", "right")
    return tabulate(rows, ["id", "class", "pixels", "files"], disable_numparse=True, colalign=align)


if __name__ == "__main__":
    sys.exit(main())
