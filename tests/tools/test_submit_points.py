"""tools/submit_points.py, on miniatures of the official data sets and of predicted labels."""

from pathlib import Path

import numpy as np
import pytest

from sar.data.clouds import write_labels
from sar.data.datasets import scannet, semantic_kitti
from sar.errors import InputError

from ..programs import load_program

SCENES = ["scene0707_00", "scene0708_00"]
SCANS = ["11_000000", "21_002720"]
CLASSES = {
    "scannet20": scannet.CLASSES_20,
    "scannet200": scannet.CLASSES_200,
    "semantic_kitti": semantic_kitti.CLASSES,
}


@pytest.fixture(scope="module")
def tool():
    return load_program(Path(__file__).parents[2] / "tools" / "submit_points.py")


@pytest.fixture
def miniature(tmp_path, tool):
    """Write a data set and predicted labels; return the labels, and a call of the program."""

    def make(name):
        folder, predicted = tmp_path / name, tmp_path / "predicted" / "labels"
        (folder / "clouds" / "test").mkdir(parents=True)
        predicted.mkdir(parents=True)
        names = CLASSES[name].values()
        (folder / "classes.txt").write_text("".join(f"{class_name}\n" for class_name in names))
        rng, labels = np.random.default_rng(0), {}
        is_kitti = name == "semantic_kitti"
        for cloud in SCANS if is_kitti else SCENES:
            labels[cloud] = rng.integers(0, len(names), int(rng.integers(5, 9)))
            labels[cloud][:2] = 0, len(names) - 1
            path = folder / "clouds" / "test" / f"{cloud}{'.bin' if is_kitti else '.npz'}"
            points = rng.normal(size=(len(labels[cloud]), 4)).astype(np.float32)
            if is_kitti:
                points.tofile(path)
            else:
                np.savez(path, xyz=points[:, :3])
            suffix = ".label" if is_kitti else ".npz"
            write_labels(path, labels[cloud], predicted / f"{cloud}{suffix}")
        words = ["--folder", folder, "--labels", predicted, "--output", tmp_path / "submission"]

        def run(*more, names=tuple(labels)):
            args = tool.parse_args([*map(str, words), "--quiet", *more])
            tool.submit(args, names)

        return labels, run

    return make


def written(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("name", ["scannet20", "scannet200"])
def test_scannet_has_one_official_id_on_each_line(name, miniature, tmp_path):
    labels, run = miniature(name)
    run()
    official = sorted(CLASSES[name])
    assert official[0] == 1 and official[-1] == {"scannet20": 39, "scannet200": 1191}[name]
    assert written(tmp_path / "submission") == {
        f"{scene}.txt": b"".join(b"%d\n" % official[i] for i in ids)
        for scene, ids in labels.items()
    }


def test_semantic_kitti_has_32_bits_for_each_point(miniature, tmp_path):
    labels, run = miniature("semantic_kitti")
    run()
    # The inverse of the learning map, from 1 (car) to 19 (traffic-sign).
    official = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]
    found = written(tmp_path / "submission")
    assert list(sorted(found)) == [
        "sequences/11/predictions/000000.label", "sequences/21/predictions/002720.label",
    ]  # fmt: skip
    for scan, ids in labels.items():
        sequence, number = scan.split("_")
        content = found[f"sequences/{sequence}/predictions/{number}.label"]
        assert content == b"".join(official[i].to_bytes(4, "little") for i in ids)


def test_the_official_splits(tool):
    numbers = [len(benchmark.clouds("test")) for benchmark in tool.BENCHMARKS]
    assert numbers == [100, 100, 20_351]
    assert len(tool.BENCHMARKS[2].clouds("val")) == 4071
    assert tool.BENCHMARKS[2].clouds("test")[-1] == "21_002720"


def test_everything_must_be_there(miniature, tool, tmp_path, capsys):
    _, run = miniature("scannet200")
    words = ["--folder", tmp_path / "scannet200", "--labels", tmp_path / "predicted/labels"]
    assert tool.main([*map(str, words), "--output", str(tmp_path / "submission")]) == 1
    assert "98 of 100 test clouds of ScanNet200 are missing" in capsys.readouterr().err
    (tmp_path / "predicted/labels/scene0708_00.npz").unlink()
    with pytest.raises(InputError, match="1 of 2 label files .*scene0708_00.npz. Run tools/pred"):
        run()
    (tmp_path / "scannet200/classes.txt").write_text("wall\nfloor\n")
    with pytest.raises(
        InputError, match="has the classes wall, floor. Expected the classes of ScanNet2"
    ):
        run()
    assert not (tmp_path / "submission").exists()


@pytest.mark.parametrize(
    "label, message",
    [
        ([0] * 4, "scene0707_00.npz has 4 labels, but .*test.scene0707_00.npz has . points"),
        (
            [0, 255, 20, 1, 1, 1, 1, 1],
            "has the labels 20, 255, which are not classes of ScanNet20",
        ),
    ],
)
def test_wrong_labels_are_named_after_the_others_are_written(label, message, miniature, tmp_path):
    labels, run = miniature("scannet20")
    number = len(labels[SCENES[0]])
    label = label[:number] if len(label) > 4 else label
    np.savez(tmp_path / "predicted/labels/scene0707_00.npz", label=np.array(label))
    with pytest.raises(InputError, match="not complete, because 1 of 2 files(.|\n)*" + message):
        run()
    assert list(written(tmp_path / "submission")) == ["scene0708_00.txt"]


def test_own_files_are_replaced_and_others_are_not(miniature, tmp_path):
    labels, run = miniature("scannet20")
    run()
    path = tmp_path / "predicted/labels/scene0707_00.npz"
    np.savez(path, label=labels[SCENES[0]] * 0)
    run()  # its own files
    target = tmp_path / "submission/scene0707_00.txt"
    assert set(target.read_text().split()) == {"1"}
    target.write_text("the user's\n")
    with pytest.raises(InputError, match="1 of 2 files are already there"):
        run()
    assert target.read_text() == "the user's\n"
    run("--overwrite")
    assert set(target.read_text().split()) == {"1"}


def test_nothing_is_written_into_the_inputs(miniature, tmp_path):
    _, run = miniature("scannet20")
    for folder in (tmp_path / "scannet20" / "new", tmp_path / "predicted" / "labels"):
        with pytest.raises(InputError, match="lies in the data set"):
            run("--output", str(folder))
