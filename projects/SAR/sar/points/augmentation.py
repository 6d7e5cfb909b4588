"""Augment a training cloud, with an explicit random generator.

`PointAugmentation` crops, drops points, flips, rotates, tilts, scales, distorts, jitters and
changes colours, in this order. Nothing changes its input. The same generator state and the same
cloud give the same result bit for bit, on any number of threads.

Shape shorthands: N points of a cloud, M points of a part of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sar.errors import InputError
from sar.points.elastic import ElasticDistortion
from sar.points.geometry import bounds, floor_center, rotation_about, transform

if TYPE_CHECKING:
    from sar.data.clouds import Cloud

    from detectron2.config import CfgNode

# The arrays of a cloud with one row for each point. All but xyz can be None.
_ARRAYS = ("xyz", "color", "intensity", "normal", "label")
# Jitter is clipped at this many standard deviations.
_JITTER_CLIP = 4


def crop(xyz: np.ndarray, max_points: int, middle: int) -> np.ndarray:
    """Choose the points nearest to one of them in x and y: a column from floor to ceiling.

    Args:
        xyz: (N, 3).
        max_points: number of points to keep, less than N.
        middle: index of the point to which the others are near.

    Returns:
        (M,) int64, ascending indices of the chosen points.
    """
    offsets = xyz[:, :2] - xyz[middle, :2]
    distances = np.einsum("nc,nc->n", offsets, offsets)
    chosen = np.zeros(len(xyz), bool)
    chosen[np.argpartition(distances, max_points)[:max_points]] = True
    return np.flatnonzero(chosen)


def draw_of_a_class(label: np.ndarray, ignore_label: int, rng: np.random.Generator) -> int:
    """Draw a class of a cloud, then one of its points; any point of a cloud without classes.

    Args:
        label: (N,) integers, 0 or more.
        ignore_label: the id that is no class.

    Returns:
        the index of the point.
    """
    classes = np.flatnonzero(np.bincount(label))
    classes = classes[classes != ignore_label]
    if not len(classes):
        return int(rng.integers(len(label)))
    return int(rng.choice(np.flatnonzero(label == rng.choice(classes))))


def drop(number: int, max_share: float, rng: np.random.Generator) -> np.ndarray:
    """Choose the points that stay when a random share of them is dropped.

    Args:
        number: N, 1 or more.
        max_share: the share is drawn from [0, max_share); below 1, so one point or more stays.

    Returns:
        (M,) int64, ascending indices of the points that stay.
    """
    dropped = int(number * rng.uniform(0, max_share))
    stays = np.ones(number, bool)
    stays[rng.choice(number, dropped, replace=False, shuffle=False)] = False
    return np.flatnonzero(stays)


def add_jitter(xyz: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise, clipped at four standard deviations, to each coordinate of (N, 3)."""
    noise = rng.standard_normal(xyz.shape, np.float32)
    return xyz + deviation * np.clip(noise, -_JITTER_CLIP, _JITTER_CLIP)


@dataclass(frozen=True, eq=False)
class Similarity:
    """Rotate, flip and scale about the middle of the floor.

    Attributes:
        orthogonal: (3, 3), a rotation, or a rotation and a flip.
        scale: factor of all lengths.
    """

    orthogonal: np.ndarray
    scale: float

    def apply_points(self, xyz: np.ndarray) -> np.ndarray:
        """Map coordinates (N, 3) to float64 coordinates."""
        center = floor_center(xyz)
        return transform(xyz - center, self.scale * self.orthogonal) + center

    def apply_normals(self, normal: np.ndarray) -> np.ndarray:
        """Map normals (N, 3) to normals of the same type and length."""
        return transform(normal, self.orthogonal).astype(normal.dtype)


class RandomSimilarity:
    """Draw a rotation about the vertical axis, a tilt, a scale and flips.

    Args:
        rotate: rotate about the vertical axis by an angle from [0, 2 pi).
        max_tilt: greatest angle in radians of the rotations about x and about y; 0 for none.
        scale: smallest and greatest factor.
        flip: mirror x, and independently y, with a probability of one half.

    Raises:
        InputError: a value is out of range; the message names its config key.
    """

    def __init__(
        self,
        *,
        rotate: bool = True,
        max_tilt: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        flip: bool = True,
    ) -> None:
        if not 0 <= max_tilt < math.pi / 2:
            raise InputError(
                f"INPUT.POINTS.TILT is {max_tilt}. Expected an angle in radians, from 0 (no tilt) "
                "to less than pi / 2."
            )
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
            raise InputError(
                f"INPUT.POINTS.SCALE is {tuple(scale)}. Expected the smallest and the greatest "
                "factor, above 0, such as (0.9, 1.1), or (1, 1) for no scaling."
            )
        self.rotate = rotate
        self.max_tilt = max_tilt
        self.scale = tuple(scale)
        self.flip = flip

    def __call__(self, rng: np.random.Generator) -> Similarity:
        """Draw a transform."""
        flips = np.where(rng.random(2) < 0.5, -1.0, 1.0) if self.flip else np.ones(2)
        turn = rng.uniform(0, 2 * math.pi) if self.rotate else 0.0
        tilt_x, tilt_y = rng.uniform(-self.max_tilt, self.max_tilt, size=2)
        rotation = rotation_about(0, tilt_x) @ rotation_about(1, tilt_y) @ rotation_about(2, turn)
        return Similarity(rotation * [*flips, 1.0], rng.uniform(*self.scale))


class ColorAugmentation:
    """Stretch the contrast of colours, shift them, and jitter them.

    The defaults are settings of Pointcept for ScanNet.

    Args:
        contrast: probability of the stretch (see `stretch_contrast`) by a share from [0, 1).
        shift: each channel is shifted by a number from [-shift, shift).
        jitter: standard deviation of normal noise on each channel of each point.
    """

    def __init__(self, *, contrast: float = 0.2, shift: float = 0.05, jitter: float = 0.05) -> None:
        self.contrast = contrast
        self.shift = shift
        self.jitter = jitter

    def __call__(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Map (N, 3) float32 from 0 to 1 to the same shape, type and range."""
        stretched, share = rng.random(2)
        if stretched < self.contrast:
            color = stretch_contrast(color, share)
        noise = self.jitter * rng.standard_normal(color.shape, np.float32)
        shift = rng.uniform(-self.shift, self.shift, size=3).astype(np.float32)
        return np.clip(color + noise + shift, 0, 1)


def stretch_contrast(color: np.ndarray, share: float) -> np.ndarray:
    """Blend colours with colours whose channels reach from 0 to 1.

    A channel with only one value stays.

    Args:
        color: (N, 3) float32, from 0 to 1.
        share: of the stretched colours, from 0 to 1.
    """
    low, high = bounds(color)
    is_flat = low == high
    stretched = np.where(is_flat, color, (color - low) / np.where(is_flat, 1, high - low))
    return color + np.float32(share) * (stretched - color)


class PointAugmentation:
    """Augment clouds with all of the steps above.

    Args:
        max_points: number of points to which larger clouds are cropped, around a random point; 0
            for whole clouds. The crop comes first, so that the other steps take less time.
        class_uniform: the probability that the random point is drawn by `draw_of_a_class`. This is
            class-uniform sampling (Bulò et al., In-Place Activated BatchNorm, CVPR 2018).
        ignore_label: the id that is no class.
        max_drop: see `drop`.
        similarity: draws rotation, tilt, scale and flip; None for none.
        elastic: distortions, applied one after the other.
        jitter: standard deviation of the noise on coordinates, in their unit; 0 for none.
        color: changes colours, if the cloud has any; None for no change.
        mix3d: probability of uniting two clouds, see `draw_mix`.

    Raises:
        InputError: a value is out of range; the message names its config key.
    """

    def __init__(
        self,
        *,
        max_points: int = 0,
        class_uniform: float = 0.0,
        ignore_label: int = 255,
        max_drop: float = 0.0,
        similarity: RandomSimilarity | None = None,
        elastic: Sequence[ElasticDistortion] = (),
        jitter: float = 0.0,
        color: ColorAugmentation | None = None,
        mix3d: float = 0.0,
    ) -> None:
        if max_points < 0:
            raise InputError(
                f"INPUT.POINTS.MAX_POINTS is {max_points}. Expected a number of points, or 0 for "
                "whole clouds."
            )
        if not 0 <= class_uniform <= 1:
            raise InputError(
                f"INPUT.POINTS.CLASS_UNIFORM is {class_uniform}. Expected a probability, from 0 "
                "(never) to 1."
            )
        if not 0 <= max_drop < 1:
            raise InputError(
                f"INPUT.POINTS.DROP is {max_drop}. Expected a share of the points, from 0 (none) "
                "to less than 1."
            )
        if not 0 <= jitter < math.inf:
            raise InputError(
                f"INPUT.POINTS.JITTER is {jitter}. Expected a length of 0 (no jitter) or more."
            )
        if not 0 <= mix3d <= 1:
            raise InputError(
                f"INPUT.POINTS.MIX3D is {mix3d}. Expected a probability, from 0 (never) to 1."
            )
        self.max_points = max_points
        self.class_uniform = class_uniform
        self.ignore_label = ignore_label
        self.max_drop = max_drop
        self.similarity = similarity
        self.elastic = tuple(elastic)
        self.jitter = jitter
        self.color = color
        self.mix3d = mix3d

    @classmethod
    def from_config(cls, cfg: "CfgNode") -> "PointAugmentation":
        """Build the augmentation that INPUT.POINTS describes."""
        points = cfg.INPUT.POINTS
        return cls(
            max_points=points.MAX_POINTS,
            class_uniform=points.CLASS_UNIFORM,
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            max_drop=points.DROP,
            similarity=RandomSimilarity(
                rotate=points.ROTATE, max_tilt=points.TILT, scale=points.SCALE, flip=points.FLIP
            ),
            elastic=[ElasticDistortion(*pair) for pair in _checked_pairs(points.ELASTIC)],
            jitter=points.JITTER,
            color=ColorAugmentation() if points.COLOR else None,
            mix3d=points.MIX3D,
        )

    def __call__(self, cloud: "Cloud", rng: np.random.Generator) -> "Cloud":
        """Return an augmented cloud, which shares no array with the input.

        Args:
            cloud: with one point or more, and with labels for class-uniform crops.
        """
        index = self._crop(cloud, rng)
        index = index[drop(len(index), self.max_drop, rng)]
        arrays = {
            name: None if (array := getattr(cloud, name)) is None else array[index]
            for name in _ARRAYS
        }
        if self.similarity is not None:
            similarity = self.similarity(rng)
            arrays["xyz"] = similarity.apply_points(arrays["xyz"])
            if arrays["normal"] is not None:
                arrays["normal"] = similarity.apply_normals(arrays["normal"])
        for distort in self.elastic:
            arrays["xyz"] = distort(arrays["xyz"], rng)
        if self.jitter > 0:
            arrays["xyz"] = add_jitter(arrays["xyz"], self.jitter, rng)
        if self.color is not None and arrays["color"] is not None:
            arrays["color"] = self.color(arrays["color"], rng)
        return replace(cloud, **arrays)

    def _crop(self, cloud: "Cloud", rng: np.random.Generator) -> np.ndarray:
        if not 0 < self.max_points < len(cloud):
            return np.arange(len(cloud))
        if self.class_uniform and rng.random() < self.class_uniform:
            middle = draw_of_a_class(cloud.label, self.ignore_label, rng)
        else:
            middle = rng.integers(len(cloud))
        return crop(cloud.xyz, self.max_points, middle)

    def draw_mix(self, rng: np.random.Generator) -> bool:
        """Draw whether to unite an augmented cloud with another one, by `mix3d`."""
        return rng.random() < self.mix3d


def _checked_pairs(pairs: Sequence) -> Sequence[Sequence[float]]:
    for pair in pairs:
        if not (
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and all(isinstance(number, (int, float)) for number in pair)
        ):
            raise InputError(
                f"INPUT.POINTS.ELASTIC is {pairs}. Expected pairs of granularity and magnitude, "
                "such as ((0.2, 0.4), (0.8, 1.6)), or () for no distortion."
            )
    return pairs


def mix3d(clouds: "Sequence[Cloud]") -> "Cloud":
    """Unite clouds, usually two, into one scene (Mix3D, Nekrasov et al., 3DV 2021).

    The clouds lie on top of each other: the middles of their floors are at the origin. So an object
    appears in the context of another scene, and the model relies less on context.

    Mix3D changes which classes a scene shows, but not their shares of the points. If a share f of
    the scenes shows a class, then a share 1 - (1 - f)^2 of the pairs shows it: nearly twice as many
    for a rare class, no more for a class in every scene. Class frequencies count the scenes before
    Mix3D. So CeCo's logit adjustment, repeat factors and class groups by scene stay the same, while
    CeCo sees the centre of a rare class in more steps. SAR does not depend on scenes.

    Args:
        clouds: one or more, each with one point or more, and all with the same arrays.

    Raises:
        InputError: one cloud has colours, intensities, normals or labels, and another has none.
    """
    arrays = {"xyz": np.concatenate([cloud.xyz - floor_center(cloud.xyz) for cloud in clouds])}
    for name in _ARRAYS[1:]:
        parts = [part for cloud in clouds if (part := getattr(cloud, name)) is not None]
        if parts and len(parts) < len(clouds):
            raise InputError(
                f"INPUT.POINTS.MIX3D cannot unite a cloud that has an array {name} with a cloud "
                "that has none: add it to all clouds, or set the key to 0."
            )
        arrays[name] = np.concatenate(parts) if parts else None
    return replace(clouds[0], **arrays)
