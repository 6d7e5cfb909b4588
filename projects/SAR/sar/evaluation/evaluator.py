"""Evaluate any data set with one confusion matrix and one all-reduce.

Shape shorthands: K classes, H x W pixels of an image.
"""

import logging
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sar.data.class_frequency import ClassFrequency
from sar.data.clouds import is_cloud
from sar.data.datasets import load_dataset, metadata_of
from sar.data.units import IMAGES, units_of_file
from sar.errors import InputError, nearest, printable
from sar.evaluation.argmax import argmax_over_classes
from sar.evaluation.boundaries import boundary_metrics, update_boundary_counts
from sar.evaluation.class_groups import groups_of_dataset
from sar.evaluation.confusion import confusion_metrics, update_confusion
from sar.evaluation.embeddings import EvaluationTap
from sar.evaluation.geometry import FeatureGeometry, sum_on_cpu
from sar.evaluation.ground_truth import GroundTruth
from sar.evaluation.objects import OBJECT_COUNTS, object_metrics, update_object_counts
from sar.evaluation.predictions_file import PredictionsFile
from sar.evaluation.results_file import (
    describe_run,
    evaluation_folder,
    keep_other_results,
    without_nan,
    write_results,
)
from sar.evaluation.table import format_table
from sar.evaluation.validation_loss import ValidationLoss
from sar.modeling.head_loss import SegmentationLoss
from sar.modeling.taps import embedding_channels

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class LongTailEvaluator(DatasetEvaluator):
    """Metrics of semantic segmentation, also for frequent, common and rare classes.

    The metrics include all of detectron2's `SemSegEvaluator`: `mIoU`, `fwIoU`, `mACC`, `pACC`,
    `IoU-<class>` and `ACC-<class>`. Precision and F1 are added (`confusion_metrics`).
    `class_frequency` adds the mean IoU of frequent, common and rare classes: by training images
    (`mIoU@f`, `mIoU@c`, `mIoU@r`) and by training pixels (`mIoU@f_pixel`, ...). The `own_groups` of
    the data set add `mIoU@<group>`. `tap` adds the geometry of the feature space
    (`sar.evaluation.geometry`). Boundary IoU, objects and the loss are optional
    (`boundary_metrics`, `object_metrics`, `ValidationLoss`).

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
        boundary_iou: bool = False,
        object_iou: float | None = None,
        tap: EvaluationTap | None = None,
        loss: SegmentationLoss | None = None,
    ):
        """
        Args:
            dataset_name: a registered data set with `stuff_classes` and `ignore_label`. Its
                metadata may have `own_groups`: class ids of groups, by their names.
            class_frequency: counts of the training set, with the same classes as the data set.
            output_dir: folder for `sem_seg_evaluation.json` (metrics and confusion matrix).
            save_json: also write every prediction to `output_dir`, run-length encoded, as
                detectron2's `sem_seg_predictions.json`. If the processes run on several machines,
                `output_dir` has to be on storage that they share.
            boundary_iou: also measure the boundary IoU.
            object_iou: also count objects. One is found if a predicted object has this IoU or more.
            tap: embeddings of the evaluated model (`tap_evaluation`), to measure the geometry of
                its feature space.
            loss: the loss of the evaluated model (`loss_of`), to measure it on the data set.

        Raises:
            InputError: the data set is unknown, its metadata are incomplete, or the class
                frequencies are of other classes.
        """
        self._dataset_name = dataset_name
        self._class_frequency = class_frequency
        self._output_dir = Path(output_dir) if output_dir else None
        self._boundary_iou = boundary_iou
        self._object_iou = object_iou
        self._tap = tap
        self._loss = loss
        self._run: tuple[CfgNode, str] | None = None

        if dataset_name not in DatasetCatalog.list():
            hint = nearest(dataset_name, DatasetCatalog.list())
            raise InputError(f'Unknown data set "{dataset_name}" in DATASETS.TEST.{hint}')
        metadata = metadata_of(dataset_name)
        self._class_names = list(metadata.stuff_classes)
        self._ignore_label = metadata.ignore_label
        self._ground_truth = GroundTruth(dataset_name, len(self._class_names), self._ignore_label)
        self._groups = {}
        if class_frequency:
            self._groups = groups_of_dataset(class_frequency, dataset_name, self._class_names)
        self._own_groups: dict[str, list[int]] = metadata.get("own_groups", {})
        self._predictions_file: PredictionsFile | None = None
        if save_json:
            if self._output_dir is None:
                raise InputError("save_json needs an output_dir to write the predictions to.")
            category_ids = self._json_category_ids(metadata)
            self._predictions_file = PredictionsFile(self._output_dir, category_ids)

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
            if self._predictions_file:
                self._predictions_file.output_dir = self._output_dir

    def reset(self) -> None:
        num_classes = len(self._class_names)
        self._confusion: Tensor | None = None  # created on the device of the first prediction
        self._num_images = 0
        self._units = IMAGES
        self._boundary_counts = torch.zeros(3, num_classes, dtype=torch.int64)
        self._object_counts = torch.zeros(len(OBJECT_COUNTS), num_classes, dtype=torch.int64)
        self._validation_loss: ValidationLoss | None = None
        if self._loss:
            self._validation_loss = ValidationLoss(self._loss, self._ignore_label)
        self._geometry: FeatureGeometry | None = None
        if self._tap:
            self._geometry = FeatureGeometry(
                num_classes,
                embedding_channels(self._tap.classifier),
                ignore_value=self._ignore_label,
            )
        if self._predictions_file:
            self._predictions_file.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of some images.

        Args:
            inputs: data set dicts with "file_name" and "sem_seg_file_name". Without the latter, the
                label file is looked up in the catalog. With a tap, "image" (3, h, w) is also
                needed, as the model read it.
            outputs: dicts with "sem_seg": logits or scores (K, H, W), with the size of the label.
                With a loss, they have to be logits.

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
            truth = self._ground_truth.read(input, tuple(prediction.shape))
            if self._confusion is None:
                self._confusion = self._empty_confusion(prediction.device)
                self._units = units_of_file(input["file_name"])
            device = self._confusion.device
            truth_on_device = torch.from_numpy(truth).to(device, non_blocking=True)
            update_confusion(
                self._confusion, prediction.to(device), truth_on_device, self._ignore_label
            )
            self._num_images += 1
            if self._validation_loss:
                self._validation_loss.update(logits, truth_on_device.to(logits.device))
            self._process_on_cpu(prediction, truth, input)
            truths.append(truth)
        if self._geometry:
            sizes = [tuple(input["image"].shape[-2:]) for input in inputs]
            self._geometry.update(*self._tap.take(truths, sizes, self._ignore_label))

    def _process_on_cpu(self, prediction: Tensor, truth: np.ndarray, input: dict) -> None:
        """Do the parts of `process` that NumPy and OpenCV do."""
        if not (self._predictions_file or self._boundary_iou or self._object_iou):
            return  # do not wait for the device
        fits_8_bits = len(self._class_names) <= 256
        labels = prediction.to(torch.uint8 if fits_8_bits else torch.int32).cpu().numpy()
        ignore = self._ignore_label
        if self._boundary_iou:
            update_boundary_counts(self._boundary_counts, labels, truth, ignore)
        if self._object_iou:
            update_object_counts(
                self._object_counts, labels, truth, ignore, min_iou=self._object_iou
            )
        if self._predictions_file:
            self._predictions_file.append(labels, input["file_name"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the metrics over all images: {"sem_seg": {name: value}}.

        They are in percent, except for the loss. With a tap, {"geometry": {name: value}} holds the
        numbers of `FeatureGeometry.compute`. The metrics are logged as a table, and the requested
        files are written.

        Every process must call this method. Only the main process gets the metrics; the others get
        None.

        Raises:
            InputError: no image was evaluated, or all points of all clouds are ignored.
        """
        confusion, num_images = self._sum_over_processes()
        boundary_counts = sum_on_cpu(self._boundary_counts)
        object_counts = sum_on_cpu(self._object_counts)
        loss = self._validation_loss and self._validation_loss.reduce()
        geometry = self._geometry and self._geometry.reduce()
        if num_images == 0:
            raise InputError(
                f'No image of data set "{self._dataset_name}" was evaluated, since the data set is '
                "empty: check its folder and DATASETS.TEST."
            )
        if not confusion.any() and is_cloud(load_dataset(self._dataset_name)[0]["file_name"]):
            raise InputError(
                f'No point of data set "{self._dataset_name}" has ground truth: all labels are '
                f"{self._ignore_label}, which is ignored. To predict clouds without ground truth, "
                "use tools/predict.py."
            )
        is_main = comm.is_main_process()
        run = describe_run(*self._run, self._dataset_name) if is_main and self._run else {}
        if is_main and self._output_dir:
            keep_other_results(self._output_dir, run)
        if self._predictions_file:
            if is_main:
                self._predictions_file.merge()
            # No process may overwrite its file for the next evaluation before the merge.
            comm.synchronize()
        if not is_main:
            return None

        classes = self._class_names, self._groups | self._own_groups
        metrics = confusion_metrics(confusion, *classes)
        if loss is not None:
            metrics["Loss"] = loss
        if self._boundary_iou:
            metrics |= boundary_metrics(boundary_counts, *classes)
        objects = None
        if self._object_iou:
            metrics |= object_metrics(object_counts, *classes)
            objects = dict(zip(OBJECT_COUNTS, object_counts.tolist(), strict=True))
        results = OrderedDict(sem_seg=metrics)
        if geometry:
            results["geometry"] = geometry.compute(self._tap.classifier.weight)
            self._log_absent_from(geometry)
        self._log(results, objects, num_images)
        if self._output_dir:
            self._write_metrics(results, confusion, objects, num_images, run)
        return results

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

    def _log(
        self,
        results: dict[str, dict[str, float]],
        objects: dict[str, list[int]] | None,
        num_images: int,
    ) -> None:
        metrics = results["sem_seg"]
        absent = [name for name in self._class_names if math.isnan(metrics[f"IoU-{name}"])]
        if absent:
            logger.warning(
                'Classes without ground truth in "%s", left out of the means: %s.',
                self._dataset_name,
                ", ".join(map(printable, absent)),
            )
        table = format_table(
            metrics,
            self._class_names,
            self._class_frequency,
            own_groups=tuple(self._own_groups),
            geometry=results.get("geometry"),
            objects=objects,
            units=self._units,
        )
        samples = f"{num_images} {self._units.sample}s"
        logger.info('Evaluation of "%s", %s:\n%s', self._dataset_name, samples, table)

    def _write_metrics(
        self,
        results: dict[str, dict[str, float]],
        confusion: Tensor,
        objects: dict[str, list[int]] | None,
        num_images: int,
        run: dict,
    ) -> None:
        content = {
            "dataset": self._dataset_name,
            "num_images": num_images,
            **run,
            "metrics": without_nan(results["sem_seg"]),
            "class_names": self._class_names,
            "groups": self._groups,
            "own_groups": self._own_groups,
            "confusion_truth_by_prediction": confusion.tolist(),
        }
        if "geometry" in results:
            content["geometry"] = without_nan(results["geometry"])
        if objects:
            content["objects"] = objects | {"min_iou": self._object_iou}
        write_results(self._output_dir, content)

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
