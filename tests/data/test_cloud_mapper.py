"""Samples of clouds in memory, against a loop."""

import math
import shutil

import numpy as np
import pytest
import torch

from sar.data import label_files
from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import Cloud
from sar.errors import InputError
from sar.points.augmentation import PointAugmentation
from sar.points.sites import Sites


def mapper(voxel_size=0.5, features=("xyz",)):
    return CloudMapper(
        False, voxel_size=voxel_size, features=features, num_classes=2, ignore_label=255
    )


def test_a_sample_has_features_and_voxels():
    generator = np.random.default_rng(0)
    xyz = generator.uniform(-3, 4, (20, 3)) + [5e6, -4e5, 100]  # map coordinates
    intensity = generator.random(20, np.float32)
    sample = mapper(features=("intensity", "xyz")).map_points(Cloud(xyz, intensity=intensity))
    lowest, highest = np.sort(xyz, axis=0)[[0, -1]]
    for p, (x, y, z) in enumerate(xyz):
        middle = (lowest + highest) / 2
        expected = [intensity[p], x - middle[0], y - middle[1], z - lowest[2]]
        np.testing.assert_array_equal(sample["image"][:, 0, p], np.float32(expected))
        assert sample["coordinates"][p].tolist() == [math.floor(2 * value) for value in (x, y, z)]
    assert (sample["height"], sample["width"]) == (1, 20)


@pytest.mark.parametrize("far", [1e7, 1e18, 1e20, 1e300, np.nan])
def test_a_point_too_far_away_for_voxels_names_the_file(far):
    xyz = np.array([[0, 0, 0], [1, 2, 3], [far, far, -far]])
    with pytest.raises(InputError, match=r"scan\.npz cannot be divided into voxels of 0\.01: "):
        mapper(0.01).map_points(Cloud(xyz), "scan.npz")


@pytest.mark.parametrize("far", [1e18, 1e300, -1e308])
def test_a_point_too_far_away_along_one_axis(far):
    with pytest.raises(InputError, match="cannot be divided into voxels of 0.5"):
        mapper().map_points(Cloud(np.array([[0, 0, 0], [1, far, 3]])))


def test_a_point_far_away_that_voxels_can_reach():
    xyz = np.array([[0, 0, 0], [1, 2, 3], [5e5, 5, 6]])
    found = mapper().map_points(Cloud(xyz))["coordinates"]
    assert found.tolist() == [[0, 0, 0], [2, 4, 6], [10**6, 10, 12]]


def test_a_batch_of_clouds_that_each_reach_far_along_another_axis():
    samples = [mapper().map_points(Cloud(np.array([[0, 0, 0], 5e5 * axis]))) for axis in np.eye(3)]
    clouds = torch.arange(3).repeat_interleave(2)
    sites, _ = Sites.of_voxels(clouds, torch.cat([sample["coordinates"] for sample in samples]))
    pairs = sites.neighbours(5)
    assert [sum(map(len, part)) for part in (pairs.inputs[:62], pairs.inputs[63:])] == [0, 0]


def test_a_cloud_without_points_names_the_file():
    with pytest.raises(InputError, match=r"empty\.npz has no points"):
        mapper().map_points(Cloud(np.zeros((0, 3))), "empty.npz")


def mixing_mapper():
    return CloudMapper(
        voxel_size=0.5,
        features=("xyz", "color"),
        num_classes=2,
        ignore_label=255,
        augmentation=PointAugmentation(mix3d=1.0),
    )


def write(path, **arrays):
    generator = np.random.default_rng(0)
    arrays = {"label": np.zeros(20, np.uint8), "color": np.zeros((20, 3), np.uint8)} | arrays
    np.savez(path, xyz=generator.normal(size=(20, 3)), **arrays)
    return {"file_name": str(path), "sem_seg_file_name": str(path)}


def test_arrays_that_the_model_does_not_take_may_be_missing(tmp_path):
    mapper = mixing_mapper()
    mapper.partners = [write(tmp_path / "a.npz", intensity=np.ones(20))]
    sample = mapper(write(tmp_path / "b.npz"), np.random.default_rng(0))
    assert sample["width"] == 40


def test_a_partner_that_cannot_be_used_leaves_the_cloud_alone(tmp_path):
    mapper = mixing_mapper()
    record = write(tmp_path / "a.npz")
    mapper.partners = [write(tmp_path / "b.npz", label=np.full(20, 7, np.uint8))]
    assert mapper(record, np.random.default_rng(0))["width"] == 20
    with pytest.raises(InputError, match="b.npz has the ids 7"):
        mapper(mapper.partners[0], np.random.default_rng(0))


def test_a_cloud_that_holds_its_labels_is_read_once(tmp_path, monkeypatch):
    record = write(tmp_path / "a.npz", label=np.arange(20) % 2)
    copy = shutil.copy(tmp_path / "a.npz", tmp_path / "labels.npz")
    mapper = mixing_mapper()
    expected = mapper(record | {"sem_seg_file_name": str(copy)}, np.random.default_rng(0))
    monkeypatch.setattr(label_files, "read_cloud_label", None)
    found = mapper(record, np.random.default_rng(0))
    for name in ("image", "coordinates", "sem_seg"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "label, message",
    [
        (7, r"a\.npz has the ids 7, which are neither classes"),
        (-1, r"a\.npz has the label -1\. Class ids are"),
        (65536, r"a\.npz has the label 65536\. Class ids are"),
        (None, r"a\.npz has no labels"),
    ],
)
def test_wrong_labels_that_a_cloud_holds_are_named(label, message, tmp_path):
    record = write(tmp_path / "a.npz", label=np.full(20, label or 0))
    if label is None:
        np.savez(tmp_path / "a.npz", xyz=np.ones((20, 3)))
    with pytest.raises(InputError, match=message):
        mixing_mapper()(record, np.random.default_rng(0))
