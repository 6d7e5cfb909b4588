"""Import data sets from the exports of annotation tools, one file per format.

An importer module has three members: NAME; `recognize(tree)`, which returns why the files may be in
its format, or None; and `read(tree, options)`, which returns a `Source`.
"""

from types import ModuleType

from sar.data.importers import (
    coco,
    cvat_xml,
    label_studio,
    labelme,
    mask_folders,
    roboflow,
    voc,
    yolo,
)
from sar.data.importers.tree import Tree
from sar.errors import InputError, nearest

IMPORTERS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (coco, cvat_xml, labelme, label_studio, yolo, roboflow, voc, mask_folders)
}


def find_importer(tree: Tree, name: str | None) -> ModuleType:
    """Return the importer of a source.

    Args:
        name: the name of the format; None: recognize it.

    Raises:
        InputError: no importer has the name; or the files fit no format, or several formats.
    """
    if name is not None:
        if name not in IMPORTERS:
            raise InputError(
                f'--format names "{name}", expected one of {", ".join(IMPORTERS)}.'
                f"{nearest(name, IMPORTERS)}"
            )
        return IMPORTERS[name]
    reasons = {
        name: reason for name, found in IMPORTERS.items() if (reason := found.recognize(tree))
    }
    if len(reasons) > 1:  # images with masks are part of other formats
        reasons.pop(mask_folders.NAME, None)
    if len(reasons) == 1:
        return IMPORTERS[next(iter(reasons))]
    if reasons:
        raise InputError(
            f"{tree.root} may be in {len(reasons)} formats. Choose one with --format:",
            *(f"  --format {name}: {reason}" for name, reason in reasons.items()),
        )
    raise InputError(
        f"{tree.root} is in no format that is recognized. Expected one of "
        f"{', '.join(IMPORTERS)}; docs/import.md shows their files. If images and masks are in "
        "folders with other names, give both with --images and --labels."
    )
