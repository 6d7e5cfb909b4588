import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.data.class_frequency import fingerprint_of
from sar.study import schedule

from ..programs import load_program

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "study" / "fake_train_net.py"
METHODS = f"""
plain: {{}}
class weights: {{MODEL.LOSS.NAME: cross_entropy, MODEL.LOSS.CLASS_WEIGHTS: enet}}
CeCo: {{_BASE_: {ROOT}/configs/methods/ceco.yaml}}
"""


@pytest.fixture
def words(folder, tmp_path):
    (tmp_path / "methods.yaml").write_text(METHODS)
    return [
        "--folder", str(folder), "--methods", str(tmp_path / "methods.yaml"), "--seeds", "3",
        "--iterations", "3", "--output", str(tmp_path / "output"),
        "--config-file", str(ROOT / "configs/Folder/baseline_sem_fpn_R_18.yaml"),
    ]  # fmt: skip


@pytest.fixture
def program(monkeypatch, folder):
    """Return tools/compare.py, whose trainings take milliseconds and have 40 mIoU."""
    pixels = count_pixels(folder / "labels/train")
    counts = {"pixels": pixels[:3], "ignored_pixels": pixels[255]}
    monkeypatch.setenv("FAKE_COUNTS", json.dumps(counts))
    monkeypatch.setenv("FAKE_PIXELS", json.dumps(count_pixels(folder / "labels/val")[:3]))
    program = load_program(ROOT / "tools" / "compare.py")
    monkeypatch.setattr(program, "TRAIN", [str(FAKE), "40"])
    monkeypatch.setattr(program, "visible_gpus", lambda: [])
    monkeypatch.setattr(schedule, "_PERIOD", 0.01)
    return program


def count_pixels(labels):
    values = np.stack([np.asarray(Image.open(path)) for path in labels.iterdir()])
    return np.bincount(values.ravel(), minlength=256).tolist()


def runs(tmp_path):
    return sorted(path.name[:-7] for path in (tmp_path / "output" / "runs").iterdir())


def test_from_a_folder_to_a_recommendation(program, words, folder, tmp_path, capsys, caplog):
    for kind in ("images", "labels"):
        shutil.copytree(folder / kind / "val", folder / kind / "test")
    assert program.main(words) == 0
    out, err = capsys.readouterr()
    text = (tmp_path / "output" / "comparison.md").read_text()
    assert "fair" not in caplog.text and "differ" not in caplog.text
    assert text in out and "9 training(s) to run, 1 at a time on the CPU" in err
    assert "Use **CeCo**: +4.00 [+4.00, +4.00] mIoU against plain, 3 seeds." in text
    assert "## Validation split, `folder_mine_val`" in text
    assert "## Test split, `folder_mine_test`" in text
    assert runs(tmp_path) == [
        f"{method}_seed_{seed}"
        for method in ("ceco", "class_weights", "plain")
        for seed in range(3)
    ]
    page = (tmp_path / "output" / "report.html").read_text()
    assert "class weights" in page and '"dataset": "folder_mine_val"' in page
    assert "Use **CeCo**: +4.00 [+4.00, +4.00] mIoU against plain, 3 seeds." in page
    assert "Arranging the embeddings: 100%" in err
    # The command line of the program, as each training had it.
    cell = json.loads(
        next((tmp_path / "output" / "runs").glob("ceco_seed_2_*/cell.json")).read_text()
    )
    assert cell["settings"]["MODEL.REGULARIZERS"] == ["CenterCollapseRegularizer"]
    assert (cell["seed"], cell["test"]) == (2, "folder_mine_val")


def test_a_failed_training_is_repeated_alone(program, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAILS", "1")
    assert program.main(words) == 1
    out, err = capsys.readouterr()
    assert "error: plain, seed 1: images/train/a.png cannot be read" in err
    assert "**Missing trainings:** plain (1), class weights (1), CeCo (1)." in out
    monkeypatch.delenv("FAKE_FAILS")
    assert program.main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    starts = [
        path.read_text().count("starting")
        for path in sorted((tmp_path / "output" / "runs").glob("*/console.txt"))
    ]
    assert starts == [1, 2, 1] * 3
    text = (tmp_path / "output" / "comparison.md").read_text()
    assert "Missing" not in text
    assert program.main(words) == 0
    assert "to run" not in capsys.readouterr().err


def test_a_wrong_value_is_found_before_the_first_training(program, words, tmp_path, capsys):
    (tmp_path / "methods.yaml").write_text("plain: {}\nodd: {SOLVER.BASE_LR: -1}\n")
    assert program.main(words) == 1
    assert "error: method odd: no optimizer" in capsys.readouterr().err
    assert not (tmp_path / "output" / "runs").exists()


def test_the_cells_of_a_list_run_one_by_one(program, words, tmp_path, capsys):
    assert program.main([*words, "--list"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == list(map(str, range(9)))
    assert lines[4] == ["4", "0 of 3 iterations", "class weights, seed 1"]
    assert not (tmp_path / "output").exists()
    assert program.main([*words, "--cell", "4"]) == 0
    assert runs(tmp_path) == ["class_weights_seed_1"]
    assert not (tmp_path / "output" / "comparison.md").exists()
    assert program.main([*words, "--cell", "4"]) == 0  # finished
    capsys.readouterr()
    assert program.main([*words, "--list"]) == 0
    assert "4\tfinished\tclass weights, seed 1" in capsys.readouterr().out
    assert program.main([*words, "--cell", "9"]) == 1
    assert "--cell 9: expected a number of --list, 0 to 8" in capsys.readouterr().err


def test_results_of_other_labels_are_not_compared(program, words, folder, tmp_path, capsys):
    assert program.main([*words, "--cell", "0"]) == 0
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / "labels" / "train" / "0.png")
    assert program.main(words) == 1
    assert "the training labels have changed since" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["val", "test"])
def test_results_on_other_evaluation_labels_are_not_compared(
    split, program, words, folder, tmp_path, capsys
):
    for kind in ("images", "labels"):
        shutil.copytree(folder / kind / "val", folder / kind / "test")
    assert program.main([*words, "--cell", "0"]) == 0
    before = runs(tmp_path)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / "labels" / split / "0.png")
    assert program.main(words) == 1
    error = capsys.readouterr().err
    assert f"the labels of folder_mine_{split} have changed since" in error
    assert "give another --output" in error and runs(tmp_path) == before


def test_evaluation_labels_are_only_counted_if_a_file_looks_different(
    program, words, folder, tmp_path, monkeypatch
):
    assert program.main([*words, "--cell", "0"]) == 0
    (evaluation,) = (tmp_path / "output" / "runs").glob("*/inference/*/sem_seg_evaluation.json")
    content = json.loads(evaluation.read_text())
    content["data"] = {"fingerprint": fingerprint_of(map(str, (folder / "labels/val").iterdir()))}
    evaluation.write_text(json.dumps(content))
    counted = []
    monkeypatch.setattr(program, "label_pixels", lambda name, **_: counted.append(name))
    assert program.main([*words, "--cell", "1"]) == 0 and counted == []
    os.utime(folder / "labels/val/0.png", (0, 0))
    assert program.main(words) == 1 and counted == ["folder_mine_val"]


def test_an_interrupted_training_with_other_labels_does_not_go_on(
    program, words, folder, tmp_path, capsys
):
    assert program.main([*words, "--cell", "0"]) == 0
    (run,) = (tmp_path / "output" / "runs").iterdir()
    (run / "result.json").unlink()
    (run / "last_checkpoint").write_text("model_0000001.pth")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / "labels" / "train" / "0.png")
    assert program.main(words) == 1
    assert f"the training labels have changed since {run}" in capsys.readouterr().err


def test_a_method_with_another_name_keeps_its_trainings(program, words, tmp_path, capsys):
    assert program.main([*words, "--quiet"]) == 0
    before = runs(tmp_path)
    path = tmp_path / "methods.yaml"
    path.write_text(path.read_text().replace("CeCo", "collapse"))
    assert program.main(words) == 0
    out, err = capsys.readouterr()
    assert "Use **collapse**" in out and "to run" not in err
    assert runs(tmp_path) == before


def test_results_on_other_validation_images_are_named(program, words, monkeypatch, caplog):
    assert program.main([*words, "--cell", "0"]) == 0
    monkeypatch.setenv("FAKE_IMAGES", "4")
    assert program.main(words) == 0
    assert "The runs were evaluated on different numbers of images" in caplog.text


def test_code_that_changed_since_a_training_is_named(program, words, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    code = tmp_path / "my_losses.py"
    code.write_text("A = 1\n")
    assert program.main(["--import", str(code), *words, "--cell", "0"]) == 0
    code.write_text("A = 2\n")
    assert program.main(["--import", str(code), *words]) == 0
    note = f"The code of --import has changed between trainings ({code})"
    assert note in caplog.text and note in (tmp_path / "output" / "comparison.md").read_text()


def test_files_of_the_user_are_kept(program, words, tmp_path, capsys):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "report.html").write_text("the user's")
    assert program.main(words) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["report.html"]


def test_a_broken_result_is_trained_again(program, words, tmp_path):
    assert program.main([*words, "--cell", "0"]) == 0
    (result,) = (tmp_path / "output" / "runs").glob("*/result.json")
    for content in ("", "[]", '{"key": "other"}'):
        result.write_text(content)
        assert program.main([*words, "--cell", "0"]) == 0
        assert json.loads(result.read_text())["seed"] == 0


@pytest.mark.slow
def test_a_comparison_that_is_interrupted_goes_on(words, tmp_path):
    """Real trainings: the first is told to end, and the second run finishes both."""
    (tmp_path / "methods.yaml").write_text(re.sub("class weights.*\n", "", METHODS))
    command = [sys.executable, str(ROOT / "tools" / "compare.py"), *words]
    command[command.index("--seeds") + 1] = "1"
    command[command.index("--iterations") + 1] = "30"
    command += [
        "INPUT.CROP.SIZE", "32,32", "INPUT.MIN_SIZE_TRAIN", "32,64", "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.WARMUP_ITERS", "1", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu",
        "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    ]  # fmt: skip
    environment = os.environ | {"FVCORE_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    while not list((tmp_path / "output").glob("runs/plain_seed_0_*/last_checkpoint")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 143
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "2 training(s) to run" in done.stderr and "Certainty: none." in done.stdout
    (result,) = (tmp_path / "output" / "runs").glob("plain_seed_0_*/result.json")
    row = json.loads(result.read_text())
    assert row["is_resumed"] and 0 < row["metrics"]["sem_seg/mIoU"] < 100
    assert (tmp_path / "output" / "report.html").stat().st_size > 20_000


def test_results_on_another_folder_are_kept(program, words, folder, tmp_path, capsys):
    assert program.main([*words, "--cell", "0"]) == 0
    other = shutil.copytree(folder, tmp_path / "other" / "mine")
    words[words.index("--folder") + 1] = str(other)
    assert program.main(words) == 1
    assert f"holds a comparison on {folder}: give another --output" in capsys.readouterr().err
    assert runs(tmp_path) == ["plain_seed_0"]


def test_a_second_comparison_in_the_same_folder_is_refused(program, words, tmp_path, capfd):
    """A lock belongs to a process, so another one holds it."""
    output = tmp_path / "output"
    output.mkdir()
    hold = f"lock.hold({str(output)!r}); print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", f"from sar.files import lock; {hold}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        assert program.main(words) == 1
        error = capfd.readouterr().err
        assert f"--output {output} is in use: process {other.pid} on host" in error
        assert not (output / "runs").exists()
    finally:
        other.communicate("\n")
    assert program.main(words) == 0
    assert {path.name for path in output.iterdir()} == {
        ".sar_outputs.jsonl",
        "comparison.md",
        "report.html",
        "runs",
    }  # and no lock
