"""The pages in docs/ name only things that exist; their Python runs; the site is built."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sar.config import add_sar_config, leaves, load_config, lookup
from sar.data.label_files import read_label
from sar.training.launch import argument_parser

from detectron2.config import get_cfg
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from detectron2.projects.deeplab import add_deeplab_config

from .programs import load_program

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# These are written by programs, and tested with them.
PAGES = sorted(path for path in DOCS.glob("*.md") if path.stem not in ("benchmarks", "results"))
KEY = re.compile(r"\b(?:MODEL|DATASETS|DATALOADER|INPUT|SOLVER|TEST)(?:\.[A-Z0-9_]+)+\b")


def blocks(page, language):
    return [
        re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        for indent, text in re.findall(
            rf"^( *)```{language}\n(.*?)^ *```$",
            (DOCS / page).read_text(),
            re.DOTALL | re.MULTILINE,
        )
    ]


def commands(text):
    """The command lines of a page that start a program of the project, as words."""
    joined = re.sub(r" *\\\n\s*", " ", text)
    lines = [line.strip() for line in joined.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if is_command(line)]


def is_command(line):
    return re.match(r"(python|torchrun|srun) .*\w\.py\b", line.strip()) is not None


@pytest.fixture(scope="module")
def config_keys():
    return load_program(DOCS / "config_keys.py")


def test_every_config_key_is_listed_with_its_default(config_keys):
    """The expected keys come from the config itself, not from the text that is parsed."""
    theirs = get_cfg()
    add_deeplab_config(theirs)
    ours = get_cfg()
    add_sar_config(ours)
    detectron2s = set(leaves(theirs))
    expected = {
        key: lookup(ours, key)
        for key in leaves(ours)
        if key not in detectron2s or lookup(theirs, key) != lookup(ours, key)
    }
    entries = [entry for section in config_keys.read_sections() for entry in section.entries]
    listed = {key: default for entry in entries for key, default in entry.defaults.items()}
    assert {key: eval(default) for key, default in listed.items()} == expected
    assert len(listed) > 40
    for entry in entries:
        assert len(entry.meaning) > 10 and "# " not in entry.meaning, entry


def test_the_page_of_config_keys_is_up_to_date(config_keys):
    """If not: python docs/config_keys.py"""
    assert config_keys.PAGE.read_text() == config_keys.as_markdown(config_keys.read_sections())


def test_config_keys_are_read_as_described(config_keys):
    source = '''
def add_sar_config(cfg):
    """Adds."""
    # -- First
    # A note on MODEL.A,
    # of two lines.

    # Of both.
    cfg.MODEL.A = 1
    cfg.MODEL.B = "b"
    # -- Second
    # On the group.
    cfg.MODEL.C = CfgNode()
    # Of C.
    cfg.MODEL.C.D = (
        1,
        2,
    )
'''
    first, second = config_keys.read_sections(source)
    assert (first.title, second.title) == ("First", "Second")
    note, both = first.entries
    assert (note.meaning, note.defaults) == ("A note on MODEL.A, of two lines.", {})
    assert (both.meaning, both.defaults) == ("Of both.", {"MODEL.A": "1", "MODEL.B": '"b"'})
    assert [entry.defaults for entry in second.entries] == [{}, {"MODEL.C.D": "(1, 2)"}]
    assert config_keys.as_markdown([first]).endswith(
        "\n\n## First\n\nA note on `MODEL.A`, of two lines.\n\n"
        "| key | default | meaning |\n|---|---|---|\n"
        '| `MODEL.A`<br>`MODEL.B` | `1`<br>`"b"` | Of both. |\n'
    )
    with pytest.raises(ValueError, match="line 11: MODEL.B has no comment"):
        config_keys.read_sections(source.replace('cfg.MODEL.B = "b"', '\n    cfg.MODEL.B = "b"'))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_keys_that_are_named_exist(page):
    known = leaves(load_config())
    for key in KEY.findall(page.read_text()):
        assert any(name == key or name.startswith(f"{key}.") for name in known), key


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_are_of_programs_flags_and_keys_that_exist(page):
    found = commands(page.read_text())
    assert found or page.stem not in ("your-data", "papers", "cluster")
    known = set(leaves(load_config()))
    for words in found:
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        program = ROOT / words[place]
        assert program.exists(), words
        if program.name == "train_net.py":
            flags = set(argument_parser()._option_string_actions)
        else:
            shared = ROOT / "projects/SAR/sar/cli.py"
            flags = set(re.findall(r'"(--[a-z-]+)"', program.read_text() + shared.read_text()))
        used = words[place + 1 :]
        assert {word for word in used if word.startswith("--")} <= flags, words
        for flag, value in zip(used, used[1:], strict=False):
            if flag == "--config-file" and value.startswith("configs/"):
                load_config(str(ROOT / value))
        keys = [word for word in used if re.fullmatch(r"[A-Z][A-Z0-9_]+(\.[A-Z0-9_]+)+|SEED", word)]
        assert set(keys) <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_lines_of_commands_hang_together(page):
    """A line is a command, or goes on one that ends in a backslash."""
    for block in blocks(page.name, "sh"):
        for line in re.sub(r" *\\\n\s*", " ", block).splitlines():
            assert not line or re.match(r"(python|pip|torchrun) ", line), line


def test_files_that_are_named_exist():
    names = re.compile(r"`((?:docs|datasets|tools|configs|benchmarks|examples)/[\w./*-]+)`")
    found = [(page, name) for page in PAGES for name in names.findall(page.read_text())]
    assert len(found) >= 5
    for page, name in found:
        is_config = name.startswith("configs/") and name.endswith(".yaml")
        if is_config and name != "configs/compare.yaml":  # methods
            load_config(str(ROOT / name))  # it need not be a file
        else:
            assert list(ROOT.glob(name.rstrip("/"))), f"{page.name}: {name}"


def test_papers_states_what_the_configs_hold():
    rows = re.findall(
        r"^\| `(\w+)/\*_(\w+)` \|.*\| ([\d,]+) \| (\d+) \| (\d+) x (\d+) \|$",
        (DOCS / "papers.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 5
    for folder, model, steps, batch, height, width in rows:
        for kind in ("baseline", "sar", "ceco", "sar_ceco"):
            cfg = load_config(str(ROOT / "configs" / folder / f"{kind}_{model}.yaml"))
            assert cfg.SOLVER.MAX_ITER == int(steps.replace(",", ""))
            assert cfg.SOLVER.IMS_PER_BATCH == int(batch)
            assert list(cfg.INPUT.CROP.SIZE) == [int(height), int(width)]


def test_code_of_your_head_runs_in_one_go(capsys, monkeypatch):
    monkeypatch.setattr(SEM_SEG_HEADS_REGISTRY, "_obj_map", dict(SEM_SEG_HEADS_REGISTRY._obj_map))
    monkeypatch.chdir(ROOT)
    namespace = {"__name__": "docs"}
    code = [block for block in blocks("your-head.md", "python") if "# my_mask2former" not in block]
    assert len(code) == 5
    for block in code:
        exec(compile(block, "your-head.md", "exec"), namespace)
    names = ["loss_sar_anchor", "loss_sar_pull", "loss_sem_seg"]
    assert capsys.readouterr().out == f"{names}\n"
    assert all(loss.isfinite() for loss in namespace["losses"].values())
    # Several processes can train it.
    sum(namespace["losses"].values()).backward()
    parameters = namespace["model"].named_parameters()
    assert [name for name, value in parameters if value.grad is None] == []
    assert namespace["picture"].shape == (64, 64, 3)
    batch = [{"image": namespace["image"], "sem_seg": torch.randint(12, (64, 64))}]
    assert set(namespace["instantiate"](namespace["lazy_model"])(batch)) == set(names)
    # MODEL.LOSS.NAME takes the place of its loss, and has its weight.
    found = []
    for name in ("", "cross_entropy", "seesaw"):
        cfg = namespace["cfg"].clone()
        cfg.MODEL.LOSS.NAME, cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = name, 0.5
        torch.manual_seed(0)
        found.append(build_model(cfg)(batch)["loss_sem_seg"].item())
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert 0 < found[2] < 10


def test_code_of_plain_pytorch_runs_in_one_go():
    namespace = {"__name__": "docs"}
    code = blocks("plain-pytorch.md", "python")
    assert len(code) == 3
    for block in code:
        exec(compile(block, "plain-pytorch.md", "exec"), namespace)
    assert set(namespace["losses"]) == {"loss_ce", "loss_sar_anchor", "loss_sar_pull"}
    assert all(p.grad is not None for p in namespace["module"].parameters())


def test_colour_masks_are_converted_as_the_questions_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    colors = np.array([[[0, 0, 0], [255, 0, 0], [255, 0, 0]]], np.uint8)
    for split in ("train", "val"):
        for part in ("images", "labels"):
            Path("mine", part, split, "city").mkdir(parents=True)
            Image.fromarray(colors).save(f"mine/{part}/{split}/city/a.png")
    Path("mine/classes.txt").write_text("gravel 0 0 0\nkerb 255 0 0\n")
    ((_, program, *words),) = [
        words for words in commands((DOCS / "faq.md").read_text()) if "import_dataset" in words[1]
    ]
    assert load_program(ROOT / program).main(words) == 0
    for split in ("train", "val"):
        assert read_label(f"mine_ids/labels/{split}/city/a.png").tolist() == [[0, 1, 1]]


def test_no_other_page_has_code_that_is_not_run():
    pages = {page.name for page in PAGES if blocks(page.name, "python")}
    assert pages == {
        "your-head.md", "plain-pytorch.md", "your-data.md", "your-regularizer.md", "tracking.md",
    }  # fmt: skip


@pytest.mark.slow
def test_your_data_can_be_followed(tmp_path):
    """Every command of the page, in its order, with fewer images and steps."""
    for name in ("configs", "tools", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    paths = [str(ROOT / "projects" / "SAR"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip

    def run(words):
        result = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, f"{words}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"

    text = "\n".join(blocks("your-data.md", "sh"))
    lines = [line for line in re.sub(r" *\\\n\s*", " ", text).splitlines() if line]
    assert len(lines) == 11
    for line in lines:
        if line.startswith("python train_net.py"):
            line += " SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0"
        run(shlex.split(line))
    (code,) = blocks("your-data.md", "python")
    run([sys.executable, "-c", code])
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "output/folder_example_data_train/folder_example_data_train_classes.png",
        "output/folder_example_data_train/folder_example_data_train_samples.jpg",
        "output/Folder/recommended_sem_fpn_efficientnet_lite0/model_final.pth",
        "output/Folder/baseline_sem_fpn_efficientnet_lite0/model_final.pth",
        "output/Folder/recommended_sem_fpn_efficientnet_lite0/inference/model_best/"
        "folder_example_data_test/sem_seg_evaluation.json",
        "output/predictions/overlays/0000.jpg",
        "output/overlay.png",
        "output/report.html",
        "output/rare_classes.png",
        "output/model.onnx",
    } <= written


def sphinx(tmp_path, source=DOCS):
    pytest.importorskip("furo", reason="needs pip install -e .[docs]")
    pytest.importorskip("myst_parser", reason="needs pip install -e .[docs]")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-qn"]
    command += ["-d", tmp_path / "doctrees", source, tmp_path / "site"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_site_is_built_without_warnings(tmp_path):
    result = sphinx(tmp_path)
    assert result.returncode == 0, result.stderr
    site = tmp_path / "site"
    assert {path.stem for path in PAGES} <= {path.stem for path in site.glob("*.html")}
    html = re.sub(r"<[^>]+>", "", (site / "config.html").read_text())
    assert "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE" in html
    methods = (site / "methods.html").read_text()
    assert methods.count("<math") > 20 and "\\frac" not in methods
    # Nothing is fetched from elsewhere.
    for path in site.glob("*.html"):
        assert not re.search(
            r'(?:<script|<img|stylesheet)[^>]*(?:src|href)="http', path.read_text()
        )


def test_a_broken_link_is_found(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["myst_parser"]\nmyst_heading_anchors = 3\n')
    (source / "index.md").write_text("# Title\n\n[link](nowhere.md), [link](#no-heading)\n")
    result = sphinx(tmp_path, source)
    assert result.returncode != 0
    assert "nowhere.md" in result.stderr and "no-heading" in result.stderr


def test_figures_do_not_replace_a_file_of_the_user(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "class_centres.svg"
    path.write_text("the user's")
    done = subprocess.run(
        [sys.executable, str(DOCS / "figures.py"), "--output", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "projects" / "SAR")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "add --overwrite" in done.stderr
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the user's"]


@pytest.mark.slow
def test_figures_are_drawn_from_the_package(tmp_path):
    pytest.importorskip("matplotlib", reason="needs pip install -e .[docs]")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "SAR"), "MPLBACKEND": "agg"}
    code = f"""
import sys
sys.path.insert(0, {str(DOCS)!r})
import figures
figures.main(["--output", {str(tmp_path)!r}])
history = figures.semantic_anchors()
opened = int(history["gate"].int().argmax())
assert 0 < opened < figures.NUM_STEPS and history["probability"][opened] > 0.8
assert not history["pull"][:opened].any() and history["pull"][opened] > history["pull"][-1] > 0
shares = figures.gradient_shares()
assert shares["cross-entropy"][-1] < 0.01 and shares["CeCo"].min() > 0.1
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name for path in (DOCS / "figures").glob("*.svg")}
    used = set(re.findall(r"\]\(figures/([\w.]+)\)", (DOCS / "methods.md").read_text()))
    assert used == drawn
