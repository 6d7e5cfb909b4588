"""Read splits and roles from the names of folders, and name images in the new data set."""

import re
import unicodedata
from pathlib import PurePosixPath

_SPLITS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Such as "trainannot", "train2017" and "valmasks".
_SPLIT_AND_ROLE = re.compile(r"(train|val|test)(?:annot|masks?|labels?|images?|\d+)")

_IMAGE_FOLDERS = {
    "image", "images", "img", "imgs", "leftimg8bit", "jpegimages", "rgb", "photo", "photos",
    "picture", "pictures", "input", "inputs", "frames", "original", "originals",
}  # fmt: skip
_LABEL_FOLDERS = {
    "label", "labels", "mask", "masks", "gt", "gtfine", "gtcoarse", "annotation", "annotations",
    "annot", "segmentation", "segmentations", "segmentationclass", "groundtruth", "truth", "target",
    "targets", "seg",
}  # fmt: skip
# Words next to them: "color_masks", "obj_train_data", "leftImg8bit_trainvaltest", "labels part 2".
_OTHER_WORDS = {
    "set", "split", "data", "dataset", "obj", "color", "colors", "colour", "colours", "png", "jpg",
    "semantic", "class", "classes", "ids", "raw", "all", "part", "trainval", "trainvaltest",
}  # fmt: skip


def plain_name(path: PurePosixPath) -> str:
    """Return the name of an image in the new data set: its relative path without suffix.

    Folders that only name a split or a role, such as images/train, are left out.
    """
    folders = [part for part in path.parent.parts if not (role_of(part) or _split_of_folder(part))]
    return "/".join([*folders, without_suffix(PurePosixPath(path.name))])


def role_of(folder: str) -> str | None:
    """Return "image" or "label" if the name of a folder says what it holds, and nothing else."""
    known = _IMAGE_FOLDERS | _LABEL_FOLDERS | _OTHER_WORDS | _SPLITS.keys()
    words = {
        word if word in known else re.sub("^(train|val|test)(?=[a-z])", "", word)
        for word in _words(folder)
    }
    if not all(word in known or word.isdecimal() for word in words):
        return None
    if _LABEL_FOLDERS & words:
        return "label"
    return "image" if _IMAGE_FOLDERS & words else None


def innermost_role(path: PurePosixPath) -> str | None:
    """Return the role that the innermost such folder of a path names, or None."""
    return next(filter(None, map(role_of, reversed(path.parent.parts))), None)


def without_suffix(path: PurePosixPath) -> str:
    """Return a relative path without suffix in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def folded(name: str) -> str:
    """Return a name in a form that is equal for names that differ only in case."""
    return unicodedata.normalize("NFC", name).casefold()


def split_of(path: PurePosixPath) -> str | None:
    """Return the split that the folders or the stem of a path name, or None.

    The innermost folder with a split decides. The stem counts if no folder names a split.
    """
    return split_of_folders(path) or split_of_word(path.stem)


def split_of_folders(path: PurePosixPath) -> str | None:
    """Return the split that the innermost such folder of a path names, or None."""
    return next(filter(None, map(_split_of_folder, reversed(path.parent.parts))), None)


def split_of_word(word: str) -> str | None:
    """Return the split that a word such as "Train" or "instances_val2017" names, or None."""
    return next(filter(None, map(_split_of_token, _words(word))), None)


def _split_of_folder(folder: str) -> str | None:
    """Return the split that a folder names. The folder "test track" names none."""
    known = _IMAGE_FOLDERS | _LABEL_FOLDERS | _OTHER_WORDS
    words = _words(folder)
    if not all(word in known or word.isdecimal() or _split_of_token(word) for word in words):
        return None
    return split_of_word(folder)


def _split_of_token(token: str) -> str | None:
    match = _SPLIT_AND_ROLE.fullmatch(token)
    return match[1] if match else _SPLITS.get(token)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
