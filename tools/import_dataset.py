#!/usr/bin/env python
"""Convert an export of an annotation tool to a data set folder for DATASETS.FOLDER.

SOURCE is the unpacked export: a folder, or one annotation file in it. Its format is recognized:

  coco         COCO's JSON: polygons, run lengths, or panoptic PNGs
  cvat         CVAT's "CVAT for images 1.1": annotations.xml
  labelme      labelme's JSON files
  labelstudio  Label Studio's JSON
  yolo         YOLO's segmentation: data.yaml and text files
  roboflow     Roboflow's semantic masks: NAME_mask.png and _classes.csv
  voc          masks in SegmentationClass, such as CVAT's "Segmentation mask 1.1"
  masks        images and masks in folders: images/ and labels/, Cityscapes' folders, ...

The program reads everything, prints what it takes and what it does not take, and then writes
classes.txt, images/SPLIT/, labels/SPLIT/ and import.json to --output. Ignored pixels are 255 (65535
for more than 255 classes). If anything is wrong, nothing is written. The source never changes.
"""

import argparse
import re
import shlex
import sys

from sar import cli

EXAMPLES = """examples:
  python tools/import_dataset.py cvat_export --output mine --dry-run
  python tools/import_dataset.py cvat_export --output mine --split 70:15:15
  python tools/import_dataset.py coco/annotations/instances.json --images photos --output mine \\
      --map truck=vehicle car=vehicle --ignore reflection --group "video_[0-9]+"
  python tools/import_dataset.py scans --images scans/photos --labels scans/gold \\
      --classes names.txt --output mine --link
"""


def shares(word: str) -> list[int]:
    """Parse the shares of train, val and test, such as 80:20."""
    numbers = word.split(":")
    if len(numbers) > 3 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise argparse.ArgumentTypeError(
            f"expected one to three positive numbers, such as 80:20 or 70:15:15, found {word!r}"
        )
    return list(map(int, numbers))


def renaming(word: str) -> tuple[str, str]:
    """Parse OLD=NEW."""
    old, equals, new = word.rpartition("=")
    if not equals or not old.strip() or not new.strip():
        raise argparse.ArgumentTypeError(f"expected OLD=NEW, such as truck=vehicle, found {word!r}")
    return old, new


def pattern(word: str) -> re.Pattern:
    """Parse a regular expression."""
    try:
        return re.compile(word)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{word!r} is not a regular expression: {error}") from None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("source", type=cli.path, metavar="SOURCE", help="the unpacked export")
    parser.add_argument(
        "--output", required=True, type=cli.path, metavar="FOLDER", help="the new data set"
    )
    parser.add_argument("--dry-run", action="store_true", help="report only, and write nothing")
    parser.add_argument("--format", metavar="NAME", help="one of the formats above")
    files = parser.add_argument_group("files")
    files.add_argument("--images", type=cli.path, metavar="DIR", help="the folder of the images")
    files.add_argument("--labels", type=cli.path, metavar="DIR", help="the folder of the masks")
    files.add_argument(
        "--label-suffix", metavar="END", help="end of the masks' names, such as _gtFine_labelIds"
    )
    files.add_argument(
        "--link", action="store_true", help="link to the images instead of copying them"
    )
    files.add_argument(
        "--skip-errors", action="store_true", help="leave out images with errors, and name them"
    )
    files.add_argument(
        "--max-pixels",
        type=cli.positive,
        metavar="N",
        help="decode masks of up to N pixels, like INPUT.MAX_PIXELS in a config "
        "(default: 178956970)",
    )
    classes = parser.add_argument_group("classes")
    classes.add_argument(
        "--classes",
        type=cli.path,
        metavar="FILE",
        help="the classes of the source in the order of the ids, with colours for colour masks; "
        "shapes of other classes are ignored",
    )
    classes.add_argument(
        "--map",
        action="extend",
        nargs="+",
        type=renaming,
        default=[],
        metavar="OLD=NEW",
        help="rename classes, or merge them; OLD may be an id or a colour r,g,b",
    )
    classes.add_argument(
        "--ignore",
        action="extend",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="ignore the pixels of these classes: names, ids or colours r,g,b",
    )
    classes.add_argument(
        "--background",
        choices=("class", "ignore"),
        default="class",
        help="pixels without a class become the class background, or are ignored (default: class)",
    )
    classes.add_argument(
        "--on-top",
        choices=("later", "smaller"),
        help="which of two overlapping shapes is on top (default: as in the format)",
    )
    classes.add_argument(
        "--fill",
        choices=("centre", "outline"),
        default="centre",
        help="polygons cover the pixels whose centre is inside, or also those on their outline, "
        "for polygons that were traced along the pixels of masks (default: centre)",
    )
    classes.add_argument(
        "--keep-empty", action="store_true", help="take images without shapes: all background"
    )
    splits = parser.add_argument_group("splits")
    splits.add_argument(
        "--split",
        type=shares,
        metavar="A:B[:C]",
        help="shares of train, val and test, with each class in each split if possible "
        "(default: as in the source; 80:20 if it has no splits)",
    )
    splits.add_argument(
        "--group",
        type=pattern,
        metavar="REGEX",
        help="keep images together if this finds the same text in their paths below SOURCE",
    )
    splits.add_argument(
        "--seed", type=cli.count, default=0, metavar="N", help="for --split (default: 0)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from sar.data.importers.run import Request, import_dataset
from sar.data.importers.source import Options
from sar.data.pillow_files import MAX_PIXELS, allow_pixels


def main(argv: list[str] | None = None) -> int:
    when_stopped = "Run it again to continue: finished files are kept."
    return cli.run(run, parse_args(argv), when_stopped)


def run(args: argparse.Namespace) -> None:
    """Import the data set, and say what to do next."""
    allow_pixels(args.max_pixels or MAX_PIXELS)
    options = Options(
        images=args.images,
        labels=args.labels,
        label_suffix=args.label_suffix,
        classes=args.classes,
        ignore=args.ignore,
        renamed=args.map,
        on_top=args.on_top,
        fill=args.fill,
    )
    import_dataset(
        Request(
            source=args.source,
            output=args.output,
            format=args.format,
            options=options,
            background=args.background,
            keep_empty=args.keep_empty,
            shares=args.split,
            group=args.group,
            seed=args.seed,
            link=args.link,
            skip_errors=args.skip_errors,
            dry_run=args.dry_run,
            quiet=args.quiet,
        )
    )
    if args.quiet:
        return
    if args.dry_run:
        print("Nothing was written (--dry-run).")
    else:
        check = f"{cli.call_of('tools/check_dataset.py')} --folder {shlex.quote(str(args.output))}"
        print(f"Wrote {args.output}. Next: {check}")


if __name__ == "__main__":
    sys.exit(main())
