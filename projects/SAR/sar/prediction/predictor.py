"""Predict images or point clouds with a trained model. The data set of the training is not needed.

Shape shorthands: H x W pixels of an image, N points of a cloud, K classes.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from sar.checkpoints.classes import Classes
from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import CLOUD_SUFFIXES, Cloud, is_cloud, read_cloud
from sar.data.datasets.folder import IMAGE_SUFFIXES, default_colors, read_classes
from sar.data.mapper import SemanticSegmentationMapper
from sar.data.video import Frame, is_video
from sar.errors import InputError, first_line, forward_errors, listed
from sar.evaluation.argmax import argmax_over_classes
from sar.files.run_folder import CLASS_FREQUENCY
from sar.modeling.build import drop_training_branch
from sar.modeling.inference import inference_model, memory_remedy
from sar.prediction.cloud_prediction import CloudPrediction, ground_truth_of
from sar.preflight.checks import check_config
from sar.preflight.device import choose_device
from sar.threads import map_ahead
from sar.training.trainer import Trainer
from sar.visualization import draw_overlay

from detectron2.config import CfgNode

# A file, (H, W, 3) uint8 RGB, or a frame of a video.
Picture = str | os.PathLike | np.ndarray | Frame
# A file, or a cloud in memory.
Scan = str | os.PathLike | Cloud

# A palette has at most 256 colours. With more classes, label maps are 16-bit grey images.
_PALETTE_SIZE = 256


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of a model for one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) class ids, uint8 (uint16 for more than 256 classes).
        confidence: (H, W) float32, the probability of the predicted class; None if not requested.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
    """

    image: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray | None
    class_names: Sequence[str]
    colors: np.ndarray

    def overlay(self, *, all_classes: bool = False) -> Image.Image:
        """Draw the image with its classes in colour, over a legend of these or of all classes."""
        return draw_overlay(
            self.image, self.labels, self.class_names, self.colors, all_classes=all_classes
        )

    def label_image(self) -> Image.Image:
        """Return the class ids as an image with one channel, and the class colours as palette."""
        picture = Image.fromarray(self.labels)
        if len(self.class_names) <= _PALETTE_SIZE:
            picture.putpalette(self.colors.tobytes())
        return picture

    def confidence_image(self) -> Image.Image:
        """Return the confidence as grey values, 255 for 1."""
        return Image.fromarray((self.confidence * 255 + 0.5).astype(np.uint8))


class Predictor:
    """Model that reads images or point clouds, and returns a prediction for each.

    A model of images returns a `Prediction`, and a model of point clouds a `CloudPrediction`.

    Example::

        from sar.prediction.predictor import Predictor

        predictor = Predictor.load("model_inference.pth")
        predictor("street.jpg").overlay().show()
        predictions = predictor.predict_all(read_video("drive.mp4"))  # from sar.data.video

    Args:
        model: called like a SemanticSegmentor, in evaluation mode.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
        mapper: turns pixels or points into the input of the model. Predictions always have the size
            of the image or cloud. None: the model reads RGB images that are not resized.
        gives_probabilities: the model returns probabilities instead of logits.
        sums_masks: the model classifies queries, and returns sums over their masks instead of
            logits. The probability is then the share of a class in the sum over all classes.
        num_threads: number of threads that read ahead; 0 for none.
        memory_remedy: what to do if the memory is too small, for errors.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        colors: np.ndarray,
        *,
        mapper: SemanticSegmentationMapper | CloudMapper | None = None,
        gives_probabilities: bool = False,
        sums_masks: bool = False,
        num_threads: int = 0,
        memory_remedy: str = "cut it into parts",
    ) -> None:
        self.model = model
        self.class_names = class_names
        self.colors = colors
        self.mapper = mapper or SemanticSegmentationMapper(
            False, image_format="RGB", num_classes=len(class_names), ignore_label=255
        )
        self.gives_probabilities = gives_probabilities
        self.sums_masks = sums_masks
        self.num_threads = num_threads
        self.memory_remedy = memory_remedy

    @classmethod
    def load(cls, config_file: str | os.PathLike, *overrides: str) -> "Predictor":
        """Build the predictor of model_inference.pth, or of a config with MODEL.WEIGHTS.

        The overrides are KEY, VALUE pairs, as on the command line.

        TEST.MODE and TEST.AUG set the inference mode, MODEL.DEVICE sets the device, and
        DATALOADER.NUM_WORKERS sets the number of threads that read ahead.

        Raises:
            InputError: as in `load_for_inference`.
        """
        cfg = load_config(config_file, overrides)
        model, class_names, colors = load_for_inference(cfg)
        return cls(
            inference_model(cfg, model),
            class_names,
            colors,
            mapper=Trainer.build_test_mapper(cfg),
            gives_probabilities=cfg.TEST.AUG.ENABLED,
            sums_masks=bool(cfg.MODEL.TAP.MATCHER),
            num_threads=cfg.DATALOADER.NUM_WORKERS,
            memory_remedy=memory_remedy(cfg),
        )

    @property
    def reads_clouds(self) -> bool:
        """Return whether the model segments point clouds, not images."""
        return isinstance(self.mapper, CloudMapper)

    def __call__(
        self, image: Picture | Scan, *, with_confidence: bool = False
    ) -> Prediction | CloudPrediction:
        """Return the prediction of one image or cloud.

        Raises:
            InputError: the file cannot be read, the array is not an image, or the model cannot
                process it.
        """
        return self._predict(self._read(image), with_confidence)

    def predict_all(
        self,
        images: Iterable[Picture | Scan],
        *,
        with_confidence: bool = False,
    ) -> Iterator[Prediction | CloudPrediction | InputError]:
        """Yield the prediction of each image or cloud, in order, or its InputError.

        Threads read ahead, at most two images each. If `images` raises an InputError, as
        `read_video` does for a damaged video, this error is the last result.
        """
        images = _with_error_as_last(images)
        for sample in map_ahead(self._read_or_error, images, self.num_threads):
            if isinstance(sample, InputError):
                yield sample
                continue
            try:
                yield self._predict(sample, with_confidence)
            except InputError as error:
                yield error

    def _read_or_error(self, image: Picture | Scan | InputError) -> dict | InputError:
        if isinstance(image, InputError):
            return image
        try:
            return self._read(image)
        except InputError as error:
            return error

    def _read(self, image: Picture | Scan) -> dict:
        """Return the input of the model, with the image itself as "pixels".

        A cloud is "cloud" instead. "file_name" is for errors.
        """
        name = "the cloud" if isinstance(image, Cloud) else "the array"
        if isinstance(image, Frame):
            name, image = image.name, image.pixels
        elif isinstance(image, (str, os.PathLike)):
            name = str(image)
        try:
            if self.reads_clouds:
                cloud = image if isinstance(image, Cloud) else _read_scan(image)
                return {**self.mapper.map_points(cloud, name), "cloud": cloud, "file_name": name}
            pixels = image if isinstance(image, np.ndarray) else self._read_image(image)
            _check_pixels(pixels)
            return {**self.mapper.map_pixels(pixels), "pixels": pixels, "file_name": name}
        except MemoryError as error:
            raise InputError(
                f"{name} does not fit into memory ({first_line(error) or 'MemoryError'}): cut it "
                "into parts, or set DATALOADER.NUM_WORKERS lower, so that fewer files are read "
                "ahead"
            ) from error

    def _read_image(self, source: str | os.PathLike | Cloud) -> np.ndarray:
        remedy = "but the model segments images: use a model that was trained on point clouds"
        if isinstance(source, Cloud):
            raise InputError(f"a point cloud was given, {remedy}")
        try:
            return self.mapper.read_image(source)
        except InputError as error:
            if os.path.isfile(source) and is_cloud(source):
                raise InputError(f"{source} has the suffix of a point cloud, {remedy}") from error
            raise

    @torch.inference_mode()
    def _predict(self, sample: dict, with_confidence: bool) -> Prediction | CloudPrediction:
        height, width = sample["image"].shape[1:]
        size = f"{width} points" if self.reads_clouds else f"{width} x {height} pixels"
        with forward_errors(
            lambda reason: (
                f"{sample['file_name']}: the model cannot predict {size}: {reason}. If memory "
                f"is too small, {self.memory_remedy}"
            )
        ):
            scores = self.model([sample])[0]["sem_seg"]
            labels, confidence = self._decide(scores, with_confidence)
        if not self.reads_clouds:
            return Prediction(sample["pixels"], labels, confidence, self.class_names, self.colors)
        cloud, names = sample["cloud"], self.class_names
        truth = ground_truth_of(cloud, len(names), self.mapper.ignore_label)
        confidence = None if confidence is None else confidence[0]  # a cloud has one row
        return CloudPrediction(cloud, truth, labels[0], confidence, names, self.colors)

    def _decide(
        self, scores: torch.Tensor, with_confidence: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the class ids (H, W) and, if requested, their probabilities (H, W)."""
        confidence = None
        if with_confidence:
            best, labels = scores.max(dim=0)
            if self.sums_masks:
                best = best / scores.sum(dim=0).clamp(min=torch.finfo(scores.dtype).tiny)
            elif not self.gives_probabilities:
                best = (best - scores.logsumexp(dim=0)).exp()
            confidence = best.float().cpu().numpy()
        else:
            labels = argmax_over_classes(scores)
        dtype = np.uint8 if len(self.class_names) <= _PALETTE_SIZE else np.uint16
        return labels.cpu().numpy().astype(dtype), confidence


def _check_pixels(array: np.ndarray) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(
            f"the array is {array.dtype} of shape {array.shape}, expected an image: uint8 RGB of "
            "shape (H, W, 3)"
        )


def _read_scan(source: Scan) -> Cloud:
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            "the model segments point clouds, not images: give the path of a cloud, or a "
            "sar.data.clouds.Cloud"
        )
    if os.path.splitext(source)[1].lower() in IMAGE_SUFFIXES or is_video(source):
        raise InputError(
            f"{source} is an image or a video, but the model segments point clouds: give clouds "
            f"({', '.join(CLOUD_SUFFIXES)}), or use a model that was trained on images"
        )
    return read_cloud(source)


def _with_error_as_last(
    images: Iterable[Picture | Scan],
) -> Iterator[Picture | Scan | InputError]:
    try:
        yield from images
    except InputError as error:
        yield error


def load_for_inference(cfg: CfgNode) -> tuple[nn.Module, list[str], np.ndarray]:
    """Load the model of a config for inference, without its training branch.

    Data sets, regularizers, losses and class frequencies are not needed. The device and the number
    of classes are written into `cfg`.

    Returns:
        The model in evaluation mode, the K class names, and (K, 3) uint8 colours.

    Raises:
        InputError: the config has a problem; MODEL.WEIGHTS is missing, broken or from another
            model; the classes are unknown.
    """
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty: add MODEL.WEIGHTS and the path of a checkpoint")
    choose_device(cfg)
    cfg.TEST.GEOMETRY = cfg.TEST.LOSS = False
    drop_training_branch(cfg)
    check_config(cfg)
    names, colors = find_classes(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NUM_CLASSES not in (0, len(names)):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but {len(names)} classes have "
            f"names ({listed(names)}): set DATASETS.TEST or DATASETS.FOLDER to the data set of the "
            "model"
        )
    head.NUM_CLASSES = len(names)
    return Trainer.load_for_evaluation(cfg), names, colors


def find_classes(cfg: CfgNode) -> tuple[list[str], np.ndarray]:
    """Return the names and (K, 3) uint8 colours of the classes, as saved with the weights.

    Older checkpoints have no classes. Their classes are read from the data set of the config, if it
    exists here, or else from the class_frequency.json next to the checkpoint.

    Raises:
        InputError: no classes are found, a file is malformed, or the data set of the config has
            other classes than the weights.
    """
    saved = Classes.from_file(cfg.MODEL.WEIGHTS)
    of_dataset = _classes_of_dataset(cfg)
    if saved and of_dataset and saved.names != of_dataset.names:
        raise InputError(
            f"checkpoint {cfg.MODEL.WEIGHTS} was trained on the classes {listed(saved.names)}, but "
            "the data set of the config (DATASETS.FOLDER, DATASETS.TEST) has "
            f"{listed(of_dataset.names)}. Use the config of the training, or leave out the data "
            "set."
        )
    found = saved or of_dataset
    path = Path(cfg.MODEL.WEIGHTS).with_name(CLASS_FREQUENCY)
    if found is None and path.is_file():
        names = ClassFrequency.load(path).class_names
        found = Classes(tuple(names), tuple(map(tuple, default_colors(len(names)))))
    if found is None:
        raise InputError(
            f"the names of the classes are unknown. MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is an older "
            f"checkpoint without names; there is no {CLASS_FREQUENCY} next to it, and no data set "
            f"in DATASETS.FOLDER or DATASETS.TEST. Copy {CLASS_FREQUENCY} from the OUTPUT_DIR of "
            "the training to the folder of the checkpoint."
        )
    return list(found.names), np.array(found.colors, dtype=np.uint8)


def _classes_of_dataset(cfg: CfgNode) -> Classes | None:
    """Return the classes of the data set in the config; None if the data set is not here."""
    if folder := cfg.DATASETS.FOLDER:
        path = Path(folder).expanduser() / "classes.txt"
        if not path.is_file():
            return None
        names, colors = read_classes(path)
        return Classes(tuple(names), tuple(map(tuple, colors)))
    return Classes.of_first_known((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))
