#!/usr/bin/env python
"""Check every file of a data set, print problems and contents, and count its classes.

The data set has images or point clouds. For clouds, read "cloud" for image and "point" for pixel
below.

For each split, the program prints:

  - the number of images, their sizes, the share of ignored pixels, and the ids found
  - for clouds: how many of them have each feature, such as colour
  - the pixels and images of each class, with its group (f frequent, c common, r rare)
  - problems: files that are missing or cannot be read, labels whose size differs from the image,
    ids that do not belong to a class, a data set with a single class. One file is the example
    of a problem that many files have; --verbose lists every file
  - warnings: classes without a pixel, palettes that disagree, images that use a small part of
    their range

If a training set has no problem, advice follows: how long its tail is, which classes are rare,
whether repeated images or another loss can help, which sizes keep small objects (for clouds:
whether voxels mix classes), and the commands to train. The advice is about --config-file. With
--time, some steps of this training are measured, which takes a minute or two.

The counts of a training set without problems are written to class_frequency.json, for
DATASETS.CLASS_FREQUENCY. With --pictures, the program also draws for each split:

  NAME_classes.png    bars with the images and pixels of each class
  NAME_samples.jpg    twelve images under their labels, including the rarest classes
"""

import argparse
import os
import re
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python tools/check_dataset.py --dataset camvid_train
  python tools/check_dataset.py --folder ~/my_roads --output output/my_roads --pictures
  python tools/check_dataset.py --folder ~/my_roads --time
  python tools/check_dataset.py --folder ~/thermal INPUT.BLACK_POINT 7000 INPUT.WHITE_POINT 9000
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_import(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", metavar="NAME", help="a registered data set")
    source.add_argument(
        "--folder",
        metavar="FOLDER",
        help="check all splits of a folder with images/{train,val}, labels/{train,val} and "
        "classes.txt, or with clouds/{train,val} and classes.txt",
    )
    cli.add_output(
        parser,
        "FOLDER",
        "where class_frequency.json and pictures go (default: output/NAME of the data set)",
        required=False,
    )
    parser.add_argument("--pictures", action="store_true", help="also draw classes and samples")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="the config that the advice is about (default: the recommended one for this machine)",
    )
    parser.add_argument(
        "--time", action="store_true", help="measure how long the training takes on this machine"
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys, last; INPUT.BLACK_POINT, INPUT.WHITE_POINT and INPUT.MAX_PIXELS "
        "change how files are read, and clouds must have the INPUT.POINTS.FEATURES",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import torch
from tabulate import tabulate

from sar.advice.advise import advise, advise_on_clouds, merged_keys
from sar.advice.balance import has_rare_classes
from sar.advice.commands import comparing_command, keys_of_data, training_command
from sar.advice.item import Advice, format_advice
from sar.advice.voxels import measure_mixing
from sar.config import load_config
from sar.config_file import baseline_of
from sar.data.cloud_mapper import FEATURES, CloudMapper
from sar.data.clouds import Cloud, has_labels, is_cloud
from sar.data.datasets import load_dataset
from sar.data.datasets.folder import (
    SPLITS,
    describe_missing,
    missing_parts,
    parts_of,
    register_folder,
)
from sar.data.grey_range import GreyRange
from sar.data.locations import folders_of_data_set, folders_of_tree
from sar.data.object_sizes import measure_objects
from sar.data.palettes import PaletteComparison, given_colors
from sar.data.pillow_files import allow_pixels
from sar.data.scan import DatasetScan, scan_dataset
from sar.data.units import CLOUDS, IMAGES, Units, units_of_config, units_of_file
from sar.errors import InputError, listed, printable
from sar.evaluation.class_groups import class_groups, describe_ties
from sar.files.program_outputs import Outputs, collected
from sar.files.run_folder import CLASS_FREQUENCY
from sar.modeling.loss_terms import check_loss
from sar.training.duration import measure_duration
from sar.visualization import class_colors
from sar.visualization.dataset import plot_class_frequency, select_samples, text_bar
from sar.visualization.samples import draw_samples

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

NUM_SAMPLES = 12  # on a contact sheet
NUM_MEASURED = 20  # clouds whose voxels are measured
RECOMMENDED = {
    "cpu": "configs/Folder/recommended_sem_fpn_efficientnet_lite0.yaml",
    "cuda": "configs/Folder/recommended_sem_fpn_R_50.yaml",
}
RECOMMENDED_FOR_CLOUDS = {
    "cpu": "configs/Folder/recommended_sparse_unet_small.yaml",
    "cuda": "configs/Folder/recommended_sparse_unet.yaml",
}
BAR_WIDTH = 16  # characters of the longest bar in the table


def main(argv: list[str] | None = None) -> int:
    return cli.run(check_all, parse_args(argv))


def check_all(args: argparse.Namespace) -> None:
    units = units_of_data(args)
    if args.config_file is None:
        recommended = RECOMMENDED_FOR_CLOUDS if units is CLOUDS else RECOMMENDED
        args.config_file = recommended["cuda" if torch.cuda.is_available() else "cpu"]
    cfg = load_config(args.config_file, args.opts)
    if (others := units_of_config(cfg)) is not units:
        raise InputError(
            f"{args.folder or args.dataset} has {units.sample}s, but --config-file "
            f"{args.config_file} is for {others.sample}s (INPUT.POINTS.VOXEL_SIZE): give another"
        )
    check_loss(cfg)  # the advice is about it
    args.grey_range = GreyRange.from_config(cfg)
    args.mapper = CloudMapper(cfg, is_train=False) if units is CLOUDS else None
    allow_pixels(cfg.INPUT.MAX_PIXELS)
    names = splits_of(args.folder, args.quiet) if args.folder is not None else (args.dataset,)
    # All splits share their classes, so the first split has the metadata of all.
    metadata = MetadataCatalog.get(names[0])
    args.palettes = PaletteComparison(metadata.get("stuff_classes") or (), given_colors(metadata))
    args.training_set = None
    # Check every split, also after an error in another split.
    errors = [error for name in names if (error := check(name, args))]
    if args.training_set is not None and not args.quiet:
        with collected(errors):
            print_advice(*args.training_set, cfg, args)
    if errors:
        raise InputError(*(line for error in errors for line in error.args))


def units_of_data(args: argparse.Namespace) -> Units:
    """Return what the samples are called, without reading them. A registered data set is loaded."""
    if args.folder is not None:
        return IMAGES if len(parts_of(args.folder)) > 1 else CLOUDS
    args.dicts = load_dataset(args.dataset)
    return units_of_file(args.dicts[0]["file_name"])


def splits_of(folder: str, quiet: bool) -> tuple[str, ...]:
    """Register a folder, and print which of its splits are not checked.

    A val or test split may have images without labels, for prediction. Any other split with only
    images or only labels is an error.

    Returns:
        The names of the splits that have images and labels.

    Raises:
        InputError: as `register_folder`; or a split is incomplete; or no split has both.
    """
    names = register_folder(folder)
    has_labels = len(parts_of(folder)) > 1  # in folders of their own, which may be missing
    for split in SPLITS:
        missing = missing_parts(folder, split)
        if has_labels and len(missing) == 1:
            (path,) = missing
            is_in_the_way = os.path.lexists(path) and not path.is_dir()
            if split == "train" or path.parent.name == "images" or is_in_the_way:
                raise InputError(
                    f"The split {split} is incomplete: {describe_missing(path)}. Add the files, or "
                    f"remove both images/{split} and labels/{split}."
                )
            if not quiet:
                print(f"The split {split} is not checked, because {describe_missing(path)}.")
    if not names:
        example = "images/train and labels/train" if has_labels else "clouds/train"
        raise InputError(
            f"{folder} has no split with images and labels, or with clouds, such as {example}: "
            "add one."
        )
    return names


def check(name: str, args: argparse.Namespace) -> InputError | None:
    """Print the contents of a registered data set, and write the counts of a training set.

    Returns:
        The error if something is wrong with the data set, else None.
    """
    folder = args.output or Path("output", name)
    try:
        dicts = args.dicts if args.folder is None else load_dataset(name)
        if not is_training_set(name) and all(map(lacks_labels, dicts)):
            if not args.quiet:
                print(f"{name} is not checked, because its clouds have no labels.")
            return None
        data = folders_of_tree(args.folder) if args.folder else folders_of_data_set(name)
        outputs = Outputs(folder, overwrite=args.overwrite, data=data)
        outputs.check(planned_files(name, folder, args))
        metadata = MetadataCatalog.get(name)
        if metadata.get("stuff_classes") is None:
            raise InputError(
                f'The data set "{name}" has no stuff_classes in its metadata, so it is not a data '
                "set for semantic segmentation."
            )
        features: list[list[str]] = []  # of each cloud that can be read

        def map_cloud(cloud: Cloud, path: str) -> None:
            features.append([name for name in FEATURES if getattr(cloud, name) is not None])
            args.mapper.map_points(cloud, path)

        scan = scan_dataset(
            dicts,
            metadata.stuff_classes,
            metadata.get("ignore_label", 255),
            check_images=True,
            is_training_set=is_training_set(name),
            palettes=args.palettes,
            grey_range=args.grey_range,
            map_cloud=map_cloud,
            progress=not args.quiet,
        )
        if not args.quiet:
            report(name, len(dicts), scan, features, each_file=args.verbose)
        elif scan.problems:
            print(scan.describe_problems())
        if is_training_set(name) and not scan.problems:
            args.training_set = name, dicts, scan
            path = folder / CLASS_FREQUENCY
            with outputs.writing(path) as temporary:
                scan.frequency.save(temporary)
            if not args.quiet:
                print(f"Written: {path} (for a config: DATASETS.CLASS_FREQUENCY {path})")
        if args.pictures:
            draw(name, dicts, metadata, scan, outputs, args.grey_range, quiet=args.quiet)
        if scan.problems:
            raise InputError(f"{name} has {len(scan.problems)} problems, listed above")
    except InputError as error:
        return error
    return None


def lacks_labels(record: dict) -> bool:
    """Return whether a data set dict is a readable cloud without labels.

    Images without labels are never data sets (see `register_folder`), but clouds hold their labels.
    """
    file = record["file_name"]
    if not is_cloud(file) or record.get("sem_seg_file_name", file) != file:
        return False
    with suppress(InputError):  # a damaged cloud is reported later
        return not has_labels(file)
    return False


def draw(
    name: str,
    dicts: list[dict],
    metadata: Metadata,
    scan: DatasetScan,
    outputs: Outputs,
    grey_range: GreyRange,
    *,
    quiet: bool,
) -> None:
    """Draw the classes and samples of a data set, without the files that have problems.

    Raises:
        InputError: a picture cannot be written.
    """
    if not any(scan.frequency.pixels):
        return
    pictures = {
        outputs.folder / f"{name}_classes.png": plot_class_frequency(
            scan.frequency, with_groups=is_training_set(name), units=scan.units
        )
    }
    broken = {problem.file for problem in scan.problems}
    sound = [
        (record, classes)
        for record, classes in zip(dicts, scan.shown, strict=True)
        if not {record["file_name"], record.get("sem_seg_file_name")} & broken
    ]
    if sound:
        classes = [classes for _, classes in sound]
        chosen = select_samples(classes, scan.frequency.images, NUM_SAMPLES)
        records, names = [sound[i][0] for i in chosen], metadata.stuff_classes
        sheet = draw_samples(records, names, class_colors(metadata), grey_range)
        pictures[outputs.folder / f"{name}_samples.jpg"] = sheet
    errors: list[InputError] = []
    for path, picture in pictures.items():
        with collected(errors), outputs.writing(path) as temporary:
            picture.save(temporary)
        if not errors and not quiet:
            print(f"Written: {path}")
    if errors:
        raise InputError(*map(str, errors))


def planned_files(name: str, folder: Path, args: argparse.Namespace) -> list[Path]:
    """Return the files that may be written for a data set."""
    names = [CLASS_FREQUENCY] if is_training_set(name) else []
    names += [f"{name}_classes.png", f"{name}_samples.jpg"] if args.pictures else []
    return [folder / file for file in names]


def is_training_set(name: str) -> bool:
    """Return whether a name belongs to a training set.

    The counts of other sets do not show how often a class is seen in training.
    """
    splits = re.findall(r"(?<![a-z])(train|val|test)(?![a-z])", name)
    return not splits or splits[-1] == "train"


def report(
    name: str, num_images: int, scan: DatasetScan, features: list[list[str]], *, each_file: bool
) -> None:
    """Print the contents of a data set, and then its problems and warnings.

    Args:
        features: the names of the features of each cloud; [] for images.
    """
    frequency = scan.frequency
    found = sum(frequency.pixels)
    unknown = sum(pixels for _, pixels in scan.out_of_range.values())
    total = found + frequency.ignored_pixels + unknown
    sample, part = scan.units.sample, scan.units.part
    print(f"\n{name}: {num_images} {sample}s, {total} labelled or ignored {part}s")
    if total:
        print(describe_sizes(scan.sizes, scan.units))
        print(
            f"ignored ({scan.ignore_label}): {frequency.ignored_pixels / total:.2%} of the {part}s"
        )
        print(f"ids found: {describe_ids(scan)}")
    if features:
        print(describe_features(features))
    if found:
        print(class_table(scan, with_groups=is_training_set(name)))
    print(describe_findings(scan, each_file=each_file))


def print_advice(
    name: str, dicts: list[dict], scan: DatasetScan, cfg: CfgNode, args: argparse.Namespace
) -> None:
    """Print how to train on a training set without problems, and the commands.

    Raises:
        InputError: the training cannot be measured.
    """
    frequency = scan.frequency
    if scan.units is CLOUDS:
        chosen = select_samples(scan.shown, frequency.images, NUM_MEASURED)
        edges = [cfg.INPUT.POINTS.VOXEL_SIZE, cfg.INPUT.POINTS.VOXEL_SIZE / 2]
        records, num_classes = [dicts[i] for i in chosen], len(frequency.class_names)
        mixes = measure_mixing(records, edges, num_classes, scan.ignore_label)
        items = advise_on_clouds(frequency, scan.shown, *mixes, cfg)
    else:
        labels = [record["sem_seg_file_name"] for record in dicts]
        objects = measure_objects(labels, scan.shown, frequency)
        items = advise(frequency, scan.shown, scan.sizes, objects, cfg)
    given = keys_of_data(name, args.folder)
    given |= zip(args.opts[::2], args.opts[1::2], strict=True)
    keys = given | merged_keys(items)
    if not args.time:
        hint = "Add --time to measure it on this machine, which takes a minute or two."
        items.append(Advice("duration", hint))
    print(f"\nAdvice for {name} with {args.config_file}:\n{format_advice(items)}")
    config, plain = args.config_file, baseline_of(args.config_file)
    if has_rare_classes(frequency) or plain == config:
        print(f"To train:\n{training_command(config, keys, args.imports)}")
    plain_keys = given | merged_keys(items, with_recipe=False)
    if plain != config:
        print(f"To train the plain model:\n{training_command(plain, plain_keys, args.imports)}")
    if args.folder is not None and missing_parts(args.folder, "val"):
        print("Without a val split, nothing is evaluated or compared: move some samples to one.")
    elif args.folder is not None:
        command, lacking = comparing_command(args.folder, plain, plain_keys, args.imports)
        without = f" (without {', '.join(lacking)}, which it refuses)" if lacking else ""
        print(f"To compare methods{without}:\n{command}")
    if args.time:
        pairs = [word for pair in keys.items() for word in pair]
        cfg = load_config(args.config_file, pairs)
        print(f"Duration: {measure_duration(cfg, frequency).describe()}")


def describe_findings(scan: DatasetScan, *, each_file: bool) -> str:
    """Return the problems and warnings, one per line, or "No problems found"."""
    paragraphs = [scan.describe_problems(each_file=each_file)] if scan.problems else []
    if scan.warnings:
        title = "warnings" if scan.problems else "No problems found, but warnings"
        lines = [f"  {warning}" for warning in scan.warnings]
        paragraphs.append("\n".join([f"{title} ({len(lines)}):", *lines]))
    return "\n".join(paragraphs) or "No problems found."


def describe_sizes(sizes: dict[tuple[int, int], int], units: Units) -> str:
    """Return the three most frequent sizes, with their numbers of images; or points of clouds."""
    if units is CLOUDS:
        points = sorted(points for (_, points), number in sizes.items() for _ in range(number))
        return f"points of a cloud: {points[0]} to {points[-1]}, median {points[len(points) // 2]}"
    by_number = sorted(sizes.items(), key=lambda item: -item[1])
    found = listed([f"{w} x {h} ({number} images)" for (h, w), number in by_number], 3)
    return f"sizes (width x height): {found}"


def describe_features(features: list[list[str]]) -> str:
    """Return how many clouds have each feature."""
    counts = Counter(name for names in features for name in names)
    found = [f"{name} in {counts[name]}" for name in FEATURES]
    return f"features of {len(features)} clouds: {', '.join(found)}"


def describe_ids(scan: DatasetScan) -> str:
    """Return all ids in the labels, with neighbouring ids as ranges: 0-10, 255."""
    ids = {i for i, pixels in enumerate(scan.frequency.pixels) if pixels} | set(scan.out_of_range)
    if scan.frequency.ignored_pixels:
        ids.add(scan.ignore_label)
    ranges: list[list[int]] = []
    for i in sorted(ids):
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def class_table(scan: DatasetScan, with_groups: bool) -> str:
    """Return a table of the images and pixels of each class, with bars and groups by both.

    The most frequent class comes first. The bars are linear. A line below the table names the
    classes that have equal counts but different groups.
    """
    frequency = scan.frequency
    names = list(map(printable, frequency.class_names))
    columns = [("class", names, "left"), ("id", range(len(names)), "right")]
    images, pixels = frequency.images, frequency.pixels
    ties = []
    samples, parts = f"{scan.units.sample}s", f"{scan.units.part}s"
    for what, counts, total, (other, ties_by) in (
        (samples, images, frequency.num_images, (parts, pixels)),
        (parts, pixels, sum(pixels), (samples, images)),
    ):
        columns.append((what, counts, "right"))
        columns.append(("%", [f"{100 * count / total:.3f}" for count in counts], "right"))
        bars = [text_bar(count, max(counts), BAR_WIDTH) for count in counts]
        columns.append(("", bars, "left"))
        if with_groups:
            groups = class_groups(counts, ties_by)
            group_of = {i: group for group, ids in groups.items() for i in ids}
            columns.append((f"by {what}", [group_of[i] for i in range(len(counts))], "left"))
            ties.append(describe_ties(counts, ties_by, frequency.class_names, units=(what, other)))
    headers, cells, align = zip(*columns, strict=True)
    rows = list(zip(*cells, strict=True))
    rows.sort(key=lambda row: (-images[row[1]], -pixels[row[1]]))
    table = tabulate(rows, headers, disable_numparse=True, colalign=align)
    if with_groups:
        ties.append(f"f, c, r: frequent, common and rare classes, by {samples} and by {parts}.")
    return "\n".join([table, *filter(None, ties)])


if __name__ == "__main__":
    sys.exit(main())
