"""Every command of the README and of docs/, run in a folder full of a user's files.

None of the files may change; a command that could not keep them has to refuse. Data, schedules and
sizes are as small as they can be. Elsewhere are run: `make` and what it installs, by .ci/run; the
programs of benchmarks/, in tests/benchmarks/test_programs.py; several machines, in
tests/training/test_launch.py.
"""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.files.program_outputs import JOURNAL

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    # benchmarks.md: see above. first-hour.md: a diary, with commands of the other pages.
    *sorted(
        path
        for path in (ROOT / "docs").glob("*.md")
        if path.stem not in ("benchmarks", "first-hour")
    ),
    ROOT / "examples" / "README.md",
    ROOT / "datasets" / "README.md",
]
COMMAND = re.compile(
    r"(?:^|`|\s)((?:python|torchrun) (?:-c \"[^\"\n]*\"|[^`\n|]*?\w\.py\b[^`\n|]*))"
)
# Data, configs and numbers of processes that replace the ones on the pages.
INSTEAD = {
    "C": "configs/Folder/sar_sem_fpn_R_18.yaml",
    "path/to/your/folder": "mine",
    "datasets/scannet/scannet200/clouds/test": "scans/clouds/val",
    "8": "2",
}
CONFIG = re.compile(r"configs/(Cityscapes|ADE20K|CamVid)/\S*")
RUN = re.compile(r"output/(Cityscapes|ADE20K|CamVid)/\w+/")
CLOUD_CONFIG = re.compile(r"configs/(LongTailRooms|ScanNet200)/\S*")
CLOUD_RUN = re.compile(r"output/ScanNet200/\w+/")
SMALL = {
    "train_net.py": "DATASETS.FOLDER {data} SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 "
    "DATALOADER.NUM_WORKERS 0 INPUT.CROP.SIZE 64,64 INPUT.MIN_SIZE_TRAIN 64,64 TEST.PICTURES 1 "
    "TEST.AUG.MIN_SIZES 64 TEST.CROP_SIZE 64 TEST.CROP_STRIDE 64",
    "train_net.py on clouds": "DATASETS.FOLDER scans SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 "
    "DATALOADER.NUM_WORKERS 0 MODEL.SPARSE_UNET.CHANNELS 8,8 MODEL.SPARSE_UNET.BLOCKS 1,1 "
    "TEST.PICTURES 1",
    "submit_points.py": "",
    "visualize.py": "DATALOADER.NUM_WORKERS 0",
    "predict.py": "DATALOADER.NUM_WORKERS 0",
    "export.py": "",
    "report.py": "--images 2",
    "rare_classes.py": "--classes 1",
    "compare.py": "--methods two.yaml --seeds 1 --iterations 2 SOLVER.IMS_PER_BATCH 2 "
    "DATALOADER.NUM_WORKERS 0 INPUT.CROP.SIZE 64,64 INPUT.MIN_SIZE_TRAIN 64,64",
    "check_dataset.py": "",
    "analyze_model.py": "",
    "import_dataset.py": "",
    "point_cloud.py": "--seeds 1 --steps 2",
    "classification.py": "--seeds 1 --steps 2",
    "figures.py": "--output figures",
}
# Placeholders, several machines, and programs that are run elsewhere.
LEFT_OUT = re.compile(
    r"benchmarks/|experiments/run|tests/robustness|config_keys|\w*NAME\.py|\.\.\.|\$|--num-machines|"
    r"my_wandb|my_mlflow"
)
# Need a download, or an export of annotations, that is not here; the error says so.
REFUSED = re.compile(
    r"prepare_\w+\.py|submit_points\.py|--dataset camvid_train|import_dataset|R-50\.pkl"
)

pytestmark = pytest.mark.slow


def documented_commands():
    """Return the commands of all pages as words, each once and in order, without benchmarks/."""
    found = {}
    for page in PAGES:
        text = re.sub(r" *\\\n\s*", " ", page.read_text())
        text = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda span: span[0].replace("\n", " "), text)
        for match in COMMAND.finditer(text):
            words = shlex.split(match[1].rstrip(".,;:)"), comments=True)
            if not LEFT_OUT.search(match[1]):
                found.setdefault(tuple(words), page.name)
    return found


def smaller(words):
    """The command with a small data set, model and schedule, and processes that run here."""
    program = next((Path(word).name for word in words if word.endswith(".py")), None)
    if program is None:  # python -c
        return words
    words = [INSTEAD.get(word, word) for word in words]
    if program == "train_net.py":  # others need no data of their configs
        words = [CONFIG.sub(INSTEAD["C"], word) for word in words]
    words = [RUN.sub("output/Folder/sar_sem_fpn_R_18/", word) for word in words]
    words = [CLOUD_RUN.sub("output/Folder/ceco_sparse_unet_small/", word) for word in words]
    words = [CLOUD_CONFIG.sub("configs/Folder/ceco_sparse_unet_small.yaml", w) for w in words]
    words = [word.replace("R_50", "R_18") for word in words]  # whose weights are not here
    data = "example_data" if "example_data" in words else "mine"
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    elif "--num-gpus" in words and "--num-processes" not in words:
        index = words.index("--num-gpus")
        words[index : index + 2] = ["--num-gpus", "0", "--num-processes", "2"]
    if program.startswith("prepare_"):
        return words
    if program == "train_net.py" and any("sparse_unet" in word for word in words):
        program += " on clouds"
    return [*words, *SMALL[program].format(data=data).split()]


def write_data_set(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index in range(4):
            labels = rng.integers(0, 3, (4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            image = np.stack([labels * 60, 255 - labels * 60, labels * 20], -1).astype(np.uint8)
            for kind, pixels in (("images", image), ("labels", labels)):
                path = folder / kind / split / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (folder / "classes.txt").write_text("gravel\nkerb\nbollard\n")


def write_clouds(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        path = folder / "clouds" / split
        path.mkdir(parents=True)
        for index in range(3):
            xyz, label = rng.uniform(0, 2, (200, 3)), rng.integers(0, 3, 200, dtype=np.uint8)
            color = rng.integers(0, 256, (200, 3), dtype=np.uint8)
            np.savez(path / f"{index}.npz", xyz=xyz, color=color, label=label)
    (folder / "classes.txt").write_text("gravel\nkerb\nbollard\n")


def prepare_folder(folder):
    """A user's folder with the project's programs, and files of all kinds next to their outputs."""
    for name in ("configs", "tools", "examples", "docs", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    write_data_set(folder / "mine")
    write_clouds(folder / "scans")
    (folder / "two.yaml").write_text("plain: {}\nSAR: {_BASE_: configs/methods/sar.yaml}\n")
    page = (ROOT / "docs" / "your-head.md").read_text()  # its files begin with their names
    for name, content in re.findall(r"^```\w+\n# ([\w.]+).*?\n(.*?)^```$", page, re.S | re.M):
        (folder / name).write_text(content)
    for name in (
        "notes.txt", "output/notes.txt", "output/Folder/notes.txt", "predicted/mine.txt",
        "predictions/labels/mine.png", "pictures/mine.png", "previous/model_final.pth",
        "output/Folder/sar_sem_fpn_R_18/previous/model_final.pth", "street.jpg", "run.json",
        "config.yaml", "model_best.pth", "datasets/mine.txt", "output/folder_mine_train/mine.csv",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my {name}")


def checksums(folder):
    """Return the checksums of all files below the folder, without links to the project."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.is_symlink() for p in (path, *path.parents))
    }


def run(words, folder):
    paths = [str(ROOT / "projects" / "SAR"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
        "DETECTRON2_DATASETS": str(folder / "datasets"), "MPLBACKEND": "agg",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    command = words
    if any("*" in word for word in words):  # a shell expands it
        command = ["bash", "-c", " ".join(words)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_the_commands_of_the_pages_are_found():
    programs = {Path(word).name for words in documented_commands() for word in words}
    assert {
        "train_net.py", "check_dataset.py", "visualize.py", "predict.py", "report.py", "export.py",
        "analyze_model.py", "point_cloud.py", "classification.py", "figures.py",
    } <= programs  # fmt: skip
    assert len(documented_commands()) > 20


def test_no_command_changes_a_users_file(tmp_path):
    """First among other files, where each command has to work; then every file that the commands
    wrote is one of the user's, where each may refuse."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    prepare_folder(first)
    before = checksums(first)
    known = set(before)
    commands = [(smaller(list(words)), page) for words, page in documented_commands().items()]
    # What needs the results of others comes after them.
    commands.sort(
        key=lambda item: re.search("report.py|rare_classes.py", " ".join(item[0])) is not None
    )
    for words, page in commands:
        result = run(words, first)
        where = f"{page}: {shlex.join(words)}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
        assert "Traceback" not in result.stdout + result.stderr, where
        after = checksums(first)
        assert {name: after.get(name) for name in before} == before, where
        if not REFUSED.search(" ".join(words)):
            assert result.returncode == 0, where
            assert re.search(r"\d", result.stdout) or set(after) > known, where
        known = set(after)

    written = set(checksums(first)) - set(before)
    assert len(written) > 40
    second.mkdir()
    prepare_folder(second)
    for name in written:
        is_ours = Path(name).name == JOURNAL or Path(name).name.startswith(".sar-")
        if not is_ours and not (second / name).exists():
            (second / name).parent.mkdir(parents=True, exist_ok=True)
            (second / name).write_text(f"my {name}")
    before = checksums(second)
    refused = 0
    for words, page in commands:
        result = run(words, second)
        where = f"{page}: {shlex.join(words)}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
        after = checksums(second)
        assert {name: after.get(name) for name in before} == before, where
        # torchrun reports a failure by a traceback, and so does Python itself.
        has_own = {"torch.distributed.run", "-c"} & set(words)
        assert "Traceback" not in result.stdout + result.stderr or has_own, where
        refused += result.returncode != 0
    assert refused > len(commands) / 2
