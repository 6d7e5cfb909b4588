"""From a data set's dict to the sample that a model takes.

Shape shorthands:

    H, W: height and width of the file
    h, w: height and width of the sample
"""

import copy
import os
from collections.abc import Sequence

import numpy as np
import torch

from sar.data.augmentation import (
    ColorJitter,
    GeometricTransform,
    RandomCrop,
    RandomScaleCropFlip,
    pad,
    resize_shortest_edge,
)
from sar.data.crop import read_crop
from sar.data.grey_range import GreyRange
from sar.data.image_files import FULL_RANGE, read_image
from sar.data.label_files import read_truth
from sar.data.pillow_files import MAX_PIXELS, allow_pixels
from sar.errors import InputError, nearest

from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T

_FORMATS = ("RGB", "BGR")


class SemanticSegmentationMapper:
    """Reads an image and, in training, its label map; augments or resizes; makes tensors.

    What is drawn depends on the generator of the call alone.

    Args:
        is_train: augment and read labels; otherwise resize the image and leave labels to the
            evaluator.
        image_format: "RGB" or "BGR", the order of the channels of "image".
        num_classes: label ids are below this, or `ignore_label`.
        ignore_label: the id of pixels without a class.
        geometry: draws scale, crop and flip; training only.
        color_jitter: None for none.
        pad_shape: (h, w) that smaller crops are padded to; None: they are not.
        pixel_mean: what images are padded with, per channel in the order of `image_format`.
        grey_range: which values of grey images of 16 bits become black and white.
        max_pixels: of an image or a label; for Pillow, in each process that has the mapper.
        test_size: the shorter edge (0: not resized) and the most for the longer one, in pixels;
            test only.

    Raises:
        InputError: an unknown `image_format`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        image_format: str,
        num_classes: int,
        ignore_label: int,
        geometry: RandomScaleCropFlip | None = None,
        color_jitter: ColorJitter | None = None,
        pad_shape: tuple[int, int] | None = None,
        pixel_mean: Sequence[float] = (0, 0, 0),
        grey_range: GreyRange = FULL_RANGE,
        max_pixels: int = MAX_PIXELS,
        test_size: tuple[int, int] = (0, 0),
    ) -> None:
        if image_format not in _FORMATS:
            raise InputError(
                f'INPUT.FORMAT "{image_format}" is unknown: use one of {", ".join(_FORMATS)}.'
                f"{nearest(image_format, _FORMATS)}"
            )
        self.is_train = is_train
        self.image_format = image_format
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.geometry = geometry
        self.color_jitter = color_jitter
        self.pad_shape = pad_shape
        self.pixel_mean = pixel_mean
        self.grey_range = grey_range
        self.max_pixels = max_pixels
        self.test_size = test_size
        allow_pixels(max_pixels)

    def __setstate__(self, state: dict) -> None:
        """Restore the mapper in a worker, whose Pillow does not know the limit yet."""
        self.__dict__.update(state)
        allow_pixels(self.max_pixels)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        kwargs = {
            "is_train": is_train,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "grey_range": GreyRange.from_config(cfg),
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }
        if not is_train:
            return {**kwargs, "test_size": (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)}
        crop = None
        if cfg.INPUT.CROP.ENABLED:
            crop = RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
            # The one kind of crop whose samples can all have one size.
            if crop.type == "absolute":
                kwargs["pad_shape"] = crop.size
        if cfg.INPUT.COLOR_JITTER != 0:
            kwargs["color_jitter"] = ColorJitter(cfg.INPUT.COLOR_JITTER)
        kwargs["pixel_mean"] = cfg.MODEL.PIXEL_MEAN
        kwargs["geometry"] = RandomScaleCropFlip(
            cfg.INPUT.MIN_SIZE_TRAIN,
            sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
            max_size=cfg.INPUT.MAX_SIZE_TRAIN,
            crop=crop,
            max_category_share=cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            flip=cfg.INPUT.RANDOM_FLIP,
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
        return kwargs

    def __call__(self, dataset_dict: dict, rng: np.random.Generator | None = None) -> dict:
        """The sample of a data set's dict, which stays as it is.

        Args:
            dataset_dict: with "file_name" and, for training, "sem_seg_file_name".
            rng: what augmentation is drawn from; None for one that the system seeds.

        Returns:
            `dataset_dict` with "image" (3, h, w) uint8, "height" and "width" of the file (H, W)
            and, in training, "sem_seg" (h, w) int64.

        Raises:
            InputError: a file is missing or unreadable, their sizes differ, or a label has ids
                that are neither classes nor `ignore_label`.
        """
        sample = dict(dataset_dict)
        if self.is_train:
            label = self._read_label(dataset_dict)
            sample["height"], sample["width"] = label.shape
            rng = rng or np.random.default_rng()
            # Drawn before the image is read, of which only what the crop shows is decoded.
            self._augment(sample, label, self.geometry(label, rng), rng)
        else:
            sample.update(self.map_pixels(self.read_image(dataset_dict["file_name"])))
        return sample

    def read_image(self, path: str | os.PathLike) -> np.ndarray:
        """Read an image as the model sees it, not resized: (H, W, 3) uint8 RGB.

        Raises:
            InputError: the file is missing or unreadable.
        """
        return read_image(path, self.grey_range)

    def map_pixels(self, image: np.ndarray) -> dict:
        """The test sample of an image that is in memory.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            "image" (3, h, w) uint8, and "height" and "width" of the image as it came (H, W).
        """
        height, width = image.shape[:2]
        resized = resize_shortest_edge((height, width), *self.test_size).apply_image(image)
        image = _channels_first(self._in_format(resized))
        return {"image": image, "height": height, "width": width}

    def _augment(
        self,
        sample: dict,
        label: np.ndarray,
        transform: GeometricTransform,
        rng: np.random.Generator,
    ) -> None:
        """Adds to the sample of a training image what the model takes."""
        # RGB for ColorJitter; the order that the model takes comes with the last copy.
        image = read_crop(
            sample["file_name"], transform, sample["sem_seg_file_name"], self.grey_range
        )
        label = transform.apply_label(label)
        if self.color_jitter is not None:
            image = self.color_jitter(image, rng)
        image = self._in_format(image)
        # Before the padding: a file of 8 bits cannot hold an ignore id of 16.
        label = label.astype(np.int64)
        if self.pad_shape is not None:
            image = pad(image, self.pad_shape, self.pixel_mean)
            label = pad(label, self.pad_shape, self.ignore_label)
        sample["image"], sample["sem_seg"] = _channels_first(image), torch.from_numpy(label)

    def _in_format(self, image: np.ndarray) -> np.ndarray:
        return image if self.image_format == "RGB" else image[:, :, ::-1]

    def _read_label(self, dataset_dict: dict) -> np.ndarray:
        label_file_name = dataset_dict.get("sem_seg_file_name")
        if label_file_name is None:
            raise InputError(
                f"The image {dataset_dict['file_name']} has no label to train on: add its "
                '"sem_seg_file_name" to the data set\'s dict, or remove the image.'
            )
        return read_truth(label_file_name, self.num_classes, self.ignore_label)


class PanopticMapper(SemanticSegmentationMapper):
    """As SemanticSegmentationMapper, with the instances of training images beside their labels.

    Args:
        mask_format: "polygon" or "bitmask", of the instances' masks.
        kwargs: of SemanticSegmentationMapper.

    Raises:
        InputError: as SemanticSegmentationMapper; a config of what it does not read.
    """

    @configurable
    def __init__(self, is_train: bool = True, *, mask_format: str, **kwargs) -> None:
        super().__init__(is_train, **kwargs)
        self.mask_format = mask_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise InputError(
                    f"MODEL.{key} is True, but with MODEL.MASK_ON neither keypoints nor proposals "
                    "are read here: set it to False"
                )
        return {**super().from_config(cfg, is_train), "mask_format": cfg.INPUT.MASK_FORMAT}

    def _augment(
        self,
        sample: dict,
        label: np.ndarray,
        transform: GeometricTransform,
        rng: np.random.Generator,
    ) -> None:
        """Also turns "annotations", those of no crowd, into "instances"."""
        super()._augment(sample, label, transform, rng)
        shape = tuple(sample["sem_seg"].shape)
        steps = _steps_of(transform, shape)
        annotations = []
        for annotation in sample.pop("annotations"):
            if not annotation.get("iscrowd", 0):
                annotation = copy.deepcopy(annotation)  # which is changed in place
                annotation.pop("keypoints", None)
                annotations.append(
                    detection_utils.transform_instance_annotations(annotation, steps, shape)
                )
        instances = detection_utils.annotations_to_instances(annotations, shape, self.mask_format)
        if instances.has("gt_masks"):  # of what the crop has left of them
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        sample["instances"] = detection_utils.filter_empty_instances(instances)


def _steps_of(transform: GeometricTransform, padded_shape: tuple[int, int]) -> T.TransformList:
    """What becomes of the image and its label, as detectron2 has it for boxes and masks."""
    h, w = transform.shape
    steps = [T.ResizeTransform(*transform.source_shape, *transform.scaled_shape)]
    if transform.shape != transform.scaled_shape:  # to crop polygons takes shapely
        steps.append(T.CropTransform(transform.left, transform.top, w, h))
    if transform.flip == "horizontal":
        steps.append(T.HFlipTransform(w))
    elif transform.flip == "vertical":
        steps.append(T.VFlipTransform(h))
    steps.append(T.PadTransform(0, 0, padded_shape[1] - w, padded_shape[0] - h))
    return T.TransformList(steps)


def build_train_mapper(cfg: CfgNode) -> SemanticSegmentationMapper:
    """What reads the training images of a config: with instances where it has MODEL.MASK_ON."""
    return (PanopticMapper if cfg.MODEL.MASK_ON else SemanticSegmentationMapper)(cfg, True)


def _channels_first(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
