"""Batches in an order that depends on the seed alone: not on workers, nor on how many processes.

Training samples are numbered by their position in one endless stream, a permutation of the data
set after the other. A step takes the next SOLVER.IMS_PER_BATCH positions, dealt out over the
processes; what augmentation draws is a function of seed and position. So a run can go on at any
position, with other workers or other processes, as if it had never stopped.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sar.errors import InputError

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm


def build_train_loader(
    cfg: CfgNode, mapper: Callable, dataset_dicts: list[dict], *, start: int = 0
) -> DataLoader:
    """An endless loader of this process's share of the global batches: lists of samples.

    Every process has to call it, as they agree on a seed where SEED is negative.

    Args:
        mapper: called with a data set's dict and a generator.
        start: position in the stream of the first sample of the first global batch: the number
            of samples already trained on, over all processes.

    Raises:
        InputError: SOLVER.IMS_PER_BATCH cannot be dealt out evenly; while iterating, whatever
            `mapper` found wrong with a sample.
    """
    world_size, batch_size = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if batch_size < 1 or batch_size % world_size != 0:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {batch_size} cannot be dealt out evenly over {world_size} "
            f"process(es): choose a multiple of {world_size}."
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = TrainBatchSampler(
        len(dataset_dicts),
        batch_size // world_size,
        seed=seed,
        start=start,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    return _SampleLoader(cfg, _TrainDataset(dataset_dicts, mapper, seed), batch_sampler=sampler)


def build_test_loader(cfg: CfgNode, mapper: Callable, dataset_dicts: list[dict]) -> DataLoader:
    """A loader of this process's share of the data set, once, in order: lists of one sample.

    Raises:
        InputError: while iterating, whatever `mapper` found wrong with a sample.
    """
    sampler = InferenceSampler(len(dataset_dicts))
    return _SampleLoader(cfg, _TestDataset(dataset_dicts, mapper), batch_size=1, sampler=sampler)


class TrainBatchSampler(Sampler):
    """Endless batches of (position, index), of one process of several.

    Position p shows the image at p modulo the data set's size in that epoch's permutation, drawn
    from seed and epoch. The process of rank r takes the positions start + r, start + r +
    world_size, ... So step by step the processes together take the same positions, however many
    they are, if their batches add up to the same size.

    Args:
        size: number of images.
        batch_size: of this process.
        seed: not negative.
        start: the first position.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        positions = itertools.count(self.start + self.rank, self.world_size)
        epoch = None
        while True:
            batch = []
            for position in itertools.islice(positions, self.batch_size):
                if position // self.size != epoch:
                    epoch = position // self.size
                    # The third number keeps it apart from the sample at the position `epoch`.
                    rng = np.random.default_rng([self.seed, epoch, 1])
                    permutation = rng.permutation(self.size)
                batch.append((position, int(permutation[position % self.size])))
            yield batch


class _TrainDataset(Dataset):
    """Samples by (position, index)."""

    def __init__(self, dataset_dicts: list[dict], mapper: Callable, seed: int) -> None:
        self._dicts = DatasetFromList(dataset_dicts, copy=False)
        self._mapper = mapper
        self._seed = seed

    def __getitem__(self, position_and_index: tuple[int, int]) -> dict | InputError:
        position, index = position_and_index
        rng = np.random.default_rng([self._seed, position])
        return _sample_or_error(self._mapper, self._dicts[index], rng)


class _TestDataset(Dataset):
    """Samples by index."""

    def __init__(self, dataset_dicts: list[dict], mapper: Callable) -> None:
        self._dicts = DatasetFromList(dataset_dicts, copy=False)
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, index: int) -> dict | InputError:
        return _sample_or_error(self._mapper, self._dicts[index])


def _sample_or_error(mapper: Callable, *args) -> dict | InputError:
    try:
        return mapper(*args)
    except InputError as error:
        return error


class _SampleLoader(DataLoader):
    """Lists of samples, loaded by DATALOADER.NUM_WORKERS processes of one thread each.

    Bad input travels from the workers as a value and is raised here: raised over there, torch
    would put the worker's traceback in the place of the message to the user.
    """

    def __init__(self, cfg: CfgNode, dataset: Dataset, **kwargs) -> None:
        super().__init__(
            dataset,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=_as_list,
            pin_memory=cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
            # torch seeds the workers from it; without, a loader would move the global generator.
            generator=torch.Generator(),
            **kwargs,
        )

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in super().__iter__():
            for sample in batch:
                if isinstance(sample, InputError):
                    raise sample
            yield batch


def _as_list(samples: list) -> list:
    return samples
