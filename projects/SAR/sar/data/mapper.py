"""From a data set's dict to the sample that a model takes.

Shape shorthands:

    H, W: height and width of the file
    h, w: height and width of the sample
"""

from collections.abc import Sequence

import numpy as np
import torch

from sar.errors import InputError, nearest

from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper

from .augmentation import ColorJitter, RandomCrop, RandomScaleCropFlip, pad, resize_shortest_edge
from .crop import read_crop
from .labels import read_image, read_truth

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
        self.test_size = test_size

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        kwargs = {
            "is_train": is_train,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
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
            image, label = self._augment(dataset_dict, label, rng or np.random.default_rng())
            sample["sem_seg"] = torch.from_numpy(label)
            sample["image"] = _channels_first(image)
        else:
            sample.update(self.map_pixels(read_image(dataset_dict["file_name"])))
        return sample

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
        self, dataset_dict: dict, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        # Drawn before the image is read, of which only what the crop shows is decoded.
        transform = self.geometry(label, rng)
        # RGB for ColorJitter; the order that the model takes comes with the last copy.
        image = read_crop(dataset_dict["file_name"], transform, dataset_dict["sem_seg_file_name"])
        label = transform.apply_label(label)
        if self.color_jitter is not None:
            image = self.color_jitter(image, rng)
        image = self._in_format(image)
        # Before the padding: a file of 8 bits cannot hold an ignore id of 16.
        label = label.astype(np.int64)
        if self.pad_shape is not None:
            image = pad(image, self.pad_shape, self.pixel_mean)
            label = pad(label, self.pad_shape, self.ignore_label)
        return image, label

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


class PanopticMapper:
    """detectron2's own mapper, which keeps instances, for training of models that take them.

    Its augmentation draws from NumPy's global generator, which is seeded for each sample, so that
    it depends on the generator of the call alone.

    Args:
        cfg: with detectron2's keys for augmentation.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._mapper = DatasetMapper(cfg, is_train=True)

    def __call__(self, dataset_dict: dict, rng: np.random.Generator) -> dict:
        """As detectron2's DatasetMapper: "image", "sem_seg" and "instances"."""
        np.random.seed(rng.integers(2**32))
        return self._mapper(dataset_dict)


def _channels_first(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
