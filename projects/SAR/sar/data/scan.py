"""Scan a data set: count its classes and find all problems in one pass over its files."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from sar.cli import call_of
from sar.data.class_frequency import ClassFrequency
from sar.data.clouds import Cloud, is_cloud, read_cloud
from sar.data.grey_range import GreyRange
from sar.data.grey_use import GreyUse, ImageUse
from sar.data.ignored_foreground import IgnoredForeground
from sar.data.image_files import FULL_RANGE, read_image_size, read_stored_image
from sar.data.label_files import ColorMaskError, how_to_convert, read_label, read_label_and_palette
from sar.data.palettes import IdColors, PaletteComparison
from sar.data.pillow_files import exif_orientation, swaps_sides
from sar.data.units import IMAGES, Units, units_of_file
from sar.errors import InputError, listed, printable
from sar.files.cache import cache_path, load_cached, states_of, store_cached
from sar.threads import map_ahead

MISSING_IMAGE = "missing image"
UNREADABLE_IMAGE = "unreadable image"
MISSING_LABEL = "missing label"
UNREADABLE_LABEL = "unreadable label"
COLOR_MASK = "label of colours"
SIZE_DIFFERS = "size differs"
IDS_OUT_OF_RANGE = "ids out of range"
NOTHING_LABELLED = "nothing labelled"
SINGLE_CLASS = "single class"
KINDS = (
    MISSING_IMAGE,
    UNREADABLE_IMAGE,
    MISSING_LABEL,
    UNREADABLE_LABEL,
    COLOR_MASK,
    SIZE_DIFFERS,
    IDS_OUT_OF_RANGE,
    NOTHING_LABELLED,
    SINGLE_CLASS,
)
# Problems that a training may skip. All others mean that data set and config do not fit.
_MAY_BE_SKIPPED = (
    MISSING_IMAGE,
    UNREADABLE_IMAGE,
    MISSING_LABEL,
    UNREADABLE_LABEL,
    COLOR_MASK,
    SIZE_DIFFERS,
)
_NUM_IDS = 65536  # number of values in 16 bits
# Reading threads: more than cores, because some wait for the disk.
_NUM_THREADS = min(16, (os.cpu_count() or 1) + 4)


@dataclass(frozen=True)
class Problem:
    """A problem in a file, or in the whole data set (file ""): one of KINDS, and a message."""

    kind: str
    file: str
    message: str


@dataclass(frozen=True)
class DatasetScan:
    """The result of a scan.

    Attributes:
        frequency: counts of the classes, over the labels that could be read.
        ignore_label: the label that was counted as ignored.
        sizes: number of labels of each size (height, width).
        out_of_range: for each unknown id, the number of labels and the number of pixels that have
            it.
        problems: problems that would stop a training, in the order of the data set.
        warnings: sentences about probable mistakes that do not stop a training.
        shown: for each image, the ids of the classes in its label; empty if it cannot be read.
        units: what messages call the samples and their parts.
    """

    frequency: ClassFrequency
    ignore_label: int
    sizes: dict[tuple[int, int], int]
    out_of_range: dict[int, tuple[int, int]]
    problems: list[Problem]
    warnings: list[str]
    shown: list[list[int]]
    units: Units = IMAGES

    def describe_problems(self, *, each_file: bool = False) -> str:
        """Return the problems by kind, and what to do.

        Args:
            each_file: a line for each file. By default, a kind has one example, and the names of a
                few other files.
        """
        paragraphs = []
        for kind in KINDS:
            found = [problem for problem in self.problems if problem.kind == kind]
            if not found:
                continue
            shown = found if each_file else found[:1]
            lines = [f"{kind.replace('image', self.units.sample)} ({len(found)}):"]
            lines += [f"  {printable(problem.message)}" for problem in shown]
            if others := [os.path.basename(problem.file) for problem in found[len(shown) :]]:
                files = "more file" if len(others) == 1 else "more files"
                lines.append(f"  Also in {len(others)} {files}: {printable(listed(others))}")
            if kind == COLOR_MASK:
                lines.append(f"  {printable(how_to_convert(found[0].file))}")
            if kind == SIZE_DIFFERS:
                a = f"{'An' if self.units is IMAGES else 'A'} {self.units.sample}"
                lines.append(f"  {a} and its label must have the same size: export them again.")
            if kind == IDS_OUT_OF_RANGE:
                lines += self._describe_out_of_range()
            paragraphs.append("\n".join(lines))
        return "\n".join(paragraphs)

    def _describe_out_of_range(self) -> list[str]:
        ids = [
            f"{i} ({labels} labels, {pixels} {self.units.part}s)"
            for i, (labels, pixels) in self.out_of_range.items()
        ]
        num_classes = len(self.frequency.class_names)
        how_to_map = (
            " To name, merge or ignore ids, import the folder: "
            f"{call_of('tools/import_dataset.py')} FOLDER --output NEW --map ID=NAME --ignore ID"
        )
        return [
            f"  In all: {listed(ids, 10)}.",
            f"  The {num_classes} classes have the ids 0 to {num_classes - 1}, and "
            f"{self.ignore_label} is ignored. Relabel these {self.units.part}s; or complete the "
            "classes (classes.txt or the metadata's stuff_classes, and "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES); or correct the metadata's ignore_label."
            f"{how_to_map if self.units is IMAGES else ''}",
        ]

    def raise_for_problems(self, max_skipped: int = 0) -> None:
        """Raise an InputError with an example of each kind of problem, if there are any.

        Args:
            max_skipped: number of missing, unreadable or wrongly sized files that are accepted.
        """
        can_be_skipped = all(problem.kind in _MAY_BE_SKIPPED for problem in self.problems)
        if not can_be_skipped or len(self.problems) > max_skipped:
            if [problem.kind for problem in self.problems] == [SINGLE_CLASS]:
                raise InputError(self.problems[0].message)
            raise InputError(
                f"{len(self.problems)} problems in the data set.",
                *self.describe_problems().split("\n"),
                "tools/check_dataset.py --verbose lists every file.",
            )


def scan_dataset(
    dicts: Sequence[dict],
    class_names: Sequence[str],
    ignore_label: int,
    *,
    check_images: bool,
    is_training_set: bool = False,
    palettes: PaletteComparison | None = None,
    grey_range: GreyRange = FULL_RANGE,
    map_cloud: Callable[[Cloud, str], object] | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> DatasetScan:
    """Read every label of a data set, and every image or its header.

    Bad files are collected, not raised. A few threads decode at a time, so memory does not grow
    with the data set.

    Args:
        dicts: detectron2's data set dicts, with "file_name" and "sem_seg_file_name".
        class_names: the K names, in the order of the ids.
        ignore_label: the label of ignored pixels.
        check_images: decode the images, which finds truncated files. False: read only their
            headers, for the size.
        is_training_set: at least two classes must have pixels; a class without pixels is a warning.
        palettes: compares the palettes of these labels with earlier data sets and with the colours
            of the classes. Default: only these labels are compared.
        grey_range: range that scales 16-bit images; a warning says if it does not fit.
        map_cloud: called with each cloud and its path if `check_images` is set; an InputError says
            that the model cannot take the cloud.
        num_threads: default: a few more than the number of cores, at most 16.
        progress: show a progress bar.
    """
    num_classes, units = len(class_names), units_of_file(dicts[0]["file_name"]) if dicts else IMAGES
    pixels, labels = np.zeros(_NUM_IDS, np.int64), np.zeros(_NUM_IDS, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    problems: list[Problem] = []
    shown_in: list[list[int]] = []
    turned: list[str] = []
    palettes, grey_use = palettes or PaletteComparison(class_names, {}), GreyUse(grey_range)
    foreground = IgnoredForeground(ignore_label)

    def examine(record: dict) -> "_Examined":
        return _examine(record, num_classes, ignore_label, check_images, map_cloud)

    results = map_ahead(examine, dicts, num_threads or _NUM_THREADS)
    results = tqdm(
        results, total=len(dicts), desc="Checking files", unit=units.sample, disable=not progress
    )
    for record, result in zip(dicts, results, strict=True):
        problems += result.problems
        if result.colors is not None:
            palettes.add(record["sem_seg_file_name"], result.colors)
        if result.image_use is not None:
            grey_use.add(record["file_name"], result.image_use)
        if result.is_turned:
            turned.append(record["file_name"])
        shown_in.append([])
        if result.counts is not None:
            shown_in[-1] = _classes_in(result.counts, num_classes, ignore_label)
            pixels[: len(result.counts)] += result.counts
            labels[: len(result.counts)] += result.counts > 0
            sizes[result.size] += 1
            foreground.add(record["sem_seg_file_name"], result.counts)

    ignored_pixels = int(pixels[ignore_label])
    pixels[ignore_label] = labels[ignore_label] = 0
    unknown = (num_classes + np.flatnonzero(pixels[num_classes:])).tolist()
    shown = np.flatnonzero(pixels[:num_classes]).tolist()
    absent = sorted({*range(num_classes)} - {*shown, ignore_label})
    warnings = []
    if sizes and not shown:
        message = (
            f"All {units.part}s of all {sum(sizes.values())} labels are ignored ({ignore_label})."
        )
        problems.append(Problem(NOTHING_LABELLED, "", message))
    elif num_classes == 1:
        problems.append(
            Problem(SINGLE_CLASS, "", describe_single_class("There is one class", class_names))
        )
    elif shown and is_training_set:
        if len(shown) == 1:
            finding = f"One class has {units.part}s"
            message = describe_single_class(finding, [class_names[shown[0]]])
            problems.append(Problem(SINGLE_CLASS, "", message))
        if absent:
            warnings.append(_absent([class_names[k] for k in absent], units))
    if turned:
        warnings.append(_turned(turned))
    return DatasetScan(
        frequency=ClassFrequency(
            class_names=tuple(class_names),
            num_images=sum(sizes.values()),
            images=tuple(labels[:num_classes].tolist()),
            pixels=tuple(pixels[:num_classes].tolist()),
            ignored_pixels=ignored_pixels,
        ),
        ignore_label=ignore_label,
        sizes=dict(sizes),
        out_of_range={i: (int(labels[i]), int(pixels[i])) for i in unknown},
        problems=problems,
        warnings=[
            printable(warning)
            for part in (warnings, foreground.warnings(), palettes.warnings(), grey_use.warnings())
            for warning in part
        ],
        shown=shown_in,
        units=units,
    )


def _classes_in(counts: np.ndarray, num_classes: int, ignore_label: int) -> list[int]:
    """Return the classes in a label with these counts of ids, in ascending order."""
    return [i for i in np.flatnonzero(counts[:num_classes]).tolist() if i != ignore_label]


def describe_single_class(finding: str, class_names: Sequence[str]) -> str:
    """Return why a single class cannot be trained, and what to do."""
    return (
        f'{finding}, "{class_names[0]}", so the softmax has nothing to learn (loss 0, mIoU 100): '
        "label the background as a class of its own, instead of ignoring it."
    )


def _absent(class_names: Sequence[str], units: Units) -> str:
    names = listed([f'"{name}"' for name in class_names], 10)
    classes, them = ("class", "it") if len(class_names) == 1 else ("classes", "them")
    return (
        f"No training label has a {units.part} of the {classes} {names}: add {units.sample}s that "
        f"show {them}, or correct the labels or classes.txt."
    )


def classes_shown(
    dicts: Sequence[dict],
    num_classes: int,
    ignore_label: int,
    *,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> list[list[int]]:
    """Return the classes that each label of a data set shows, in ascending order.

    While no label changes, a later run does not read them again (see `sar.files.cache`).

    Args:
        dicts: detectron2's data set dicts, with "sem_seg_file_name".
        num_classes: K; larger ids are left out.
        ignore_label: the label of ignored pixels.
        skip_unreadable: treat an unreadable label as a label without classes.
        progress: show a progress bar.

    Raises:
        InputError: a label that is missing or unreadable.
    """
    lacking = next((record for record in dicts if "sem_seg_file_name" not in record), None)
    if lacking is not None:
        raise InputError(_lacks_label(lacking))
    labels = [record["sem_seg_file_name"] for record in dicts]
    path = cache_path("classes-shown", [num_classes, ignore_label, states_of(labels)])
    kept = load_cached(path)
    if isinstance(kept, list) and len(kept) == len(labels):
        return kept
    unreadable = []

    def examine(label: str) -> list[int]:
        try:
            counts = np.bincount(read_label(label).reshape(-1))
        except InputError:
            if not skip_unreadable:
                raise
            unreadable.append(label)
            return []
        return _classes_in(counts, num_classes, ignore_label)

    results = map_ahead(examine, labels, _NUM_THREADS)
    bar = tqdm(results, "Reading labels", len(labels), unit="label", disable=not progress)
    shown = list(bar)
    if not unreadable:
        store_cached(path, shown)
    return shown


@dataclass
class _Examined:
    problems: list[Problem]
    counts: np.ndarray | None = None  # number of pixels of each id
    size: tuple[int, int] | None = None
    image_use: ImageUse | None = None
    colors: IdColors | None = None
    is_turned: bool = False  # image and label have different EXIF orientations


def _examine(
    record: dict,
    num_classes: int,
    ignore_label: int,
    check_images: bool,
    map_cloud: Callable[[Cloud, str], object] | None,
) -> _Examined:
    image_file, label_file = record["file_name"], record.get("sem_seg_file_name")
    result = _Examined(problems=[])
    image_size = None
    try:
        if is_cloud(image_file):
            if check_images:  # otherwise, the labels say how many points there are
                cloud = read_cloud(image_file)
                image_size = (1, len(cloud))
                if map_cloud is not None:
                    map_cloud(cloud, image_file)
        elif check_images:
            image = read_stored_image(image_file)
            image_size = image.values.shape[:2]
            result.image_use = ImageUse.of(image)
        else:
            image_size = read_image_size(image_file)
    except InputError as error:
        kind = UNREADABLE_IMAGE if os.path.isfile(image_file) else MISSING_IMAGE
        result.problems.append(Problem(kind, image_file, str(error)))
        if is_cloud(image_file):  # it was read with its labels: the same problem again
            return result

    if label_file is None:
        result.problems.append(Problem(MISSING_LABEL, image_file, _lacks_label(record)))
        return result
    try:
        label, palette = read_label_and_palette(label_file)
    except ColorMaskError as error:
        result.problems.append(Problem(COLOR_MASK, label_file, error.finding))
        return result
    except InputError as error:
        kind = UNREADABLE_LABEL if os.path.isfile(label_file) else MISSING_LABEL
        result.problems.append(Problem(kind, label_file, str(error)))
        return result

    result.size = label.shape
    # detectron2's mapper also compares the size that the data set states.
    stated_size = (record.get("height", label.shape[0]), record.get("width", label.shape[1]))
    if image_size not in (None, label.shape) or stated_size != label.shape:
        message = f"{label_file} is {_size(label.shape)}"
        if image_size not in (None, label.shape):
            message += f", its image {image_file} is {_size(image_size)}"
            message += _explain_turn(image_file, image_size, label_file, label.shape)
        if stated_size != label.shape:
            message += f", the data set says {_size(stated_size)}"
        result.problems.append(Problem(SIZE_DIFFERS, label_file, message))

    elif check_images and image_size is not None and not is_cloud(image_file):
        result.is_turned = _is_turned(image_file, label_file, label.shape)

    result.counts = np.bincount(label.reshape(-1))
    if palette is not None:
        classes = _classes_in(result.counts, num_classes, ignore_label)
        result.colors = IdColors.of(palette, classes)
    unknown = num_classes + np.flatnonzero(result.counts[num_classes:])
    unknown = unknown[unknown != ignore_label]
    if unknown.size:
        part = units_of_file(image_file).part
        ids = [f"{i} ({result.counts[i]} {part}s)" for i in unknown]
        message = f"{label_file} has the ids {listed(ids, 10)}"
        result.problems.append(Problem(IDS_OUT_OF_RANGE, label_file, message))
    return result


def _explain_turn(
    image_file: str, image_size: tuple[int, int], label_file: str, label_size: tuple[int, int]
) -> str:
    """Return the end of a message if the EXIF orientation of one file swaps width and height."""
    if image_size != label_size[::-1]:
        return ""
    turned = [file for file in (image_file, label_file) if swaps_sides(exif_orientation(file))]
    if len(turned) != 1:
        return ""
    return (
        f" (the EXIF orientation of {turned[0]} swaps width and height, and the other file has no "
        "such orientation: turn the pixels of one of them, or remove the orientation)"
    )


def _is_turned(image_file: str, label_file: str, size: tuple[int, int]) -> bool:
    """Return True if the EXIF orientations of an image and its label of equal size differ."""
    image, label = exif_orientation(image_file), exif_orientation(label_file)
    if size[0] != size[1] and swaps_sides(image) != swaps_sides(label):
        return False  # the sizes would differ if the label was drawn on the unturned image
    return image != label


def _turned(files: Sequence[str]) -> str:
    return (
        f"{len(files)} images, such as {files[0]}, are turned or mirrored by their EXIF "
        "orientation, and their labels are not, or differently: look at them with "
        "tools/visualize.py. If a label does not fit, turn the pixels of the image, and remove the "
        "orientation."
    )


def _lacks_label(record: dict) -> str:
    return f"{record['file_name']} has no label: its data set dict lacks sem_seg_file_name."


def _size(height_and_width: tuple[int, int]) -> str:
    height, width = height_and_width
    return f"{width} x {height}"
