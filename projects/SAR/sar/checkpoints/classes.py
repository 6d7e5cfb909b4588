"""The classes that a model predicts, saved with its weights."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from sar.checkpoints.tensor_file import first_sentence, load_tensors
from sar.data.datasets import metadata_of
from sar.errors import InputError
from sar.visualization import class_colors

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager


@dataclass(frozen=True)
class Classes:
    """The classes that a model predicts, as they are saved with its weights.

    Attributes:
        names: K names, in the order of the ids.
        colors: K colours (r, g, b), 0 to 255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_dataset(cls, name: str) -> "Classes":
        """Return the classes of a registered data set.

        Raises:
            InputError: the name is not registered, or its data set has no classes.
        """
        metadata = metadata_of(name)
        colors = class_colors(metadata).tolist()
        return cls(tuple(metadata.stuff_classes), tuple(map(tuple, colors)))

    @classmethod
    def of_first_known(cls, names: Iterable[str]) -> "Classes | None":
        """Return the classes of the first data set that is known here, or None."""
        for name in names:
            try:
                if name in DatasetCatalog and MetadataCatalog.get(name).get("stuff_classes"):
                    return cls.of_dataset(name)
            except InputError:  # its classes are in a file that is missing here
                continue
        return None

    @classmethod
    def from_checkpoint(cls, content: dict) -> "Classes | None":
        """Return the classes in the content of a checkpoint; None for older ones without them."""
        found = content.get("classes")
        names = found.get("names") if isinstance(found, dict) else None
        colors = found.get("colors") if isinstance(found, dict) else None
        if not (_are(names, str) and _are(colors, (list, tuple)) and len(names) == len(colors)):
            return None
        if not all(len(c) == 3 and _are(c, int) and 0 <= min(c) <= max(c) <= 255 for c in colors):
            return None
        return cls(tuple(names), tuple(map(tuple, colors)))

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "Classes | None":
        """Return the classes in a checkpoint file, or None. The weights are not loaded.

        Args:
            path: a path, or a URL as in MODEL.WEIGHTS.

        Raises:
            InputError: the file is missing, broken or refused, or cannot be downloaded.
        """
        path = os.fspath(path)
        if path.endswith(".pkl"):  # detectron2's format has no classes
            return None
        try:
            return cls.from_checkpoint(load_tensors(PathManager.get_local_path(path), mmap=True))
        except Exception as error:  # a broken file can raise anything
            raise InputError(
                f"checkpoint {path} cannot be loaded (missing, truncated, or not a checkpoint): "
                f"{first_sentence(error)}"
            ) from error


def _are(values: object, kind: type | tuple[type, ...]) -> bool:
    is_list = isinstance(values, (list, tuple)) and bool(values)
    return is_list and all(isinstance(value, kind) for value in values)
