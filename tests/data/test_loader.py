import itertools
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

import sar  # noqa: F401
from sar.config import add_sar_config
from sar.data.loader import (
    TrainBatchSampler,
    build_test_loader,
    build_train_loader,
    repeat_factors,
)
from sar.data.mapper import SemanticSegmentationMapper
from sar.data.scan import classes_shown
from sar.errors import InputError

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.utils import comm

NUM_IMAGES = 7


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_sar_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.INPUT.MIN_SIZE_TRAIN = (12, 24)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [16, 16]
    cfg.INPUT.COLOR_JITTER = 0.2
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 11
    return cfg


@pytest.fixture
def dicts(tmp_path):
    rng = np.random.default_rng(0)
    result = []
    for i in range(NUM_IMAGES):
        image, label = tmp_path / f"im{i}.png", tmp_path / f"lb{i}.png"
        Image.fromarray(rng.integers(0, 256, (18, 20, 3), np.uint8)).save(image)
        Image.fromarray(rng.integers(0, 4, (18, 20), np.uint8)).save(label)
        result.append({"file_name": str(image), "sem_seg_file_name": str(label), "image_id": i})
    return result


def _train_batches(cfg, dicts, steps, **kwargs):
    loader = build_train_loader(cfg, SemanticSegmentationMapper(cfg, True), dicts, **kwargs)
    return list(itertools.islice(loader, steps))


def _assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert [sample["image_id"] for sample in batch] == [sample["image_id"] for sample in other]
        for sample, other_sample in zip(batch, other, strict=True):
            assert torch.equal(sample["image"], other_sample["image"])
            assert torch.equal(sample["sem_seg"], other_sample["sem_seg"])


def _as_process(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


def test_every_epoch_shows_every_image_once(cfg, dicts):
    batches = _train_batches(cfg, dicts, NUM_IMAGES)  # three epochs of seven in batches of three
    shown = [sample["image_id"] for batch in batches for sample in batch]
    epochs = [shown[i : i + NUM_IMAGES] for i in range(0, 3 * NUM_IMAGES, NUM_IMAGES)]
    assert all(sorted(epoch) == list(range(NUM_IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_do_not_depend_on_workers(cfg, dicts):
    alone = _train_batches(cfg, dicts, 6)
    cfg.DATALOADER.NUM_WORKERS = 2
    _assert_equal(_train_batches(cfg, dicts, 6), alone)


def test_batches_depend_on_the_seed(cfg, dicts):
    def order():
        batches = _train_batches(cfg, dicts, 7)
        return [sample["image_id"] for batch in batches for sample in batch]

    first = order()
    assert order() == first
    cfg.SEED = 12
    assert order() != first


def test_same_image_is_augmented_anew_each_epoch(cfg, dicts):
    first, second = _train_batches(cfg, dicts[:1], 2)
    images = [sample["image"] for sample in first + second]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def test_sample_is_drawn_from_seed_and_position(cfg, dicts):
    batches = _train_batches(cfg, dicts, 3)
    mapper = SemanticSegmentationMapper(cfg, True)
    for position, sample in enumerate(itertools.chain(*batches)):
        expected = mapper(dicts[sample["image_id"]], np.random.default_rng([11, position]))
        assert torch.equal(sample["image"], expected["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_start_is_where_another_run_stopped(cfg, dicts, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    batches = _train_batches(cfg, dicts, 9)
    for steps in (1, 4, 5):
        _assert_equal(_train_batches(cfg, dicts, 9 - steps, start=3 * steps), batches[steps:])


FACTORS = {"ones": np.ones(NUM_IMAGES), "fractions": np.array([1, 1.3, 2.5, 1, 3, 1.9, 1])}


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
@pytest.mark.parametrize("start", [0, 5, 43])
def test_processes_share_the_same_global_batches(start, factors):
    def global_batches(world_size):
        samplers = [
            TrainBatchSampler(
                factors, 6 // world_size, seed=3, start=start, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]
        for shares in itertools.islice(zip(*samplers, strict=True), 20):
            assert all(len(share) == 6 // world_size for share in shares)
            yield sorted(itertools.chain(*shares))

    alone = list(global_batches(1))
    positions = [position for batch in alone for position, _ in batch]
    assert positions == list(range(start, start + 120))
    assert list(global_batches(2)) == alone
    assert list(global_batches(3)) == alone


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_the_stream_can_be_entered_anywhere(factors):
    def stream(start, number):
        batches = TrainBatchSampler(factors, 1, seed=3, start=start)
        return [batch[0] for batch in itertools.islice(batches, number)]

    whole = stream(0, 60)
    for start in range(40):
        assert stream(start, 20) == whole[start : start + 20]


def _epochs(factors, number, seed=3):
    """Image counts of the first epochs, which end where the factors' fractions say."""
    sampler = TrainBatchSampler(np.array(factors), 1, seed=seed)
    return np.array([np.bincount(sampler._order(epoch)) for epoch in range(number)])


def test_an_epoch_repeats_images_by_their_factor_rounded_at_random():
    factors = FACTORS["fractions"]
    counts = _epochs(factors, 2000)
    assert (np.floor(factors) <= counts).all() and (counts <= np.ceil(factors)).all()
    # Five standard deviations of a mean of 2000 throws.
    np.testing.assert_allclose(counts.mean(axis=0), factors, atol=5 * 0.5 / np.sqrt(2000))
    assert len(set(counts.sum(axis=1))) > 1  # epochs differ in length, and follow without a gap:
    stream = TrainBatchSampler(factors, 1, seed=3)
    length = counts[:50].sum()
    shown = [batch[0][1] for batch in itertools.islice(stream, int(length))]
    np.testing.assert_array_equal(np.bincount(shown), counts[:50].sum(axis=0))


def test_rounding_depends_on_seed_and_epoch_alone():
    counts = _epochs(FACTORS["fractions"], 20)
    np.testing.assert_array_equal(counts, _epochs(FACTORS["fractions"], 20))
    assert (counts != _epochs(FACTORS["fractions"], 20, seed=4)).any()
    assert (counts != counts[0]).any()


@pytest.fixture
def rare(cfg, dicts):
    """Of seven images, one shows class 3, two class 2, all class 0; threshold 0.5."""
    for i, record in enumerate(dicts):
        label = np.zeros((18, 20), np.uint8)
        label[0] = 255
        label[1, :3] = 3 if i == 4 else 0
        label[2, :3] = 2 if i in (1, 4) else 0
        Image.fromarray(label).save(record["sem_seg_file_name"])
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    return dicts


def test_repeat_factors_are_those_of_the_rarest_class(cfg, rare):
    expected = np.ones(NUM_IMAGES)
    expected[1] = np.sqrt(0.5 / (2 / NUM_IMAGES))
    expected[4] = np.sqrt(0.5 / (1 / NUM_IMAGES))
    np.testing.assert_allclose(repeat_factors(cfg, rare), expected, rtol=1e-6)


def test_a_label_that_may_be_skipped_is_not_repeated(cfg, rare):
    with open(rare[4]["sem_seg_file_name"], "wb") as file:
        file.write(b"no image")
    with pytest.raises(InputError, match="lb4.png"):
        repeat_factors(cfg, rare)
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 1
    expected = np.ones(NUM_IMAGES)
    expected[1] = np.sqrt(0.5 / (1 / NUM_IMAGES))
    np.testing.assert_allclose(repeat_factors(cfg, rare), expected, rtol=1e-6)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_read_a_share_of_the_labels_each(cfg, rare, monkeypatch, world_size):
    alone = repeat_factors(cfg, rare)
    shares = [classes_shown(rare[r::world_size], 4, 255) for r in range(world_size)]
    for rank in range(world_size):

        def all_gather(share, rank=rank):
            assert share == shares[rank]
            return shares

        _as_process(monkeypatch, rank, world_size)
        monkeypatch.setattr(comm, "all_gather", all_gather)
        np.testing.assert_array_equal(repeat_factors(cfg, rare), alone)


def test_the_loader_repeats_what_is_rare(cfg, rare):
    # 20 epochs of 8.2 images on average
    shown = [sample["image_id"] for batch in _train_batches(cfg, rare, 55) for sample in batch]
    counts = np.bincount(shown)
    assert counts[4] > 1.5 * counts[0] and counts[1] > 1.1 * counts[0]
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    shown = [sample["image_id"] for batch in _train_batches(cfg, rare, 7) for sample in batch]
    assert (np.bincount(shown) == 3).all()


def test_samplers_that_are_refused(cfg, rare):
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.0
    with pytest.raises(InputError, match="DATALOADER.REPEAT_THRESHOLD is 0.0.*repeats no image"):
        build_train_loader(cfg, None, rare)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorSampler"
    with pytest.raises(InputError, match='SAMPLER_TRAIN.*mean "RepeatFactorTrainingSampler"'):
        build_train_loader(cfg, None, rare)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    rare[2]["sem_seg_file_name"] = "nowhere.png"
    with pytest.raises(InputError, match="nowhere.png"):
        build_train_loader(cfg, None, rare)


def test_loaders_of_two_processes_make_up_one(cfg, dicts, monkeypatch):
    cfg.SOLVER.IMS_PER_BATCH = 4
    alone = _train_batches(cfg, dicts, 5)
    shares = []
    for rank in range(2):
        _as_process(monkeypatch, rank, 2)
        shares.append(_train_batches(cfg, dicts, 5))
    together = [[a[0], b[0], a[1], b[1]] for a, b in zip(*shares, strict=True)]
    _assert_equal(together, alone)


def test_negative_seed_is_shared_and_random(cfg, dicts, monkeypatch):
    cfg.SEED = -1
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 11)
    shared = _train_batches(cfg, dicts, 3)
    cfg.SEED = 11
    _assert_equal(shared, _train_batches(cfg, dicts, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone(cfg, dicts, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.get_rng_state(), np.random.get_state()[1].copy()
    _train_batches(cfg, dicts, 2)
    assert torch.equal(torch.get_rng_state(), expected[0])
    np.testing.assert_array_equal(np.random.get_state()[1], expected[1])


def test_batch_size_has_to_suit_the_processes(cfg, dicts, monkeypatch):
    _as_process(monkeypatch, 0, 2)
    with pytest.raises(InputError, match=r"SOLVER.IMS_PER_BATCH 3 .* 2 process.*multiple of 2"):
        build_train_loader(cfg, None, dicts)
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(InputError, match="SOLVER.IMS_PER_BATCH"):
        build_train_loader(cfg, None, dicts)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_input_arrives_as_the_mapper_wrote_it(cfg, dicts, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    mapper = SemanticSegmentationMapper(cfg, True)
    label = dicts[4]["sem_seg_file_name"]
    Image.fromarray(np.full((18, 20), 9, np.uint8)).save(label)
    with pytest.raises(InputError) as expected:
        mapper(dicts[4])
    with pytest.raises(InputError) as error:
        _train_batches(cfg, dicts, NUM_IMAGES)
    assert str(error.value) == str(expected.value) and "the ids 9" in str(error.value)
    assert not multiprocessing.active_children()  # its traceback, kept here, keeps no worker


@pytest.mark.parametrize("workers", [0, 2])
def test_others_come_in_the_place_of_what_cannot_be_read(cfg, dicts, workers, caplog):
    expected = _train_batches(cfg, dicts, 14)
    for i, content in ((4, b"no image"), (6, b"")):
        with open(dicts[i]["file_name"], "wb") as file:
            file.write(content)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 2
    batches = _train_batches(cfg, dicts, 14)

    mapper, num_replaced = SemanticSegmentationMapper(cfg, True), 0
    for position, (sample, before) in enumerate(
        zip(itertools.chain(*batches), itertools.chain(*expected), strict=True)
    ):
        if before["image_id"] in (4, 6):
            num_replaced += 1
            assert sample["image_id"] not in (4, 6)
            rng = np.random.default_rng([11, position])
            before = mapper(dicts[sample["image_id"]], rng)
        assert torch.equal(sample["image"], before["image"])
    assert num_replaced == 12  # two of seven, in six epochs
    assert caplog.text.count("Unreadable") == 2  # each image once
    assert "2 of at most 2" in caplog.text and dicts[4]["file_name"] in caplog.text

    _assert_equal(_train_batches(cfg, dicts, 6, start=3 * 8), batches[8:])
    replacements = {sample["image_id"] for sample in itertools.chain(*batches)}
    assert len(replacements) == 5


def test_more_that_cannot_be_read_than_allowed(cfg, dicts):
    for i in (1, 4, 6):
        dicts[i]["file_name"] = f"nowhere{i}.png"
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 2
    with pytest.raises(InputError, match=r"nowhere\d.png.* number 3, .*MAX_SKIPPED_SAMPLES .* 2$"):
        _train_batches(cfg, dicts, NUM_IMAGES)
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 3
    assert len(_train_batches(cfg, dicts, NUM_IMAGES)) == NUM_IMAGES
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 10
    with pytest.raises(InputError, match="None of the 2 training images can be read"):
        _train_batches(cfg, [dicts[1], dicts[4]], 1)


def test_what_detectron2s_mapper_cannot_read_is_bad_input(cfg, dicts):
    with open(dicts[4]["file_name"], "wb") as file:
        file.write(b"no image")
    plain = DatasetMapper(cfg, is_train=True)

    def mapper(record, rng):
        return plain(record)

    with pytest.raises(InputError, match="sample of .*im4.png cannot be read"):
        list(itertools.islice(build_train_loader(cfg, mapper, dicts), NUM_IMAGES))
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 1
    assert len(list(itertools.islice(build_train_loader(cfg, mapper, dicts), 4))) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_input_arrives_from_the_test_loader(cfg, dicts, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    mapper = SemanticSegmentationMapper(cfg, False)
    dicts[1]["file_name"] = "nowhere.png"
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 3  # of training samples
    with pytest.raises(InputError) as expected:
        mapper(dicts[1])
    with pytest.raises(InputError) as error:
        list(build_test_loader(cfg, mapper, dicts))
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_test_loader_shows_every_image_once(cfg, dicts, monkeypatch, workers, world_size):
    cfg.DATALOADER.NUM_WORKERS = workers
    mapper = SemanticSegmentationMapper(cfg, False)
    shown = []
    for rank in range(world_size):
        _as_process(monkeypatch, rank, world_size)
        loader = build_test_loader(cfg, mapper, dicts)
        batches = list(loader)
        assert len(loader) == len(batches) and all(len(batch) == 1 for batch in batches)
        shown += [batch[0]["image_id"] for batch in batches]
    assert shown == list(range(NUM_IMAGES))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_does_not_fit_into_memory(cfg, workers):
    def mapper(record, rng):
        raise MemoryError("Unable to allocate 2.73 TiB")

    cfg.DATALOADER.NUM_WORKERS = workers
    batches = build_train_loader(cfg, mapper, [{"file_name": "a.png"}])
    with pytest.raises(InputError, match="a.png does not fit into memory .*INPUT.CROP.SIZE"):
        next(iter(batches))
