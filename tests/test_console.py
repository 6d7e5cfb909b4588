"""The console commands, and a wheel that is installed outside the checkout."""

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import sar
from sar import cli
from sar.console import program_of
from sar.data.datasets.coco_stuff import load_coco_stuff
from sar.data.datasets.folder import register_folder
from sar.data.ignored_foreground import IgnoredForeground
from sar.data.label_files import how_to_convert
from sar.errors import InputError
from sar.training.launch import argument_parser

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sar.__file__).parent


def commands():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    return dict(line.split(" = ") for line in lines if line)


def test_every_program_has_a_command(monkeypatch):
    monkeypatch.setattr(cli, "command", "")
    programs = {path.resolve() for path in ROOT.glob("tools/*.py")} | {ROOT / "train_net.py"}
    assert {program_of(command).resolve() for command in commands()} == programs
    assert set(commands().values()) == {"sar.console:main"}
    assert cli.command in commands()


def test_the_package_holds_all_configs():
    names = {path.relative_to(ROOT) for path in (ROOT / "configs").glob("**/*.yaml")}
    assert len(names) > 20 and all((PACKAGE / name).is_file() for name in names)
    # Those are copied into a wheel.
    assert {len(name.parts) for name in names} == {2, 3}


def test_every_command_is_a_call_of_its_program(monkeypatch):
    monkeypatch.setattr(cli, "command", "")
    for command in commands():
        file = program_of(command)
        name = file.name if command == "sar-train" else f"tools/{file.name}"
        assert cli.call_of(name) == command
    monkeypatch.setattr(cli, "command", "")
    assert cli.call_of("tools/compare.py") == "python tools/compare.py"


def test_messages_about_data_name_commands(monkeypatch, tmp_path):
    """Users of an installed package have no tools/."""
    monkeypatch.setattr(cli, "command", "sar-train")
    foreground = IgnoredForeground(255)
    foreground.add("a.png", np.bincount([0, 255]))
    with pytest.raises(InputError) as no_folder:
        register_folder(tmp_path / "gone")
    for message in (how_to_convert("a.png"), *foreground.warnings(), str(no_folder.value)):
        assert ": sar-import-dataset " in message and "python tools" not in message
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(InputError, match="`sar-prepare-coco-stuff`"):
        load_coco_stuff("val")


def test_help_names_the_command(monkeypatch, capsys):
    examples = "examples:\n  python tools/check_dataset.py --folder C\n  python examples/x.py\n"
    plain = cli.parser("Does it.", examples).format_help()
    assert examples in plain
    monkeypatch.setattr(cli, "command", "sar-check-dataset")
    text = cli.parser("Does it.", examples).format_help()
    assert text.startswith("usage: sar-check-dataset [-h]")
    assert "\n  sar-check-dataset --folder C\n  python examples/x.py\n" in text
    monkeypatch.setattr(cli, "command", "sar-train")
    text = argument_parser().format_help()
    assert text.startswith("usage: sar-train ") and "\n  sar-train --config-file C --resume" in text


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_folder(folder, tmp_path):
    """Built from a copy of the sources, since a build leaves files there."""
    source, environment, work = (tmp_path / name for name in ("source", "environment", "work"))
    for name in ("projects", "tools", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("train_net.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    variables.pop("PYTHONPATH", None)  # the package comes from the wheel

    def run(*words):
        done = subprocess.run(
            list(map(str, words)),
            cwd=work, env=variables, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    work.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source)
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python, (wheel,) = environment / "bin" / "python", tmp_path.glob("*.whl")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    # It sees the dependencies of this environment.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run(python, "-c", "import sar; print(sar.__file__)").startswith(site)

    sar_train, sar_predict, sar_report, sar_check = (
        environment / "bin" / f"sar-{name}"
        for name in ("train", "predict", "report", "check-dataset")
    )
    assert "No problems found." in run(sar_check, "--folder", folder)
    config = "configs/Folder/sar_sem_fpn_R_18.yaml"
    settings = [
        "DATASETS.FOLDER", folder, "INPUT.CROP.SIZE", "32,32", "INPUT.MIN_SIZE_TRAIN", "32,64",
        "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0",
        "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    ]  # fmt: skip
    two = ["--num-gpus", "0", "--num-processes", "2"]
    text = run(sar_train, *two, "--config-file", config, *settings)
    used = Path(site, "sar", config.replace("sar_", "baseline_"))
    assert used.is_file() and not used.is_symlink()
    assert f"{config} is not in this folder. Using the config of the package: " in text
    weights = "output/Folder/sar_sem_fpn_R_18/model_inference.pth"
    run(
        sar_predict, "--weights", weights, "--input", folder / "images/val", "--output", "predicted"
    )
    assert len(list((work / "predicted" / "labels").glob("*.png"))) == 5
    run(sar_report, "output/Folder/sar_sem_fpn_R_18", "--output", "report.html", "--images", "2")
    assert "sar_sem_fpn_R_18" in (work / "report.html").read_text()
