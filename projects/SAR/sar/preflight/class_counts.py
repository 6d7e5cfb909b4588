"""Count the classes of the training set, and check all files of the data sets meanwhile.

The result of a check without problems is kept in a cache, until a file changes. So a new run on the
same data starts without reading them again.
"""

import logging
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from sar.data.class_frequency import ClassFrequency, fingerprint_of
from sar.data.cloud_mapper import CloudMapper
from sar.data.datasets import load_dataset, metadata_of
from sar.data.grey_range import GreyRange
from sar.data.palettes import PaletteComparison, given_colors
from sar.data.scan import scan_dataset
from sar.errors import InputError, listed
from sar.files.cache import cache_path, load_cached, states_of, store_cached
from sar.files.run_folder import CLASS_FREQUENCY

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

_VERSION = 3  # of the checks: a larger one makes the results in the cache invalid


def count_classes(
    cfg: CfgNode, *, trains: bool, is_new: bool, progress: bool = True
) -> ClassFrequency | None:
    """Return the class counts of the training set; read the data if necessary.

    A new training reads all images and labels of its data sets, unless DATASETS.CHECK is False, so
    that bad files are found early. A resumed training uses its first counts. An evaluation uses the
    counts of the training in OUTPUT_DIR; without them and without the training set, there are no
    groups of frequent and rare classes.

    Args:
        trains: False for an evaluation.
        is_new: True for a training that does not continue from a checkpoint in OUTPUT_DIR.
        progress: show a progress bar.

    Returns:
        The counts; None if they are unknown.

    Raises:
        InputError: problems in the files, or a class-frequency file with other classes.
    """
    given = cfg.DATASETS.CLASS_FREQUENCY
    frequency = ClassFrequency.load(given) if given else None
    if frequency is not None:
        _require_same_classes(cfg, frequency, given)
    if is_new and cfg.DATASETS.CHECK:
        counted = _read(cfg, check_images=True, progress=progress)
        if frequency is not None:
            _warn_of_changes(frequency, counted, given)
        return frequency or counted
    if frequency is not None:
        has_fingerprint = bool(frequency.fingerprint)
        return _still_valid(cfg, frequency, given, progress) if has_fingerprint else frequency
    if not is_new:
        path = os.path.join(cfg.OUTPUT_DIR, CLASS_FREQUENCY)
        if kept := _counts_of_earlier_run(cfg, path):
            return _still_valid(cfg, kept, path, progress)
    try:
        return _read(cfg, check_images=False, progress=progress)
    except InputError as error:
        if trains:
            raise
        logger.warning(f"No groups of frequent and rare classes: {error}")
        return None


def _read(cfg: CfgNode, *, check_images: bool, progress: bool) -> ClassFrequency:
    """Return the counts of the training set, from the cache or the files.

    Args:
        check_images: also read the images, and the test sets.
    """
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty, whose classes would be counted")
    sets = [(name,) for name in cfg.DATASETS.TEST] if check_images else []
    sets.append(tuple(cfg.DATASETS.TRAIN))  # last: its counts are returned
    loaded = [[record for name in names for record in load_dataset(name)] for names in sets]
    path = cache_path("data-sets", _key(cfg, sets, loaded, check_images))
    frequency, warnings = _load(path)
    if frequency is None:
        frequency, warnings, is_clean = _scan(cfg, sets, loaded, check_images, progress)
        if is_clean:
            store_cached(path, asdict(frequency) | {"warnings": warnings})
    else:
        names = ", ".join(name for names in sets for name in names)
        logger.info(f"{names}: no file has changed since they were read ({path})")
        for warning in warnings:
            logger.warning(warning)
    with suppress(OSError):  # a missing label, which a training may skip
        labels = (r["sem_seg_file_name"] for r in loaded[-1] if "sem_seg_file_name" in r)
        frequency = replace(frequency, fingerprint=fingerprint_of(labels))
    return replace(frequency, datasets=_training_sets(cfg))


def _key(
    cfg: CfgNode, sets: list[tuple[str, ...]], loaded: list[list[dict]], check_images: bool
) -> list:
    """Return all that the result of `_scan` depends on."""
    metadata = metadata_of(sets[-1][0])
    key = [_VERSION, check_images, list(metadata.stuff_classes), metadata.ignore_label]
    key.append(sorted((i, list(color)) for i, color in given_colors(metadata).items()))
    key.append(asdict(GreyRange.from_config(cfg)))
    key.append([cfg.INPUT.POINTS.VOXEL_SIZE, *cfg.INPUT.POINTS.FEATURES])
    for names, records in zip(sets, loaded, strict=True):
        files = (r.get(kind, "") for r in records for kind in ("file_name", "sem_seg_file_name"))
        sizes = [[r[side] for side in ("height", "width") if side in r] for r in records]
        key += [list(names), states_of(files), sizes]
    return key


def _load(path: Path) -> tuple[ClassFrequency | None, list[str]]:
    """Return the counts and warnings in a file of the cache; None and [] if there is none."""
    content = load_cached(path)
    try:
        return (ClassFrequency.load(path), list(content["warnings"])) if content else (None, [])
    except (InputError, KeyError, TypeError):
        return None, []


def _scan(
    cfg: CfgNode,
    sets: list[tuple[str, ...]],
    loaded: list[list[dict]],
    check_images: bool,
    progress: bool,
) -> tuple[ClassFrequency, list[str], bool]:
    """Read data sets, and log warnings.

    Returns:
        the counts of the last data set, the warnings of all, and True if no file has a problem.
    """
    metadata = metadata_of(sets[-1][0])
    palettes = PaletteComparison(metadata.stuff_classes, given_colors(metadata))
    is_for_clouds = cfg.INPUT.POINTS.VOXEL_SIZE > 0
    map_cloud = CloudMapper(cfg, is_train=False).map_points if is_for_clouds else None
    warnings, is_clean = [], True
    for names, records in zip(sets, loaded, strict=True):
        is_training_set = names == tuple(cfg.DATASETS.TRAIN)
        logger.info(f"Reading {', '.join(names)}")
        scan = scan_dataset(
            records,
            metadata_of(names[0]).stuff_classes,
            metadata_of(names[0]).ignore_label,
            check_images=check_images,
            is_training_set=is_training_set,
            palettes=palettes,
            grey_range=GreyRange.from_config(cfg),
            map_cloud=map_cloud,
            progress=progress,
        )
        max_skipped = cfg.DATALOADER.MAX_SKIPPED_SAMPLES if is_training_set else 0
        found = [f"{', '.join(names)}: {warning}" for warning in scan.warnings]
        for warning in found:
            logger.warning(warning)
        scan.raise_for_problems(max_skipped)
        if scan.problems:
            logger.warning(
                f"{len(scan.problems)} {scan.units.sample}s will be skipped, of at most "
                f"{max_skipped} (DATALOADER.MAX_SKIPPED_SAMPLES).\n{scan.describe_problems()}"
            )
        warnings += found
        is_clean = is_clean and not scan.problems
    return scan.frequency, warnings, is_clean


def _has_same_labels(cfg: CfgNode, kept: ClassFrequency) -> bool:
    """Return True if the label files are unchanged since they were counted, or not here."""
    try:
        records = [record for name in cfg.DATASETS.TRAIN for record in load_dataset(name)]
        labels = (r["sem_seg_file_name"] for r in records if "sem_seg_file_name" in r)
        return fingerprint_of(labels) == kept.fingerprint
    except (InputError, OSError):
        return True


def _still_valid(cfg: CfgNode, kept: ClassFrequency, path: str, progress: bool) -> ClassFrequency:
    """Return the counts in the file `path`; warn if the labels have other counts now."""
    if _has_same_labels(cfg, kept):
        return kept
    try:
        counted = _read(cfg, check_images=False, progress=progress)
    except InputError as error:
        logger.warning(
            f"The labels have changed since {path} was written, and have problems: {error}"
        )
        return kept
    _warn_of_changes(kept, counted, path)
    # Copied or touched labels have a new fingerprint but the same counts.
    return counted if counted.counts_the_same(kept) else kept


def _warn_of_changes(kept: ClassFrequency, counted: ClassFrequency, path: str) -> None:
    """Warn if the training labels now have other counts than the file."""
    if counted.counts_the_same(kept):
        return
    pixels = zip(kept.class_names, kept.pixels, counted.pixels, strict=True)
    changed = [name for name, before, now in pixels if before != now]
    logger.warning(
        f"The training labels have changed since they were counted for {path}: "
        f"{listed(changed) or 'ignored pixels'} have other counts now. Class weights, priors and "
        "groups still follow the counts in that file. To count again, remove it, or leave "
        "DATASETS.CLASS_FREQUENCY empty, and run the same command."
    )


def _training_sets(cfg: CfgNode) -> tuple[str, ...]:
    """Return an identity of the training set; folders can share a name."""
    if cfg.DATASETS.FOLDER:
        return (os.path.realpath(os.path.expanduser(cfg.DATASETS.FOLDER)),)
    return tuple(cfg.DATASETS.TRAIN)


def _counts_of_earlier_run(cfg: CfgNode, path: str) -> ClassFrequency | None:
    """Return the counts in a file if they belong to the training set of this run, else None."""
    try:
        kept = ClassFrequency.load(path)
        _require_same_classes(cfg, kept, path)
    except InputError:
        return None
    return kept if kept.datasets == _training_sets(cfg) else None


def _require_same_classes(cfg: CfgNode, frequency: ClassFrequency, path: str) -> None:
    expected = tuple(metadata_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]).stuff_classes)
    found = frequency.class_names
    if tuple(found) != expected:
        raise InputError(
            f"DATASETS.CLASS_FREQUENCY {path} is of other classes ({listed(found)}) "
            f"than the data set's ({listed(expected)})"
        )
