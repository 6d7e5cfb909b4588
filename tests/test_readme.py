"""The README names only things that exist, and its Python runs."""

import glob
import re
from pathlib import Path

import pytest
import torch
import yaml

from sar.config import load_config

from detectron2.modeling import build_model

README = Path("README.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_ones_own_regularizer_works_from_the_config():
    (code,) = blocks("python", Path("docs/your-regularizer.md").read_text())
    assert code.count("\n") < 30
    exec(compile(code, "your-regularizer.md", "exec"), {})
    overrides = ["MODEL.REGULARIZERS", "('CentreNormRegularizer',)", "MODEL.DEVICE", "cpu"]
    cfg = load_config("configs/LongTailShapes/sar_sem_fpn_R_18.yaml", overrides)
    (regularizer,) = build_model(cfg).regularizers.values()
    losses = regularizer(torch.randn(2, 64, 8, 8), torch.zeros(2, 32, 32), None)
    assert losses["loss_centre_norm"] > 0


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_of_known_keys(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    cfg = load_config(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(text)["MODEL"]["REGULARIZERS"] == list(cfg.MODEL.REGULARIZERS)


def test_commands_name_keys_that_are_there():
    known = load_config()
    keys = re.findall(r"\b(?:MODEL|DATALOADER|TEST|SOLVER|DATASETS)(?:\.[A-Z_]+)+\b", README)
    assert keys
    for key in keys:
        node = known
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_links_and_files_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    programs = re.findall(r"python (\S+\.py)", README)
    configs = re.findall(r"--config-file (\S+)", README)
    assert links and programs and configs
    for path in (*links, *programs):
        assert glob.glob(path), path
    for path in configs:
        load_config(path)


def test_config_table_names_every_config():
    page = Path("docs/models.md").read_text()
    rows = re.findall(r"`configs/(\w+)` \| ([^|]+) \|", page)
    assert {folder for folder, _ in rows} == {path.name for path in Path("configs").glob("[A-Z]*/")}
    for folder, names in rows:
        stems = {path.stem for path in Path("configs", folder).glob("*.yaml")}
        listed = set(re.findall(r"`(\w+)`", names))
        assert {stem.removeprefix("baseline_") for stem in stems if "baseline" in stem} == listed


def test_measured_means_are_those_of_the_results():
    """The README's table of methods, against docs/results.md, which is made from the trainings."""
    header, _, *rows = re.search(r"((?:\|.*mIoU@r.*\n)(?:\|.*\n)+)", README)[1].splitlines()
    metrics = [cell.strip() for cell in header.split("|")[2:-1]]
    known = measured("CamVid, ImageNet weights")
    assert 3 <= len(rows) <= 4
    for row in rows:
        method, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        for metric, cell in zip(metrics, cells, strict=True):
            mean, *difference = known[method][metric]
            shown = f"{mean:.1f}"
            if difference:
                shown += " ({:+.1f} [{:+.1f}, {:+.1f}])".format(*difference)
            assert cell.replace("**", "") == shown, (method, metric)


def test_gains_on_clothing_are_those_of_the_results():
    paragraph = README.split("On photos of clothing")[1].split("\n\n")[0]
    found = re.findall(r"(\d\.\d)\s+(?:mIoU )?\[(\+\d\.\d), (\+\d\.\d)\]", paragraph)
    known = measured("Clothing (CCP), ImageNet weights")
    methods = ("Lovász", "Lovász + repeat-factor")
    expected = [known[method]["mIoU"][1:] for method in methods]
    assert found == [(f"{mean:.1f}", f"{low:+.1f}", f"{high:+.1f}") for mean, low, high in expected]
    mean, low, high = known["SAR"]["mIoU"][1:]
    sentence = f"SAR alone has {-mean:.1f} mIoU less\nthan plain there (not clear)"
    assert sentence in paragraph and low < 0 < high


def test_means_from_random_weights_are_those_of_the_results():
    paragraph = README.split("**From random weights")[1].split("\n\n")[0]
    numbers = re.findall(r"\d+\.\d", paragraph)
    methods = ["plain", "SAR over classes", "class weights + repeat-factor", "SAR + both"]
    means = {
        study: [f"{measured(study)[method]['mIoU'][0]:.1f}" for method in methods]
        for study in ("LongTailShapes", "CamVid")
    }
    shapes, roads = means["LongTailShapes"], means["CamVid"]
    gains = [
        f"{measured(study)[methods[2]]['mIoU'][1]:.1f}"
        for study in ("LongTailShapes", "LongTailShapes, twice as long")
    ]
    assert numbers == [*shapes[:2], *roads[:2], shapes[2], roads[2], shapes[3], roads[3], *gains]


def measured(study):
    """Return the mean of each method and metric; and the difference to plain, with its interval."""
    section = Path("docs/results.md").read_text().split(f"\n## {study}\n")[1]
    header, _, *rows = section.split("### Methods\n\n")[1].split("\n\n")[0].splitlines()
    metrics = [cell.strip() for cell in header.split("|")[2:-1]]
    found = {}
    for row in rows:
        method, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        numbers = [map(float, re.findall(r"[-+]?\d+\.\d+", cell)) for cell in cells]
        found[method] = dict(zip(metrics, map(list, numbers), strict=True))
    return found
