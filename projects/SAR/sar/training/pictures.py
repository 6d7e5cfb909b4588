"""Draw pictures of a training for TensorBoard: predictions, and similarities of classes.

Shape shorthands: H x W pixels, K classes, C embedding channels.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import nn

from sar.data.class_frequency import class_frequency_of
from sar.data.clouds import is_cloud
from sar.data.datasets import load_dataset
from sar.data.label_files import read_label
from sar.data.scan import classes_shown
from sar.errors import InputError
from sar.evaluation.argmax import argmax_over_classes
from sar.files.atomic import names_below_common_folder
from sar.modeling.inference import inference_model
from sar.modeling.taps import find_classifier
from sar.regularizers import SemanticAnchorRegularizer
from sar.visualization import class_colors, side_by_side
from sar.visualization.cloud_picture import draw_cloud_file
from sar.visualization.cosines import centred_cosines, plot_cosines
from sar.visualization.dataset import evenly_spaced, select_samples

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage

logger = logging.getLogger(__name__)

# Longer edge of an image in a picture, in pixels.
MAX_SIZE = 512
# Number of labels that are read to find rare classes. This takes seconds for any data set.
_NUM_CANDIDATES = 64


class Pictures:
    """Draw pictures after each evaluation:

    * `predictions/FILE`: image, ground truth and prediction for TEST.PICTURES images of the first
      test set. The images stay the same; images with rare classes come first. Point clouds are
      drawn obliquely and from above;
    * `cosines/LAYER`: cosines between the class vectors of the classifier, and between the semantic
      anchors of SAR once its gate has opened.

    The model and all random generators stay unchanged. An error is logged and does not end the
    training.

    Args:
        cfg: the complete config of `prepare`.
        build_mapper: builds the mapper for `inference_model`, as Trainer.build_test_mapper.
    """

    def __init__(self, cfg: CfgNode, build_mapper: Callable[[CfgNode], Callable]) -> None:
        self.cfg = cfg
        self._build_mapper = build_mapper
        self._records: dict[str, dict] | None = None

    def put(self, model: nn.Module, storage: EventStorage) -> None:
        """Put the pictures into the storage, from which TensorBoard's writer takes them.

        Args:
            model: not wrapped, because one process draws while the others wait.
        """
        if self.cfg.TEST.PICTURES == 0:
            return
        try:
            with torch.no_grad():
                pictures = self._draw_predictions(model) | self._draw_cosines(model)
            for name, picture in pictures.items():
                storage.put_image(name, np.asarray(picture).transpose(2, 0, 1))
        except Exception:
            logger.exception(
                f"No pictures of iteration {storage.iter} could be drawn. The training continues; "
                "TEST.PICTURES 0 is without them. What went wrong:"
            )

    def _draw_predictions(self, model: nn.Module) -> dict[str, Image.Image]:
        if not self.cfg.DATASETS.TEST:
            return {}
        if self._records is None:
            self._records = self._choose_records()
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TEST[0])
        colors = class_colors(metadata)
        mapper = self._build_mapper(self.cfg)
        pictures = {}
        is_training = model.training
        try:
            predictor = inference_model(self.cfg, model.eval())
            for name, record in self._records.items():
                scores = predictor([mapper(record)])[0]["sem_seg"]
                prediction = argmax_over_classes(scores).cpu().numpy()
                file, label_file = record["file_name"], record.get("sem_seg_file_name")
                truth = None if label_file is None else read_label(label_file)
                classes = metadata.stuff_classes, colors
                if is_cloud(file):
                    picture = draw_cloud_file(file, truth, prediction, *classes)
                else:
                    truth = None if truth is None else reduced(truth)
                    image = reduced(mapper.read_image(file))
                    picture = side_by_side(image, truth, reduced(prediction), *classes)
                pictures[f"predictions/{name}"] = picture
        finally:
            model.train(is_training)
        return pictures

    def _choose_records(self) -> dict[str, dict]:
        """Return the images to draw, by file name.

        Some evenly spaced labels are read, and images with the rarest classes are taken. Reading
        all labels would take as long as an evaluation.
        """
        name, number = self.cfg.DATASETS.TEST[0], self.cfg.TEST.PICTURES
        records = load_dataset(name)
        if all("sem_seg_file_name" in record for record in records):
            records = evenly_spaced(records, max(_NUM_CANDIDATES, number))
            num_classes = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
            ignore_label = self.cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
            shown = classes_shown(records, num_classes, ignore_label, progress=False)
            counts = self._training_counts()
            if counts is None:
                counts = np.bincount([k for ids in shown for k in ids], minlength=num_classes)
            records = [records[i] for i in select_samples(shown, counts, number)]
        else:
            records = evenly_spaced(records, number)
        names = names_below_common_folder([record["file_name"] for record in records])
        logger.info(f'Drawn for TensorBoard, of "{name}": {", ".join(names)}')
        return dict(zip(names, records, strict=True))

    def _draw_cosines(self, model: nn.Module) -> dict[str, Image.Image]:
        pictures = {}
        path, num_classes = self.cfg.MODEL.CLASSIFIER, self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        try:
            weight = find_classifier(model, path, num_classes).weight.flatten(1)
        except InputError:
            pass  # a plain model does not need it
        else:
            pictures[f"cosines/{path}"] = self._plot_cosines(weight, "class vectors")
        for name, module in model.named_modules():
            # The anchors are zero before.
            if isinstance(module, SemanticAnchorRegularizer) and module.gate_has_opened:
                anchors = module.semantic_anchors
                pictures[f"cosines/{name}"] = self._plot_cosines(anchors, "semantic anchors")
        return pictures

    def _plot_cosines(self, vectors: torch.Tensor, what: str) -> Image.Image:
        """Draw the cosines of vectors (K, C), the most frequent class first if known."""
        names = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0]).stuff_classes
        titles = [f"{what}: cosines about their mean"]
        order, counts = np.arange(len(vectors)), self._training_counts()
        if counts is not None:
            order = np.argsort(-counts, kind="stable")
            titles.append("from the most frequent to the rarest class")
        cosines = centred_cosines(vectors.double().cpu().numpy()[order])
        return plot_cosines(cosines, [names[k] for k in order], titles)

    def _training_counts(self) -> np.ndarray | None:
        """Return (K,) the number of training images that show each class."""
        frequency = class_frequency_of(self.cfg)
        return np.array(frequency.images) if frequency else None


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Shrink an image (H, W, 3) or class ids (H, W) to at most MAX_SIZE."""
    height, width = pixels.shape[:2]
    scale = MAX_SIZE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    ids = Image.fromarray(pixels.astype(np.int32))
    return np.asarray(ids.resize(size, Image.Resampling.NEAREST))
