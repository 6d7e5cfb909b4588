"""The data sets; importing this package registers those that have a name of their own.

Nothing is read before a data set is loaded, DETECTRON2_DATASETS included.
"""

import os
from collections.abc import Callable, Sequence

from sar.errors import InputError, nearest
from sar.files.dataset_root import root as root

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog


def describe_root() -> str:
    """Where `root()` points and why, for error messages."""
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
    """Registers a data set for semantic segmentation, in place of an earlier one of that name.

    Args:
        name: the name that DATASETS.TRAIN and DATASETS.TEST use.
        load: returns detectron2's data set dicts; called when the data set is used.
        class_names: the K names, in the order of the ids.
        colors: K colours (r, g, b), 0 to 255, for pictures.
        ignore_label: the label of pixels that count for nothing.
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
    """The data set dicts of a registered data set, at least one.

    Raises:
        InputError: the name is not registered (with the nearest that is), or its files are not
            where they should be.
    """
    if name not in DatasetCatalog:
        raise InputError(
            f'There is no data set "{name}".{nearest(name, DatasetCatalog)} '
            "Registered names are used in DATASETS.TRAIN and DATASETS.TEST; a folder of images "
            "and labels is given by DATASETS.FOLDER."
        )
    remedy = (
        f"{describe_root()}: set it to the folder that holds the data sets (datasets/README.md "
        "shows the trees)."
    )
    try:
        dicts = DatasetCatalog.get(name)
    # What detectron2's own loaders raise where files are missing.
    except (OSError, AssertionError) as error:
        raise InputError(f'The data set "{name}" cannot be loaded: {error}. {remedy}') from error
    if not dicts:
        raise InputError(f'The data set "{name}" is empty. {remedy}')
    return dicts


def metadata_of(name: str) -> Metadata:
    """The metadata of a registered data set, with `stuff_classes` and `ignore_label`.

    Raises:
        InputError: the name is not registered, or its data set is not for semantic segmentation.
    """
    if name not in DatasetCatalog:
        load_dataset(name)  # says what is known
    metadata = MetadataCatalog.get(name)
    for key in ("stuff_classes", "ignore_label"):
        if metadata.get(key) is None:
            raise InputError(
                f'The metadata of data set "{name}" have no {key}: name one for semantic '
                f'segmentation, or set it with MetadataCatalog.get("{name}").set({key}=...).'
            )
    return metadata


# These use what is defined above.
from sar.data.datasets import ade20k_full, camvid, coco_stuff, longtail_shapes, pascal_context  # noqa: E402

for module in (ade20k_full, camvid, coco_stuff, longtail_shapes, pascal_context):
    module.register()
