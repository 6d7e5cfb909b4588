"""A run that was interrupted, wherever, is the run that was not."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import longtail_shapes
from sar.errors import InputError
from sar.files import lock
from sar.preflight.prepare import prepare
from sar.training.history import cut_metrics, restore_storage, storage_state
from sar.training.log import log_to_console, set_up_process
from sar.training.trainer import Trainer

from detectron2.utils.events import EventStorage

from ..runs import CONFIG, At, Killed, arguments, kill, metrics, start, terminate, train


def assert_same_run(trainer, uninterrupted, output, expected):
    state, wanted = trainer.model.state_dict(), uninterrupted.model.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in state.items():
        assert torch.equal(value, wanted[name]), name
    assert metrics(output) == metrics(expected)


@pytest.fixture
def runs(overrides, tmp_path):
    """Overrides of a run of 24 iterations, and of one that ends in another folder."""
    common = [
        *overrides, "SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "7",
        "TEST.EVAL_PERIOD", "9", "SOLVER.CHECKPOINTS_KEPT", "0", "INPUT.CROP.SIZE", "(24, 24)",
        "MODEL.REGULARIZERS", "['SemanticAnchorRegularizer', 'CenterCollapseRegularizer']",
        "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "1e-9",
    ]  # fmt: skip
    return common, [*common, "OUTPUT_DIR", str(tmp_path / "expected")]


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(runs, tmp_path):
    common, expected = runs
    uninterrupted = train(expected)
    output = tmp_path / "output"
    for iteration in (4, 12, 16, 21):  # before and between checkpoints, evaluations and lines
        with pytest.raises(Killed):
            train(common, At(iteration, kill), resume=iteration > 4)
    with (output / "metrics.json").open("a") as file:
        file.write('{"iteration": 20, "los')
    workers = ["DATALOADER.NUM_WORKERS", "2"]
    resumed = train([*common, *workers], resume=True)
    assert resumed.start_iter == 21
    assert_same_run(resumed, uninterrupted, output, tmp_path / "expected")
    iterations = [int(line["iteration"]) for line in metrics(output)]
    assert iterations == [8, 17, 19, 23, 24]


@pytest.mark.slow
@pytest.mark.parametrize("iteration", [8, 10, 23])
def test_sigterm_saves_the_iteration_and_says_so(iteration, runs, tmp_path):
    common, expected = runs
    uninterrupted = train(expected)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train(common, At(iteration, terminate))
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) == handler
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == f"model_{iteration:07d}.pth"
    resumed = train(common, resume=True)
    assert resumed.start_iter == iteration + 1
    assert_same_run(resumed, uninterrupted, output, tmp_path / "expected")
    best, wanted = (
        torch.load(folder / "model_best.pth") for folder in (output, tmp_path / "expected")
    )
    assert best["iteration"] == wanted["iteration"] and best["best"] == wanted["best"]


class Before(At):
    """Calls something before the step of an iteration."""

    def before_step(self):
        super().after_step()

    def after_step(self):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("iteration", [9, 12, 20])
def test_sigterm_before_the_data_has_come_saves_the_iteration_before(iteration, runs, tmp_path):
    common, expected = runs
    uninterrupted = train(expected)
    with pytest.raises(SystemExit) as stopped:
        train(common, Before(iteration, terminate))
    assert stopped.value.code == 143
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == f"model_{iteration - 1:07d}.pth"
    resumed = train(common, resume=True)
    assert resumed.start_iter == iteration
    assert_same_run(resumed, uninterrupted, output, tmp_path / "expected")


def test_sigterm_before_the_first_step_saves_nothing(overrides, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train(overrides, Before(0, terminate))
    assert stopped.value.code == 143 and not list((tmp_path / "output").glob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", [1, 3])
def test_sigterm_interrupts_an_evaluation(evaluation, runs, tmp_path, monkeypatch):
    common, expected = runs
    uninterrupted = train(expected)
    evaluations, images = [], []
    test = Trainer.test.__func__

    def counted_test(cls, cfg, model, evaluators=None):
        evaluations.append(model)

        def count(*args):
            images.append(len(evaluations))
            if images.count(evaluation) == 2:
                terminate()

        handle = model.backbone.register_forward_hook(count)
        try:
            return test(cls, cfg, model, evaluators)
        finally:
            handle.remove()

    monkeypatch.setattr(Trainer, "test", classmethod(counted_test))
    with pytest.raises(SystemExit) as stopped:
        train(common)
    assert stopped.value.code == 143 and images.count(evaluation) == 2
    monkeypatch.undo()
    output = tmp_path / "output"
    last = {1: "model_0000008.pth", 3: "model_final.pth"}[evaluation]
    assert (output / "last_checkpoint").read_text() == last
    resumed = train(common, resume=True)
    assert_same_run(resumed, uninterrupted, output, tmp_path / "expected")


def test_a_seed_that_was_drawn_is_kept(runs, tmp_path):
    common, expected = ([*words, "SEED", "-1", "SOLVER.MAX_ITER", "12"] for words in runs)
    uninterrupted = train(expected)
    output = tmp_path / "output"
    lock.release()
    (tmp_path / "expected").rename(output)
    for name in ("model_final.pth", "model_best.pth"):
        (output / name).unlink()
    (output / "last_checkpoint").write_text("model_0000006.pth")
    resumed = train(common, resume=True)
    assert resumed.start_iter == 7 and resumed.seed == uninterrupted.seed
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, uninterrupted.model.state_dict()[name]), name


def test_the_solver_goes_on_as_the_config_says_now(runs, caplog):
    caplog.set_level("INFO", logger="sar")
    common, _ = runs
    schedule = ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.BIAS_LR_FACTOR", "2.0"]
    common = [*common, "SOLVER.MAX_ITER", "12", "TEST.EVAL_PERIOD", "0", *schedule]
    with pytest.raises(Killed):
        train([*common, "SOLVER.BASE_LR", "0.01"], At(7, kill))
    caplog.clear()
    rates = []
    trainer = lambda: hooks[0].trainer  # noqa: E731
    hooks = [
        At(i, lambda: rates.append([group["lr"] for group in trainer().optimizer.param_groups]))
        for i in (7, 8)
    ]
    changed = ["SOLVER.BASE_LR", "0.001", "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.MOMENTUM", "0.8"]
    resumed = train([*common, *changed], *hooks, resume=True)
    (line,) = [text for text in caplog.messages if "other hyper-parameters" in text]
    for change in (
        "initial_lr 0.01 -> 0.001", "initial_lr 0.02 -> 0.002", "weight_decay 0.0001 -> 0.5",
        "momentum 0.9 -> 0.8",
    ):  # fmt: skip
        assert line.count(change) == 1
    groups = resumed.optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {0.001, 0.002}
    assert {group["momentum"] for group in groups} == {0.8}
    assert {group["weight_decay"] for group in groups} >= {0.5}
    for iteration, found in zip((7, 8), rates, strict=True):
        factor = (1 - iteration / 12) ** 0.9
        assert found == pytest.approx([group["initial_lr"] * factor for group in groups])
    caplog.clear()
    train([*common, *changed, "SOLVER.MAX_ITER", "13"], resume=True)
    assert "other hyper-parameters" not in caplog.text


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(runs, tmp_path):
    common, _ = runs

    def explode():
        with torch.no_grad():
            next(trainer_parameters()).mul_(math.inf)

    hook = At(9, explode)
    trainer_parameters = lambda: hook.trainer.model.parameters()  # noqa: E731
    with pytest.raises(InputError, match=r"not finite in iteration 10: .*loss_sem_seg.*\.png"):
        train(common, hook)
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_0000006.pth"
    for path in output.glob("model_*.pth"):
        state = torch.load(path)["model"]
        assert all(value.isfinite().all() for value in state.values()), path.name


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "previous" not in str(path.relative_to(folder))
    }


def test_three_runs_in_one_folder_keep_all_their_files(overrides, folder, tmp_path):
    output, kept = tmp_path / "output", []
    for rate in ("0.01", "0.02", "0.03"):
        train([*overrides, "SOLVER.BASE_LR", rate])
        lock.release()
        kept.append({name: data for name, data in files(output).items() if name != ".sar-run.lock"})
        (output / "notes.txt").write_text("mine")
    names = set(kept[0])
    assert {
        "run.json", "config.yaml", "class_frequency.json", "metrics.json", "model_final.pth",
        "model_0000001.pth", "last_checkpoint",
    } <= names  # fmt: skip
    assert any(re.fullmatch("inference/.*_val/sem_seg_evaluation.json", name) for name in names)
    assert files(output / "previous") == kept[0]
    kept[1].pop("notes.txt", None)
    assert files(output / "previous-2") == kept[1]
    assert b"BASE_LR: 0.02" in (output / "previous-2" / "config.yaml").read_bytes()
    assert (output / "notes.txt").read_text() == "mine"
    assert not (output / "previous-3").exists()


def test_a_run_that_cannot_start_changes_nothing(overrides, folder, tmp_path):
    """Its classes, labels and weights are right, but a label is broken that only sampling reads."""
    output = tmp_path / "output"
    train(overrides)
    lock.release()
    before = files(output)
    (folder / "classes.txt").write_text("sky\nroad\ntree\n")
    next((folder / "labels" / "train").iterdir()).write_bytes(b"broken")
    words = ["DATASETS.CHECK", "False", "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    words += ["DATALOADER.REPEAT_THRESHOLD", "0.9"]
    words += ["DATASETS.CLASS_FREQUENCY", str(tmp_path / "counts.json")]
    ClassFrequency(("sky", "road", "tree"), 5, (5, 5, 5), (9, 9, 9), 0).save(words[-1])
    with pytest.raises(InputError, match="cannot be read"):
        train([*overrides, *words])
    lock.release()
    assert files(output) == before


def test_other_classes_are_not_resumed_or_evaluated(overrides, folder, tmp_path):
    train(overrides)
    (folder / "classes.txt").write_text("dot\nground\nblock\n")
    message = "trained on the classes ground, block, dot, but the data set has dot, ground, block"
    final = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    for words, settings in (
        ([], {"resume": True}),
        ([], {"resume": True, "eval_only": True}),
        (final, {"eval_only": True}),
    ):
        with pytest.raises(InputError, match=message):
            start([*overrides, *words], **settings)


def test_fine_tuning_on_other_classes_is_said(overrides, folder, tmp_path, caplog):
    train(overrides)
    (folder / "classes.txt").write_text("dot\nground\nblock\n")
    words = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    train([*overrides, *words, "OUTPUT_DIR", str(tmp_path / "tuned")])
    assert "Training starts from other classes" in caplog.text


def test_the_log_begins_when_the_run_does(overrides, tmp_path):
    args = arguments(overrides)
    log_to_console(args)
    found = prepare(args)
    found.register()
    set_up_process(found.cfg, args)
    trainer = Trainer(found.cfg)
    trainer.resume_or_load(resume=False)
    output = tmp_path / "output"
    assert [path.name for path in output.iterdir()] == [".sar-run.lock"]
    trainer.train()
    log = (output / "log.txt").read_text()
    for text in ("Reading folder_mine_train", "Process 0 of 1", "Starting training"):
        assert log.count(text) == 1


def test_lines_from_an_iteration_on_are_cut(tmp_path):
    lines = [json.dumps({"iteration": i, "loss": 1.0}) for i in (19, 39, 40, 59)]
    path = tmp_path / "metrics.json"
    cut_metrics(tmp_path, 3)
    assert not path.exists()
    path.write_text("\n".join([*lines, '{"iteration": 20']))
    cut_metrics(tmp_path, 40)
    assert path.read_text() == "\n".join([*lines[:2], ""])
    path.write_text("\n".join([lines[0], "no JSON", "[3]", lines[1], ""]))
    cut_metrics(tmp_path, 40)
    assert path.read_text() == "\n".join([*lines[:2], ""])


def test_smoothing_goes_on_where_it_was():
    before = EventStorage()
    for iteration in range(30):
        before.iter = iteration
        before.put_scalar("loss", iteration**2 % 17)
        if iteration % 10 == 9:
            before.put_scalar("score", iteration, smoothing_hint=False)
    state = json.loads(json.dumps(storage_state(before)))
    after = EventStorage(30)
    restore_storage(after, state, unwritten=None)
    assert after.latest() == {}  # nothing is written twice
    for storage in (before, after):
        storage.iter = 30
        storage.put_scalar("loss", 4.0)
    window = after.latest_with_smoothing_hint(20)
    assert window["loss"] == before.latest_with_smoothing_hint(20)["loss"]
    assert set(window) == {"loss"}
    after = EventStorage(30)
    restore_storage(after, state, unwritten=29)
    assert after.latest_with_smoothing_hint(20) == {
        "loss": (
            float(torch.tensor([i**2 % 17 for i in range(10, 30)]).double().quantile(0.5)),
            29,
        ),
        "score": (29.0, 29),
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", ["panoptic_fpn", "mask_classifier"])
def test_other_models_resume_exactly(model, tmp_path, monkeypatch):
    longtail_shapes.generate(
        tmp_path / "longtail_shapes", num_images={"train": 8, "val": 2, "test": 1}
    )
    monkeypatch.setattr(longtail_shapes, "NUM_IMAGES", {"train": 8, "val": 2, "test": 1})
    monkeypatch.setattr(
        longtail_shapes, "generated_folder", lambda *args: tmp_path / "longtail_shapes"
    )
    common = [
        "SEED", "3", "INPUT.CROP.SIZE", "(64, 64)", "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "0",
        "DATALOADER.NUM_WORKERS", "0",
    ]  # fmt: skip
    config = f"configs/LongTailShapes/sar_ceco_{model}_R_18.yaml"
    expected = [*common, "OUTPUT_DIR", str(tmp_path / "expected")]
    uninterrupted = train(expected, config=config)
    common += ["OUTPUT_DIR", str(tmp_path / "output")]
    with pytest.raises(Killed):
        train(common, At(4, kill), config=config)
    resumed = train(common, resume=True, config=config)
    assert resumed.start_iter == 3
    assert_same_run(resumed, uninterrupted, tmp_path / "output", tmp_path / "expected")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_line_exits_with_143_and_resumes(processes, overrides, tmp_path):
    words = [
        *overrides, "SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000",
        "DATALOADER.NUM_WORKERS", "1", "INPUT.CROP.SIZE", "(64, 64)",
    ]  # fmt: skip
    command = [sys.executable, "train_net.py", "--config-file", CONFIG, "--num-gpus", "0"]
    command += ["--num-processes", str(processes)]
    output = tmp_path / "output"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *words], stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 240
        while not (output / "metrics.json").is_file() or not metrics(output):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGTERM)  # the workers of the loader, too
        assert process.wait(timeout=60) == 143
    assert "Traceback" not in (tmp_path / "log").read_text()
    name = (output / "last_checkpoint").read_text()
    iteration = int(name.removeprefix("model_").removesuffix(".pth"))
    words[words.index("100000")] = str(iteration + 3)
    done = subprocess.run([*command, "--resume", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Starting training from iteration {iteration + 1}" in done.stdout
