"""Map a data set's dict to the sample that a model takes.

Shape shorthands:

    H, W: height and width of the file
    h, w: height and width of the sample
"""

import copy
import os
from collections.abc import Sequence

import numpy as np
import torch

from sar.config import building
from sar.data.augmentation import (
    ColorJitter,
    GeometricTransform,
    RandomCrop,
    RandomScaleCropFlip,
    pad,
    resize_shortest_edge,
)
from sar.data.cloud_mapper import CloudMapper
from sar.data.crop import read_crop
from sar.data.grey_range import GreyRange
from sar.data.image_files import FULL_RANGE, read_image
from sar.data.label_files import read_truth
from sar.data.pillow_files import MAX_PIXELS, allow_pixels
from sar.errors import InputError, nearest

from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

_FORMATS = ("RGB", "BGR")


class SemanticSegmentationMapper:
    """Read an image and, in training, its label map; augment or resize; make tensors.

    The random numbers come only from the generator that is passed to the call.

    Args:
        is_train: read and augment images and labels; otherwise resize images, and leave labels to
            the evaluator.
        image_format: channel order of "image", "RGB" or "BGR".
        num_classes: K; label ids are 0 to K - 1, or `ignore_label`.
        ignore_label: the id of pixels without a class.
        geometry: draws scale, crop and flip; training only.
        color_jitter: None for no jitter; training only.
        pad_shape: (h, w) to which smaller crops are padded; None for no padding.
        pixel_mean: the padding of images, per channel in the order of `image_format`.
        grey_range: the values of 16-bit grey images that become black and white.
        max_pixels: the most pixels of an image or a label.
        test_size: the shorter edge (0: not resized) and the greatest longer edge, in pixels; test
            only.

    Raises:
        InputError: `image_format` is unknown.
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
            # Only with this type can all samples have the same size.
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
            class_uniform=cfg.INPUT.CROP.CLASS_UNIFORM,
            flip=cfg.INPUT.RANDOM_FLIP,
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
        return kwargs

    def __call__(self, dataset_dict: dict, rng: np.random.Generator | None = None) -> dict:
        """Return the sample of a data set's dict, without changing the dict.

        Args:
            dataset_dict: with "file_name" and, for training, "sem_seg_file_name".
            rng: random generator for augmentation; None for one that the system seeds.

        Returns:
            `dataset_dict` with "image" (3, h, w) uint8, "height" and "width" of the file (H, W)
            and, in training, "sem_seg" (h, w) int64.

        Raises:
            InputError: a file is missing or unreadable, image and label have different sizes, or a
                label id is not a class and not `ignore_label`.
        """
        sample = dict(dataset_dict)
        if self.is_train:
            label = self._read_label(dataset_dict)
            sample["height"], sample["width"] = label.shape
            rng = rng or np.random.default_rng()
            # Drawn before the image is read, so that a large JPEG can be decoded at a reduced size.
            self._augment(sample, label, self.geometry(label, rng), rng)
        else:
            sample.update(self.map_pixels(self.read_image(dataset_dict["file_name"])))
        return sample

    def read_image(self, path: str | os.PathLike) -> np.ndarray:
        """Return an image before resizing: (H, W, 3) uint8 RGB.

        Raises:
            InputError: the file is missing or unreadable.
        """
        return read_image(path, self.grey_range)

    def map_pixels(self, image: np.ndarray) -> dict:
        """Return the test sample of an image in memory.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            "image" (3, h, w) uint8, and the original "height" and "width" (H, W).
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
        """Add the tensors that the model takes to the sample of a training image."""
        # RGB for ColorJitter; converted to the model's order below.
        image = read_crop(
            sample["file_name"], transform, sample["sem_seg_file_name"], self.grey_range
        )
        label = transform.apply_label(label)
        if self.color_jitter is not None:
            image = self.color_jitter(image, rng)
        image = self._in_format(image)
        # Before the padding, because an 8-bit label cannot hold a 16-bit ignore id.
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
    """SemanticSegmentationMapper that also returns the instances of training images.

    Args:
        mask_format: "polygon" or "bitmask", the format of instance masks.
        kwargs: arguments of SemanticSegmentationMapper.

    Raises:
        InputError: as in SemanticSegmentationMapper, or the config asks for keypoints or proposals.
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
                    f"MODEL.{key} is True, but keypoints and proposals are not supported with "
                    "MODEL.MASK_ON: set it to False"
                )
        return {**super().from_config(cfg, is_train), "mask_format": cfg.INPUT.MASK_FORMAT}

    def _augment(
        self,
        sample: dict,
        label: np.ndarray,
        transform: GeometricTransform,
        rng: np.random.Generator,
    ) -> None:
        """Also turn "annotations", without crowds, into "instances"."""
        super()._augment(sample, label, transform, rng)
        shape = tuple(sample["sem_seg"].shape)
        steps = _steps_of(transform, shape)
        annotations = []
        for annotation in sample.pop("annotations"):
            if not annotation.get("iscrowd", 0):
                annotation = copy.deepcopy(annotation)  # detectron2 changes it in place
                annotation.pop("keypoints", None)
                annotations.append(
                    detection_utils.transform_instance_annotations(annotation, steps, shape)
                )
        instances = detection_utils.annotations_to_instances(annotations, shape, self.mask_format)
        if instances.has("gt_masks"):  # boxes of the parts inside the crop
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        sample["instances"] = detection_utils.filter_empty_instances(instances)


class ClassMaskMapper(SemanticSegmentationMapper):
    """SemanticSegmentationMapper that also returns a mask for each class in a training image.

    MaskFormer and Mask2Former take them as "instances": `gt_classes` (T,) and `gt_masks` (T, h, w)
    bool, for the T classes in the labels.
    """

    def _augment(
        self,
        sample: dict,
        label: np.ndarray,
        transform: GeometricTransform,
        rng: np.random.Generator,
    ) -> None:
        super()._augment(sample, label, transform, rng)
        labels = sample["sem_seg"]
        classes = labels[labels != self.ignore_label].unique()
        masks = labels == classes[:, None, None]
        sample["instances"] = Instances(tuple(labels.shape), gt_classes=classes, gt_masks=masks)


def _steps_of(transform: GeometricTransform, padded_shape: tuple[int, int]) -> T.TransformList:
    """Return the same transform as detectron2's classes, for boxes and masks."""
    h, w = transform.shape
    steps = [T.ResizeTransform(*transform.source_shape, *transform.scaled_shape)]
    if transform.shape != transform.scaled_shape:  # cropping polygons needs shapely
        steps.append(T.CropTransform(transform.left, transform.top, w, h))
    if transform.flip == "horizontal":
        steps.append(T.HFlipTransform(w))
    elif transform.flip == "vertical":
        steps.append(T.VFlipTransform(h))
    steps.append(T.PadTransform(0, 0, padded_shape[1] - w, padded_shape[0] - h))
    return T.TransformList(steps)


def build_train_mapper(cfg: CfgNode) -> SemanticSegmentationMapper | CloudMapper:
    """Build the training mapper of a config: of clouds if INPUT.POINTS.VOXEL_SIZE is set, with
    instances if MODEL.MASK_ON is set, with the masks of classes if INPUT.CLASS_MASKS is set.

    Raises:
        InputError: INPUT describes no augmentation.
    """
    with building(cfg, "augmentation", "INPUT"):
        if cfg.INPUT.POINTS.VOXEL_SIZE:
            return CloudMapper(cfg, True)
        if cfg.MODEL.MASK_ON:
            return PanopticMapper(cfg, True)
        return (ClassMaskMapper if cfg.INPUT.CLASS_MASKS else SemanticSegmentationMapper)(cfg, True)


def _channels_first(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
