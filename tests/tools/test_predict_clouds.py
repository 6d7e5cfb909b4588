"""tools/predict.py with a model of point clouds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.config import load_config
from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import read_cloud
from sar.prediction.predictor import Predictor

from ..clouds import ByHeight, draw_cloud_points
from ..programs import load_program

PATH = Path(__file__).parents[2] / "tools" / "predict.py"
VOXELS = ["INPUT.POINTS.VOXEL_SIZE", "0.2"]


@pytest.fixture
def tool(monkeypatch):
    """The program with a model that can be told by eye."""
    module = load_program(PATH)
    colors = np.array([[1, 2, 3], [200, 100, 50]], np.uint8)
    mapper = CloudMapper(False, voxel_size=0.2, features=["xyz"], num_classes=2, ignore_label=255)
    predictor = Predictor(ByHeight(), ["low", "high"], colors, mapper=mapper)
    monkeypatch.setattr(module.Predictor, "load", lambda config, *overrides: predictor)
    monkeypatch.setattr(module, "load_config", lambda config, opts: load_config("", opts))
    return module


@pytest.fixture
def scans(tmp_path):
    """A cloud as NPZ, as text and as a scan of KITTI."""
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    xyz, _ = draw_cloud_points(np.random.default_rng(0))
    np.savez(folder / "a.npz", xyz=xyz, label=np.arange(300) % 2)
    np.savetxt(folder / "sub" / "b.xyz", xyz)
    np.pad(xyz, ((0, 0), (0, 1))).astype("<f4").tofile(folder / "c.bin")
    Image.new("RGB", (8, 8)).save(folder / "photo.png")
    return folder


def run(tool, output, *inputs, more=()):
    words = ["--config-file", "C", "--input", *map(str, inputs), "--output", str(output), *more]
    return tool.main([*words, *VOXELS])


def written(output):
    files = (path for path in output.rglob("[!.]*") if path.is_file())
    return sorted(str(path.relative_to(output)) for path in files)


def test_a_folder_of_clouds(tool, scans, tmp_path, capsys):
    before = {path: path.read_bytes() for path in scans.rglob("*.*")}
    output = tmp_path / "output"
    assert run(tool, output, scans, more=["--confidence"]) == 0
    assert f"3 predictions in {output}" in capsys.readouterr().out
    stems = ("a", "c", "sub/b")
    assert written(output) == [
        *(f"confidence/{stem}.npy" for stem in stems), "labels/a.npz", "labels/c.label",
        "labels/sub/b.xyz", *(f"overlays/{stem}.jpg" for stem in stems),
        *(f"viewers/{stem}.html" for stem in stems),
    ]  # fmt: skip
    xyz = read_cloud(scans / "a.npz").xyz
    expected = xyz[:, 2] - xyz[:, 2].min() > 0.1
    for name in ("a.npz", "sub/b.xyz"):
        cloud = read_cloud(output / "labels" / name)
        assert (cloud.label == expected).all()
        np.testing.assert_allclose(cloud.xyz, xyz)
    label = np.fromfile(output / "labels" / "c.label", "<u4")
    assert (label == expected).mean() > 0.99  # float32 rounds the coordinates
    assert np.load(output / "confidence" / "a.npy").shape == (300,)
    assert "ground truth" in (output / "viewers" / "a.html").read_text()
    assert {path: path.read_bytes() for path in scans.rglob("*.*")} == before
    # Again, next to the clouds: results are no inputs.
    for _ in range(2):
        assert run(tool, scans / "out", scans, more=["--no-overlays", "--quiet"]) == 0
        assert written(scans / "out") == ["labels/a.npz", "labels/c.label", "labels/sub/b.xyz"]


def test_results_of_another_model_do_not_stay_next_to_new_labels(tool, scans, tmp_path):
    output = tmp_path / "output"
    assert run(tool, output, scans, more=["--confidence"]) == 0
    assert run(tool, output, scans) == 0
    assert {path.split("/")[0] for path in written(output)} == {"labels", "overlays", "viewers"}
    assert run(tool, output, scans, more=["--no-overlays"]) == 0
    assert written(output) == ["labels/a.npz", "labels/c.label", "labels/sub/b.xyz"]


def test_a_bad_cloud_is_told_and_the_rest_done(tool, scans, tmp_path, capsys):
    (scans / "broken.npz").write_bytes((scans / "a.npz").read_bytes()[:200])
    inputs = [scans / "a.npz", scans / "broken.npz", scans / "photo.png"]
    assert run(tool, tmp_path / "output", *inputs, more=["--no-overlays"]) == 1
    errors = capsys.readouterr().err
    assert f"The cloud {scans / 'broken.npz'} cannot be read" in errors
    assert "photo.png is an image or a video, but the model segments point clouds" in errors
    assert "error: 2 of 3 clouds not predicted or written" in errors
    assert written(tmp_path / "output") == ["labels/a.npz"]


def test_ground_truth_of_kitti_is_never_replaced(tool, scans, tmp_path, capsys):
    sequence = tmp_path / "sequences" / "08"
    (sequence / "velodyne").mkdir(parents=True)
    (sequence / "labels").mkdir()
    (scans / "c.bin").rename(sequence / "velodyne" / "c.bin")
    np.arange(300, dtype="<u4").tofile(sequence / "labels" / "c.label")
    assert run(tool, sequence, sequence / "velodyne", more=["--overwrite"]) == 1
    assert "c.label is the input" in capsys.readouterr().err
    assert (np.fromfile(sequence / "labels" / "c.label", "<u4") == np.arange(300)).all()


def test_files_of_the_user_stay(tool, scans, cloud_folder, tmp_path, capsys):
    (tmp_path / "output/labels").mkdir(parents=True)
    (tmp_path / "output/labels/a.npz").write_text("the user's")
    assert run(tool, tmp_path / "output", scans) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "output/labels/a.npz").read_text() == "the user's"
    assert run(tool, cloud_folder / "out", scans) == 1
    assert f"lies in the data set {cloud_folder}" in capsys.readouterr().err
    (scans / "sub" / "b.xyz").unlink()
    assert run(tool, tmp_path / "other", scans / "sub") == 1
    assert "no cloud found (.ply," in capsys.readouterr().err
    assert written(tmp_path / "output") == ["labels/a.npz"]


def test_text_without_points_in_a_folder_is_skipped(tool, scans, tmp_path, capsys):
    """Damaged clouds and files that the user names are still reported."""
    readme = scans / "README.txt"
    readme.write_text("Scans of 3 rooms\n\n1. Kitchen, 2024\n2. Hall, 12 m 8 m 3 m\n")
    (scans / "sub" / "calib.txt").write_text("P0: 7.1 0 6.0 0 0 7.1\nTr: 0 -0.9 1 2 3 4\n")
    words = ["--no-overlays"]
    assert run(tool, tmp_path / "out", scans, more=words) == 0
    said = capsys.readouterr().out
    assert "Skipped, because these text files have no points:" in said
    assert str(readme) in said and "calib.txt" in said and "3 predictions in" in said
    (scans / "sub" / "decimal_commas.txt").write_text("1,5;2,5;3,5\n" * 3)
    (scans / "sub" / "header.csv").write_text("x,y,z\n")
    (scans / "sub" / "nothing.txt").write_text("")
    (scans / "sub" / "binary.txt").write_bytes(bytes(16))
    assert run(tool, tmp_path / "out", scans, more=words) == 1
    assert "error: 4 of 7 clouds not predicted" in capsys.readouterr().err
    assert run(tool, tmp_path / "out", readme, more=words) == 1
    assert "README.txt is" in capsys.readouterr().err
    (tmp_path / "texts").mkdir()
    readme.rename(tmp_path / "texts" / "README.txt")
    assert run(tool, tmp_path / "out", tmp_path / "texts", more=words) == 1
    assert "no cloud found (.ply," in capsys.readouterr().err


def test_pages_of_an_earlier_run_are_no_inputs_of_a_pattern(tool, scans, tmp_path):
    folder = tmp_path / "clouds"
    folder.mkdir()
    (scans / "a.npz").rename(folder / "a.npz")
    for _ in range(2):
        assert run(tool, folder / "out", folder / "**" / "*", more=["--quiet"]) == 0
