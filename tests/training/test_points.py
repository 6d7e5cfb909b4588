"""Trainings on point clouds: from a folder to metrics, resumed exactly, in several processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sar.data.datasets.class_file import read_class_file
from sar.errors import InputError

from ..cloud_downloads import download
from ..runs import At, Killed, kill, metrics, prepared, start, train

CONFIG = "configs/Folder/sar_ceco_sparse_unet_small.yaml"
NUM_POINTS = 300


@pytest.fixture
def clouds(tmp_path):
    """Five clouds of a floor, a block and a dot, which differ in height and intensity."""
    generator = np.random.default_rng(0)
    root = tmp_path / "scans"
    for split in ("train", "val"):
        (root / "clouds" / split).mkdir(parents=True)
        for index in range(5):
            xyz = generator.uniform(-2, 2, (NUM_POINTS, 3)) * [1, 1, 0.02]
            label = np.zeros(NUM_POINTS, np.uint8)
            block = (np.abs(xyz[:, :2]) < 1).all(axis=1)
            label[block], xyz[block, 2] = 1, generator.uniform(0, 1, block.sum())
            label[:6], xyz[:6] = 2, [1.5, 1.5, 0.5] + generator.normal(0, 0.05, (6, 3))
            label[-20:] = 255
            np.savez(root / "clouds" / split / f"{index}.npz", xyz=xyz, label=label)
    (root / "classes.txt").write_text("floor\nblock\ndot\n")
    return root


@pytest.fixture
def words(clouds, tmp_path):
    return [
        "DATASETS.FOLDER", str(clouds), "SEED", "3", "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "0",
        "DATALOADER.NUM_WORKERS", "0",
        "INPUT.POINTS.VOXEL_SIZE", "0.2", "INPUT.POINTS.MIX3D", "0.5",
        "MODEL.SPARSE_UNET.STEM", "4", "MODEL.SPARSE_UNET.CHANNELS", "(8, 8)",
        "MODEL.SPARSE_UNET.BLOCKS", "(1, 1)", "TEST.GEOMETRY", "True", "TEST.LOSS", "True",
        "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "0.0", "TEST.PICTURES", "0",
    ]  # fmt: skip


def test_a_killed_training_resumes_exactly(words, tmp_path):
    expected = train([*words, "OUTPUT_DIR", str(tmp_path / "expected")], config=CONFIG)
    common = [*words, "OUTPUT_DIR", str(tmp_path / "output"), "DATALOADER.NUM_WORKERS", "2"]
    with pytest.raises(Killed):
        train(common, At(4, kill), config=CONFIG)
    resumed = train(common, resume=True, config=CONFIG)
    assert resumed.start_iter == 3
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    last = [metrics(tmp_path / name)[-1] for name in ("expected", "output")]
    assert last[0] == last[1] and "sem_seg/mIoU@r" in last[0] and "geometry/NC1" in last[0]
    frequency = json.loads((tmp_path / "expected" / "class_frequency.json").read_text())
    assert frequency["images"] == [5, 5, 5] and frequency["pixels"][2] == 30


def test_metrics_count_points_not_voxels(words, clouds, tmp_path):
    words = [*words, "OUTPUT_DIR", str(tmp_path / "output")]
    train(words, config=CONFIG)
    file = tmp_path / "output/inference/folder_scans_val/sem_seg_evaluation.json"
    confusion = np.array(json.loads(file.read_text())["confusion_truth_by_prediction"])
    labels = [np.load(path)["label"] for path in (clouds / "clouds/val").iterdir()]
    expected = np.bincount(np.concatenate(labels), minlength=256)[:3]
    assert confusion.sum(axis=1).tolist() == expected.tolist()


def test_voting_and_own_groups_in_the_evaluation_of_a_training(words, clouds, tmp_path):
    (clouds / "groups.json").write_text(json.dumps({"things": ["dot", "block"]}))
    voting = ["TEST.AUG.ENABLED", "True", "TEST.GEOMETRY", "False", "TEST.LOSS", "False"]
    words = [*words, *voting, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "output")]
    train(words, config=CONFIG)
    found = metrics(tmp_path / "output")[-1]
    ious = [float(found[f"sem_seg/IoU-{name}"]) for name in ("block", "dot")]
    assert float(found["sem_seg/mIoU@things"]) == pytest.approx(sum(ious) / 2)


def test_a_config_for_images_and_a_folder_of_clouds_do_not_go_together(words, folder, clouds):
    with pytest.raises(InputError, match="has point clouds .*npz.* but the config is for images"):
        prepared(
            ["DATASETS.FOLDER", str(clouds)], config_file="configs/Folder/sar_sem_fpn_R_18.yaml"
        )
    with pytest.raises(InputError, match="has images .*png.* config is for point clouds"):
        prepared([*words, "DATASETS.FOLDER", str(folder)], config_file=CONFIG)
    with pytest.raises(InputError, match="INPUT.POINTS.VOXEL_SIZE is 0, but .* PointSegmentor"):
        prepared([*words, "INPUT.POINTS.VOXEL_SIZE", "0.0"], config_file=CONFIG)


def test_bad_clouds_are_found_before_the_training(words, clouds):
    path = clouds / "clouds/train/1.npz"
    arrays = dict(np.load(path))
    for label, message in ((arrays["label"][:-1], "1.npz"), (arrays["label"] * 0 + 7, "id")):
        np.savez(path, xyz=arrays["xyz"], label=label)
        with pytest.raises(InputError, match=message):
            start(words, config_file=CONFIG)
    np.savez(path, xyz=arrays["xyz"])
    with pytest.raises(InputError, match="has no labels"):
        start(words, config_file=CONFIG)
    np.savez(path, **arrays)
    features = ["INPUT.POINTS.FEATURES", "('xyz', 'colour')"]
    with pytest.raises(InputError, match='"colour" is unknown. Did you mean "color"'):
        start([*words, *features], config_file=CONFIG)


def test_a_feature_that_a_cloud_lacks_is_named(words, tmp_path):
    words = [*words, "OUTPUT_DIR", str(tmp_path / "output")]
    with pytest.raises(InputError, match="npz has no normal, which INPUT.POINTS.FEATURES names"):
        train([*words, "INPUT.POINTS.FEATURES", "('xyz', 'normal')"], config=CONFIG)


@pytest.mark.slow
def test_two_processes_train_and_evaluate(words, tmp_path):
    command = [sys.executable, "train_net.py", "--config-file", CONFIG, "--num-gpus", "0"]
    words = [*words, "OUTPUT_DIR", str(tmp_path / "output")]
    done = subprocess.run(
        [*command, "--num-processes", "2", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "5 clouds, 3 classes" in done.stdout and "copypaste: mIoU," in done.stdout


def test_a_folder_with_images_and_clouds_is_refused(words, folder, clouds):
    (clouds / "images").mkdir()
    with pytest.raises(InputError, match="scans has images and clouds"):
        prepared(words, config_file=CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["baseline", "ceco", "sar"])
@pytest.mark.parametrize(
    "config, name, options",
    [
        ("ScanNet200", "scannet", {"num_classes": 200}),
        ("ScanNet20", "scannet", {"num_classes": 20}),
        ("S3DIS", "s3dis", {}),
        ("SemanticKITTI", "semantic_kitti", {}),
        ("Oakland", "oakland", {}),
    ],
)
def test_one_step_of_each_config(config, name, options, kind, tmp_path, monkeypatch):
    """On miniatures of the official downloads, with the real network."""
    _, prepare = download(name, tmp_path)
    prepare(**options)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    words = ["SOLVER.MAX_ITER", "1", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"]
    words += ["OUTPUT_DIR", str(tmp_path / "output"), "TEST.PICTURES", "0", "SEED", "0"]
    trainer = train(words, config=f"configs/{config}/{kind}_sparse_unet.yaml")
    line = {k: v for each in metrics(tmp_path / "output") for k, v in each.items()}
    assert np.isfinite(float(line["total_loss"])) and 0 <= float(line["sem_seg/mIoU"]) <= 100
    assert ("loss_ceco" in line) == (kind == "ceco")
    assert trainer.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == len(
        read_class_file(Path(trainer.cfg.DATASETS.FOLDER) / "classes.txt")
    )
