"""Load batches in an order that depends only on the seed, not on workers or processes.

Training samples are numbered by their position in one endless stream: permutations of the data
set, one after the other, in which images may be repeated. A step takes the next
SOLVER.IMS_PER_BATCH positions and shares them between the processes. The random numbers of
augmentation depend only on seed and position, and so does the replacement of an unreadable image.
So a run can continue at any position, with other workers or processes, as if it had never stopped.
"""

import itertools
import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sar.data.clouds import is_cloud
from sar.data.scan import classes_shown
from sar.data.units import units_of_config
from sar.data.workers import WatchedLoader
from sar.errors import InputError, nearest

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm

logger = logging.getLogger(__name__)

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")


def build_train_loader(
    cfg: CfgNode, mapper: Callable, dataset_dicts: list[dict], *, start: int = 0
) -> DataLoader:
    """Build an endless loader of this process's share of the global batches: lists of samples.

    Every process must call this function. They agree on a seed if SEED is negative, and they share
    the reading of labels if DATALOADER.SAMPLER_TRAIN repeats the images of rare classes.

    Args:
        mapper: called with a data set's dict and a generator.
        start: position of the first sample in the stream. This is the number of samples that all
            processes together have already trained on.

    Raises:
        InputError: SOLVER.IMS_PER_BATCH cannot be shared evenly, the sampler is unknown, its
            threshold repeats nothing, or a label cannot be read. While iterating: the error of
            `mapper` for a sample, after DATALOADER.MAX_SKIPPED_SAMPLES other errors.
    """
    check_sampler(cfg)
    world_size, batch_size = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    check_batch_size(cfg, world_size)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = repeat_factors(cfg, dataset_dicts)
    else:
        factors = np.ones(len(dataset_dicts))
    sampler = TrainBatchSampler(
        factors,
        batch_size // world_size,
        seed=seed,
        start=start,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    max_skipped = cfg.DATALOADER.MAX_SKIPPED_SAMPLES
    dataset = _TrainDataset(dataset_dicts, mapper, seed, max_skipped)
    return _SampleLoader(cfg, dataset, max_skipped=max_skipped, batch_sampler=sampler)


def check_batch_size(cfg: CfgNode, world_size: int) -> None:
    """Raise InputError if `world_size` processes cannot share SOLVER.IMS_PER_BATCH evenly."""
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    if batch_size < 1 or batch_size % world_size != 0:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {batch_size} cannot be dealt out evenly over {world_size} "
            f"process(es): choose a multiple of {world_size}."
        )


def check_sampler(cfg: CfgNode) -> None:
    """Raise InputError if DATALOADER.SAMPLER_TRAIN is unknown or has no effect."""
    name, threshold = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD
    if name not in SAMPLERS:
        raise InputError(
            f'unknown DATALOADER.SAMPLER_TRAIN "{name}".{nearest(name, SAMPLERS)} '
            f"Known are {', '.join(SAMPLERS)}"
        )
    if name == "RepeatFactorTrainingSampler" and threshold <= 0:
        raise InputError(
            f"DATALOADER.REPEAT_THRESHOLD is {threshold}, so {name} repeats no image: set it to "
            "the share of the training images below which a class is rare, such as 0.3"
        )


def repeat_factors(cfg: CfgNode, dataset_dicts: list[dict]) -> np.ndarray:
    """Return how often an epoch shows each image on average.

    This is the maximum over the classes c in the image of max(1, sqrt(t / f_c)), where t is
    DATALOADER.REPEAT_THRESHOLD and f_c is the share of the images that show c (Gupta et al.,
    "LVIS", CVPR 2019). Each process reads its share of the labels.

    Raises:
        InputError: a label is missing, or unreadable while DATALOADER.MAX_SKIPPED_SAMPLES is 0.
    """
    rank, world_size, head = comm.get_rank(), comm.get_world_size(), cfg.MODEL.SEM_SEG_HEAD
    shares = comm.all_gather(
        classes_shown(
            dataset_dicts[rank::world_size],
            head.NUM_CLASSES,
            head.IGNORE_VALUE,
            # The loader skips and counts unreadable labels.
            skip_unreadable=cfg.DATALOADER.MAX_SKIPPED_SAMPLES > 0,
            progress=rank == 0,
        )
    )
    shown = [shares[i % world_size][i // world_size] for i in range(len(dataset_dicts))]
    # Only newer releases of detectron2 have this option.
    options = {"sqrt": cfg.DATALOADER.REPEAT_SQRT} if "REPEAT_SQRT" in cfg.DATALOADER else {}
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        [{"annotations": [{"category_id": i} for i in classes]} for classes in shown],
        cfg.DATALOADER.REPEAT_THRESHOLD,
        **options,
    ).numpy()
    logger.info(
        f"An epoch shows {factors.sum():.1f} {units_of_config(cfg).sample}s, of {len(factors)} in "
        "the data set"
    )
    return factors


def build_test_loader(cfg: CfgNode, mapper: Callable, dataset_dicts: list[dict]) -> DataLoader:
    """Build a loader of this process's share of the data set, in order: lists of one sample.

    Raises:
        InputError: while iterating, the error of `mapper` for a sample.
    """
    sampler = InferenceSampler(len(dataset_dicts))
    return _SampleLoader(cfg, _TestDataset(dataset_dicts, mapper), batch_size=1, sampler=sampler)


class TrainBatchSampler(Sampler):
    """Endless batches of (position, index) for one of several processes.

    An epoch shows the image at `index` repeat_factors[index] times on average: the fraction is
    rounded up or down at random. Rounding and order depend only on seed and epoch. The process of
    rank r takes the positions start + r, start + r + world_size, ... So with any number of
    processes, a step takes the same positions if the global batch size is the same.

    Args:
        repeat_factors: at least 1 for each image.
        batch_size: samples per batch of this process.
        seed: not negative.
        start: the first position.
    """

    def __init__(
        self,
        repeat_factors: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.fractions, self.whole_repeats = np.modf(repeat_factors)
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        positions = itertools.count(self.start + self.rank, self.world_size)
        epoch, first = self._find_epoch(self.start)
        order = self._order(epoch)
        while True:
            batch = []
            for position in itertools.islice(positions, self.batch_size):
                while position - first >= len(order):
                    first += len(order)
                    epoch += 1
                    order = self._order(epoch)
                batch.append((position, int(order[position - first])))
            yield batch

    def _find_epoch(self, position: int) -> tuple[int, int]:
        """Return the epoch of a position, and the first position of this epoch."""
        epoch = first = 0
        if not self.fractions.any():  # all epochs are as long as the first
            length = int(self.whole_repeats.sum())
            return position // length, position // length * length
        while position >= (after := first + int(self._repeats(epoch).sum())):
            epoch, first = epoch + 1, after
        return epoch, first

    def _repeats(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch, 2])
        return self.whole_repeats.astype(int) + (rng.random(len(self.fractions)) < self.fractions)

    def _order(self, epoch: int) -> np.ndarray:
        # The third number separates this stream from the sample at the position `epoch`.
        rng = np.random.default_rng([self.seed, epoch, 1])
        return rng.permutation(np.repeat(np.arange(len(self.fractions)), self._repeats(epoch)))


# The sample, or None if all images failed, and the errors of the images that were tried before, by
# index. Errors are returned as values, because torch would add a traceback to the message of an
# error that a worker process raises.
_Loaded = tuple[dict | None, dict[int, InputError]]


class _TrainDataset(Dataset):
    """Samples by (position, index); replaces up to `max_skipped` unreadable ones by others."""

    def __init__(
        self, dataset_dicts: list[dict], mapper: Callable, seed: int, max_skipped: int
    ) -> None:
        self._dicts = DatasetFromList(dataset_dicts, copy=False)
        self._mapper = mapper
        self._seed = seed
        self._max_skipped = max_skipped

    def __getitem__(self, position_and_index: tuple[int, int]) -> _Loaded:
        position, index = position_and_index
        errors = {}
        candidates = itertools.chain((index,), self._others(position, index))
        for candidate in itertools.islice(candidates, self._max_skipped + 1):
            rng = np.random.default_rng([self._seed, position])
            sample = _sample_or_error(self._mapper, self._dicts[candidate], rng)
            if not isinstance(sample, InputError):
                return sample, errors
            errors[candidate] = sample
        return None, errors

    def _others(self, position: int, index: int) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, position, 3])  # 1 and 2 are the sampler's
        yield from (int(other) for other in rng.permutation(len(self._dicts)) if other != index)


class _TestDataset(Dataset):
    """Samples by index."""

    def __init__(self, dataset_dicts: list[dict], mapper: Callable) -> None:
        self._dicts = DatasetFromList(dataset_dicts, copy=False)
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, index: int) -> _Loaded:
        sample = _sample_or_error(self._mapper, self._dicts[index])
        return (None, {index: sample}) if isinstance(sample, InputError) else (sample, {})


def _sample_or_error(mapper: Callable, dataset_dict: dict, *args) -> dict | InputError:
    try:
        return mapper(dataset_dict, *args)
    except InputError as error:
        return error
    except (OSError, SyntaxError, SizeMismatchError) as error:  # detectron2's mapper raises these
        return InputError(f"The sample of {dataset_dict['file_name']} cannot be read: {error}")
    except MemoryError as error:
        path = dataset_dict["file_name"]
        remedy = "set INPUT.CROP.SIZE, or INPUT.MIN_SIZE_TRAIN and MIN_SIZE_TEST, lower"
        if is_cloud(path):
            remedy = "set INPUT.POINTS.MAX_POINTS lower, or cut the cloud into tiles"
        return InputError(f"The sample of {path} does not fit into memory ({error}): {remedy}")


class _SampleLoader(WatchedLoader):
    """Lists of samples, loaded by DATALOADER.NUM_WORKERS processes of one thread each.

    Raises:
        InputError: while iterating, at the unreadable image after the first `max_skipped` ones, or
            as in WatchedLoader.
    """

    def __init__(self, cfg: CfgNode, dataset: Dataset, *, max_skipped: int = 0, **kwargs) -> None:
        super().__init__(
            dataset,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            pin_memory=cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
            # torch seeds the workers from it. Otherwise a loader would use the global generator.
            generator=torch.Generator(),
            **kwargs,
        )
        self._max_skipped = max_skipped

    def __iter__(self) -> Iterator[list[dict]]:
        skipped = set()
        # Not in a variable: the traceback of an error would keep the variable and the workers.
        for batch in super().__iter__():
            for sample, errors in batch:
                for index in errors.keys() - skipped:
                    skipped.add(index)
                    self._skip(len(skipped), errors[index])
                if sample is None:
                    raise InputError(
                        f"None of the {len(errors)} training images can be read: repair the files "
                        "that the warnings above name"
                    )
            yield [sample for sample, _ in batch]

    def _skip(self, number: int, error: InputError) -> None:
        if number <= self._max_skipped:
            logger.warning(f"Unreadable, {number} of at most {self._max_skipped} images: {error}")
        elif self._max_skipped == 0:
            raise error
        else:
            raise InputError(
                f"{error} It is the unreadable image number {number}, but "
                f"DATALOADER.MAX_SKIPPED_SAMPLES allows {self._max_skipped}"
            )
