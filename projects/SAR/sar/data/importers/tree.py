"""List the files of a source, and find the images that annotations name."""

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from operator import eq
from pathlib import Path, PurePosixPath
from typing import TypeVar

from sar.data.datasets.folder import IMAGE_SUFFIXES, is_system_folder, refuse_circle
from sar.data.importers.names import folded, innermost_role, plain_name, split_of_folders
from sar.errors import InputError, listed, nearest

# Formats that Pillow reads but a data set folder does not list; such images are converted to PNG.
CONVERTED_SUFFIXES = (".webp", ".jfif")
SOURCE_SUFFIXES = IMAGE_SUFFIXES + CONVERTED_SUFFIXES
_NUM_TRIED = 20  # files that the recognition of a format reads

Key = TypeVar("Key")


class Tree:
    """The files below a folder, without hidden files and folders of operating systems.

    Args:
        path: the folder; or an annotation file. Then other files with its suffix do not count, and
            images may be next to the file, or next to its folder if that is called annotations.

    Raises:
        InputError: the path is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z") and path.is_file():
            raise InputError(f"{path} is an archive: unpack it, and give the folder.")
        if path.is_file():
            self.root = path.parent
            if self.root.name.lower() == "annotations":
                self.root = self.root.parent
        elif path.is_dir():
            self.root = path
        else:
            raise InputError(f"{path} does not exist: correct the path.")
        self.files = sorted(_walk(self.root))
        if path.is_file():
            self.files = [p for p in self.files if p.suffix != path.suffix or p == path]

    def relative(self, path: Path) -> PurePosixPath:
        """Return the path of a file below the root."""
        return PurePosixPath(path.relative_to(self.root).as_posix())

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with one of the suffixes (lower case), sorted."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def named(self, *names: str) -> list[Path]:
        """Return the files with one of the names, sorted. Case does not count."""
        return [path for path in self.files if path.name.lower() in names]

    def find_json(self, is_known: Callable[[object], bool]) -> Path | None:
        """Return a JSON file whose content passes a test, or None. The 20 largest files are read.

        A file that cannot be read is no error, because the importer reports it.
        """
        files = sorted(self.with_suffix(".json"), key=lambda path: -path.stat().st_size)
        for path in files[:_NUM_TRIED]:
            with suppress(InputError):
                if is_known(read_json(path)):
                    return path
        return None

    @cached_property
    def _images(self) -> dict[str, list[Path]]:
        """The images by their file names, and by these names without suffix."""
        found = defaultdict(list)
        for path in self.with_suffix(*SOURCE_SUFFIXES):
            found[folded(path.name)].append(path)
            found[folded(path.stem)].append(path)
        return found

    @cached_property
    def _image_folders(self) -> set[str]:
        return {folded(path.parent.name) for path in self.with_suffix(*SOURCE_SUFFIXES)}

    def find_image(
        self,
        name: str,
        near: Path,
        place: str,
        *,
        split: str | None = None,
        role: str = "image",
        exclude: Collection[Path] = (),
    ) -> Path | None:
        """Return the image that an annotation names, or None if it is not there.

        The longest common end of both paths decides, then the role that the folders name, then the
        folder that is nearest to the annotation file, then an image whose other folders only name
        a split or a role. If the name has a folder, and images lie in a folder of this name, images
        in other folders are not meant. Case counts only if nothing else decides.

        Args:
            name: a file name, a path (of any operating system) or a URL. The suffix may be missing.
            near: the annotation file.
            place: where the name is, for the error.
            split: the split of the annotation. Images in folders of other splits are not meant.
            role: "image" or "label". Folders that name the other role, such as masks, come last.
            exclude: other files that are not meant.

        Raises:
            InputError: several images could be meant.
        """
        words = [word for word in re.split(r"[/\\]+", _composed(name)) if word]
        parts = [folded(word) for word in words]
        named = PurePosixPath(*parts)
        candidates = self._images.get(parts[-1], ()) if parts else ()
        candidates = [
            path
            for path in candidates
            if path not in exclude
            and (split is None or split_of_folders(self.relative(path)) in (None, split))
        ]
        if len(parts) > 1 and parts[-2] in self._image_folders:
            candidates = [path for path in candidates if folded(path.parent.name) == parts[-2]]
        if not candidates:
            return None

        def rank(path: Path) -> tuple[int, bool, int, bool, int]:
            exact = list(map(_composed, path.parts))
            own = [*map(folded, exact[:-1]), parts[-1]]
            common = 0
            while common < min(len(own), len(parts)) and own[-1 - common] == parts[-1 - common]:
                common += 1
            # One of the two may be relative: the source and --images are as the user wrote them.
            shared = os.path.commonpath([os.path.abspath(file.parent) for file in (path, near)])
            relative = self.relative(path)
            has_role = innermost_role(relative) in (None, role)
            is_exact = folded(plain_name(relative)) == plain_name(named)
            same_case = sum(map(eq, exact[-common:], words[-common:]))
            return common, has_role, len(Path(shared).parts), is_exact, same_case

        best = max(map(rank, candidates))
        found = [path for path in candidates if rank(path) == best]
        if len(found) > 1:
            raise InputError(
                f'{place} names the image "{name}", which may be {listed(found, 3)}. Give the '
                "folder of the images with --images."
            )
        return found[0]

    def require_images(self, missing: list[str], annotations: int) -> None:
        """Raise InputError if none of the images is there.

        Args:
            missing: the names of images that `find_image` did not find.
            annotations: number of all images that are named.
        """
        if missing and len(missing) == annotations:
            there = [path.name for path in self.with_suffix(*SOURCE_SUFFIXES)]
            found = f"{len(there)} other images are" if there else "no images are"
            raise InputError(
                f"None of the {annotations} annotated images is in {self.root}, where {found}: "
                f"{listed(missing, 3)}.{nearest(missing[0], there)} Give the folder of the images "
                "with --images. If the export was made without images, export it again with them."
            )


def add_unique(found: dict[Key, Path], key: Key, path: Path, what: str) -> None:
    """Add a file to a table of files by their names.

    Args:
        what: how the error calls the files, such as "masks".

    Raises:
        InputError: another file has the name.
    """
    if (other := found.setdefault(key, path)) != path:
        raise InputError(
            f"{other} and {path} are two {what} of the same name: rename or remove one, or import "
            "a folder that holds only one of them."
        )


def read_text(path: Path) -> str:
    """Return the content of a text file in UTF-8.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as text ({error}): export it again.") from error


@lru_cache(maxsize=8)  # the recognition of a format and its importer read the same files
def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        InputError: the file cannot be read, or is not JSON; the message names the line.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): export it again.") from error


def _composed(name: str) -> str:
    """Return a name in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", name)


def _walk(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"The folder {error.filename} cannot be read: {error}.") from error

    for directory, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not is_system_folder(name)]
        for subfolder in subfolders:
            refuse_circle(directory, subfolder)
        for file in files:
            if not file.startswith("."):
                yield Path(directory, file)
