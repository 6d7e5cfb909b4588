"""Register the named data sets when this package is imported.

Files, and the variable DETECTRON2_DATASETS, are only read when a data set is loaded.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence

from sar.errors import InputError, listed, nearest
from sar.files.dataset_root import root as root

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog


def describe_root() -> str:
    """Return the location of `root()` and the reason for it, for error messages."""
    if os.environ.get("DETECTRON2_DATASETS"):
        return f"DETECTRON2_DATASETS is {os.environ['DETECTRON2_DATASETS']}"
    return f"DETECTRON2_DATASETS is not set, which means {os.path.abspath('datasets')}"


def register(
    name: str,
    load: Callable[[], list[dict]],
    class_names: Sequence[str],
    colors: Sequence[Sequence[int]],
    ignore_label: int = 255,
    **metadata,
) -> None:
    """Register a data set for semantic segmentation, and replace an earlier one with its name.

    Args:
        name: the name that DATASETS.TRAIN and DATASETS.TEST use.
        load: returns data set dicts as in detectron2; called when the data set is used.
        class_names: the K names, in the order of the ids.
        colors: K colours (r, g, b), 0 to 255, for pictures.
        ignore_label: the label of ignored pixels.
        **metadata: further attributes of the metadata.
    """
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        stuff_classes=list(class_names),
        stuff_colors=[list(color) for color in colors],
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
        **metadata,
    )


def load_dataset(name: str) -> list[dict]:
    """Load the data set dicts of a registered data set, at least one.

    Raises:
        InputError: the name is not registered, or files are missing.
    """
    if name not in DatasetCatalog:
        raise InputError(
            f'Data set not found: "{name}".{nearest(name, DatasetCatalog)} '
            "Use a registered name in DATASETS.TRAIN and DATASETS.TEST, or set DATASETS.FOLDER to "
            "a folder of images and labels."
        )
    remedy = (
        f"{describe_root()}: set it to the folder that holds the data sets (datasets/README.md "
        "shows the trees)."
    )
    try:
        dicts = DatasetCatalog.get(name)
    # The loaders of detectron2 raise these if files are missing.
    except (OSError, AssertionError) as error:
        raise InputError(f'The data set "{name}" cannot be loaded: {error}. {remedy}') from error
    if not dicts:
        raise InputError(f'The data set "{name}" is empty. {remedy}')
    return dicts


def metadata_of(name: str) -> Metadata:
    """Return the metadata of a registered data set, with `stuff_classes` and `ignore_label`.

    Raises:
        InputError: the name is not registered, its data set is not for semantic segmentation, or
            two classes have the same name.
    """
    if name not in DatasetCatalog:
        load_dataset(name)  # raises the error
    metadata = MetadataCatalog.get(name)
    for key in ("stuff_classes", "ignore_label"):
        if metadata.get(key) is None:
            raise InputError(
                f'The metadata of data set "{name}" have no {key}: name one for semantic '
                f'segmentation, or set it with MetadataCatalog.get("{name}").set({key}=...).'
            )
    counts = Counter(metadata.stuff_classes)
    if repeated := [class_name for class_name, count in counts.items() if count > 1]:
        raise InputError(
            f'The metadata of data set "{name}" name a class more than once in stuff_classes: '
            f"{listed(repeated)}. Give each class its own name, because metrics are named after "
            "the classes."
        )
    return metadata


# These modules use the functions above.
from sar.data.datasets import (  # noqa: E402
    ade20k_full,
    camvid,
    coco_stuff,
    longtail_rooms,
    longtail_shapes,
    pascal_context,
)

for module in (ade20k_full, camvid, coco_stuff, longtail_rooms, longtail_shapes, pascal_context):
    module.register()
