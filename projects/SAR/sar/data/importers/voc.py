"""Import masks in the folders of PASCAL VOC, such as CVAT's export "Segmentation mask 1.1".

    labelmap.txt                         CVAT: name:colour:parts:actions
    JPEGImages/a.jpg                     the images
    SegmentationClass/a.png              masks: colours of labelmap.txt; without it, ids
    ImageSets/Segmentation/train.txt     the names of the images of a split, one per line

Without lists in ImageSets, the folders of the images say the split. Other sub-folders are kept. The
id 255 of VOC's masks, the outline of objects, is ignored.
"""

from functools import partial
from pathlib import Path, PurePosixPath

from sar.data.datasets.folder import LABEL_SUFFIXES
from sar.data.importers.mask_values import MaskValues, classes_of_masks, describe_unpaired
from sar.data.importers.names import plain_name, split_of_folders, split_of_word, without_suffix
from sar.data.importers.source import Item, Options, Source
from sar.data.importers.tree import SOURCE_SUFFIXES, Tree, add_unique, read_text
from sar.errors import InputError, listed

NAME = "voc"

_MASKS, _IMAGES = "segmentationclass", "jpegimages"


def recognize(tree: Tree) -> str | None:
    """Return why the files may have the folders of PASCAL VOC, or None."""
    masks = _below(tree, _MASKS, LABEL_SUFFIXES)
    return f"the folder SegmentationClass with {len(masks)} masks" if masks else None


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: the images are not there, no mask has an image, two files have one name, no
            classes; or as `MaskValues`.
    """
    masks = _by_name(_below(tree, _MASKS, LABEL_SUFFIXES), "masks")
    image_tree = Tree(options.images) if options.images else tree
    if options.images:
        images: dict[str, Path] = {}
        for path in image_tree.with_suffix(*SOURCE_SUFFIXES):
            add_unique(images, without_suffix(image_tree.relative(path)), path, "images")
    else:
        images = _by_name(_below(tree, _IMAGES, SOURCE_SUFFIXES), "images")
    keys = sorted(masks.keys() & images.keys())
    if not keys:
        raise InputError(
            f"None of the {len(masks)} masks in SegmentationClass below {tree.root} has an image "
            f"of its name in {options.images or 'JPEGImages'}: {listed(sorted(masks), 3)}. Give "
            "the folder of the images with --images. If the export was made without images, export "
            "it again with them."
        )
    notes = describe_unpaired(images, masks)
    values = MaskValues(classes_of_masks(tree, options), [masks[key] for key in keys], options)
    splits, lists = _splits(tree)

    items = []
    for key in keys:
        image = images[key]
        name = plain_name(PurePosixPath(f"{key}{image.suffix}"))
        split = splits.get(key) or split_of_folders(image_tree.relative(image))
        items.append(Item(image, name, split, partial(values.draw, masks[key])))
    return Source(values.classes, items, [*lists, *(masks[key] for key in keys)], notes)


def _below(tree: Tree, folder: str, suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Return the files below all folders of a name (lower case), with their path below it."""
    found = []
    for path in tree.with_suffix(*suffixes):
        parts = tree.relative(path).parts
        places = [i for i, part in enumerate(parts[:-1]) if part.lower() == folder]
        if places:
            found.append((without_suffix(PurePosixPath(*parts[places[0] + 1 :])), path))
    return found


def _by_name(files: list[tuple[str, Path]], what: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in files:
        add_unique(found, name, path, what)
    return found


def _splits(tree: Tree) -> tuple[dict[str, str], list[Path]]:
    """Return the split of each image in the lists of ImageSets, and the lists.

    CVAT's list "default" means no split. Lists such as "trainval" are not splits.

    Raises:
        InputError: an image is in the lists of two splits.
    """
    found: dict[str, str] = {}
    lists = []
    for path in tree.with_suffix(".txt"):
        parts = [part.lower() for part in tree.relative(path).parts]
        split = split_of_word(path.stem)
        if "imagesets" not in parts or parts[-2] not in ("segmentation", "imagesets") or not split:
            continue
        lists.append(path)
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            # CVAT quotes names with blanks.
            name = line.strip().strip("\"'")
            if name and found.setdefault(name, split) != split:
                raise InputError(
                    f'{path}, line {number}: "{name}" is in the split {found[name]}, too: remove '
                    "one of the two lines, or divide the images again with --split."
                )
    return found, lists
