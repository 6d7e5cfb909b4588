"""A data set that is a folder: no Python needed.

    FOLDER/
      classes.txt           a class name a line; the first is id 0
      images/train/         png, jpg, jpeg, tif, tiff or bmp; sub-folders are kept
      images/val/
      images/test/          if you keep one for the end
      labels/train/         for each image, a file of its name (png, tif, tiff or bmp): 8 or 16
      labels/val/           bits, one channel of ids
      labels/test/

A folder of point clouds has clouds instead of images and labels. A cloud holds its labels:

      clouds/train/         npz, ply, las, laz, txt, xyz, csv, pts or bin; sub-folders are kept
      clouds/val/
      clouds/test/

groups.json is optional: groups of classes that get means of their own (group_file.py).

A split is a data set if it has both images and labels, or clouds; empty folders do not count. A
line of classes.txt is `name`, `name r g b` (0 to 255) or `name #rrggbb`; a name may have blanks.
Blank lines and lines that start with # do not count; class_file.py describes the other forms.
Pixels labelled 255 are ignored; with more than 255 classes, which need 16-bit labels, those
labelled 65535.
"""

import logging
import os
import unicodedata
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

from sar.cli import call_of
from sar.data import datasets
from sar.data.clouds import CLOUD_SUFFIXES, is_other_text, label_file
from sar.data.datasets.class_file import read_class_file
from sar.data.datasets.group_file import read_group_file
from sar.errors import InputError, listed, nearest, printable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
SPLITS = ("train", "val", "test")
# Sub-folders of a folder of images, and of a folder of point clouds.
IMAGES, CLOUDS = ("images", "labels"), ("clouds",)
# Folders that operating systems and network storage create, besides names with a leading dot.
_SYSTEM_FOLDERS = {
    "@eadir", "@recycle", "@__thumb", "#recycle", "#snapshot", "__macosx", "$recycle.bin",
    "system volume information", "lost+found", "__pycache__", "@tmp", "@recently-snapshot",
    "@transcode", "@sharesnap", "@synoeastream", "~snapshot", "recycler", "_thumbs",
    "network trash folder", "temporary items", "thevolumesettingsfolder",
}  # fmt: skip

logger = logging.getLogger(__name__)


def register_folder(path: str | os.PathLike) -> tuple[str, ...]:
    """Register the splits of a folder, again if they are registered already.

    Images and labels are listed when a split is loaded, and not opened even then. The training
    split is registered even if it is not there, so that loading it says what is missing.

    Returns:
        the names of the splits (of SPLITS) with images and labels: `folder_<folder>_<split>`.

    Raises:
        InputError: the folder or classes.txt is missing, or classes.txt or groups.json is wrong.
            Loading a split raises it for an empty folder and for images without label.
    """
    folder = _resolved(path)
    if not os.path.isdir(folder):
        raise InputError(
            f"Folder not found: {folder} (DATASETS.FOLDER): correct the path. {_layout()}"
        )
    classes = read_class_file(folder / "classes.txt", _layout())
    class_names = [name for name, _ in classes]
    own_groups = read_group_file(folder / "groups.json", class_names)
    complete = [split for split in SPLITS if not missing_parts(folder, split)]
    prefix = _prefix(folder)
    parts = parts_of(folder)
    for split in SPLITS:
        name = f"{prefix}_{split}"
        if split != "train" and split not in complete:
            for catalog in (DatasetCatalog, MetadataCatalog):  # it may have been there before
                if name in catalog:
                    catalog.remove(name)
            continue
        image_root, label_root = folder / parts[0] / split, folder / parts[-1] / split
        if parts == CLOUDS:
            load = partial(list_clouds, image_root, remedy=_layout())
        else:
            load = partial(pair_images_and_labels, image_root, label_root, remedy=_layout())
        datasets.register(
            name,
            load,
            class_names,
            _with_default_colors(classes),
            ignore_label=ignore_label_for(len(class_names)),
            image_root=str(image_root),
            sem_seg_root=str(label_root),
            own_groups=own_groups,
            given_colors={i: color for i, (_, color) in enumerate(classes) if color is not None},
        )
    return tuple(f"{prefix}_{split}" for split in complete)


def parts_of(folder: str | os.PathLike) -> tuple[str, ...]:
    """Return the names of the sub-folders of a folder's splits: IMAGES, or CLOUDS if it has them.

    Raises:
        InputError: the folder has both.
    """
    folder = Path(folder).expanduser()
    if not (folder / CLOUDS[0]).is_dir():
        return IMAGES
    if (folder / IMAGES[0]).is_dir():
        raise InputError(
            f"{folder} has images and clouds: move one of the two to a folder of its own"
        )
    return CLOUDS


def ignore_label_for(num_classes: int) -> int:
    """Return the id of ignored pixels, the largest of the labels' bits: 8, or 16 when needed."""
    return 65535 if num_classes > 255 else 255


def choose_splits(cfg: CfgNode, *, test_is_set: bool) -> None:
    """Register DATASETS.FOLDER, and complete DATASETS.TRAIN and DATASETS.TEST in place.

    TRAIN becomes the training split, and cannot be another data set. TEST becomes the validation
    split by default; names that are set stay, and a TEST that is set to () means no evaluation.

    Args:
        test_is_set: the config file or the command line sets DATASETS.TEST.

    Raises:
        InputError: as `register_folder`; DATASETS.TRAIN names another data set; DATASETS.TEST names
            a data set that does not exist; by default, the validation split has images but no
            labels, or labels but no images.
    """
    folder = _resolved(cfg.DATASETS.FOLDER)
    names = register_folder(folder)
    prefix = _prefix(folder)
    train, val = f"{prefix}_train", f"{prefix}_val"
    if cfg.DATASETS.TRAIN not in ((), (train,)):
        raise InputError(
            f'DATASETS.TRAIN names "{listed(cfg.DATASETS.TRAIN)}", but DATASETS.FOLDER {folder} '
            f'trains on "{train}": remove one of the two settings.'
        )
    cfg.DATASETS.TRAIN = (train,)
    for name in cfg.DATASETS.TEST:
        if name in DatasetCatalog:
            continue
        split = name.removeprefix(f"{prefix}_")
        missing = missing_parts(folder, split) if name != split and split in SPLITS else ()
        reason = f" ({describe_missing(missing[0])})" if missing else ""
        raise InputError(
            f'DATASETS.TEST names "{name}", which does not exist{reason}: the splits '
            f"of DATASETS.FOLDER {folder} are {listed(names) or 'not there'}."
            f"{nearest(name, names or DatasetCatalog)}"
        )
    if cfg.DATASETS.TEST or test_is_set:
        return
    if val in names:
        cfg.DATASETS.TEST = (val,)
        return
    missing = missing_parts(folder, "val")
    if len(missing) == 1 and parts_of(folder) == IMAGES:
        raise InputError(
            f"The validation split cannot be used, because {describe_missing(missing[0])}: add "
            'the files, or set DATASETS.TEST "()" to train without evaluation.'
        )
    needed = " and ".join(f"{part}/val" for part in parts_of(folder))
    logger.warning(
        f"The run does not evaluate: {printable(folder)} has no validation split ({needed})."
    )


def _layout() -> str:
    """Return which files a folder needs, and the command that makes such a folder."""
    return (
        "The folder needs classes.txt (a class name a line), images/train and labels/train, and "
        "may have images and labels of val and test. A folder of point clouds has clouds/train "
        "instead, and may have clouds/val and clouds/test. datasets/README.md shows both. To "
        "convert an export of an annotation tool, run: "
        f"{call_of('tools/import_dataset.py')} EXPORT --output FOLDER"
    )


def _resolved(path: str | os.PathLike) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _prefix(folder: Path) -> str:
    """Return the start of the names of the folder's splits, as in `register_folder`."""
    prefix = f"folder_{folder.name}"
    train = f"{prefix}_train"
    if train in DatasetCatalog:
        if MetadataCatalog.get(train).image_root != str(folder / parts_of(folder)[0] / "train"):
            # Another folder of the same name; the checksum does not depend on the order.
            prefix += f"_{zlib.crc32(str(folder).encode()):08x}"
    return prefix


def missing_parts(folder: str | os.PathLike, split: str) -> list[Path]:
    """Return which folders of a split (`parts_of`) do not exist or are empty.

    An empty training split counts as there, so that it is reported.
    """
    paths = [Path(folder).expanduser() / part / split for part in parts_of(folder)]
    return [path for path in paths if not path.is_dir() or split != "train" and _is_empty(path)]


def _is_empty(folder: Path) -> bool:
    try:
        return all(map(is_system_folder, os.listdir(folder)))
    except OSError:  # no permission to read it, which is reported later
        return False


def describe_missing(path: Path) -> str:
    """Return what is wrong with one of the `missing_parts`."""
    return f"the folder {path} is empty" if path.is_dir() else f"the folder {path} does not exist"


def read_classes(path: str | os.PathLike) -> tuple[list[str], list[list[int]]]:
    """Read classes.txt.

    Returns:
        the K names in the order of the ids, and K colours [r, g, b]; classes without a colour of
        their own get one from `default_color`.

    Raises:
        InputError: as `read_class_file`.
    """
    classes = read_class_file(path, _layout())
    return [name for name, _ in classes], _with_default_colors(classes)


def _with_default_colors(classes: list[tuple[str, list[int] | None]]) -> list[list[int]]:
    return [color or default_color(k) for k, (_, color) in enumerate(classes)]


def default_color(class_id: int) -> list[int]:
    """Return the colour [r, g, b] of a class without one: a colour of PASCAL VOC, never black.

    The bits of `class_id + 1` are dealt in turn to red, green and blue, the most significant first.
    """
    color = [0, 0, 0]
    remaining = class_id + 1
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (remaining & 1) << shift
            remaining >>= 1
    return color


def default_colors(num_classes: int) -> list[list[int]]:
    """The `default_color` of each of K classes; all differ."""
    return [default_color(class_id) for class_id in range(num_classes)]


def pair_images_and_labels(
    image_root: str | os.PathLike, label_root: str | os.PathLike, *, remedy: str
) -> list[dict]:
    """List the images under a folder with their labels, which have the same path up to the ending.

    Unicode's composed and decomposed forms of a name are the same name. Hidden files, hidden
    folders and system folders are skipped. A label without image is left out, with a warning in
    the log.

    Args:
        image_root: the folder of the images, sub-folders included.
        label_root: the folder of the labels.
        remedy: the end of the error messages: what the folders should hold.

    Returns:
        data set dicts with "file_name", "sem_seg_file_name" and "image_id" (the path under
        `image_root` without its ending, in NFC), sorted by "image_id".

    Raises:
        InputError: no such folder, no image in it, two images or two labels of one name, images
            without label.
    """
    images = files_by_stem(image_root, IMAGE_SUFFIXES, "images", remedy)
    labels = files_by_stem(label_root, LABEL_SUFFIXES, "labels", remedy)
    unlabelled = _below(image_root, images, images.keys() - labels.keys())
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(images)} images in {image_root} have no label in "
            f"{label_root}: {listed(unlabelled)}. Add a label of the same name for each "
            f"({', '.join(LABEL_SUFFIXES)}), or take the images out. {remedy}"
        )
    orphans = _below(label_root, labels, labels.keys() - images.keys())
    if orphans:
        logger.warning(
            f"{len(orphans)} labels in {printable(label_root)} have no image in "
            f"{printable(image_root)} and are not used: {printable(listed(orphans))}."
        )
    return [
        {"file_name": images[stem], "sem_seg_file_name": labels[stem], "image_id": stem}
        for stem in sorted(images)
    ]


def list_clouds(root: str | os.PathLike, *, remedy: str) -> list[dict]:
    """List the point clouds under a folder, each with the file that holds its labels.

    Returns:
        data set dicts with "file_name", "sem_seg_file_name" (the same file, or the .label of a scan
        of KITTI) and "image_id", as `pair_images_and_labels`.

    Raises:
        InputError: no such folder, no cloud in it, or two clouds of one name.
    """
    clouds = files_by_stem(root, CLOUD_SUFFIXES, "clouds", remedy)
    return [
        {"file_name": path, "sem_seg_file_name": str(label_file(path) or path), "image_id": stem}
        for stem, path in sorted(clouds.items())
    ]


def _below(folder: str | os.PathLike, files: dict[str, str], stems: set[str]) -> list[str]:
    """Return the paths of some files, sorted, as they are named below a folder."""
    return [os.path.relpath(files[stem], folder) for stem in sorted(stems)]


def files_by_stem(
    folder: str | os.PathLike, suffixes: tuple[str, ...], what: str, remedy: str
) -> dict[str, str]:
    """Return the path of each file with one of the suffixes, by its relative path without it.

    The keys are in Unicode's composed form, NFC. Hidden files, hidden folders and system folders
    are skipped, and so are text files that are no clouds, such as README.txt, with a warning in the
    log.

    Args:
        suffixes: in lower case, with their dots.
        what: how messages call the files, such as "labels".
        remedy: the end of some messages.

    Raises:
        InputError: the folder is missing, cannot be read or holds none; two files of one name.
    """
    if not os.path.isdir(folder):
        raise InputError(f"Folder of {what} not found: {folder}. {remedy}")

    def refuse(error: OSError) -> None:
        raise InputError(f"The folder {folder} of {what} cannot be read: {error}.") from error

    found: dict[str, str] = {}
    others: Counter[str] = Counter()  # suffixes of other files
    texts: list[str] = []
    for directory, subfolders, files in os.walk(folder, followlinks=True, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not is_system_folder(name)]
        for subfolder in subfolders:
            refuse_circle(directory, subfolder)
        below = Path(os.path.relpath(directory, folder)).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for file in files:
            stem, suffix = os.path.splitext(file)
            if file.startswith("."):  # the systems' own: macOS writes ._NAME.jpg
                continue
            if suffix.lower() not in suffixes:
                others[suffix] += 1
                continue
            path = os.path.join(directory, file)
            if is_other_text(path):
                others[suffix] += 1
                texts.append(path)
                continue
            key = unicodedata.normalize("NFC", prefix + stem)
            if key in found:
                raise InputError(
                    f"{found[key]} and {path} are two {what} of the same name: rename or remove "
                    "one."
                )
            found[key] = path
    if texts:
        logger.warning(
            f"The text files without points in {printable(folder)} are not used: "
            f"{printable(listed(sorted(texts), 3))}."
        )
    if not found:
        ends = [f"{suffix or 'without an ending'} ({n})" for suffix, n in others.most_common()]
        holds = f" but other files ({listed(ends)})" if others else ""
        raise InputError(
            f"The folder {folder} holds no {what} ({', '.join(suffixes)}){holds}: fill it. {remedy}"
        )
    return found


def is_system_folder(folder_name: str) -> bool:
    """Return True for hidden folders and for folders that operating systems create."""
    return folder_name.startswith(".") or folder_name.lower() in _SYSTEM_FOLDERS


def refuse_circle(directory: str, subfolder: str) -> None:
    """Raise InputError if a folder is a link to a folder that contains it."""
    link = os.path.join(directory, subfolder)
    if not os.path.islink(link):
        return
    target = os.path.realpath(link)
    folders = (os.path.realpath(folder) for folder in (directory, *Path(directory).parents))
    if any(Path(folder).is_relative_to(target) for folder in folders):
        raise InputError(f"The link {link} leads back to {target}, which it is in: remove it.")
