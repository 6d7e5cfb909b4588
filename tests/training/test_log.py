"""Logs of each process, and the run that OUTPUT_DIR/config.yaml belongs to."""

import logging
import re

import pytest

from sar.errors import InputError
from sar.preflight.prepare import prepare
from sar.training.log import kept_lines, log_to_console, log_to_file, set_up_process
from sar.training.trainer import Trainer

from detectron2.utils import comm

from ..runs import arguments


def start(overrides, **settings):
    args = arguments(overrides, **settings)
    found = prepare(args)
    set_up_process(found.cfg, args)
    found.register()
    trainer = Trainer(found.cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer


def test_config_yaml_is_of_the_last_training_that_could_start(overrides, tmp_path):
    path = tmp_path / "output" / "config.yaml"
    trainer = start(overrides)
    assert not path.exists()
    trainer.train()
    assert path.read_text() == trainer.cfg.dump()

    with pytest.raises(InputError, match="set SOLVER.OPTIMIZER to that"):
        start([*overrides, "SOLVER.OPTIMIZER", "ADAMW"], resume=True)
    with pytest.raises(InputError, match="as they are in the config.yaml next to it"):
        start([*overrides, "MODEL.SEM_SEG_HEAD.NORM", ""], resume=True)
    args = arguments([*overrides, "TEST.MODE", "slide"], eval_only=True, resume=True)
    set_up_process(prepare(args).cfg, args)
    assert path.read_text() == trainer.cfg.dump()

    resumed = start([*overrides, "SOLVER.MAX_ITER", "5"], resume=True)
    resumed.train()
    assert path.read_text() == resumed.cfg.dump() != trainer.cfg.dump()


def test_a_log_gets_its_file_late(overrides, tmp_path):
    args = arguments(overrides)
    log_to_console(args)
    set_up_process(prepare(args).cfg, args)
    assert not (tmp_path / "output" / "log.txt").exists()
    log_to_file(tmp_path / "output")
    logging.getLogger("fvcore").warning("later")
    logging.getLogger("sar").info("class \x1b[31mred\x1b]0;title\x07")
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "Reading folder_mine" in log
    assert "Process 0 of 1" in log and "Command line: Namespace(" in log
    assert "IMS_PER_BATCH: 2" in log and "later" in log
    assert "class red" in log.replace("\\x1b[31m", "") and "\x1b" not in log
    assert kept_lines() == []


def test_the_lines_of_the_launching_process_come_first(overrides, tmp_path):
    args = arguments(overrides)
    cfg = prepare(args).cfg
    kept_lines().clear()
    args.log_lines = ["of the launcher"]
    set_up_process(cfg, args)
    log_to_file(tmp_path)
    assert (tmp_path / "log.txt").read_text().startswith("of the launcher\n[")


def test_each_rank_has_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "get_rank", lambda: 2)
    log_to_console(arguments([]), 2)
    log_to_file(tmp_path)
    logging.getLogger("sar").warning("from rank 2")
    assert "from rank 2" in (tmp_path / "log.txt.rank2").read_text()


def test_a_process_without_a_log_writes_none(tmp_path):
    log_to_file(tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_the_console_is_short_before_the_first_step(overrides, capsys):
    start([*overrides, "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0"]).train()
    before, first_step, after = capsys.readouterr().out.partition("First step, iteration 0: ")
    lines = [line for line in before.splitlines() if "WARNING" not in line]
    assert len(lines) <= 12
    assert re.search(r"detectron2-sar \S+, detectron2 \S+, PyTorch", before)
    assert re.search(r"model: .*SemanticAnchorRegularizer; \d+\.\d M parameters", before)
    assert re.search(r"folder_mine_train; 5 images, \d+ classes, rarest ", before)
    assert re.search(r"1 iterations with a batch of 2 \(0.4 epochs\)", before)
    assert re.search(r"total_loss: \S+, .*; \S+ s, about 0:00:00 left", after)


def test_quiet_leaves_warnings_and_evaluations_to_the_console(overrides, tmp_path, capsys):
    args = arguments(overrides, quiet=True)
    cfg = prepare(args).cfg
    capsys.readouterr()
    set_up_process(cfg, args)
    logging.getLogger("detectron2.utils.events").info("iter: 19")
    logging.getLogger("sar.training").warning("No GPU")
    logging.getLogger("sar.evaluation.evaluator").info("a table")
    out, err = capsys.readouterr()
    assert [line.split("]: ")[-1] for line in out.splitlines()] == ["No GPU", "a table"]
    assert err == ""
    log_to_file(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert all(text in log for text in ("Command line", "iter: 19", "No GPU", "a table"))
