"""Register ade20k_full_{train,val}: all of ADE20K with 847 classes (Zhou et al. 2019).

The classes are found in training images and in validation images, like in MaskFormer (Cheng et al.,
NeurIPS 2021). tools/prepare_ade20k_full.py writes images, labels and classes.txt into
ADE20K_2021_17_01/ade20k_full under DETECTRON2_DATASETS. Labels have 16 bits; 65535 is ignored.
"""

from functools import partial
from pathlib import Path

from sar.cli import call_of
from sar.data import datasets
from sar.data.datasets.folder import default_colors, pair_images_and_labels
from sar.errors import InputError

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

NUM_CLASSES = 847
NUM_IMAGES = {"train": 25574, "val": 2000}
IGNORE = 65535
FOLDER, PREPARED, CLASS_FILE = "ADE20K_2021_17_01", "ade20k_full", "classes.txt"


class _MetadataFromFile(Metadata):
    """Metadata that read the class names from classes.txt at the first use."""

    def __getattr__(self, key):
        if key == "stuff_classes":
            return list(read_classes(_prepared_folder() / CLASS_FILE, _remedy()).values())
        return super().__getattr__(key)


def read_classes(path: Path, remedy: str, num_classes: int = NUM_CLASSES) -> dict[int, str]:
    """Read the name of each class by its index in ADE20K, in the order of our ids.

    Args:
        path: each line has an index (`name_ndx` in ADE20K's JSON), a blank and a name.
        remedy: the end of the error message for a missing file.
        num_classes: the number of lines that the file must have.

    Raises:
        InputError: the file is missing or has another format.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The classes of ADE20K-Full cannot be read: {error}. {remedy}") from error
    classes = {}
    for number, line in enumerate(lines, start=1):
        index, _, name = line.strip().partition(" ")
        if not index.isdecimal() or not name or int(index) in classes:
            raise InputError(
                f"{path}, line {number}: expected a new index of ADE20K, a blank and a name, such "
                f'as "2978 wall", found "{line}".'
            )
        classes[int(index)] = name
    if len(classes) != num_classes:
        raise InputError(f"{path} has {len(classes)} classes, expected {num_classes}.")
    return classes


def load_ade20k_full(split: str) -> list[dict]:
    """Load the data set dicts of a split, "train" or "val".

    Raises:
        InputError: a folder is missing or empty, or an image has no label.
    """
    folder = _prepared_folder()
    return pair_images_and_labels(
        folder / "images" / split, folder / "labels" / split, remedy=_remedy()
    )


def register() -> None:
    """Register ade20k_full_{train,val}."""
    for split in NUM_IMAGES:
        name = f"ade20k_full_{split}"
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)
        DatasetCatalog.register(name, partial(load_ade20k_full, split))
        MetadataCatalog[name] = _MetadataFromFile(name=name)
        MetadataCatalog.get(name).set(
            stuff_colors=default_colors(NUM_CLASSES),
            ignore_label=IGNORE,
            evaluator_type="sem_seg",
        )


def _prepared_folder() -> Path:
    return Path(datasets.root(), FOLDER, PREPARED)


def _remedy() -> str:
    return (
        f"{datasets.describe_root()}. Download ADE20K_2021_17_01 as datasets/README.md says, and "
        f"run `{call_of('tools/prepare_ade20k_full.py')}`."
    )
