"""Write files of torch.save, and read them safely: no code is executed, and damage is detected."""

import os
import pickle
import re
import zipfile

import torch

from sar.errors import InputError

_IS_FOLDER = 0x10  # attribute of an entry in a zip file


def load_tensors(filename: str | os.PathLike, *, mmap: bool = False) -> dict:
    """Return the content of a file of torch.save; with `mmap`, tensors are read when used."""
    if not os.path.isfile(filename):  # refuses pipes too, since reading them could wait forever
        raise InputError("file not found")
    verify_checksums(filename)
    is_zip = zipfile.is_zipfile(filename)  # older files cannot be mapped
    try:
        content = torch.load(filename, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        raise InputError(
            f"refused, since it would run {refused[1]}: a .pth may hold tensors and containers "
            "only. If you trust its source, save its tensors again"
        ) from error
    return content if "model" in content else {"model": content}


def save_tensors(content: dict, filename: str | os.PathLike) -> None:
    """Write a file of torch.save.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    try:
        with open(filename, "wb") as file:  # torch's own writer does not report a full disk
            torch.save(content, file)
    except RuntimeError as error:
        # torch turns an OSError into a RuntimeError; other RuntimeErrors are not about disks
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def verify_checksums(path: str | os.PathLike) -> None:
    """Raise InputError if a file of torch.save does not match the checksums in it.

    torch.load ignores the checksums. Older files, which are not zip files, have none.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        for entry in archive.infolist():
            if entry.external_attr & _IS_FOLDER:  # torch leaves such tensors uninitialized
                damaged = entry.filename
    if damaged is not None:
        raise InputError(f"its part {damaged} is damaged: download or write the file again")


def first_sentence(error: Exception) -> str:
    text = str(error).split("WeightsUnpickler error:")[-1].strip()  # drops torch's advice
    return re.split(r"\.\s|\n", text)[0] or type(error).__name__
