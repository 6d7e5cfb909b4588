"""Class counts of a training set, which decide if a class is frequent, common or rare."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sar.errors import InputError, shortened
from sar.files.atomic import write_atomically

from detectron2.config import CfgNode


@dataclass(frozen=True)
class ClassFrequency:
    """Counts over the K classes of a training set.

    Attributes:
        class_names: the K names, in the order of the ids.
        num_images: number of images counted.
        images: for each class, the number of images that show it.
        pixels: for each class, its number of pixels.
        ignored_pixels: number of pixels with the ignore label.
        datasets: names of the data sets that were counted, or their folder; () if that is unknown.
        fingerprint: `fingerprint_of` the label files that were counted; "" if that is unknown.
    """

    class_names: tuple[str, ...]
    num_images: int
    images: tuple[int, ...]
    pixels: tuple[int, ...]
    ignored_pixels: int
    datasets: tuple[str, ...] = ()
    fingerprint: str = ""

    def save(self, path: str | os.PathLike) -> None:
        """Write the counts as JSON."""
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike, num_classes: int | None = None) -> "ClassFrequency":
        """Read a file of `save`.

        Args:
            num_classes: expected K; None accepts any.

        Raises:
            InputError: the file is missing or malformed, or K differs. The message names file and
                key, with the expected and the found value.
        """
        if not os.path.exists(path):
            raise _malformed(path, "the file does not exist")
        if not os.path.isfile(path):  # opening a pipe would wait forever
            raise _malformed(path, "it is not a file")
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError, RecursionError) as error:
            raise _malformed(path, f"it cannot be read as JSON ({error})") from error
        if not isinstance(content, dict):
            raise _malformed(path, f"expected an object, found {shortened(content)}")

        names, datasets = content.get("class_names"), content.get("datasets", [])
        fingerprint = content.get("fingerprint", "")
        if not (_are_names(names) and names):
            raise _malformed(path, 'key "class_names"', "a list of names", shortened(names))
        if num_classes not in (None, len(names)):
            expected = f"{num_classes} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
            raise _malformed(path, f"expected {expected}, found {len(names)}")
        if not _are_names(datasets):
            raise _malformed(path, 'key "datasets"', "a list of names", shortened(datasets))
        if not isinstance(fingerprint, str):
            raise _malformed(path, 'key "fingerprint"', "a text", shortened(fingerprint))
        for key in ("num_images", "ignored_pixels"):
            if not _is_count(content.get(key)):
                found = shortened(content.get(key))
                raise _malformed(path, f'key "{key}"', "a count, 0 or more", found)
        for key in ("images", "pixels"):
            counts = content.get(key)
            if not (isinstance(counts, list) and all(map(_is_count, counts))):
                found = shortened(counts)
                raise _malformed(path, f'key "{key}"', "a list of counts, 0 or more", found)
            if len(counts) != len(names):
                expected = f"{len(names)} counts, one for each of class_names"
                raise _malformed(path, f'key "{key}"', expected, f"{len(counts)} counts")
            if not any(counts):
                raise _malformed(path, f'key "{key}"', "a count above 0", "only zeros")
        if max(content["images"]) > content["num_images"]:
            expected = f"no count above num_images ({content['num_images']})"
            raise _malformed(path, 'key "images"', expected, max(content["images"]))
        return cls(
            class_names=tuple(names),
            num_images=content["num_images"],
            images=tuple(content["images"]),
            pixels=tuple(content["pixels"]),
            ignored_pixels=content["ignored_pixels"],
            datasets=tuple(datasets),
            fingerprint=fingerprint,
        )

    def counts_the_same(self, other: "ClassFrequency") -> bool:
        """Return True if classes and counts are equal; data sets and fingerprints may differ."""
        counts = ("class_names", "num_images", "images", "pixels", "ignored_pixels")
        return all(getattr(self, name) == getattr(other, name) for name in counts)


def fingerprint_of(label_files: Iterable[str]) -> str:
    """Return a text that changes if label files are added, removed, renamed or written again.

    It depends on the paths below the common folder, the sizes and the times of change. The files
    are not read, so 100,000 files take about a second.

    Raises:
        OSError: a file is not there.
    """
    files = sorted(map(os.path.abspath, label_files))
    folder = os.path.commonpath(list(map(os.path.dirname, files))) if files else ""
    digest = hashlib.sha256()
    for file in files:
        status = os.stat(file)
        name = file[len(folder) :].lstrip("/")
        digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()


# The counts of this process, by training set and DATASETS.CLASS_FREQUENCY.
_known: dict[tuple, ClassFrequency] = {}


def note_class_frequency(cfg: CfgNode, frequency: ClassFrequency | None) -> None:
    """Set the counts that `class_frequency_of` returns for a config; None removes them."""
    _known.pop(_key(cfg), None)
    if frequency is not None:
        _known[_key(cfg)] = frequency


def class_frequency_of(cfg: CfgNode) -> ClassFrequency | None:
    """Return the noted counts of a config's training set, else DATASETS.CLASS_FREQUENCY.

    Raises:
        InputError: the file of DATASETS.CLASS_FREQUENCY is missing or malformed, or has another
            number of classes.
    """
    path, num_classes = cfg.DATASETS.CLASS_FREQUENCY, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if _key(cfg) in _known:
        return _known[_key(cfg)]
    return ClassFrequency.load(path, num_classes) if path else None


def _key(cfg: CfgNode) -> tuple:
    return (*cfg.DATASETS.TRAIN, cfg.DATASETS.CLASS_FREQUENCY)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _malformed(
    path: str | os.PathLike, problem: str, expected: str | None = None, found: object = None
) -> InputError:
    if expected is not None:
        problem = f"{problem}: expected {expected}, found {found}"
    return InputError(
        f"Class-frequency file {path}: {problem}. Write it again with tools/check_dataset.py, "
        "or correct DATASETS.CLASS_FREQUENCY."
    )
