"""Import images and masks that are paired by their names.

All of these are read, with one mask for each image:

    images/train/a.jpg                       labels/train/a.png
    train/images/a.jpg                       train/masks/a_mask.png
    train/a.jpg                              train_labels/a_L.png
    leftImg8bit/train/city/a_leftImg8bit.png gtFine/train/city/a_gtFine_labelIds.png

Words for images and masks in folder names, words for splits, and endings such as "_mask" are
removed from both paths. What remains must be equal. The masks of all splits may lie in one
folder. Other names of folders need --images and --labels.
"""

import os
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path, PurePosixPath

from sar.data.datasets.folder import LABEL_SUFFIXES
from sar.data.importers.mask_values import MaskValues, classes_of_masks, describe_unpaired
from sar.data.importers.names import innermost_role, plain_name, split_of_folders
from sar.data.importers.source import Item, Options, Source
from sar.data.importers.tree import SOURCE_SUFFIXES, Tree
from sar.errors import InputError, listed

NAME = "masks"

_IMAGE_ENDS = re.compile(r"[-_. ](leftImg8bit|image|img|rgb|sat)$", re.IGNORECASE)
_LABEL_ENDS = re.compile(
    r"[-_. ]((?:gtFine|gtCoarse)_(?:labelIds|labelTrainIds|color|instanceIds)"
    r"|labelIds|labelTrainIds|masks?|labels?|gt|seg|annot|L)$"
)
_LOSSY = (".jpg", ".jpeg", ".webp", ".gif")
# Cityscapes has these next to the ids. Its instances are not classes.
_SECONDARY_ENDS = re.compile(r"_(color|instanceIds)$")


def recognize(tree: Tree) -> str | None:
    """Return why the files may be images with masks, or None."""
    labels = [path for path in tree.with_suffix(*LABEL_SUFFIXES) if _is_label(tree.relative(path))]
    images = [path for path in _images(tree) if not _is_label(tree.relative(path))]
    labels = labels or _masks_of_wrong_format(tree)  # refused by `read`
    if labels and images:
        return f"{len(images)} images and {len(labels)} masks, such as {labels[0]}"
    return None


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: no masks or images, several masks for an image, no classes; or as `MaskValues`.
    """
    images, masks = _find(tree, options)
    notes = describe_unpaired({key: path for key, (path, _) in images.items()}, masks)
    keys = sorted(images.keys() & masks.keys())
    if not masks:
        photos = {path for path, _ in images.values()}
        if wrong := set(_masks_of_wrong_format(tree, options.labels)) - photos:
            raise InputError(
                f"{len(wrong)} masks, such as {min(wrong)}, are in a format that can change their "
                "colours: export them again as PNG or TIFF."
            )
    if not keys:
        example = listed([path.name for path, _ in images.values()], 2)
        raise InputError(
            f"None of {len(images)} images ({example}) has a mask among {len(masks)} masks "
            f"({listed([path.name for path in masks.values()], 2)}): names must be equal, except "
            "for endings such as _mask. Give the folders with --images and --labels, and the "
            "ending of the masks with --label-suffix."
        )
    values = MaskValues(classes_of_masks(tree, options), [masks[key] for key in keys], options)

    items = [
        Item(images[key][0], images[key][1], key[0] or None, partial(values.draw, masks[key]))
        for key in keys
    ]
    return Source(values.classes, items, [masks[key] for key in keys], notes)


# The split ("" for none, so that keys can be sorted), and what remains of a path without words for
# splits, images and masks.
_Key = tuple[str, str]


def _find(tree: Tree, options: Options) -> tuple[dict[_Key, tuple[Path, str]], dict[_Key, Path]]:
    """Return the image, with its name in the new data set, and the mask for each key."""
    image_tree = Tree(options.images) if options.images else tree
    label_folder = os.path.abspath(options.labels) if options.labels else None
    label_tree = Tree(options.labels) if options.labels else tree
    images: dict[_Key, tuple[Path, str]] = {}
    for path in _images(image_tree):
        relative = image_tree.relative(path)
        if options.images is None and _is_label(relative, options.label_suffix):
            continue
        if options.images is None and label_folder is not None:
            if Path(os.path.abspath(path)).is_relative_to(label_folder):
                continue
        key = _key(relative, _IMAGE_ENDS)
        if key in images:
            raise InputError(
                f"{images[key][0]} and {path} are two images for one mask: rename or remove one, "
                "or give the folder of the images with --images."
            )
        images[key] = path, plain_name(relative)
    found: dict[_Key, list[Path]] = defaultdict(list)
    unpaired: list[tuple[Path, tuple[_Key, ...]]] = []
    suffix = options.label_suffix
    for path in label_tree.with_suffix(*LABEL_SUFFIXES):
        relative = label_tree.relative(path)
        if options.labels is None and not _is_label(relative, suffix):
            continue
        if suffix is None or relative.stem.endswith(suffix):
            ends = _LABEL_ENDS if suffix is None else re.compile(re.escape(suffix) + "$")
            keys = _key(relative), _key(relative, _IMAGE_ENDS), _key(relative, ends, _IMAGE_ENDS)
            if key := next((key for key in keys if key in images), None):
                found[key].append(path)
            else:
                unpaired.append((path, keys))
    # Masks in one folder may belong to images in a folder for each split.
    counts = Counter(name for _, name in images)
    unique = {key[1]: key for key in images if counts[key[1]] == 1 and key not in found}
    for path, keys in unpaired:
        matches = (unique[name] for split, name in keys if not split and name in unique)
        found[next(matches, keys[-1])].append(path)
    return images, {key: _choose(paths) for key, paths in found.items()}


def _masks_of_wrong_format(tree: Tree, folder: str | None = None) -> list[Path]:
    if folder:  # of masks only
        labels = Tree(folder)
        return [] if labels.with_suffix(*LABEL_SUFFIXES) else labels.with_suffix(*_LOSSY)
    return [path for path in tree.with_suffix(*_LOSSY) if _is_label(tree.relative(path))]


def _images(tree: Tree) -> list[Path]:
    return tree.with_suffix(*SOURCE_SUFFIXES)


def _choose(paths: list[Path]) -> Path:
    """Return the mask of an image: not Cityscapes' colours or instances if it has ids, too."""
    primary = [path for path in paths if not _SECONDARY_ENDS.search(path.stem)] or paths
    if len(primary) > 1:
        raise InputError(
            f"{listed(primary, 3)} are masks of the same image: choose one kind with "
            "--label-suffix, such as --label-suffix _labelIds, or one folder with --labels."
        )
    return primary[0]


def _is_label(path: PurePosixPath, suffix: str | None = None) -> bool:
    """Return if a relative path is a mask: the innermost word for images or masks decides."""
    end = _LABEL_ENDS.search(path.stem)
    if suffix is not None and path.stem.endswith(suffix) or end and end[1] != "L":
        return True
    if role := innermost_role(path):
        return role == "label"
    return end is not None  # "a_L" is CamVid's mask of "a", but may also be a left image


def _key(path: PurePosixPath, *ends: re.Pattern) -> _Key:
    name = plain_name(path)
    for end in ends:
        name = end.sub("", name)
    return split_of_folders(path) or "", name
