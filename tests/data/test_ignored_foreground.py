import numpy as np
import pytest

from sar.data.ignored_foreground import IgnoredForeground


def warnings_of(*files, ignore_label=255):
    foreground = IgnoredForeground(ignore_label)
    for i, ids in enumerate(files):
        foreground.add(f"{i}.png", np.bincount(ids))
    return foreground.warnings()


def test_all_masks_are_of_0_and_255():
    (warning,) = warnings_of([0, 255], [0], [255], [0, 255])
    assert warning.startswith("The labels have the ids 0 and 255 alone")


def test_some_masks_are_of_0_and_255():
    (warning,) = warnings_of([0, 1], [0, 255], [0], [0, 255])
    assert warning.startswith("2 of 4 labels, such as 1.png, have the ids 0 and 255 alone")
    (warning,) = warnings_of([0, 1], [0, 65535], ignore_label=65535)
    assert "1 of 2 labels" in warning and "65535 stands for the foreground" in warning


@pytest.mark.parametrize(
    "files",
    [
        [[0, 1, 255], [0, 255], [0, 1]],  # ignored borders
        [[0, 1], [0], [255], [1, 255]],
        [[0, 1, 2], [0]],
    ],
)
def test_sound_labels(files):
    assert warnings_of(*files) == []
