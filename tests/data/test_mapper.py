import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import sar  # noqa: F401
from sar.config import add_sar_config
from sar.data.augmentation import RandomCrop, RandomScaleCropFlip
from sar.data.mapper import SemanticSegmentationMapper, build_train_mapper
from sar.errors import InputError

from detectron2.config import get_cfg

NUM_CLASSES = 5


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_sar_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    cfg.INPUT.MIN_SIZE_TRAIN = (20, 60)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    cfg.INPUT.MAX_SIZE_TRAIN = 4096
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [32, 40]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    cfg.INPUT.COLOR_JITTER = 0.3
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


@pytest.fixture
def write(tmp_path):
    """Writes an image and a label map; gives the data set's dict."""

    def write(image=None, label=None):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (40, 50, 3), np.uint8) if image is None else image
        label = rng.integers(0, NUM_CLASSES, (40, 50), np.uint8) if label is None else label
        files = {"file_name": tmp_path / "im.png", "sem_seg_file_name": tmp_path / "lb.png"}
        for array, path in zip((image, label), files.values(), strict=True):
            Image.fromarray(array).save(path)
        return {"image_id": "im", **{key: str(path) for key, path in files.items()}}

    return write


def _plain(**kwargs):
    """A training mapper that changes nothing."""
    defaults = {"image_format": "RGB", "num_classes": NUM_CLASSES, "ignore_label": 255}
    geometry = RandomScaleCropFlip((0,), flip="none")
    return SemanticSegmentationMapper(True, **{**defaults, "geometry": geometry, **kwargs})


def test_config_asks_for_class_uniform_crops(cfg, write):
    label = np.zeros((40, 50), np.uint8)
    label[39, 49] = 2
    files = write(label=label)
    cfg.INPUT.MIN_SIZE_TRAIN = (40, 40)
    cfg.INPUT.CROP.SIZE = [4, 4]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0

    def share():
        mapper = SemanticSegmentationMapper(cfg, True)
        samples = [mapper(files, np.random.default_rng(seed)) for seed in range(100)]
        return np.mean([(sample["sem_seg"] == 2).any() for sample in samples])

    assert share() < 0.1
    cfg.INPUT.CROP.CLASS_UNIFORM = 1.0
    assert share() > 0.3


def test_training_sample(cfg, write):
    dataset_dict = write()
    before = copy.deepcopy(dataset_dict)
    sample = SemanticSegmentationMapper(cfg, is_train=True)(dataset_dict, np.random.default_rng(0))
    assert dataset_dict == before
    assert sample["image"].shape == (3, 32, 40) and sample["image"].dtype == torch.uint8
    assert sample["sem_seg"].shape == (32, 40) and sample["sem_seg"].dtype == torch.int64
    assert sample["image"].is_contiguous() and sample["sem_seg"].is_contiguous()
    assert (sample["height"], sample["width"]) == (40, 50)
    assert sample["file_name"] == dataset_dict["file_name"] and sample["image_id"] == "im"


@pytest.mark.parametrize("format", ["RGB", "BGR"])
def test_pixels_and_ids_arrive_in_order(write, format):
    image = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    label = np.arange(48, dtype=np.uint16).reshape(6, 8)
    label[0, 0] = 65535
    mapper = _plain(image_format=format, num_classes=300, ignore_label=65535)
    sample = mapper(write(image, label))
    channels = image if format == "RGB" else image[:, :, ::-1]
    np.testing.assert_array_equal(sample["image"].numpy(), channels.transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["sem_seg"].numpy(), label)


def test_formats_differ_in_channel_order_only(cfg, write):
    # Color jitter included: what is drawn, and how much red counts, is the same.
    dataset_dict = write()
    samples = []
    for format in ("RGB", "BGR"):
        cfg.INPUT.FORMAT = format
        cfg.INPUT.CROP.ENABLED = False
        mapper = SemanticSegmentationMapper(cfg, is_train=True)
        samples.append(mapper(dataset_dict, np.random.default_rng(3))["image"])
    assert torch.equal(samples[0], samples[1].flip(0))


def test_augmentation_is_a_function_of_the_generator(cfg, write):
    mapper, dataset_dict = SemanticSegmentationMapper(cfg, is_train=True), write()
    first, again, other = (mapper(dataset_dict, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for key in ("image", "sem_seg"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize("ignore_label", [255, 65535])
def test_padding_is_pixel_mean_and_ignore(write, ignore_label):
    mapper = _plain(
        image_format="BGR",
        ignore_label=ignore_label,
        geometry=RandomScaleCropFlip((20,), flip="none", crop=RandomCrop("absolute", (32, 40))),
        pad_shape=(32, 40),
        pixel_mean=(103.53, 116.28, 123.675),
    )
    sample = mapper(write(), np.random.default_rng(0))
    # 40 x 50 shrinks to 20 x 25
    assert (sample["sem_seg"][:20, :25] < NUM_CLASSES).all()
    assert (sample["sem_seg"] == ignore_label).sum() == 32 * 40 - 20 * 25
    mean = torch.tensor([104, 116, 124])[:, None, None]
    assert (sample["image"][:, 20:] == mean).all() and (sample["image"][:, :, 25:] == mean).all()


def test_config_pads_absolute_crops_only(cfg, write):
    cfg.INPUT.MIN_SIZE_TRAIN = (20, 20)
    sample = SemanticSegmentationMapper(cfg, is_train=True)(write(), np.random.default_rng(0))
    assert sample["image"].shape == (3, 32, 40)
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "relative", [0.5, 0.8]
    sample = SemanticSegmentationMapper(cfg, is_train=True)(write(), np.random.default_rng(0))
    assert sample["image"].shape == (3, 10, 20)


def test_color_jitter_moves_colours(cfg, write):
    cfg.INPUT.CROP.ENABLED = False
    dataset_dict = write()

    def image(strength):
        cfg.INPUT.COLOR_JITTER = strength
        mapper = SemanticSegmentationMapper(cfg, is_train=True)
        return mapper(dataset_dict, np.random.default_rng(0))["image"].float()

    assert (image(0.5) - image(0.0)).abs().mean() > 5


def test_test_sample_does_not_read_the_label(cfg, write):
    dataset_dict = {**write(), "sem_seg_file_name": "nowhere.png"}
    sample = SemanticSegmentationMapper(cfg, is_train=False)(dataset_dict)
    assert sample["image"].shape == (3, 40, 50) and "sem_seg" not in sample
    assert sample["sem_seg_file_name"] == "nowhere.png"
    expected = np.asarray(Image.open(dataset_dict["file_name"]))[:, :, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(sample["image"].numpy(), expected)


def test_test_sample_is_resized_and_keeps_the_files_size(cfg, write):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 80, 90
    sample = SemanticSegmentationMapper(cfg, is_train=False)(write())
    assert sample["image"].shape == (3, 72, 90)
    assert (sample["height"], sample["width"]) == (40, 50)


@pytest.mark.parametrize("format", ["RGB", "BGR"])
def test_pixels_in_memory_are_taken_as_a_file_is(cfg, write, format):
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = format, 80, 90
    mapper = SemanticSegmentationMapper(cfg, is_train=False)
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    sample = mapper.map_pixels(image)
    resized = np.asarray(Image.fromarray(image).resize((90, 72), Image.Resampling.BILINEAR))
    channels = resized if format == "RGB" else resized[:, :, ::-1]
    np.testing.assert_array_equal(sample["image"].numpy(), channels.transpose(2, 0, 1))
    assert sample["image"].is_contiguous()
    assert (sample["height"], sample["width"]) == (40, 50)
    from_file = mapper(write(image))
    assert torch.equal(from_file["image"], sample["image"])


def test_unknown_format(cfg):
    cfg.INPUT.FORMAT = "YUV-BT.601"
    with pytest.raises(InputError, match="INPUT.FORMAT"):
        SemanticSegmentationMapper(cfg, is_train=True)


def test_sizes_that_differ(write):
    dataset_dict = write(label=np.zeros((40, 51), np.uint8))
    with pytest.raises(InputError, match=r"lb.png has 51 x 40 .*im.png 50 x 40"):
        _plain()(dataset_dict)


def test_ids_outside_the_classes(write):
    label = np.zeros((40, 50), np.uint8)
    label[0, :4] = (255, 4, 5, 77)
    with pytest.raises(InputError) as error:
        _plain()(write(label=label))
    message = str(error.value)
    assert "lb.png has the ids 5, 77, which" in message and "0 to 4" in message
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES" in message
    _plain(num_classes=78)(write(label=label))


def test_long_lists_of_ids_are_cut(write):
    label = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    with pytest.raises(InputError) as error:
        _plain()(write(label=label))
    assert "has the ids 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 1984 more, which" in str(error.value)


def test_ignore_id_of_another_convention_is_found(write):
    label = np.full((40, 50), 255, np.uint16)
    with pytest.raises(InputError, match="the ids 255"):
        _plain(ignore_label=65535)(write(label=label))


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
def test_truncated_and_missing_files(write, key, tmp_path):
    dataset_dict = write()
    path = tmp_path / dataset_dict[key]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=path.name):
        _plain()(dataset_dict)
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        _plain()(dataset_dict)


def test_image_without_label(write):
    dataset_dict = write()
    del dataset_dict["sem_seg_file_name"]
    with pytest.raises(InputError, match="im.png has no label"):
        _plain()(dataset_dict)


def test_16_bit_images_are_scaled_to_the_configs_range(cfg, write):
    cfg.INPUT.BLACK_POINT, cfg.INPUT.WHITE_POINT = 51000, 52000
    deep = np.full((40, 50), 51500, np.uint16)
    dataset_dict = write(image=deep)
    mapper = SemanticSegmentationMapper(cfg, is_train=False)
    assert (mapper(dataset_dict)["image"] == 128).all()
    assert (mapper.read_image(dataset_dict["file_name"]) == 128).all()
    cfg.INPUT.COLOR_JITTER = 0.0
    sample = SemanticSegmentationMapper(cfg, is_train=True)(dataset_dict, np.random.default_rng(0))
    assert 128 in sample["image"]
    assert set(sample["image"].unique().tolist()) <= {128, *map(int, cfg.MODEL.PIXEL_MEAN)}


def test_ranges_that_cannot_be_are_refused(cfg):
    cfg.INPUT.BLACK_POINT = 70000
    with pytest.raises(InputError, match="INPUT.BLACK_POINT is 70000"):
        SemanticSegmentationMapper(cfg, is_train=False)


@pytest.mark.filterwarnings("ignore:::PIL")
def test_larger_images_are_decoded_if_the_config_says_so(cfg, write, monkeypatch):
    dataset_dict = write()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    cfg.INPUT.MAX_PIXELS = 100
    with pytest.raises(InputError, match="INPUT.MAX_PIXELS"):
        SemanticSegmentationMapper(cfg, is_train=False)(dataset_dict)
    cfg.INPUT.MAX_PIXELS = 2000
    mapper = SemanticSegmentationMapper(cfg, is_train=False)
    assert mapper(dataset_dict)["image"].shape == (3, 40, 50)
    content = pickle.dumps(mapper)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # as in a worker that starts
    assert pickle.loads(content)(dataset_dict)["image"].shape == (3, 40, 50)


def test_masks_of_the_classes(cfg, write):
    cfg.INPUT.CLASS_MASKS = True
    label = np.zeros((40, 50), np.uint8)
    label[:, 20:40] = 2
    label[30:] = 255
    record = write(label=label)
    sample = build_train_mapper(cfg)(record, np.random.default_rng(0))
    labels, instances = sample["sem_seg"], sample["instances"]
    expected = [k for k in labels.unique().tolist() if k != 255]
    assert instances.gt_classes.tolist() == expected and set(expected) <= {0, 2}
    for k, mask in zip(expected, instances.gt_masks, strict=True):
        assert torch.equal(mask, labels == k)

    record = write(label=np.full((40, 50), 255, np.uint8))
    sample = build_train_mapper(cfg)(record, np.random.default_rng(0))
    assert len(sample["instances"]) == 0
    assert sample["instances"].gt_masks.shape == (0, *sample["sem_seg"].shape)
