"""Find and read the label files of a data set."""

import numpy as np

from sar.data.label_files import read_truth
from sar.errors import InputError

from detectron2.data import DatasetCatalog


class GroundTruth:
    """Label maps of a registered data set, read on demand.

    Args:
        dataset_name: the data set.
        num_classes: K; the classes have the ids 0 to K - 1.
        ignore_label: the id of pixels without a class.
    """

    def __init__(self, dataset_name: str, num_classes: int, ignore_label: int):
        self._dataset_name = dataset_name
        self._num_classes = num_classes
        self._ignore_label = ignore_label
        self._files: dict[str, str] | None = None

    def read(self, input: dict, shape: tuple[int, int]) -> np.ndarray:
        """Return the label map of an image: (H, W) uint8, or int32 for files of 16 bits.

        Args:
            input: data set dict with "file_name" and "sem_seg_file_name". Without the latter, the
                label file is looked up in the catalog. If a cloud holds its labels, "cloud_label"
                may have them (see `CloudMapper`); then the file is not read again.
            shape: (H, W) of the prediction.

        Raises:
            InputError: the label file is missing, unreadable, of another size, or has unknown class
                ids.
        """
        path = self._file(input)
        own_label = input.get("cloud_label") if path == input["file_name"] else None
        truth = read_truth(path, self._num_classes, self._ignore_label, cloud_label=own_label)
        if truth.shape != shape:
            raise InputError(
                f"Label {path} is {truth.shape[1]} x {truth.shape[0]} pixels (width x height), but "
                f"its image is {shape[1]} x {shape[0]}: give both the same size. "
                "tools/check_dataset.py lists all labels of another size."
            )
        # torch supports few operations on uint16.
        return truth if truth.dtype == np.uint8 else truth.astype(np.int32)

    def _file(self, input: dict) -> str:
        if "sem_seg_file_name" in input:
            return input["sem_seg_file_name"]
        # detectron2's mapper drops the name in evaluation. Asking the catalog can be slow.
        if self._files is None:
            self._files = {
                record["file_name"]: record["sem_seg_file_name"]
                for record in DatasetCatalog.get(self._dataset_name)
                if "sem_seg_file_name" in record
            }
        if input["file_name"] not in self._files:
            raise InputError(
                f'Data set "{self._dataset_name}" has no label file for image '
                f"{input['file_name']}: add the label, or leave the image out."
            )
        return self._files[input["file_name"]]
