"""What the README says is there, is there; and its Python runs."""

import re
from pathlib import Path

import pytest
import yaml

README = Path("README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_of_known_keys(text, tmp_path):
    from sar.config import load_config

    (tmp_path / "config.yaml").write_text(text)
    cfg = load_config(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(text)["MODEL"]["REGULARIZERS"] == list(cfg.MODEL.REGULARIZERS)


def test_links_and_files_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    programs = re.findall(r"python (\S+\.py)", README)
    configs = re.findall(r"--config-file (\S+)", README)
    assert links and programs and configs
    for path in (*links, *programs, *configs):
        assert Path(path).exists(), path


def test_config_table_names_every_config():
    for folder, names in re.findall(r"\]\(configs/(\w+)\)[^|\n]*\| ([^|]+) \|", README):
        stems = {path.stem for path in Path("configs", folder).glob("*.yaml")}
        listed = set(re.findall(r"`(\w+)`", names))
        assert {stem.split("_", 1)[1] for stem in stems if stem.startswith("sar_")} == listed
