"""Predictions of point clouds: labels, confidence, ground truth, and inputs of another kind."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import Cloud, read_cloud
from sar.errors import InputError
from sar.modeling.point_inference import VotingPointSegmentor
from sar.prediction.cloud_prediction import ground_truth_of
from sar.prediction.predictor import Predictor
from sar.visualization.cloud_viewer import MAX_BYTES

from ..clouds import CONFIG, SMALL, ByHeight, draw_cloud_points
from ..runs import train

COLORS = np.array([[1, 2, 3], [200, 100, 50]], np.uint8)


@pytest.fixture
def predictor():
    mapper = CloudMapper(False, voxel_size=0.2, features=["xyz"], num_classes=2, ignore_label=255)
    return Predictor(ByHeight(), ["low", "high"], COLORS, mapper=mapper)


def cloud_with(label=None):
    return Cloud(draw_cloud_points(np.random.default_rng(0))[0], label=label)


def test_each_point_gets_a_class_and_its_probability(predictor):
    cloud = cloud_with()
    prediction = predictor(cloud, with_confidence=True)
    height = cloud.xyz[:, 2] - cloud.xyz[:, 2].min()
    assert prediction.labels.dtype == np.uint8 and prediction.truth is None
    assert (prediction.labels == (height > 0.1)).all()
    expected = 1 / (1 + np.exp(-2 * np.abs(height - 0.1)))
    np.testing.assert_allclose(prediction.confidence, expected, atol=1e-6)
    assert predictor(cloud).confidence is None


def test_a_model_file_predicts_as_the_evaluation(cloud_folder, tmp_path):
    words = ["DATASETS.FOLDER", str(cloud_folder), "OUTPUT_DIR", str(tmp_path / "output")]
    train([*SMALL, *words], config=CONFIG)
    predictor = Predictor.load(tmp_path / "output" / "model_inference.pth", "MODEL.DEVICE", "cpu")
    assert predictor.reads_clouds
    truth_by_prediction = np.zeros((3, 3), int)
    for prediction in predictor.predict_all(sorted((cloud_folder / "clouds/val").iterdir())):
        counted = prediction.truth < 3
        np.add.at(truth_by_prediction, (prediction.truth[counted], prediction.labels[counted]), 1)
    file = tmp_path / "output/inference/folder_scans_val/sem_seg_evaluation.json"
    expected = json.loads(file.read_text())["confusion_truth_by_prediction"]
    assert truth_by_prediction.tolist() == expected


def test_labels_are_ground_truth_only_if_they_are_classes():
    label = np.arange(300) % 2
    assert (ground_truth_of(cloud_with(label), 2, 255) == label).all()
    with_ignored = np.where(np.arange(300) < 9, 255, label)
    assert ground_truth_of(cloud_with(with_ignored), 2, 255) is not None
    for other in (None, label * 0, label * 0 + 255, label + 1, label - 1, with_ignored - 1):
        assert ground_truth_of(cloud_with(other), 2, 255) is None


def test_picture_and_viewer_show_errors_only_with_ground_truth(predictor, tmp_path):
    label = (np.arange(300) % 2).astype(np.int64)
    plain, labelled = predictor(cloud_with()), predictor(cloud_with(label))
    assert plain.overlay().width * 4 == labelled.overlay().width * 2
    shown = []
    for prediction in (plain, labelled):
        prediction.write_viewer(tmp_path / "page.html", "x <b>")
        page = (tmp_path / "page.html").read_text()
        shown.append(re.findall('"name": "([a-z ]+)"', page))
    assert "ground truth" not in shown[0] and "ground truth" in shown[1]
    wrong = int((labelled.labels != label).sum())
    assert f'"wrong": {wrong}' in page and "x <b>" not in page and len(page) <= MAX_BYTES


def test_inputs_of_another_kind_are_named(predictor, tmp_path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    with pytest.raises(InputError, match="photo.png is an image or a video, but the model segm"):
        predictor(photo)
    with pytest.raises(InputError, match="the model segments point clouds, not images: give"):
        predictor(np.zeros((8, 8, 3), np.uint8))
    np.savez(tmp_path / "cloud.npz", xyz=cloud_with().xyz)
    of_images = Predictor(ByHeight(), ["low", "high"], COLORS)
    with pytest.raises(InputError, match="cloud.npz has the suffix of a point cloud, but the mod"):
        of_images(tmp_path / "cloud.npz")
    with pytest.raises(InputError, match="a point cloud was given, but the model segments im"):
        of_images(read_cloud(tmp_path / "cloud.npz"))
    photo.rename(tmp_path / "photo.txt")  # an image by its content is read as before
    assert of_images.mapper.read_image(tmp_path / "photo.txt").shape == (8, 8, 3)
    of_images(tmp_path / "photo.txt")


def test_a_cloud_that_does_not_fit_into_memory_is_an_error(predictor, monkeypatch):
    def fail(batch):
        raise RuntimeError("out of memory\nand a trace")

    monkeypatch.setattr(predictor.model, "forward", fail)
    results = list(predictor.predict_all([cloud_with(), cloud_with()]))
    message = "the cloud: the model cannot predict 300 points: out of memory. If memory is too"
    assert [str(error).startswith(message) for error in results] == [True, True]
    assert str(results[0]).endswith("cut it into parts")


def test_a_missing_feature_is_named(predictor):
    predictor.mapper.features = ("xyz", "color")
    with pytest.raises(InputError, match="the cloud has no color"):
        predictor(cloud_with())


def test_an_error_in_a_pass_of_augmentation_names_the_file(predictor, tmp_path):
    predictor.model = VotingPointSegmentor(predictor.model, predictor.mapper, scales=(2.0,))
    most = 2**20 * predictor.mapper.voxel_size  # the largest cloud, before it is scaled
    np.savez(tmp_path / "large.npz", xyz=[[0, 0, 0], [0.6 * most, 0, 0]])
    with pytest.raises(InputError, match="large.npz cannot be divided into voxels"):
        predictor(tmp_path / "large.npz")
