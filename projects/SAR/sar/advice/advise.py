"""All advice on a training set, in the order in which it is printed."""

from collections.abc import Sequence

from sar.advice.balance import advise_on_balance
from sar.advice.item import Advice
from sar.advice.resolution import advise_on_resolution
from sar.advice.schedule import advise_on_schedule
from sar.advice.voxels import VoxelMix, advise_on_voxels
from sar.data.class_frequency import ClassFrequency
from sar.data.object_sizes import ObjectSize

from detectron2.config import CfgNode


def advise(
    frequency: ClassFrequency,
    shown: Sequence[Sequence[int]],
    sizes: dict[tuple[int, int], int],
    objects: dict[int, ObjectSize],
    cfg: CfgNode,
) -> list[Advice]:
    """Return advice on how to train on a data set.

    Args:
        frequency: counts of the training set. At least two classes have pixels.
        shown: the classes that each of its images shows.
        sizes: number of images of each size (height, width).
        objects: the typical object of each small class, by id.
        cfg: the config of the training. The keys of the advice replace its values.
    """
    items = advise_on_balance(frequency, cfg)
    items += advise_on_resolution(frequency, sizes, objects, cfg)
    return [*items, advise_on_schedule(frequency, shown, cfg, merged_keys(items))]


def advise_on_clouds(
    frequency: ClassFrequency,
    shown: Sequence[Sequence[int]],
    mix: VoxelMix,
    finer: VoxelMix,
    cfg: CfgNode,
) -> list[Advice]:
    """Return advice on how to train on a data set of point clouds.

    Args:
        frequency, shown, cfg: as in `advise`, with clouds as images.
        mix: how voxels of INPUT.POINTS.VOXEL_SIZE mix the classes.
        finer: the same for half of this size.
    """
    items = advise_on_balance(frequency, cfg)
    items.append(advise_on_voxels(frequency, mix, finer, cfg))
    return [*items, advise_on_schedule(frequency, shown, cfg, merged_keys(items))]


def merged_keys(items: Sequence[Advice], *, with_recipe: bool = True) -> dict[str, str]:
    """Return the keys of all items.

    Args:
        with_recipe: include the treatment of rare classes.
    """
    keys = {}
    for item in items:
        keys |= item.keys | (item.recipe if with_recipe else {})
    return keys
