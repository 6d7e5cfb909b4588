"""Run the model of a run on validation images: predictions, embeddings, centres, anchors.

Shape shorthands: H x W pixels, K classes, C embedding channels, P points.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sar.config import load_config
from sar.data import loader
from sar.data.clouds import is_cloud, read_cloud
from sar.data.datasets import load_dataset
from sar.data.datasets.folder import register_folder
from sar.data.grey_range import GreyRange
from sar.data.image_files import FULL_RANGE, read_image
from sar.data.label_files import read_label
from sar.errors import InputError, forward_errors
from sar.evaluation.argmax import argmax_over_classes
from sar.evaluation.embeddings import tap_evaluation
from sar.ops.class_sums import class_sums
from sar.prediction.predictor import load_for_inference
from sar.regularizers.labels import match_labels
from sar.report.runs import Run
from sar.training.trainer import Trainer
from sar.visualization.cloud_picture import own_colors
from sar.visualization.clouds import SAMPLES, view_obliquely
from sar.visualization.dataset import evenly_spaced

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

# Longer edge of the pictures on the page, in pixels.
PICTURE_SIZE = 384
CLOUD_SIZE = (288, PICTURE_SIZE)  # height and width of the picture of a cloud
# Number of embeddings in a projection, the same number for each class.
_NUM_POINTS = 900
_MIN_POINTS_OF_A_CLASS = 6


@dataclass
class View:
    """Results of a model on the images. Unknown results are None or empty.

    Attributes:
        reasons: why a part is missing ("model", "anchors" or "images"). Without embeddings,
            "images" has the reason, too.
        colors: (K, 3) uint8 of the classes.
        anchors: (K, C) semantic anchors in the checkpoint.
        centres: (K, C) mean embeddings. Classes that no image shows have NaN.
        points: (P, C) embeddings. `point_classes` (P,) has their classes.
        predictions: (H, W) class ids by file name, at most PICTURE_SIZE wide and high.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    colors: np.ndarray | None = None
    anchors: np.ndarray | None = None
    centres: np.ndarray | None = None
    points: np.ndarray | None = None
    point_classes: np.ndarray | None = None
    predictions: dict[str, np.ndarray] = field(default_factory=dict)


class Images:
    """Evenly chosen images of a data set, the same for all runs.

    A point cloud is shown obliquely: its picture and its label maps have the points that are seen.
    """

    def __init__(self, name: str, num_images: int, grey_range: GreyRange = FULL_RANGE):
        """
        Args:
            grey_range: of 16-bit images.

        Raises:
            InputError: the data set is missing.
        """
        self.records = evenly_spaced(load_dataset(name), num_images)
        self.label_files = {r["file_name"]: r["sem_seg_file_name"] for r in self.records}
        self.metadata = MetadataCatalog.get(name)

        self._grey_range = grey_range
        self._seen: dict[str, np.ndarray] = {}  # points of clouds

    def picture(self, file_name: str) -> np.ndarray:
        """Return the image as (H, W, 3) uint8 RGB, at the size of the predictions."""
        if is_cloud(file_name):
            cloud = read_cloud(file_name)
            return view_obliquely(cloud.xyz, cloud.normal, CLOUD_SIZE).draw(own_colors(cloud))
        return subsampled(read_image(file_name, self._grey_range))

    def truth(self, file_name: str) -> np.ndarray:
        """Return the ground truth as (H, W) class ids, at the size of the predictions."""
        return self.shown(file_name, read_label(self.label_files[file_name]))

    def shown(self, file_name: str, labels: np.ndarray) -> np.ndarray:
        """Return class ids (H, W) of an image at the size of its picture.

        Args:
            labels: (H, W) of the image, or (1, N) of the cloud. The background of a cloud gets the
                id 65535, which is not a class.
        """
        if not is_cloud(file_name):
            return subsampled(labels)
        if file_name not in self._seen:
            cloud = read_cloud(file_name)
            view = view_obliquely(cloud.xyz, cloud.normal, CLOUD_SIZE)
            self._seen[file_name] = view.points[::SAMPLES, ::SAMPLES].copy()
        return np.append(labels[0].astype(np.uint16), np.uint16(65535))[self._seen[file_name]]


def look_at(
    run: Run,
    dataset: str,
    num_images: int,
    show_progress: Callable[[Iterable], Iterable],
) -> tuple[View, Images | None]:
    """Run the model of a run on some images of the data set that it was evaluated on.

    TEST.MODE and TEST.AUG are ignored. Each image is predicted whole and once, so it has one
    embedding.

    Args:
        run: the run, evaluated on the data set.
        dataset: name of the data set.
        num_images: number of images.
        show_progress: wraps the iterable of images.
    """
    view = View()
    try:
        cfg = _config_of(run)
        model, class_names, view.colors = load_for_inference(cfg)
        if list(class_names) != run.evaluations[dataset]["class_names"]:
            raise InputError("Its model has other classes than its evaluation.")
    except InputError as error:
        view.reasons["model"] = str(error)
        return view, None
    view.anchors = _read_anchors(cfg.MODEL.WEIGHTS)
    if view.anchors is None:
        view.reasons["anchors"] = (
            "The checkpoint has no semantic anchors: it was trained without SAR, or the gate never "
            "opened."
        )
    try:
        if cfg.DATASETS.FOLDER:
            register_folder(cfg.DATASETS.FOLDER)
        images = Images(dataset, num_images, GreyRange.from_config(cfg))
        if list(images.metadata.stuff_classes) != list(class_names):
            raise InputError(f'The data set "{dataset}" here has other classes than the run.')
        _show(images, model, cfg, view, show_progress)
    except InputError as error:
        view.reasons["images"] = str(error)
        return view, None
    return view, images


def _show(
    images: Images,
    model: nn.Module,
    cfg: CfgNode,
    view: View,
    show_progress: Callable[[Iterable], Iterable],
) -> None:
    """Run the model on the images and write the results into the view.

    A model whose embeddings cannot be read still predicts.
    """
    num_classes = len(view.colors)
    predictions = {}
    samples = _Samples(num_classes)
    batches = loader.build_test_loader(cfg, Trainer.build_test_mapper(cfg), images.records)
    with torch.inference_mode(), ExitStack() as stack:
        tap = None
        try:
            tap = stack.enter_context(tap_evaluation(model, cfg.MODEL.CLASSIFIER, num_classes))
        except InputError as error:
            view.reasons["images"] = str(error)
        for (sample,), record in zip(show_progress(batches), images.records, strict=True):
            labels = _predict(model, sample)
            truth = read_label(record["sem_seg_file_name"]).astype(np.int32)
            if truth.shape != labels.shape:
                raise InputError(f"{record['sem_seg_file_name']} has another size than its image.")
            file_name = record["file_name"]
            predictions[file_name] = images.shown(file_name, labels.astype(np.uint16))
            if tap is None:
                continue
            size = tuple(sample["image"].shape[-2:])
            embeddings, labels = tap.take([truth], [size], images.metadata.ignore_label)
            if not bool(embeddings.isfinite().all()):
                raise InputError(
                    f"Its model outputs numbers that are not finite for {record['file_name']}."
                )
            samples.add(embeddings, labels)
    view.predictions = predictions
    if tap is not None:
        view.centres = samples.centres()
        view.points, view.point_classes = samples.points()


def _predict(model: nn.Module, sample: dict) -> np.ndarray:
    """Return the class ids (H, W) of an image."""
    with forward_errors(
        lambda reason: f"Its model cannot predict {sample['file_name']} in one pass ({reason})."
    ):
        return argmax_over_classes(model([sample])[0]["sem_seg"]).cpu().numpy()


def subsampled(pixels: np.ndarray) -> np.ndarray:
    """Return every n-th pixel of (H, W, ...), so that no edge exceeds PICTURE_SIZE."""
    step = max(1, -(-max(pixels.shape[:2]) // PICTURE_SIZE))
    rows, columns = (slice(min(step, size) // 2, None, step) for size in pixels.shape[:2])
    return pixels[rows, columns]


def _config_of(run: Run) -> CfgNode:
    config_file, checkpoint = run.config_file(), run.checkpoint()
    if checkpoint is None:
        raise InputError(f"{run.folder} has no model_best.pth or model_final.pth.")
    cfg = load_config(str(config_file))
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(run.folder), str(checkpoint)
    cfg.TEST.MODE, cfg.TEST.AUG.ENABLED = "whole", False
    return cfg


def _read_anchors(path: str) -> np.ndarray | None:
    """Return the semantic anchors in a checkpoint; None if there are none yet."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key, value in content.get("model", content).items():
        if key.startswith("regularizers.") and key.endswith(".semantic_anchors") and value.any():
            return value.double().numpy()
    return None


class _Samples:
    """Sums of embeddings of each class, and samples of embeddings, of equal size for each class."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.per_class = max(_MIN_POINTS_OF_A_CLASS, _NUM_POINTS // num_classes)
        self.sums: Tensor | float = 0.0
        self.counts: Tensor | float = 0.0
        self.kept: list[list[Tensor]] = [[] for _ in range(num_classes)]
        self.generator = torch.Generator().manual_seed(0)

    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add the embeddings (1, C, ...) and labels (1, ...) of an image; ignore other ids."""
        none = self.num_classes  # label of ignored pixels
        labels = match_labels(embeddings, labels).flatten(1).cpu().clamp(max=none)
        embeddings = embeddings.float().flatten(2).cpu()
        sums, counts = class_sums(embeddings.double(), labels, self.num_classes, ignore_value=none)
        self.sums = self.sums + sums
        self.counts = self.counts + counts
        for class_id in counts.nonzero().flatten().tolist():
            self.kept[class_id].append(self._some(embeddings[0].T[labels[0] == class_id]))

    def centres(self) -> np.ndarray:
        """Return the means (K, C), with NaN for classes that no image shows."""
        return (self.sums / self.counts[:, None]).numpy()

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return embeddings (P, C) and their classes (P,)."""
        kept = [self._some(torch.cat(parts)) if parts else torch.empty(0) for parts in self.kept]
        classes = np.repeat(np.arange(self.num_classes), [len(part) for part in kept])
        return torch.cat(kept).numpy(), classes

    def _some(self, embeddings: Tensor) -> Tensor:
        order = torch.randperm(len(embeddings), generator=self.generator)
        return embeddings[order[: self.per_class]]
