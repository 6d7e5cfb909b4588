"""Evaluate any data set with one confusion matrix and one all-reduce.

Shape shorthands: K classes, H x W pixels of an image.
"""

import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor

from sar.config import leaves, load_config, lookup
from sar.data.class_frequency import ClassFrequency, fingerprint_of
from sar.data.datasets import load_dataset, metadata_of
from sar.data.label_files import read_truth
from sar.errors import InputError, nearest, printable
from sar.evaluation.argmax import argmax_over_classes
from sar.evaluation.class_groups import class_groups
from sar.evaluation.confusion import iou_metrics, update_confusion
from sar.evaluation.embeddings import EvaluationTap
from sar.evaluation.geometry import FeatureGeometry, sum_on_cpu
from sar.evaluation.table import format_table
from sar.files.atomic import atomic_path, sha256, write_atomically
from sar.files.run_folder import EVALUATION, INFERENCE
from sar.modeling.taps import embedding_channels

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)


class LongTailEvaluator(DatasetEvaluator):
    """Metrics of semantic segmentation, also for frequent, common and rare classes.

    The metrics include all of detectron2's `SemSegEvaluator`: `mIoU`, `fwIoU`, `mACC`, `pACC`,
    `IoU-<class>` and `ACC-<class>`. `class_frequency` adds the mean IoU of frequent, common and
    rare classes: by training images (`mIoU@f`, `mIoU@c`, `mIoU@r`) and by training pixels
    (`mIoU@f_pixel`, ...). `tap` adds the geometry of the feature space (`sar.evaluation.geometry`).

    The device of the predictions holds a confusion matrix and sums of embeddings, but no images.
    Each process may evaluate any share of the data set, even an empty one.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        class_frequency: ClassFrequency | None = None,
        output_dir: str | None = None,
        save_json: bool = False,
        tap: EvaluationTap | None = None,
    ):
        """
        Args:
            dataset_name: a registered data set with `stuff_classes` and `ignore_label`.
            class_frequency: counts of the training set, with the same classes as the data set.
            output_dir: folder for `sem_seg_evaluation.json` (metrics and confusion matrix).
            save_json: also write every prediction to `output_dir`, run-length encoded, as
                detectron2's `sem_seg_predictions.json`. If the processes run on several machines,
                `output_dir` has to be on storage that they share.
            tap: embeddings of the evaluated model (`tap_evaluation`), to measure the geometry of
                its feature space.

        Raises:
            InputError: the data set is unknown, its metadata are incomplete, or the class
                frequencies are of other classes.
        """
        self._dataset_name = dataset_name
        self._class_frequency = class_frequency
        self._output_dir = Path(output_dir) if output_dir else None
        self._tap = tap
        self._run: tuple[CfgNode, str] | None = None

        if dataset_name not in DatasetCatalog.list():
            hint = nearest(dataset_name, DatasetCatalog.list())
            raise InputError(f'Unknown data set "{dataset_name}" in DATASETS.TEST.{hint}')
        metadata = metadata_of(dataset_name)
        self._class_names = list(metadata.stuff_classes)
        self._ignore_label = metadata.ignore_label
        self._groups = self._groups_of_classes()
        self._truth_files: dict[str, str] | None = None
        self._json_predictions: _JsonPredictions | None = None
        if save_json:
            if self._output_dir is None:
                raise InputError("save_json needs an output_dir to write the predictions to.")
            category_ids = self._json_category_ids(metadata)
            self._json_predictions = _JsonPredictions(self._output_dir, category_ids)

    def describe_run(self, cfg: CfgNode, weights_file: str = "") -> None:
        """Set the config and the weights that are recorded with the results.

        Args:
            cfg: config of the run. Keys that differ from the defaults are recorded.
            weights_file: the evaluated checkpoint. Its results get their own folder. "" for the
                weights of a training in progress.
        """
        self._run = cfg, weights_file
        if weights_file and self._output_dir:
            self._output_dir = evaluation_folder(cfg.OUTPUT_DIR, weights_file) / self._dataset_name
            if self._json_predictions:
                self._json_predictions.output_dir = self._output_dir

    def reset(self) -> None:
        self._confusion: Tensor | None = None  # created on the device of the first prediction
        self._num_images = 0
        self._geometry: FeatureGeometry | None = None
        if self._tap:
            self._geometry = FeatureGeometry(
                len(self._class_names),
                embedding_channels(self._tap.classifier),
                ignore_value=self._ignore_label,
            )
        if self._json_predictions:
            self._json_predictions.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of some images.

        Args:
            inputs: data set dicts with "file_name" and "sem_seg_file_name". Without the latter, the
                label file is looked up in the catalog. With a tap, "image" (3, h, w) is also
                needed, as the model read it.
            outputs: dicts with "sem_seg": logits or scores (K, H, W), with the size of the label.

        Raises:
            InputError: the model predicts another number of classes; a label file is missing,
                unreadable, of another size, or has unknown class ids.
        """
        truths = []
        for input, output in zip(inputs, outputs, strict=True):
            logits = output["sem_seg"]
            if logits.shape[0] != len(self._class_names):
                raise InputError(
                    f'The model predicts {logits.shape[0]} classes, but data set "'
                    f'{self._dataset_name}" has {len(self._class_names)}: set '
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES to {len(self._class_names)}, or evaluate on "
                    "the data set that the model was trained for."
                )
            prediction = argmax_over_classes(logits)
            truth = self._read_truth(self._truth_file(input), tuple(prediction.shape))
            if self._confusion is None:
                self._confusion = self._empty_confusion(prediction.device)
            device = self._confusion.device
            update_confusion(
                self._confusion,
                prediction.to(device),
                torch.from_numpy(truth).to(device, non_blocking=True),
                self._ignore_label,
            )
            self._num_images += 1
            if self._json_predictions:
                self._json_predictions.append(prediction.cpu().numpy(), input["file_name"])
            truths.append(truth)
        if self._geometry:
            sizes = [tuple(input["image"].shape[-2:]) for input in inputs]
            self._geometry.update(*self._tap.take(truths, sizes, self._ignore_label))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the metrics over all images, in percent: {"sem_seg": {name: value}}.

        With a tap, {"geometry": {name: value}} holds the numbers of `FeatureGeometry.compute`. The
        metrics are logged as a table, and the requested files are written.

        Every process must call this method. Only the main process gets the metrics; the others get
        None.

        Raises:
            InputError: no image was evaluated.
        """
        confusion, num_images = self._sum_over_processes()
        geometry = self._geometry
        if geometry:
            geometry = geometry.reduce()
        if num_images == 0:
            raise InputError(
                f'No image of data set "{self._dataset_name}" was evaluated, since the data set is '
                "empty: check its folder and DATASETS.TEST."
            )
        is_main = comm.is_main_process()
        if self._json_predictions:
            if is_main:
                self._json_predictions.merge()
            # No process may overwrite its file for the next evaluation before the merge.
            comm.synchronize()
        if not is_main:
            return None

        results = OrderedDict(sem_seg=iou_metrics(confusion, self._class_names, self._groups))
        if geometry:
            results["geometry"] = geometry.compute(self._tap.classifier.weight)
            self._log_absent_from(geometry)
        self._log(results, num_images)
        if self._output_dir:
            self._write_metrics(results, confusion, num_images)
        return results

    def _groups_of_classes(self) -> dict[str, list[int]]:
        frequency = self._class_frequency
        if frequency is None:
            return {}
        remedy = (
            "write the file of DATASETS.CLASS_FREQUENCY again with tools/check_dataset.py, "
            "from the training set that belongs to this data set."
        )
        if len(frequency.class_names) != len(self._class_names):
            raise InputError(
                f"The class-frequency file has {len(frequency.class_names)} classes, but data set "
                f'"{self._dataset_name}" has {len(self._class_names)}: {remedy}'
            )
        pairs = zip(frequency.class_names, self._class_names, strict=True)
        for i, (found, expected) in enumerate(pairs):
            if found != expected:
                raise InputError(
                    f'Class {i} is "{found}" in the class-frequency file, but "{expected}" in data '
                    f'set "{self._dataset_name}": {remedy}'
                )
        images, pixels = frequency.images, frequency.pixels
        by_pixels = class_groups(pixels, ties_by=images)
        return class_groups(images, ties_by=pixels) | {
            f"{name}_pixel": ids for name, ids in by_pixels.items()
        }

    def _truth_file(self, input: dict) -> str:
        if "sem_seg_file_name" in input:
            return input["sem_seg_file_name"]
        # detectron2's mapper drops the name in evaluation. Asking the catalog can be slow.
        if self._truth_files is None:
            self._truth_files = {
                record["file_name"]: record["sem_seg_file_name"]
                for record in DatasetCatalog.get(self._dataset_name)
                if "sem_seg_file_name" in record
            }
        if input["file_name"] not in self._truth_files:
            raise InputError(
                f'Data set "{self._dataset_name}" has no label file for image '
                f"{input['file_name']}: add the label, or leave the image out."
            )
        return self._truth_files[input["file_name"]]

    def _read_truth(self, path: str, shape: tuple[int, int]) -> np.ndarray:
        truth = read_truth(path, len(self._class_names), self._ignore_label)
        if truth.shape != shape:
            raise InputError(
                f"Label {path} is {truth.shape[1]} x {truth.shape[0]} pixels (width x height), but "
                f"its image is {shape[1]} x {shape[0]}: give both the same size. "
                "tools/check_dataset.py lists all labels of another size."
            )
        # torch supports few operations on uint16.
        return truth if truth.dtype == np.uint8 else truth.astype(np.int32)

    def _empty_confusion(self, device: torch.device) -> Tensor:
        num_classes = len(self._class_names)
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def _sum_over_processes(self) -> tuple[Tensor, int]:
        """Return the confusion matrix (K, K) and the number of images over all processes."""
        confusion = self._confusion
        if confusion is None:  # a process without images must also take part in the sum
            confusion = self._empty_confusion(torch.device("cpu"))
        counts = torch.cat([confusion.view(-1), confusion.new_tensor([self._num_images])])
        counts = sum_on_cpu(counts)
        return counts[:-1].view_as(confusion), int(counts[-1])

    def _log_absent_from(self, geometry: FeatureGeometry) -> None:
        absent = [self._class_names[i] for i in geometry.absent_classes()]
        if absent:
            logger.warning(
                'Classes without ground truth at the resolution of the embedding in "%s", left out '
                "of the geometry: %s.",
                self._dataset_name,
                ", ".join(map(printable, absent)),
            )

    def _log(self, results: dict[str, dict[str, float]], num_images: int) -> None:
        metrics = results["sem_seg"]
        absent = [name for name in self._class_names if math.isnan(metrics[f"IoU-{name}"])]
        if absent:
            logger.warning(
                'Classes without ground truth in "%s", left out of the means: %s.',
                self._dataset_name,
                ", ".join(map(printable, absent)),
            )
        table = format_table(
            metrics, self._class_names, self._class_frequency, results.get("geometry")
        )
        logger.info('Evaluation of "%s", %d images:\n%s', self._dataset_name, num_images, table)

    def _write_metrics(
        self, results: dict[str, dict[str, float]], confusion: Tensor, num_images: int
    ) -> None:
        run = self._description_of_run()
        content = {
            "dataset": self._dataset_name,
            "num_images": num_images,
            **run,
            "metrics": _without_nan(results["sem_seg"]),
            "class_names": self._class_names,
            "groups": self._groups,
            "confusion_truth_by_prediction": confusion.tolist(),
        }
        if "geometry" in results:
            content["geometry"] = _without_nan(results["geometry"])
        text = json.dumps(content, allow_nan=False)
        path = self._output_dir / EVALUATION
        _keep_other(path, run)
        write_atomically(path, text + "\n")

    def _description_of_run(self) -> dict:
        """Return the weights, config and data to record; {} without `describe_run`."""
        if self._run is None:
            return {}
        cfg, weights_file = self._run
        if weights_file:
            weights = {"file": os.path.abspath(weights_file), "sha256": _checksum(weights_file)}
        else:
            weights = {"iteration": _last_iteration(cfg)}
        description = {"weights": weights, "config": _settings(cfg)}
        with suppress(InputError, OSError):
            files = [r["sem_seg_file_name"] for r in load_dataset(self._dataset_name)]
            description["data"] = {"fingerprint": fingerprint_of(files)}
        return description

    def _json_category_ids(self, metadata: Metadata) -> list[int]:
        """Return the id of each class in the data set's own numbering."""
        own_ids = range(len(self._class_names))
        contiguous_ids = metadata.get("stuff_dataset_id_to_contiguous_id")
        if contiguous_ids is None:
            return list(own_ids)
        dataset_ids = {contiguous: dataset_id for dataset_id, contiguous in contiguous_ids.items()}
        for i in own_ids:
            if i not in dataset_ids:
                raise InputError(
                    f'The metadata of data set "{self._dataset_name}" have no id for class {i} '
                    f'("{self._class_names[i]}") in stuff_dataset_id_to_contiguous_id: add it, or '
                    "turn off TEST.SAVE_JSON."
                )
        return [dataset_ids[i] for i in own_ids]


def evaluation_folder(output_dir: str | os.PathLike, weights_file: str) -> Path:
    """Return the folder of a checkpoint's results with --eval-only, below `output_dir`/inference.

    The folder has the name of the checkpoint. If the checkpoint is not in `output_dir`, a part of
    its checksum is added, since many checkpoints have the name model_final.pth.
    """
    name = Path(weights_file).name.partition(".")[0]
    if os.path.realpath(os.path.dirname(weights_file)) != os.path.realpath(output_dir):
        name = f"{name}-{_checksum(weights_file)[:8]}"
    return Path(output_dir, INFERENCE, name)


def _keep_other(path: Path, run: dict) -> None:
    """Rename earlier results of the same checkpoint if they are for other data or settings.

    Results of a training in progress are not kept: new results replace them.
    """
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if "file" not in before.get("weights", {}):
        return
    if all(before.get(key) == run.get(key) for key in ("config", "data")):
        return
    names = (f"{path.stem}-{number}{path.suffix}" for number in count(2))
    path.rename(next(p for p in map(path.with_name, names) if not p.exists()))


def _checksum(weights_file: str) -> str:
    return sha256(PathManager.get_local_path(weights_file))


def _last_iteration(cfg: CfgNode) -> int | None:
    """Return the last finished iteration, as in names of checkpoints; None outside a training."""
    try:
        return min(get_event_storage().iter, cfg.SOLVER.MAX_ITER - 1)
    except AssertionError:
        return None


def _settings(cfg: CfgNode) -> dict:
    """Return the keys of a config that differ from the defaults, with their values."""
    defaults = load_config()
    known = set(leaves(defaults))
    return {
        key: _plain(lookup(cfg, key))
        for key in leaves(cfg)
        if key not in known or lookup(cfg, key) != lookup(defaults, key)
    }


def _plain(value: object) -> object:
    """Return a value for JSON; as text if JSON cannot hold it, such as infinity."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return repr(value)


def _without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return metrics with None instead of NaN, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


class _JsonPredictions:
    """File of predictions in the COCO format (http://cocodataset.org/#format-results).

    Each process appends to its own file of JSON lines. One process merges these files at the end.
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
        with atomic_path(self.output_dir / "sem_seg_predictions.json") as temporary:
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
