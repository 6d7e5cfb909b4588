"""Warn if the foreground of masks with the values 0 and 255 is ignored by mistake."""

import numpy as np

from sar.cli import call_of


class IgnoredForeground:
    """Find labels that show only class 0 and ignored pixels.

    Such labels are correct if the ignored pixels are borders or unclear regions. Then labels with
    other classes also have ignored pixels. If they have none, 255 may stand for the foreground.

    Args:
        ignore_label: the id of ignored pixels.
    """

    def __init__(self, ignore_label: int) -> None:
        self._ignore_label = ignore_label
        self._suspects: list[str] = []
        self._num_files = 0
        self._has_other_ids = self._ignores_among_others = False

    def add(self, file: str, counts: np.ndarray) -> None:
        """Add a label file, with the number of its pixels of each id (`np.bincount`)."""
        ids = set(np.flatnonzero(counts).tolist())
        self._num_files += 1
        if ids == {0, self._ignore_label}:
            self._suspects.append(file)
        elif not ids <= {0, self._ignore_label}:
            self._has_other_ids = True
            self._ignores_among_others |= self._ignore_label in ids

    def warnings(self) -> list[str]:
        """Return a sentence if the foreground of labels may be ignored."""
        if not self._suspects or self._ignores_among_others or self._ignore_label == 0:
            return []
        ignored = self._ignore_label
        if not self._has_other_ids:
            finding = f"The labels have the ids 0 and {ignored} alone, and {ignored} is ignored"
            remedy = (
                " (with a line in classes.txt for each of the two classes), for example with: "
                f"{call_of('tools/import_dataset.py')} FOLDER --output NEW --map 0=background "
                f"{ignored}=NAME"
            )
        else:
            finding = (
                f"{len(self._suspects)} of {self._num_files} labels, such as {self._suspects[0]}, "
                f"have the ids 0 and {ignored} alone; {ignored} is ignored, and no label of other "
                "classes has it"
            )
            remedy = ""
        return [
            f"{finding}: if {ignored} stands for the foreground, write its pixels as 1{remedy}."
        ]
