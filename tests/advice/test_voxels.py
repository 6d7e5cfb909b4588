"""Voxels that mix classes, against a count in plain NumPy."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sar.advice.voxels import VoxelMix, advise_on_voxels, measure_mixing
from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError


@pytest.fixture
def records(tmp_path):
    generator = np.random.default_rng(0)
    files = []
    for index in range(2):
        label = generator.integers(0, 4, 200)
        label[label == 3] = 255
        files.append(tmp_path / f"{index}.npz")
        np.savez(files[-1], xyz=generator.uniform(-1, 1, (200, 3)), label=label.astype(np.uint8))
    return [{"file_name": str(file), "sem_seg_file_name": str(file)} for file in files]


def test_points_whose_voxel_has_another_class(records):
    edges = (0.7, 0.2)
    for edge, mix in zip(
        edges, measure_mixing(records, edges, 3, 255, progress=False), strict=True
    ):
        points, mixed, voxels = Counter(), Counter(), 0
        for record in records:
            cloud = np.load(record["file_name"])
            keys = list(map(tuple, np.floor(cloud["xyz"] / edge).astype(int).tolist()))
            votes = {key: Counter() for key in keys}
            for key, k in zip(keys, cloud["label"].tolist(), strict=True):
                votes[key][k] += k != 255
            for key, k in zip(keys, cloud["label"].tolist(), strict=True):
                if k != 255:
                    points[k] += 1
                    most = max(votes[key].values())
                    mixed[k] += k != min(i for i, n in votes[key].items() if n == most and n)
            voxels += len(votes)
        assert mix.points.tolist() == [points[k] for k in range(3)]
        assert mix.mixed.tolist() == [mixed[k] for k in range(3)]
        assert mix.num_clouds == 2
        assert mix.points_per_voxel == pytest.approx(400 / voxels)
        assert mix.share == pytest.approx(sum(mixed.values()) / sum(points.values()))


def test_a_point_far_away_is_an_error(tmp_path):
    file = str(tmp_path / "far.npz")
    np.savez(file, xyz=np.array([[0, 0, 0], [1e9, 1e9, 1e9]]), label=np.array([0, 1], np.uint8))
    record = {"file_name": file, "sem_seg_file_name": file}
    with pytest.raises(InputError, match="far.npz cannot be divided into voxels of 0.01"):
        measure_mixing([record], [0.01], 2, 255, progress=False)


def test_advice_halves_voxels_that_are_too_coarse():
    frequency = ClassFrequency(("floor", "cup"), 4, (4, 2), (1000, 20), 0)
    cfg = load_config("", ["INPUT.POINTS.VOXEL_SIZE", "0.05"])

    def mix(edge, floor, cup):
        return VoxelMix(edge, np.array([1000, 20]), np.array([floor, cup]), 100 * edge, 4)

    fine = advise_on_voxels(frequency, mix(0.05, 3, 1), mix(0.025, 0, 0), cfg)
    assert fine.text.startswith("A voxel of 0.05 (INPUT.POINTS.VOXEL_SIZE")
    some = replace(mix(0.05, 3, 1), num_clouds=3)
    text = advise_on_voxels(frequency, some, some, cfg).text
    assert text.startswith("Measured on 3 of 4 clouds: a voxel of 0.05 (")
    assert fine.keys == {} and fine.text.endswith("most often cup 5%, floor 0.3%. This is fine.")
    coarse = advise_on_voxels(frequency, mix(0.05, 3, 9), mix(0.025, 1, 2), cfg)
    assert coarse.keys == {"INPUT.POINTS.VOXEL_SIZE": "0.025"}
    assert "1.2% of the labelled points" in coarse.text and "cup 45%" in coarse.text
    assert "With 0.025, it is 0.29%, with 2.0 times as many voxels" in coarse.text
    mixed_anyway = advise_on_voxels(frequency, mix(0.05, 90, 9), mix(0.025, 90, 9), cfg)
    assert mixed_anyway.keys == {} and "the labels themselves mix" in mixed_anyway.text
