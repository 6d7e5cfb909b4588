import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sar.errors import InputError
from sar.files import run_folder
from sar.report import Run, compare, find_runs, warnings_of
from sar.report.compare import (
    _in_colors,
    _projections,
    cosines,
    most_different,
    principal_components,
)
from sar.report.views import PICTURE_SIZE, _Samples, subsampled
from sar.visualization import colorize

from .made_runs import CLASSES, make_run


def test_runs_are_named_and_found(tmp_path, words):
    runs = find_runs([*words, make_run(tmp_path / "odd=name", (1, 2, 3))])
    assert [run.method for run in runs] == ["plain"] * 2 + ["sar"] * 3 + ["odd=name"]
    assert [run.folder.name for run in runs[:3]] == ["plain_0", "plain_1", "sar_0"]


def test_a_word_that_matches_as_a_whole_has_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr=0.1", "lr=0.2", "other"):
        make_run(tmp_path / name, (1, 2, 3))

    def found(*words):
        return [(run.method, run.folder.name) for run in find_runs(words)]

    assert found("lr=*") == [("lr=0.1", "lr=0.1"), ("lr=0.2", "lr=0.2")]
    assert found("lr=0.1") == [("lr=0.1", "lr=0.1")]
    assert found("x=lr=*") == [("x", "lr=0.1"), ("x", "lr=0.2")]
    assert found("x=o*") == [("x", "other")]


def test_what_is_no_run_is_an_error(tmp_path):
    folder = make_run(tmp_path / "a", (1, 2, 3))
    (tmp_path / "empty").mkdir()

    def message(*words):
        with pytest.raises(InputError) as error:
            compare(find_runs(words), num_images=0)
        return str(error.value)

    assert "folder not found: nowhere/*" in message("x=nowhere/*")
    assert "empty is not a run" in message(str(tmp_path / "empty"))
    assert "given twice" in message(folder, f"again={folder}")
    other = make_run(tmp_path / "b", (1, 2, 3), dataset="fields_val")
    assert "not evaluated on the same data set" in message(folder, other)
    other = make_run(tmp_path / "c", (1, 2), classes=("ground", "dot"))
    assert "has other classes" in message(folder, other)
    path = tmp_path / "a" / "inference" / "roads_val" / "sem_seg_evaluation.json"
    for broken in ("{", "[]", '{"class_names": ["x"], "metrics": {"mIoU": 1}}'):
        path.write_text(broken)
        assert f"{path}" in message(folder)


@pytest.mark.parametrize(
    ("order", "first"),
    [({}, 2), ({"DATASETS.TEST": ["roads_val", "roads_test"]}, 5), ({"DATASETS.TEST": ["a"]}, 2)],
)
def test_the_data_set_of_the_evaluations_can_be_chosen(tmp_path, order, first):
    for dataset, ious in (("roads_test", (1, 2, 3)), ("roads_val", (4, 5, 6))):
        make_run(tmp_path, ious, dataset, config=order)
    runs = [Run.read("plain", tmp_path)]
    for dataset, mean in (("", first), ("roads_test", 2), ("roads_val", 5)):
        content = compare(runs, num_images=0, dataset=dataset)
        assert content["methods"][0]["summary"]["mIoU"]["mean"] == mean
    with pytest.raises(InputError, match='evaluated on the data set "fields_val"'):
        compare(runs, num_images=0, dataset="fields_val")


def test_means_over_other_classes_have_no_difference(tmp_path):
    make_run(tmp_path / "a", (1, 2, 3))
    make_run(tmp_path / "b", (2, 3, 4), groups={"f": [0, 1], "c": [], "r": [2]})  # another order
    make_run(tmp_path / "c", (2, 3, 4), groups={"f": [2, 1], "c": [], "r": [0]})
    for other, difference in (("b", 1), ("c", None)):
        content = compare(find_runs([str(tmp_path / "a"), str(tmp_path / other)]), num_images=0)
        summary = content["methods"][1]["summary"]
        assert summary["mIoU@f"]["difference"] == difference
        assert summary["mIoU"]["difference"] == 1
        noted = any("which classes are frequent" in note for note in warnings_of(content))
        assert noted == (difference is None)


def test_an_evaluation_with_other_settings_that_is_not_used_is_noted(tmp_path):
    make_run(tmp_path, (1, 2, 3), config={"TEST.PICTURES": 2})
    for name, settings in (("model_best", {"TEST.BOUNDARY_IOU": True}), ("model_final", {})):
        make_run(tmp_path / "other", (4, 5, 6), config=settings | {"SEED": 1})
        (tmp_path / "other/inference").rename(tmp_path / "inference" / name)
    (tmp_path / f"{name}.pth").write_bytes(b"")
    run = Run.read("plain", tmp_path)
    assert run.evaluations["roads_val"]["metrics"]["mIoU"] == 2
    (note,) = run.notes
    assert "model_best/roads_val/sem_seg_evaluation.json is not used, although" in note
    (tmp_path / "inference/model_best/roads_val/sem_seg_evaluation.json").write_text("{")
    assert Run.read("plain", tmp_path).notes == ()


ALL = {"mIoU": 1.0} | {f"IoU-{name}": 1.0 for name in CLASSES}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("metrics", ALL | {"IoU-dot": float("nan")}, "IoU-dot: expected a number or null, found N"),
        ("metrics", ALL | {"IoU-dot": "12"}, 'IoU-dot: expected a number or null, found "12"'),
        ("metrics", ALL | {"pACC": float("inf")}, "pACC: expected a number or null, found Inf"),
        ("metrics", ALL | {"pACC": 10**400}, "pACC: expected a number or null, found 1000"),
        ("metrics", {"mIoU": 1.0}, "IoU-ground is missing"),
        ("metrics", [1], "metrics: expected an object, found [1]"),
        ("geometry", {"NC1": [1]}, "geometry: NC1: expected a number or null, found [1]"),
        ("geometry", None, "geometry: expected an object, found null"),
        ("num_images", "7", 'num_images: expected a count, found "7"'),
        ("class_names", "abc", 'class_names: expected a list of names, found "abc"'),
        ("class_names", [1, 2, 3], "class_names: expected a list of names"),
        ("confusion_truth_by_prediction", [[1]], "expected 3 x 3 counts, found [[1]]"),
        ("confusion_truth_by_prediction", [[1, 2], [3]], "expected 3 x 3 counts, found [[1, 2]"),
        ("confusion_truth_by_prediction", [[-1] * 3] * 3, "expected 3 x 3 counts, found [[-1"),
        ("confusion_truth_by_prediction", [[0.5] * 3] * 3, "expected 3 x 3 counts, found [[0.5"),
        ("confusion_truth_by_prediction", None, "expected 3 x 3 counts, found null"),
        ("groups", [[1, 0], [], [2]], "groups: expected the ids 0 to 2, each once"),
        ("groups", {"f": [1], "c": [], "r": [2]}, "groups: expected the ids 0 to 2, each once"),
        ("groups", {"f": [1], "c": [1], "r": [2]}, "groups: expected the ids 0 to 2, each once"),
        ("groups", {"f": [0, 1], "r": [2]}, "groups: expected the ids 0 to 2, each once"),
        ("groups", {"f": ["0"], "c": [1], "r": [2]}, "groups: expected the ids 0 to 2, each once"),
        ("groups", {"f": [0, 1, 3], "c": [], "r": [2]}, "groups: expected the ids 0 to 2"),
    ],
)
def test_what_is_wrong_in_an_evaluation_is_named(tmp_path, key, value, problem):
    folder = make_run(tmp_path / "a", (1, 2, 3), **{key: value})
    with pytest.raises(InputError) as error:
        find_runs([folder])
    path = tmp_path / "a" / "inference" / "roads_val" / "sem_seg_evaluation.json"
    assert str(error.value).startswith(f"{path}: {key}")
    assert problem in str(error.value) and "--eval-only" in str(error.value)


@pytest.mark.parametrize("name", ["metrics.json", "sem_seg_evaluation.json"])
def test_what_may_not_be_read_is_named(tmp_path, monkeypatch, name):
    folder = make_run(tmp_path / "a", (1, 2, 3))
    read_text = Path.read_text

    def refuse(path, **options):  # chmod does not keep root from reading
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(
        InputError, match=f"{name} cannot be read .*denied.*: ask for permission to read it"
    ):
        compare(find_runs([folder]), num_images=0)


def test_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "a", (1, 2, 3))
    path = tmp_path / "a" / "inference" / "roads_val" / "sem_seg_evaluation.json"
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "read_text", lambda path, **options: pytest.fail("it would wait"))
    with pytest.raises(InputError, match="is not a run"):
        find_runs([folder])


def test_runs_on_different_numbers_of_images_are_told(tmp_path, content):
    assert content["warning"] == "" and content["num_evaluated"] == 7
    words = [make_run(tmp_path / f"a{i}", (1, 2, 3), num_images=n) for i, n in enumerate((7, 3, 7))]
    other = compare(find_runs(words), num_images=0)
    assert "numbers of images (3: a1; 7: a0, a2)" in other["warning"]
    assert other["num_evaluated"] is None


def test_which_checkpoint_the_metrics_are_of(tmp_path):
    folder = Path(make_run(tmp_path / "a", (1, 2, 3), weights={"file": "out/model_0000009.pth"}))
    own = folder / "inference" / "roads_val"
    for name, iou in (("model_final", 20), ("model_best", 10), ("model_0000004", 30)):
        make_run(tmp_path / name, (iou,) * 3, weights={"file": f"/data/out/{name}.pth"})
        shutil.move(tmp_path / name / "inference", folder / "inference" / name)

    def found():
        (run,) = find_runs([str(folder)])
        metrics = run.evaluations["roads_val"]["metrics"]
        return metrics["mIoU"], run.source("roads_val"), run.is_of_best("roads_val")

    assert found() == (2, "the last evaluation of the training, of model_0000009.pth", False)
    shutil.rmtree(own)
    assert found() == (10, "model_best.pth", True)
    shutil.rmtree(folder / "inference" / "model_best")
    assert found() == (20, "model_final.pth", False)
    shutil.rmtree(folder / "inference" / "model_final")
    with pytest.raises(InputError, match="is not a run"):
        found()


def test_an_evaluation_of_a_checkpoint_that_was_replaced_is_passed_over(tmp_path):
    folder = Path(make_run(tmp_path / "a", (1, 2, 3), weights={"iteration": 9}))
    (folder / "metrics.json").write_text('{"iteration": 9, "total_loss": 1}')
    for name, iou in (("model_best", 10), ("model_final", 20)):
        (folder / f"{name}.pth").write_text(name)
        weights = {"file": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        make_run(tmp_path / name, (iou,) * 3, weights=weights)
        shutil.move(tmp_path / name / "inference", folder / "inference" / name)

    def found():
        (run,) = find_runs([str(folder)])
        return run.evaluations["roads_val"]["metrics"]["mIoU"], run.notes

    assert found() == (2, ())
    # The training goes on, without an evaluation.
    (folder / "metrics.json").write_text('{"iteration": 19, "total_loss": 1}')
    assert found() == (10, ())
    (folder / "model_best.pth").write_text("replaced")
    mean, (note,) = found()
    assert mean == 20 and "model_best.pth was replaced after that evaluation" in note
    (folder / "model_final.pth").write_text("replaced")
    mean, notes = found()
    assert mean == 2 and len(notes) == 3 and "after 10 of 20 iterations" in notes[2]
    shutil.rmtree(folder / "inference" / "roads_val")
    with pytest.raises(InputError, match="no evaluation of its present checkpoints.*--eval-only"):
        found()
    for name in ("model_best", "model_final"):
        (folder / f"{name}.pth").unlink()  # nothing contradicts the evaluations then
    assert found() == (10, ())


def test_a_leading_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_run(tmp_path / "a", (1, 2, 3))
    for word in ("b=~/a", "b=~/a*"):
        (run,) = find_runs([word])
        assert (run.method, run.folder) == ("b", tmp_path / "a")
    assert find_runs(["~/a"])[0].method == "a"


def test_files_of_a_run_and_of_the_earlier_runs_in_its_folder(tmp_path):
    folder = Path(make_run(tmp_path / "a", (1, 2, 3)))
    run_folder.mark(folder)
    (folder / "model_final.pth").write_text("weights")
    assert run_folder.set_aside(folder) == folder / "previous"
    make_run(folder, (1, 2, 3))
    run_folder.mark(folder)
    (folder / "notes.txt").write_text("the user's")
    (run,) = find_runs([str(folder)])
    files = {str(path.relative_to(folder)) for path in run.files() if path.is_file()}
    names = {"run.json", "metrics.json", "class_frequency.json"}
    names |= {"inference/roads_val/sem_seg_evaluation.json"}
    assert files == names | {f"previous/{name}" for name in (*names, "model_final.pth")}


def test_a_run_may_have_its_data_sets_in_several_places(tmp_path):
    folder = make_run(tmp_path / "a", (1, 2, 3))
    make_run(tmp_path / "b", (4, 5, 6), dataset="fields_val")
    shutil.move(tmp_path / "b" / "inference", tmp_path / "a" / "inference" / "model_best")
    (run,) = find_runs([folder])
    assert list(run.evaluations) == ["roads_val", "fields_val"]
    assert run.source("fields_val") == "model_best.pth"


def test_mean_spread_and_difference(content):
    plain, sar = content["methods"]
    assert (plain["name"], plain["num_runs"], sar["num_runs"]) == ("plain", 2, 3)
    ground = sar["summary"]["IoU-ground"]
    assert ground["mean"] == pytest.approx(63)
    assert ground["spread"] == pytest.approx(7**0.5)  # ((-2)^2 + (-1)^2 + 3^2) / 2
    assert ground["difference"] == pytest.approx(63 - 65)
    assert plain["summary"]["IoU-ground"]["difference"] == 0
    assert plain["summary"]["IoU-dot"] == {"mean": None, "spread": None, "difference": None}
    assert sar["summary"]["IoU-dot"] == {"mean": 10, "spread": 0, "difference": None}
    assert content["metrics"] == ["mIoU", "mIoU@f", "pACC"]


def test_confusions_and_other_metrics_of_classes(tmp_path):
    counts = [[[6, 2, 0], [0, 5, 5], [0, 0, 0]], [[1, 0, 1], [0, 10, 0], [0, 0, 0]]]
    metrics = {"mIoU": 1.0} | {f"{m}-{c}": 5.0 for m in ("IoU", "F1") for c in CLASSES}
    metrics |= {"Loss": 0.5, "mF1": 5.0, "mObjectRecall": 40.0, "mObjectRecall@r": None}
    # Of the groups by pixel, only the rare one is shown.
    metrics |= {"mIoU@tail": 3.0, "mIoU@r_pixel": 4.0, "mIoU@f_pixel": 5.0}
    words = []
    for seed, confusion in enumerate(counts):
        folder = tmp_path / f"plain_{seed}"
        changes = {"metrics": metrics, "confusion_truth_by_prediction": confusion}
        words.append("plain=" + make_run(folder, (1, 2, 3), **changes))
    other = make_run(tmp_path / "other", (1, 2, 3), metrics=metrics | {"Loss": 0.1, "mF1": 6.0})
    content = compare(find_runs([*words, other]), num_images=0)
    assert content["confusions"] == [
        {"pixels": [10, 20, 0], "shares": [[0.7, 0.2, 0.1], [0.0, 0.75, 0.25], None]},
        None,
    ]
    assert content["class_metrics"] == ["IoU", "F1"]
    means = ["mIoU", "mIoU@r_pixel", "mF1", "Loss", "mObjectRecall", "mObjectRecall@r", "mIoU@tail"]
    assert content["metrics"] == means
    summary = content["methods"][1]["summary"]
    assert summary["mF1"]["difference"] == 1 and summary["F1-dot"]["mean"] == 5
    assert summary["Loss"] == {"mean": 0.1, "spread": None, "difference": None}


def test_own_groups_that_the_first_run_lacks_are_shown(tmp_path):
    """Its evaluation may be older than the groups."""
    metrics = {"mIoU": 1.0} | {f"IoU-{name}": 5.0 for name in CLASSES}
    words = [make_run(tmp_path / "old", (1, 2, 3), metrics=metrics)]
    words.append(make_run(tmp_path / "new", (1, 2, 3), metrics=metrics | {"mIoU@tail": 3.0}))
    content = compare(find_runs(words), num_images=0)
    assert content["metrics"] == ["mIoU", "mIoU@tail"]
    assert [m["summary"]["mIoU@tail"]["mean"] for m in content["methods"]] == [None, 3.0]


def test_one_run_has_no_spread(words):
    (method,) = compare(find_runs([words[0].replace("?", "0")]), num_images=0)["methods"]
    assert method["summary"]["mIoU"] == {"mean": 50, "spread": None, "difference": 0}


def test_classes_come_by_training_frequency(content):
    assert content["order"] == [1, 0, 2]
    dot = content["classes"][2]
    assert (dot["group"], dot["images"], dot["pixels"]) == ("rare", 10, 5)


def test_curves_are_thinned_and_hold_what_was_learnt(content):
    curves = content["runs"][0]["curves"]
    assert list(curves) == ["total_loss"]
    points = curves["total_loss"]
    assert len(points) == 400
    assert points[0] == (0, 1) and points[-1] == (999, 5)
    assert all(value == float(f"{1 / (i + 1):.5g}") for i, value in points[:-1])
    assert content["runs"][1]["curves"] == {}


def test_cosines_are_about_the_mean_of_the_known_classes():
    vectors = torch.randn(5, 7, dtype=torch.float64)
    vectors[3] = torch.nan
    known = vectors[[0, 1, 2, 4]]
    centred = known - known.mean(0)
    expected = F.cosine_similarity(centred[:, None], centred[None], dim=-1)
    found = cosines(vectors.numpy())
    assert found[3] == [None] * 5 and found[0][3] is None
    found = np.array(found, dtype=float)[[0, 1, 2, 4]][:, [0, 1, 2, 4]]
    assert np.abs(found - expected.numpy()).max() <= 5e-4
    simplex = np.array(cosines(10 + np.eye(4, 9)))
    assert np.allclose(simplex[~np.eye(4, dtype=bool)], -1 / 3, atol=5e-4)


def test_principal_components():
    points = np.random.default_rng(0).normal(size=(50, 6)) * [9, 1, 5, 1, 1, 1] + 100
    positions, share = principal_components(points)
    variances, axes = np.linalg.eigh(np.cov(points.T))
    expected = (points - points.mean(0)) @ axes[:, ::-1][:, :2]
    assert np.allclose(np.abs(positions), np.abs(expected))
    assert share == pytest.approx(variances[-2:].sum() / variances.sum())


@pytest.mark.parametrize("num_channels", [1, 2, 5])
@pytest.mark.parametrize("scale", [0, 1])
def test_maps_of_few_channels_and_of_points_that_are_all_alike(num_channels, scale):
    points = scale * np.random.default_rng(0).normal(size=(40, num_channels)).astype(np.float32)
    projections = _projections(points, np.arange(40))
    names = [projection["name"].split(",")[0] for projection in projections]
    assert names == ["PCA", "t-SNE"] or not importlib.util.find_spec("sklearn")
    for projection in projections:
        positions = np.array(projection["points"])[:, :2]
        assert positions.min() >= 0 and positions.max() <= 1
        assert np.ptp(positions, axis=0).max() == scale


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4000, 5, 3), (364, 1, 3)),
        ((5, 4000), (1, 364)),
        ((1, 4000), (1, 364)),
        ((8, 4000), (1, 364)),
        ((PICTURE_SIZE, 2), (PICTURE_SIZE, 2)),
        ((PICTURE_SIZE + 1, 2), (PICTURE_SIZE // 2, 1)),
        ((800, 600), (267, 200)),
    ],
)
def test_images_are_subsampled_but_never_to_nothing(shape, expected):
    assert subsampled(np.zeros(shape)).shape == expected


def test_centres_and_points_of_embeddings():
    samples = _Samples(num_classes=4)
    samples.per_class = 3
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(3):
        embeddings = torch.randn(1, 5, 4, 6, generator=generator)
        labels = torch.randint(0, 3, (1, 8, 12), generator=generator)
        labels[0, :2] = 255
        samples.add(embeddings, labels)
        seen.append((embeddings[0].flatten(1).T, labels[0, ::2, ::2].flatten()))
    embeddings, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    centres = samples.centres()
    assert np.isnan(centres[3]).all()
    for k in range(3):
        assert np.allclose(centres[k], embeddings[labels == k].double().mean(0))
    points, classes = samples.points()
    assert classes.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for point, k in zip(points, classes, strict=True):
        of_class = embeddings[labels == k].numpy()
        assert (of_class == point).all(axis=1).any()


def test_of_neighbours_at_most_two_are_shown():
    # The frames of one video differ most.
    shares = {f"{k:02}": 1 - abs(k - 10) / 100 for k in range(32)}
    places = [int(name) for name in most_different(shares)]
    assert places[:2] == [10, 9] and len(places) == 8
    assert all(sum(abs(a - b) <= 4 for b in places[:i]) < 2 for i, a in enumerate(places))
    assert most_different({"b": 0.1, "a": 0.3, "c": 0.2}) == ["a", "c", "b"]
    assert most_different({}) == []


@pytest.mark.parametrize("num_classes", [3, 254, 300])
def test_maps_have_lines_between_regions_and_keep_all_pixels(num_classes):
    rng = np.random.default_rng(0)
    colors = rng.integers(1, 250, (num_classes, 3), dtype=np.uint8)
    labels = rng.integers(0, num_classes, (5, 6)).astype(np.uint16)
    labels[1, :4], labels[2, 2] = 65535, 255 if num_classes < 255 else 1
    picture = np.asarray(_in_colors(labels, colors).convert("RGB"))
    assert picture.shape == (10, 12, 3)
    assert (picture[::2, ::2] == colorize(labels, colors)).all()
    between = (picture[::2, 1:-1:2] == 255).all(axis=-1)
    assert (
        between == (colorize(labels, colors)[:, 1:] != colorize(labels, colors)[:, :-1]).any(-1)
    ).all()
    assert (picture[2, 1:6] == 0).all()  # between ignored pixels


def test_long_parts_are_announced(words):
    announced = []

    def show_progress(items, title):
        announced.append((title, len(items)))
        return items

    compare(find_runs(words), show_progress=show_progress)
    # Without models, there are no predictions to compare.
    assert announced == [("Arranging the embeddings", 2)]
