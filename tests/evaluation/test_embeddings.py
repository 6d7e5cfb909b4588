import json
import logging
import math

import sar  # noqa: F401  # isort: skip  (before detectron2)
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sar.config import load_config
from sar.data.loader import build_test_loader
from sar.data.mapper import SemanticSegmentationMapper
from sar.errors import InputError
from sar.evaluation import FeatureGeometry, LongTailEvaluator, tap_evaluation
from sar.regularizers.labels import match_labels

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor, build_model

from ..geometry import assert_close, direct

NAMES = ["road", "sky", "car", "pole", "sign"]
K = len(NAMES)
CLASSIFIER = "sem_seg_head.predictor"


@pytest.fixture
def dataset(tmp_path):
    """Four images of several sizes, none a multiple of 32, with labels that lack class 1."""
    rng = np.random.default_rng(0)
    records = []
    for i, size in enumerate([(50, 70), (60, 44), (50, 70), (90, 40)]):
        label = rng.choice([0, 2, 3, 4], size=(size[0] // 10, size[1] // 4)).repeat(10, 0)
        label = np.pad(label.repeat(4, 1), ((0, 0), (0, size[1] % 4)), constant_values=255)
        label[rng.random(size) < 0.1] = 255
        image = rng.integers(0, 60, (*size, 3)) + 30 * np.minimum(label, 5)[..., None]
        record = {"file_name": f"{tmp_path}/{i}.png", "sem_seg_file_name": f"{tmp_path}/{i}_id.png"}
        Image.fromarray(image.astype(np.uint8)).save(record["file_name"])
        Image.fromarray(label.astype(np.uint8)).save(record["sem_seg_file_name"])
        records.append(record)
    name = "tap_test"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=NAMES, ignore_label=255)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def small_config(*overrides):
    return load_config(
        "configs/CamVid/sar_sem_fpn_R_18.yaml",
        [
            "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(K),
            "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.FPN.NORM", "BN",
            "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
            "INPUT.MIN_SIZE_TEST", "61", "INPUT.MAX_SIZE_TEST", "100",
            "DATALOADER.NUM_WORKERS", "0",
            *overrides,
        ],
    )  # fmt: skip


def evaluate(cfg, model, dataset, *, geometry, spy=None, output_dir=None):
    """The results, and what the model gave for each image."""
    logits = []

    class Recorder(LongTailEvaluator):
        def process(self, inputs, outputs):
            logits.extend(output["sem_seg"].clone() for output in outputs)
            if spy:
                spy(inputs)
            super().process(inputs, outputs)

    def run(tap=None):
        loader = build_test_loader(
            cfg, SemanticSegmentationMapper(cfg, False), DatasetCatalog.get(dataset)
        )
        evaluator = Recorder(dataset, output_dir=output_dir, tap=tap)
        return inference_on_dataset(model, loader, evaluator)

    if not geometry:
        return run(), logits
    with tap_evaluation(model, CLASSIFIER, K) as tap:
        return run(tap), logits


def assert_no_hooks(model):
    assert all(not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("regularizers", ["[]", "['SemanticAnchorRegularizer']"])
def test_a_model_measured_while_it_is_evaluated(dataset, regularizers):
    cfg = small_config("MODEL.REGULARIZERS", regularizers)
    torch.manual_seed(0)
    model = build_model(cfg)
    plain, plain_logits = evaluate(cfg, model, dataset, geometry=False)
    assert_no_hooks(model)

    fed, features, labels = [], [], []
    handle = model.sem_seg_head.predictor.register_forward_hook(lambda m, x, y: fed.append(x[0]))

    def spy(inputs):
        # One by one: the pixel of the network's input at the embedding's place, with stride 4.
        (embedding,) = fed.pop()
        h, w = inputs[0]["image"].shape[1:]
        truth = Image.open(inputs[0]["file_name"].replace(".png", "_id.png"))
        assert truth.size != (w, h)
        truth = np.array(truth.resize((w, h), Image.Resampling.NEAREST))
        for i, j in np.ndindex(*embedding.shape[1:]):
            if 4 * i < h and 4 * j < w:
                features.append(embedding[:, i, j])
                labels.append(int(truth[4 * i, 4 * j]))

    results, logits = evaluate(cfg, model, dataset, geometry=True, spy=spy)
    handle.remove()
    assert_no_hooks(model)
    assert all(torch.equal(a, b) for a, b in zip(logits, plain_logits, strict=True))
    assert list(plain) == ["sem_seg"] and list(results) == ["sem_seg", "geometry"]
    assert repr(results["sem_seg"]) == repr(plain["sem_seg"])  # repr: absent classes are NaN
    weight = model.sem_seg_head.predictor.weight.detach().flatten(1)
    expected = direct(torch.stack(features), torch.tensor(labels), weight)
    assert_close(results["geometry"], expected, rel=1e-6)


class Pixels(Backbone):
    """Every fourth pixel, as it is."""

    size_divisibility = 32

    def forward(self, images):
        return {"pixels": images[:, :, ::4, ::4]}

    def output_shape(self):
        return {"pixels": ShapeSpec(channels=3, stride=4)}


class Head(nn.Module):
    """A classifier of pixels, fed as a map or as the rows or the tokens of a linear layer."""

    ignore_value = 255

    def __init__(self, layout="map"):
        super().__init__()
        self.layout = layout
        self.predictor = nn.Conv2d(3, K, 1) if layout == "map" else nn.Linear(3, K)

    def forward(self, features, targets=None):
        pixels = features["pixels"]
        size = pixels.shape[-2:]
        if self.layout == "map":
            logits = self.predictor(pixels)
        elif self.layout == "rows":
            logits = self.predictor(pixels.movedim(1, -1)).movedim(-1, 1)
        else:
            logits = self.predictor(pixels.flatten(2).transpose(1, 2))
            logits = logits.transpose(1, 2).unflatten(2, size)
        return nn.functional.interpolate(logits, scale_factor=4), {}


def pixel_model(layout="map"):
    return SemanticSegmentor(
        backbone=Pixels(),
        sem_seg_head=Head(layout),
        pixel_mean=[7.0, 8.0, 9.0],
        pixel_std=[1.0, 1.0, 1.0],
    ).eval()


def coloured(truth, colours, scale):
    """An image (3, h, w) whose colour is the class, the label's size in each direction scaled."""
    ids = np.minimum(truth.repeat(scale, 0).repeat(scale, 1), K)
    return torch.from_numpy(colours[ids]).permute(2, 0, 1)


@pytest.mark.parametrize("layout", ["map", "rows", "tokens"])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_embeddings_meet_the_labels_of_their_own_pixels(layout, scale):
    # A class's colour is its embedding, so that a single wrong label, or one in the padding, shows.
    rng = np.random.default_rng(0)
    truths = [
        rng.choice([0, 1, 2, 3, 4, 255], size=size).astype(np.uint8)
        for size in ((33, 50), (41, 29))
    ]
    colours = rng.integers(0, 256, (K + 1, 3)).astype(np.uint8)  # the last: of ignored pixels
    images = [coloured(truth, colours, scale) for truth in truths]
    model = pixel_model(layout)
    geometry = FeatureGeometry(K, 3)
    with tap_evaluation(model, CLASSIFIER, K) as tap, torch.no_grad():
        model([{"image": image} for image in images])
        embeddings, labels = tap.take(truths, [image.shape[1:] for image in images], 255)
    geometry.update(embeddings, labels)
    assert embeddings.shape[:2] == (2, 3) and labels.shape[1] % 32 == labels.shape[2] % 32 == 0
    numbers = geometry.compute(model.sem_seg_head.predictor.weight)
    assert numbers["NC1"] < 1e-12 and numbers["NC1_trace_ratio"] < 1e-12
    assert numbers["NC2_equinorm"] > 0.01
    # As many as the embeddings in the images, without the ignored ones.
    counts = geometry._parts()[0].sum()
    inside = [image[0, ::4, ::4].numel() for image in images]
    ignored = [(truth.repeat(scale, 0).repeat(scale, 1)[::4, ::4] == 255).sum() for truth in truths]
    assert counts == sum(inside) - sum(ignored)
    # The same as labels in training, which are padded with the images.
    for label, truth in zip(match_labels(embeddings, labels), truths, strict=True):
        grid = label.view(embeddings.shape[-2:]).numpy()
        own = truth.repeat(scale, 0).repeat(scale, 1)[::4, ::4]
        assert (grid[: own.shape[0], : own.shape[1]] == own).all()


SIZES = [(33, 50), (41, 29)]


def test_16_bit_labels():
    truth = np.full((8, 8), 65535, np.int32)
    truth[:4] = 300
    model = pixel_model()
    with tap_evaluation(model, CLASSIFIER, K) as tap, torch.no_grad():
        model([{"image": torch.zeros(3, 8, 8)}])
        _, labels = tap.take([truth], [(8, 8)], 65535)
    assert labels.shape == (1, 32, 32)
    assert set(labels[0, :4, :8].flatten().tolist()) == {300}
    assert (labels == 300).sum() == 4 * 8 and (labels == 65535).sum() == 32 * 32 - 4 * 8


def test_the_tap_keeps_nothing_and_goes_also_after_an_error():
    model = pixel_model()
    with pytest.raises(ZeroDivisionError), tap_evaluation(model, CLASSIFIER, K) as tap:
        for _ in range(2):
            model([{"image": torch.zeros(3, 8, 8)}])
            tap.take([np.zeros((8, 8), np.uint8)], [(8, 8)], 255)
            assert tap._embeddings == []
        raise ZeroDivisionError
    assert_no_hooks(model)


def test_a_distributed_model(monkeypatch):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    monkeypatch.setattr("sar.evaluation.embeddings.DistributedDataParallel", Wrapper)
    model = pixel_model()
    with tap_evaluation(Wrapper(model), CLASSIFIER, K) as tap:
        assert tap.classifier is model.sem_seg_head.predictor


@pytest.mark.parametrize("passes", [0, 2])
def test_not_one_pass(passes):
    model = pixel_model()
    with tap_evaluation(model, CLASSIFIER, K) as tap:
        for _ in range(passes):
            model([{"image": torch.zeros(3, 8, 8)}])
        with pytest.raises(InputError, match=f"TEST.GEOMETRY: .* {passes} times.*one pass"):
            tap.take([np.zeros((8, 8), np.uint8)], [(8, 8)], 255)


def test_no_such_classifier():
    model = pixel_model()
    with pytest.raises(InputError, match='"sem_seg_head.classifier" leads nowhere.*predictor'):
        with tap_evaluation(model, "sem_seg_head.classifier", K):
            pass
    assert_no_hooks(model)


def test_results_are_in_the_log_and_in_the_file(dataset, tmp_path, caplog):
    cfg = small_config()
    torch.manual_seed(0)
    model = build_model(cfg)
    logger = logging.getLogger("sar.evaluation.evaluator")
    logger.addHandler(caplog.handler)  # also if a parent does not propagate
    try:
        with caplog.at_level(logging.INFO, logger="sar.evaluation"):
            results, _ = evaluate(
                cfg, model, dataset, geometry=True, output_dir=str(tmp_path / "out")
            )
    finally:
        logger.removeHandler(caplog.handler)
    geometry = results["geometry"]
    assert "resolution of the embedding" in caplog.text and "of the geometry: sky." in caplog.text
    assert "NC2_maximal_angle" in caplog.text and f"{geometry['NC3']:.4g}" in caplog.text
    content = json.loads((tmp_path / "out" / "sem_seg_evaluation.json").read_text())
    assert content["geometry"] == geometry
    assert not any(math.isnan(value) for value in geometry.values())
