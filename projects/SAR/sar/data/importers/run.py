"""Import a data set: read, examine, divide, report and write."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sar.data.datasets.class_file import read_class_file
from sar.data.importers import find_importer, mask_folders
from sar.data.importers.class_map import map_classes
from sar.data.importers.examine import Examination, examine, shown, total
from sar.data.importers.report import class_table, findings
from sar.data.importers.source import UNLABELLED, Options, Source, SourceClass
from sar.data.importers.splits import Grouping, check_splits, choose_splits
from sar.data.importers.tree import Tree
from sar.data.importers.writer import check_output, checksum, place_items, write
from sar.errors import InputError, printable

_NUM_ERRORS = 20  # that the message lists


@dataclass(frozen=True)
class Request:
    """A source to import, and the options. The command line has the same defaults.

    Attributes:
        source: a folder, or an annotation file.
        output: the folder of the new data set.
        format: a name in IMPORTERS; None: recognize it.
        options: for the importer.
        background: "class" or "ignore", as in `map_classes`.
        keep_empty: take images without any shape, if the background is a class.
        shares, seed: as in `choose_splits`.
        group: the pattern of a `Grouping`.
        link: link the images instead of copying them.
        skip_errors: leave out images with errors.
        dry_run: write nothing.
        quiet: print nothing.
    """

    source: Path
    output: Path
    format: str | None = None
    options: Options = Options()
    background: str = "class"
    keep_empty: bool = False
    shares: Sequence[int] | None = None
    group: re.Pattern | None = None
    seed: int = 0
    link: bool = False
    skip_errors: bool = False
    dry_run: bool = False
    quiet: bool = False


def import_dataset(request: Request) -> None:
    """Import a data set, and print what was taken and what was not.

    Raises:
        InputError: the source or the options are wrong. Nothing is written then.
    """
    options = request.options
    tree = Tree(request.source)
    folders = [folder for folder in (options.images, options.labels) if folder is not None]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"Folder not found: {folder} (--images or --labels). Correct the path."
            )
    sources = [*folders, tree.root]
    check_output(request.output, sources)
    # No other format reads --labels and --label-suffix.
    is_of_masks = options.labels is not None or options.label_suffix is not None
    importer = find_importer(tree, request.format or (mask_folders.NAME if is_of_masks else None))
    if is_of_masks and importer is not mask_folders:
        raise InputError(
            f"--labels and --label-suffix belong to --format {mask_folders.NAME}, not to --format "
            f"{importer.NAME}: remove them, or choose --format {mask_folders.NAME}."
        )
    source = importer.read(tree, options)
    if not source.items:
        raise InputError(f"{tree.root} has no annotated images: export it again.")
    source = _with_class_file(source, options.classes)
    group = None if request.group is None else Grouping(request.group, sources)
    check_splits(source.items, request.shares, group)

    found = examine(source, quiet=request.quiet)
    _refuse_errors(found, request.skip_errors)
    left_out = total([counts.drawing.left_out for counts in found.counts])
    num_empty = sum(counts.is_empty for counts in found.counts)
    if not (request.keep_empty and request.background == "class"):
        found = _without_empty(found)
    check_splits(found.items, request.shares, group)  # again, after some were left out
    has_unlabelled = any(counts.pixels[UNLABELLED] for counts in found.counts)
    classes = map_classes(
        source,
        classes=options.classes,
        renamed=options.renamed,
        ignored=options.ignore,
        background=request.background,
        has_unlabelled=has_unlabelled,
    )
    splits, sentence = choose_splits(
        found.items,
        _new_classes_shown(found, classes.ids, len(classes.names)),
        classes.names,
        shares=request.shares,
        group=group,
        seed=request.seed,
    )
    planned, notes = place_items(found.items, splits)

    if not request.quiet:
        print(f"Format: {importer.NAME}. {sentence}")
        print(class_table(source, classes, found.counts, splits))
        notes += findings(source, classes, found, left_out)
        if num_empty:
            notes.append(_describe_empty(num_empty, request))
        notes += [f"Left out: {error}" for error in found.errors]
        for note in notes:
            print(f"- {printable(note)}")
    settings = _settings(request)
    record = {
        "source": str(request.source.resolve()),
        "format": importer.NAME,
        "options": settings,
        "checksum": checksum(planned, classes, source.annotations, [importer.NAME, settings]),
    }
    if request.dry_run:
        return
    write(planned, classes, request.output, record, link=request.link, quiet=request.quiet)


def _with_class_file(source: Source, path: Path | None) -> Source:
    """Return the source with the classes that only --classes names, and with its colours."""
    if path is None:
        return source
    named = dict(read_class_file(path))
    classes = [
        replace(known, color=tuple(color)) if (color := named.get(known.name)) else known
        for known in source.classes
    ]
    known_names = {known.name for known in classes}
    classes += [
        SourceClass(name, color=color and tuple(color))
        for name, color in named.items()
        if name not in known_names
    ]
    return replace(source, classes=classes)


def _refuse_errors(found: Examination, skip: bool) -> None:
    if not found.errors or (skip and found.items):
        return
    messages = [str(error) for error in found.errors]
    number = len(messages) + len(found.items)
    remedy = "" if not found.items else " To leave them out, add --skip-errors."
    raise InputError(
        *messages[:_NUM_ERRORS],
        *([f"... and {len(messages) - _NUM_ERRORS} more"] if len(messages) > _NUM_ERRORS else []),
        f"{len(messages)} of {number} images cannot be imported. Nothing was written.{remedy}",
    )


def _without_empty(found: Examination) -> Examination:
    kept = [index for index, counts in enumerate(found.counts) if not counts.is_empty]
    if not kept:
        raise InputError(
            "No image has a shape that covers a pixel. Annotate polygons or masks, and export "
            "again."
        )
    items, counts = ([values[i] for i in kept] for values in (found.items, found.counts))
    return Examination(items, counts, found.errors)


def _new_classes_shown(found: Examination, ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (N, L) bool: which of L classes of the new data set each of N images shows."""
    of_source = shown(found)
    result = np.zeros((len(found.items), num_classes), bool)
    for index, new_id in enumerate(ids[:-2].tolist()):
        if new_id < num_classes:
            result[:, new_id] |= of_source[:, index]
    return result


def _describe_empty(number: int, request: Request) -> str:
    if request.keep_empty and request.background == "class":
        return f"{number} images have no shape. All their pixels are background."
    remedy = "with --keep-empty, they are background"
    if request.background == "ignore":
        remedy = "they would be ignored completely"
    return f"{number} images have no shape and were left out; {remedy}."


def _settings(request: Request) -> dict:
    """Return the options that change the result, as JSON can hold them."""
    settings = asdict(request.options) | {
        "background": request.background,
        "keep_empty": request.keep_empty,
        "shares": request.shares,
        "group": request.group.pattern if request.group else None,
        "seed": request.seed,
        "link": request.link,
        "skip_errors": request.skip_errors,
    }
    return {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in settings.items()}
