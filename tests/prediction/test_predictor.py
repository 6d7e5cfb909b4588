import logging
import threading
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.label_files import read_label
from sar.data.mapper import SemanticSegmentationMapper
from sar.errors import InputError
from sar.modeling.inference import inference_model
from sar.prediction.predictor import Prediction, Predictor
from sar.training.trainer import Trainer

from detectron2.modeling import build_model

from ..stub_model import StubModel

CONFIG = "configs/Folder/sar_ceco_sem_fpn_R_18.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "2", "INPUT.MIN_SIZE_TEST", "32",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    "MODEL.FPN.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN",
]  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of three classes, with the training branch in it."""
    overrides = [*SMALL, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, overrides))
    path = tmp_path / "output" / "weights.pth"
    path.parent.mkdir()
    torch.save({"model": model.state_dict()}, path)
    return str(path)


@pytest.fixture
def load(folder, weights):
    def load(*more):
        return Predictor.load(
            CONFIG, *SMALL, "DATASETS.FOLDER", str(folder), "MODEL.WEIGHTS", weights, *more
        )

    return load


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_it_predicts_as_evaluation_does(load, folder, weights, image_format, mode):
    more = ["INPUT.FORMAT", image_format, "TEST.MODE", mode]
    more += ["TEST.CROP_SIZE", "(32, 32)", "TEST.CROP_STRIDE", "(16, 16)"]
    path = folder / "images" / "val" / "1.png"
    predictor = load(*more)
    prediction = predictor(path, with_confidence=True)

    cfg = load_config(CONFIG, [*SMALL, *more, "MODEL.WEIGHTS", weights, "MODEL.REGULARIZERS", "()"])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    model = inference_model(cfg, Trainer.load_for_evaluation(cfg))
    with torch.no_grad():
        logits = model([Trainer.build_test_mapper(cfg)({"file_name": str(path)})])[0]["sem_seg"]
    assert prediction.labels.dtype == np.uint8
    for found in (prediction, predictor(path)):
        assert (found.labels == logits.argmax(0).numpy()).all()
    expected = logits.double().softmax(0).amax(0).numpy()
    np.testing.assert_allclose(prediction.confidence, expected, atol=1e-6)
    assert (prediction.image == np.asarray(Image.open(path))).all()


def test_augmented_scores_are_probabilities_already(load, folder):
    more = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(0, 32)"]
    predictor = load(*more)
    image = np.asarray(Image.open(folder / "images" / "val" / "1.png"))
    prediction = predictor(image, with_confidence=True)
    # The augmenting model resizes the image itself.
    sample = {"image": torch.tensor(image).permute(2, 0, 1)}
    scores = predictor.model([sample])[0]["sem_seg"]
    assert (prediction.confidence == scores.amax(0).numpy()).all()
    assert (prediction.labels == scores.argmax(0).numpy()).all()


def test_sums_over_queries_become_shares(tmp_path):
    class Sums(nn.Module):
        def forward(self, batch):
            sums = torch.tensor([[0.2, 0.0], [0.6, 0.0], [0.0, 0.0]])
            return [{"sem_seg": sums[:, None]}]

    predictor = Predictor(Sums(), "abc", np.zeros((3, 3), np.uint8), sums_masks=True)
    prediction = predictor(np.zeros((1, 2, 3), np.uint8), with_confidence=True)
    np.testing.assert_allclose(prediction.confidence, [[0.75, 0]], rtol=1e-6)
    config = "configs/LongTailShapes/baseline_mask_classifier_R_18.yaml"
    model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    words = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    assert Predictor.load(config, *words).sums_masks


def test_the_training_branch_is_left_out_without_a_word(load, caplog):
    with caplog.at_level(logging.WARNING):
        predictor = load("MODEL.AUXILIARY_HEAD.IN_FEATURE", "p2", "MODEL.LOSS.NAME", "seesaw")
    assert len(predictor.model.regularizers) == 0
    assert predictor.model.auxiliary_head is None and "Seesaw" not in repr(predictor.model)
    assert "not used" not in caplog.text
    # Of the user's own training program, and not known here.
    load("MODEL.REGULARIZERS", "OfMyTrainNetRegularizer")


def test_classes_are_found_without_the_data(load, folder, weights, tmp_path, monkeypatch):
    def names_and_colors(*more):
        predictor = load(*more)
        return list(predictor.class_names), predictor.colors.tolist()

    for part in ("images", "labels"):
        (folder / part).rename(tmp_path / part)
    (folder / "classes.txt").write_text("ground 1 2 3\nblock #040506\ndot\n")
    names, colors = names_and_colors()
    assert names == ["ground", "block", "dot"] and colors[:2] == [[1, 2, 3], [4, 5, 6]]

    (folder / "classes.txt").unlink()
    with pytest.raises(InputError, match="there is no class_frequency.json next to it"):
        load()
    frequency = ClassFrequency(("a", "b", "c"), 1, (1, 1, 1), (5, 5, 5), 0)
    frequency.save(tmp_path / "output" / "class_frequency.json")
    names, colors = names_and_colors()
    assert names == ["a", "b", "c"] and len(set(map(tuple, colors))) == 3

    # Registered, but its classes are in a file that is not here.
    elsewhere = ["DATASETS.FOLDER", "", "DATASETS.TEST", "ade20k_full_val"]
    predictor = load(*elsewhere, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3")
    assert list(predictor.class_names) == names

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="NUM_CLASSES is 3, but 11 classes"):
        load(
            "DATASETS.FOLDER", "", "DATASETS.TEST", "camvid_val",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
        )  # fmt: skip


def test_classes_and_colors_are_those_of_the_checkpoint(load, folder, weights):
    content = torch.load(weights)
    names, colors = ["ground", "block", "dot"], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    torch.save({**content, "classes": {"names": names, "colors": colors}}, weights)
    assert load().colors.tolist() == colors  # and not those of classes.txt
    (folder / "classes.txt").write_text("block\nground\ndot\n")
    with pytest.raises(InputError, match="trained on the classes ground, block, dot, but the data"):
        load()
    (folder / "classes.txt").unlink()
    assert list(load().class_names) == names


@pytest.mark.parametrize("name", ["model.pt", "{url}/model.pth", "{url}/model.pt"])
def test_classes_are_found_in_any_checkpoint(tmp_path, weights, name, monkeypatch, serve):
    classes = {"names": ["a", "b", "c"], "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    content = {**torch.load(weights), "classes": classes}
    path = tmp_path / name.rpartition("/")[2]
    torch.save(content, path)
    monkeypatch.chdir(tmp_path)
    words = ["MODEL.WEIGHTS", name.format(url=serve(tmp_path))]
    assert Predictor.load(CONFIG, *SMALL, *words).class_names == ["a", "b", "c"]


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves a folder on this machine, and returns its URL."""
    monkeypatch.setenv("no_proxy", "*")
    with ExitStack() as stack:

        def serve(folder):
            handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield serve


def test_weights_have_to_be_given(folder):
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        Predictor.load(CONFIG, *SMALL, "DATASETS.FOLDER", str(folder))


def test_one_bad_image_is_told_and_the_rest_done(load, folder, tmp_path):
    predictor = load()
    good = sorted((folder / "images" / "val").iterdir())
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(good[0].read_bytes()[:200])
    images = [good[0], truncated, good[1], tmp_path / "missing.png", good[2]]
    results = list(predictor.predict_all(images))
    for index, path in ((1, "truncated.png"), (3, "missing.png")):
        assert isinstance(results[index], InputError) and path in str(results[index])
    for index in (0, 2, 4):
        assert (results[index].labels == predictor(images[index]).labels).all()
        assert results[index].confidence is None


@pytest.mark.parametrize(
    "array", [np.zeros((5, 5)), np.zeros((5, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)]
)
def test_arrays_that_are_no_images(array):
    predictor = Predictor(nn.Identity(), ["a"], np.zeros((1, 3), np.uint8))
    with pytest.raises(InputError, match="expected an image"):
        predictor(array)


@pytest.mark.parametrize("with_confidence", [False, True])
@pytest.mark.parametrize(
    "result, reason",
    [
        (RuntimeError("out of memory\nin some place"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (torch.zeros(1, 48, 64, device="meta"), "Cannot copy out of meta tensor; no data!"),
    ],
)
def test_an_image_that_the_model_cannot_take_is_named(folder, result, reason, with_confidence):
    predictor = Predictor(StubModel(result), ["a"], np.zeros((1, 3), np.uint8))
    path = folder / "images" / "val" / "0.png"
    expected = f"0.png: .* 64 x 48 pixels: {reason}. If memory is too small, cut it into parts"
    with pytest.raises(InputError, match=expected):
        predictor(path, with_confidence=with_confidence)
    (error,) = predictor.predict_all([path], with_confidence=with_confidence)
    assert isinstance(error, InputError)


def test_an_image_that_does_not_fit_into_memory_is_named_and_the_rest_done(
    load, folder, monkeypatch
):
    predictor, map_pixels = load(), SemanticSegmentationMapper.map_pixels
    paths = sorted((folder / "images" / "val").iterdir())[:3]
    large = np.asarray(Image.open(paths[1]))

    def limited(self, pixels):
        if (pixels == large).all():
            raise MemoryError("Unable to allocate 14.9 GiB")
        return map_pixels(self, pixels)

    monkeypatch.setattr(SemanticSegmentationMapper, "map_pixels", limited)
    first, error, last = predictor.predict_all(paths)
    assert isinstance(first, Prediction) and isinstance(last, Prediction)
    assert f"{paths[1]} does not fit into memory (Unable to allocate 14.9 GiB): " in str(error)
    with pytest.raises(InputError, match="the array does not fit into memory"):
        predictor(large)


@pytest.mark.parametrize("num_classes, mode", [(3, "P"), (256, "P"), (300, "I;16")])
def test_label_images_hold_the_ids(tmp_path, num_classes, mode):
    dtype = np.uint8 if num_classes <= 256 else np.uint16
    labels = np.arange(num_classes, dtype=dtype).reshape(-1, 1).repeat(2, 1)
    colors = np.random.default_rng(0).integers(0, 256, (num_classes, 3), dtype=np.uint8)
    image = np.zeros((num_classes, 2, 3), np.uint8)
    names = [str(k) for k in range(num_classes)]
    picture = Prediction(image, labels, None, names, colors).label_image()
    picture.save(tmp_path / "labels.png")
    assert (read_label(tmp_path / "labels.png") == labels).all()
    with Image.open(tmp_path / "labels.png") as saved:
        assert saved.mode == mode
        if mode == "P":
            assert (np.asarray(saved.convert("RGB"))[:, 0] == colors).all()


def test_confidence_images_round():
    prediction = Prediction(
        np.zeros((1, 3, 3), np.uint8),
        np.zeros((1, 3), np.uint8),
        np.array([[0.0, 0.5, 1.0]], np.float32),
        ["a"],
        np.zeros((1, 3), np.uint8),
    )
    assert np.asarray(prediction.confidence_image()).tolist() == [[0, 128, 255]]


def test_16_bit_images_are_read_with_the_range_of_the_config(load, tmp_path):
    Image.fromarray(np.full((48, 64), 7100, np.uint16)).save(tmp_path / "thermal.png")
    predictor = load("INPUT.BLACK_POINT", "7000", "INPUT.WHITE_POINT", "7200")
    assert (predictor(tmp_path / "thermal.png").image == 128).all()
