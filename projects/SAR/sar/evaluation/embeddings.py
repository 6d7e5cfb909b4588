"""Read the embeddings of a model during evaluation, with the labels that belong to them.

Shape shorthands:

    N: images; C: embedding channels
    H, W: height and width of a label file
    h, w: height and width of the image that the network reads
    h', w': height and width of the padded image
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sar.data.augmentation import GeometricTransform
from sar.errors import InputError
from sar.modeling.taps import find_classifier
from sar.regularizers.embedding_tap import as_map


class EvaluationTap:
    """Input of a model's classifier, kept from inference on a batch until `take`.

    Attributes:
        classifier: the linear layer or 1x1 convolution that it listens to.
    """

    def __init__(self, classifier: nn.Module):
        self.classifier = classifier
        self._embeddings: list[Tensor] = []
        self._input_size: tuple[int, int] | None = None

    def take(
        self,
        truths: Sequence[np.ndarray],
        image_sizes: Sequence[tuple[int, int]],
        ignore_label: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the batch and their labels, aligned as in training.

        The ground truth is resized to the image size by nearest neighbour. It is padded with
        ignored pixels at the right and the bottom, so embeddings of the padding are ignored. Use
        `match_labels` afterwards to resize it to the embeddings.

        Args:
            truths: ground truth (H, W) of each image, with class ids or `ignore_label`.
            image_sizes: (h, w) of each image.
            ignore_label: the label of pixels that do not count.

        Returns:
            Embeddings (N, C, ...) and labels (N, h', w') on their device.

        Raises:
            InputError: the classifier was not called, or called more than once.
        """
        calls, self._embeddings = self._embeddings, []
        if len(calls) != 1:
            raise InputError(
                f"TEST.GEOMETRY: the model called its classifier {len(calls)} times for a batch, "
                "expected one call with the whole images: evaluate in one pass (TEST.MODE "
                '"whole", TEST.AUG.ENABLED False), or turn TEST.GEOMETRY off'
            )
        embeddings, input_size = calls[0], self._input_size
        if isinstance(self.classifier, nn.Linear):
            embeddings = as_map(embeddings.movedim(-1, 1), input_size)
        labels = np.full((len(truths), *input_size), ignore_label, np.int64)
        for label, truth, (h, w) in zip(labels, truths, image_sizes, strict=True):
            resize = GeometricTransform(truth.shape, (h, w), top=0, left=0, shape=(h, w))
            label[:h, :w] = resize.apply_label(truth)
        return embeddings, torch.from_numpy(labels).to(embeddings.device, non_blocking=True)

    def read_input(self, module: nn.Module, args: tuple) -> None:
        """Store the size (h', w') of the padded images, as forward pre-hook of the backbone."""
        self._input_size = tuple(args[0].shape[-2:])

    def read_embeddings(self, module: nn.Module, args: tuple) -> None:
        """Store the embeddings, as forward pre-hook of the classifier."""
        self._embeddings.append(args[0])


@contextmanager
def tap_evaluation(model: nn.Module, classifier: str, num_classes: int) -> Iterator[EvaluationTap]:
    """Read the embeddings of a model in evaluation, by hooks that exist inside the `with` only.

    Args:
        model: a detectron2 model with `backbone` and `sem_seg_head`. It may have regularizers, and
            DistributedDataParallel may wrap it.
        classifier: dotted path of the head's last layer, such as "sem_seg_head.predictor".
        num_classes: number of classes of the classifier.

    Raises:
        InputError: the model has no `backbone`, or no classifier of `num_classes` at this path.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        raise InputError(
            f"{type(model).__name__} has no module `backbone`, so its embeddings cannot be read: "
            "give the part that takes the images this name, or turn TEST.GEOMETRY off"
        )
    tap = EvaluationTap(find_classifier(model, classifier, num_classes))
    with (
        model.backbone.register_forward_pre_hook(tap.read_input),
        tap.classifier.register_forward_pre_hook(tap.read_embeddings),
    ):
        yield tap
