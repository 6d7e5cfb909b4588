"""Import Roboflow's export "Semantic Segmentation Masks".

train/_classes.csv      Pixel Value, Class: one line per class
train/NAME.jpg          an image
train/NAME_mask.png     its mask: one channel of pixel values
valid/, test/           likewise
"""

import csv
from functools import partial
from pathlib import Path

from sar.data.importers.mask_values import MaskValues, describe_unpaired
from sar.data.importers.names import split_of_folders, without_suffix
from sar.data.importers.source import Item, Options, Source, SourceClass
from sar.data.importers.tree import SOURCE_SUFFIXES, Tree, add_unique, read_text
from sar.errors import InputError

NAME = "roboflow"

_CLASSES, _END = "_classes.csv", "_mask"


def recognize(tree: Tree) -> str | None:
    """Return why the files may be Roboflow's masks, or None."""
    found = tree.named(_CLASSES)
    has_masks = any(path.stem.endswith(_END) for path in tree.with_suffix(".png"))
    return f"{found[0]} and masks NAME{_END}.png" if found and has_masks else None


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: a class file is wrong, two of them differ, two files have one name, or no image
            has a mask.
    """
    files = tree.named(_CLASSES)
    classes = read_classes(files[0])
    for other in files[1:]:
        if read_classes(other) != classes:
            raise InputError(
                f"{files[0]} and {other} have different classes: export all splits together."
            )
    masks: dict[str, Path] = {}
    images: dict[str, Path] = {}
    for path in tree.with_suffix(*SOURCE_SUFFIXES):
        name = without_suffix(tree.relative(path))
        if path.suffix.lower() == ".png" and name.endswith(_END):
            add_unique(masks, name.removesuffix(_END), path, "masks")
        else:
            add_unique(images, name, path, "images")
    keys = sorted(masks.keys() & images.keys())
    if not keys:
        raise InputError(f"No image in {tree.root} has a mask (NAME{_END}.png): export it again.")
    notes = describe_unpaired(images, masks)
    values = MaskValues(classes, [masks[key] for key in keys], options)

    items = [
        Item(
            image=images[key],
            name=images[key].with_suffix("").name,
            split=split_of_folders(tree.relative(images[key])),
            draw=partial(values.draw, masks[key]),
        )
        for key in keys
    ]
    return Source(values.classes, items, [*files, *(masks[key] for key in keys)], notes)


def read_classes(path: Path) -> list[SourceClass]:
    """Read Roboflow's class file.

    Raises:
        InputError: the file cannot be read, a line is not `number, name`, or a number is repeated.
    """
    lines = csv.reader(read_text(path).splitlines())
    classes: dict[int, SourceClass] = {}
    for number, words in enumerate(lines, start=1):
        words = [word.strip() for word in words]
        if not any(words) or number == 1 and not words[0].isdecimal():
            continue
        if len(words) != 2 or not words[0].isdecimal() or not words[1]:
            raise InputError(
                f'{path}, line {number}: expected "PIXEL VALUE, CLASS", found '
                f'"{", ".join(words)}". Export it again.'
            )
        if (value := int(words[0])) in classes:
            raise InputError(f"{path}, line {number}: the pixel value {value} is named before.")
        classes[value] = SourceClass(words[1], id=value)
    return list(classes.values())
