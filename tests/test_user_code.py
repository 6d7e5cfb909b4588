"""--import: a user's modules, and the config keys that they add."""

import sys
from types import ModuleType

import pytest

from sar import config, user_code
from sar.config import load_config
from sar.errors import InputError
from sar.user_code import import_modules

MODULE = """
import neighbour
def add_config(cfg):
    cfg.MODEL.MY_KEY = neighbour.DEFAULT
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An own folder for modules, and no config keys of other tests."""
    kept = []
    for module in (user_code, config):
        monkeypatch.setattr(module, "config_functions", kept)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("DEFAULT = 3\n")
    (tmp_path / "my_module.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize("name", ["my_module", "my_module.py", "./my_module.py"])
def test_keys_of_an_imported_module_are_known(name):
    with pytest.raises(InputError, match="unknown key MODEL.MY_KEY"):
        load_config("", ["MODEL.MY_KEY", "4"])
    for _ in range(2):  # a second time changes nothing
        import_modules([name])
    assert load_config().MODEL.MY_KEY == 3
    assert load_config("", ["MODEL.MY_KEY", "4"]).MODEL.MY_KEY == 4


def test_a_file_in_another_folder(folder):
    (folder / "other").mkdir()
    (folder / "my_module.py").rename(folder / "other" / "my_module.py")
    (folder / "neighbour.py").rename(folder / "other" / "neighbour.py")
    import_modules([str(folder / "other" / "my_module.py")])
    assert load_config().MODEL.MY_KEY == 3


def test_a_checksum_changes_with_the_file(folder):
    names = ["my_module.py", "neighbour"]
    import_modules(names)
    before = user_code.checksums(names)
    (folder / "my_module.py").write_text("# other\n")
    after = user_code.checksums(names)
    assert list(after) == names and before["my_module.py"] != after["my_module.py"]
    assert before["neighbour"] == after["neighbour"]


def test_a_module_without_a_file_has_no_checksum(monkeypatch):
    monkeypatch.setitem(sys.modules, "folder_of_modules", ModuleType("folder_of_modules"))
    assert user_code.checksums(["folder_of_modules"]) == {}


def test_a_function_that_adds_keys():
    def add(cfg):
        cfg.MODEL.MINE = "x"

    assert load_config("", ["MODEL.MINE", "y"], add_config=add).MODEL.MINE == "y"
    assert load_config().MODEL.MINE == "x"


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "--import nowhere: there is no such module"),
        ("nowhere.at.all", "--import nowhere.at.all: there is no such module"),
        ("nowhere.py", "--import nowhere.py: there is no such file"),
        ("json.py", "--import json.py: a module is called json already"),
    ],
)
def test_what_is_not_there(name, message, folder):
    import json  # noqa: F401

    (folder / "json.py").write_text("")
    with pytest.raises(InputError, match=message):
        import_modules([name])


@pytest.mark.parametrize("name", ["broken", "broken.py"])
def test_errors_in_a_module_pass_through(name, folder):
    (folder / "broken.py").write_text("import not_there_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_modules([name])
