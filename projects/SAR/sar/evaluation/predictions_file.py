"""Write predictions as one file in the format of COCO."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util

from sar.errors import InputError
from sar.files.atomic import atomic_path
from sar.files.run_folder import PREDICTIONS

from detectron2.utils import comm


class PredictionsFile:
    """`sem_seg_predictions.json`, in the format of http://cocodataset.org/#format-results.

    Each process appends to its own file of JSON lines. One process merges these files at the end.

    Args:
        output_dir: folder of the file. All processes need it.
        category_ids: the id of each class in the data set's own numbering.
    """

    def __init__(self, output_dir: Path, category_ids: list[int]):
        self.output_dir = output_dir
        self._category_ids = category_ids
        self._rank = comm.get_rank()

    def reset(self) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._lines_file(self._rank).write_text("")

    def append(self, prediction: np.ndarray, file_name: str) -> None:
        """Write an entry for each class in `prediction` (H, W)."""
        with open(self._lines_file(self._rank), "a") as file:
            for class_id in np.unique(prediction):
                mask = np.asfortranarray(prediction == class_id, dtype=np.uint8)
                segmentation = mask_util.encode(mask)
                segmentation["counts"] = segmentation["counts"].decode()
                entry = {
                    "file_name": file_name,
                    "category_id": self._category_ids[class_id],
                    "segmentation": segmentation,
                }
                file.write(json.dumps(entry) + "\n")

    def merge(self) -> None:
        """Merge the lines of all processes into `sem_seg_predictions.json`."""
        ranks = range(comm.get_world_size())
        with atomic_path(self.output_dir / PREDICTIONS) as temporary:
            with open(temporary, "w") as merged:
                separator = "["
                for rank in ranks:
                    for line in self._lines_of(rank):
                        merged.write(separator + line.rstrip("\n"))
                        separator = ", "
                merged.write("]")
        for rank in ranks:
            self._lines_file(rank).unlink()

    def _lines_file(self, rank: int) -> Path:
        return self.output_dir / f".sem_seg_predictions.rank{rank}.jsonl"

    def _lines_of(self, rank: int) -> Iterator[str]:
        path = self._lines_file(rank)
        if not path.exists():
            raise InputError(
                f"The predictions of process {rank} are missing: file not found: {path}. Set "
                "OUTPUT_DIR to storage that all machines share, or turn off TEST.SAVE_JSON."
            )
        with open(path) as lines:
            yield from lines
