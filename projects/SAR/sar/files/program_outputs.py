"""Write the files of a program without ever replacing a file of the user.

A program may replace a file that it wrote itself, unless the file has changed since. It may not
replace a file of another program: converted labels are the ground truth of a data set, and
predictions must not overwrite them. The hidden journal `.sar_outputs.jsonl` in the output folder
has one line for each written file: the program, and the path, size and modification time of the
file. (A mark inside a file would remain after a user corrects the file.)

This module does not import PyTorch or detectron2.
"""

import json
import os
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sar.errors import InputError, listed
from sar.files.atomic import atomic_path
from sar.files.disk import NO_ROOM

JOURNAL = ".sar_outputs.jsonl"
_NUM_NAMED = 3  # files that an error message names
_REMEDY = "choose another --output"

# A file as the journal knows it: the program that wrote the file, the path below the output folder,
# the size in bytes, the time of modification in nanoseconds.
_Written = tuple[str, str, int, int]
_KEYS = ("program", "file", "size", "mtime_ns")


class DiskFullError(InputError):
    """Error for a full disk; no further file can be written."""


class Outputs:
    """The files that a program writes into one folder.

    Files are written under a temporary name and then renamed. Before that, each path is checked
    (see `check`). A program checks all paths that it knows before it starts to work.

    Example::

        outputs = Outputs("predictions", inputs=["a.png"])
        outputs.check(["predictions/a.png"])
        ...
        with outputs.writing("predictions/a.png") as temporary:
            picture.save(temporary)

    Args:
        folder: the output folder, or the folder of a single output file; created when needed.
        overwrite: also replace files that the program did not write.
        inputs: files that the program reads. They are never replaced.
        data: folders of data sets. Nothing is written into them.
        program: the name of the program in the journal; by default, the name of its file. Programs
            that write the same files share a name.

    Raises:
        InputError: the journal is not a regular file, or cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | os.PathLike] = (),
        data: Iterable[str | os.PathLike] = (),
        program: str = "",
    ) -> None:
        self.folder = Path(folder)
        self._root = Path(os.path.realpath(folder))
        self._overwrite = overwrite
        self._program = program or Path(sys.argv[0]).name
        self._inputs = {identity: path for path in inputs if (identity := _identity(path))}
        self._data = [Path(os.path.realpath(path)) for path in data]
        self._journal = self.folder / JOURNAL
        self._written = _read_journal(self._journal)
        self._checked_folders: set[Path] = set()
        self._lock = threading.Lock()

    @classmethod
    def of_file(cls, path: str | os.PathLike, **options) -> "Outputs":
        """Return the guard of a program with one output file, which is checked.

        Args:
            options: arguments of the class.

        Raises:
            InputError: as in `check`, or the path is a folder.
        """
        if os.path.isdir(path):
            raise InputError(f"--output {path} is a folder: give the name of a file")
        outputs = cls(Path(path).parent, **options)
        outputs.check([path])
        return outputs

    def check(self, paths: Iterable[str | os.PathLike]) -> None:
        """Check that files may be written. A path that is a folder passes; writing it fails.

        Args:
            paths: of files in the output folder or below it.

        Raises:
            InputError: a file exists that the program did not write, or that changed since, and
                `overwrite` is not set. In any case: a path is an input, lies in a data set, is a
                device or a pipe, or leads out of the output folder through a link; or the folder
                cannot be written.
        """
        paths = list(map(Path, paths))
        for folder in {path.parent: None for path in paths}:
            if folder not in self._checked_folders:
                self._check_folder(folder)
                self._checked_folders.add(folder)
        for path in paths:
            _check_is_regular(path)
            if (identity := _identity(path)) in self._inputs:
                raise InputError(
                    f"--output: {path} is the input {self._inputs[identity]}: {_REMEDY}"
                )
        foreign = [path for path in paths if not self._may_replace(path)]
        if foreign:
            raise InputError(
                f"--output: {len(foreign)} of {len(paths)} files are already there, and this "
                "program did not write them, or they changed since: "
                f"{listed(foreign, _NUM_NAMED)}. {_REMEDY.capitalize()}, or add --overwrite to "
                "replace them"
            )

    @contextmanager
    def writing(self, path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
        """Yield a temporary path for a file, and give the file its name on success.

        Args:
            path: of a file in the output folder or below it.
            sync: as in `atomic_path`.

        Raises:
            InputError: as in `check`, or the file cannot be written.
            DiskFullError: the disk is full.
        """
        path = Path(path)
        self.check([path])
        try:
            with atomic_path(path, sync=sync) as temporary:
                yield temporary
                # Before the renaming, so that a program that is killed can continue later.
                self._note(path, temporary)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFullError(
                    f"{path} cannot be written ({error}): make room, or {_REMEDY}"
                ) from error
            raise InputError(f"{path} cannot be written ({error}): {_REMEDY}") from error

    def remove(self, path: str | os.PathLike) -> None:
        """Delete a file if the program wrote it and it has not changed since."""
        with suppress(OSError):
            if self._entry(Path(path), os.lstat(path)) in self._written:
                os.unlink(path)

    def _check_folder(self, folder: Path) -> None:
        resolved = Path(os.path.realpath(folder))
        if not resolved.is_relative_to(self._root):
            raise InputError(
                f"--output {self.folder}: {folder} leads out of it through a link, to {resolved}: "
                f"remove the link, or {_REMEDY}"
            )
        ancestors = (resolved, *resolved.parents)
        for data in ancestors:
            if data in self._data or _is_data_set(data):
                raise InputError(
                    f"--output: {folder} lies in the data set {data}, which must not "
                    f"change: {_REMEDY}"
                )
        existing = next(path for path in ancestors if os.path.lexists(path))
        if not existing.is_dir():
            raise InputError(f"{folder} cannot be written: {existing} is not a folder: {_REMEDY}")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(
                f"{folder} cannot be written: no permission to write into {existing}: {_REMEDY}"
            )

    def _may_replace(self, path: Path) -> bool:
        try:
            found = os.lstat(path)
        except OSError:  # not there, or a path that writing will refuse
            return True
        if self._overwrite or stat.S_ISDIR(found.st_mode):
            return True
        return self._entry(path, found) in self._written

    def _note(self, path: Path, temporary: Path) -> None:
        written = self._entry(path, os.stat(temporary))
        # The line break before the line ends one that a killed program left unfinished.
        line = "\n" + json.dumps(dict(zip(_KEYS, written, strict=True)))
        with self._lock, open(self._journal, "ab") as journal:
            journal.write(line.encode() + b"\n")
            self._written.add(written)

    def _entry(self, path: Path, found: os.stat_result) -> _Written:
        name = Path(os.path.relpath(path, self.folder)).as_posix()
        return self._program, name, found.st_size, found.st_mtime_ns


@contextmanager
def collected(errors: list[InputError]) -> Iterator[None]:
    """Add an InputError of the `with` block to `errors`, so that other files can be done.

    Raises:
        DiskFullError: it passes through, because no other file could be written.
    """
    try:
        yield
    except DiskFullError:
        raise
    except InputError as error:
        errors.append(error)


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
    """Return a key that is equal for all names of a file, including links and hard links."""
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _is_data_set(folder: Path) -> bool:
    trees = (("images", "labels"), ("clouds",))
    return (folder / "classes.txt").is_file() and any(
        all((folder / part).is_dir() for part in tree) for tree in trees
    )


def _check_is_regular(path: Path) -> None:
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"--output: {path} is a device or a pipe, not a file: {_REMEDY}")


def _read_journal(path: Path) -> set[_Written]:
    if not os.path.lexists(path):
        return set()
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is not a regular file: remove it, or {_REMEDY}")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): {_REMEDY}") from error
    written = set()
    for line in lines:
        # Such as the half line of a program that was killed, or a line without the program.
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            written.add(tuple(entry[key] for key in _KEYS))
    return written
