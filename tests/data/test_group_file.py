import json
import os

import pytest

from sar.data.datasets.folder import register_folder
from sar.data.datasets.group_file import read_group_file
from sar.errors import InputError

from detectron2.data import MetadataCatalog

NAMES = ["road", "potted plant", "café", "sign"]


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "groups.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_group_file(path, NAMES)

    return read


def test_names_become_ids_in_ascending_order(read, tmp_path):
    assert read_group_file(tmp_path / "groups.json", NAMES) == {}
    # The accent is a character of its own here; a class may be in several groups.
    groups = {"small-ones": ["sign", "cafe\u0301"], "all": [*reversed(NAMES)]}
    assert read(groups) == {"small-ones": [2, 3], "all": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (["road"], r'expected an object such as .*, found \["road"\]'),
        ({"a": []}, 'group "a": expected a list of class names, found'),
        ({"a": "road"}, "expected a list"),
        ({"a": [1]}, "expected a list"),
        ({"a": ["potted plan"]}, 'class "potted plan" is not in .* Did you mean "potted plant"'),
        ({"r_pixel": ["road"]}, '"r_pixel" cannot be the name of a group'),
        ({"a/b": ["road"]}, '"a/b" cannot be the name of a group'),
        ({"": ["road"]}, "cannot be the name of a group"),
    ],
)
def test_other_content_is_refused(read, content, message):
    with pytest.raises(InputError, match=f"groups.json.*{message}"):
        read(content)


def test_a_folder_has_the_groups_in_its_metadata(folder):
    names = register_folder(folder)
    classes = MetadataCatalog.get(names[0]).stuff_classes
    assert MetadataCatalog.get(names[0]).own_groups == {}
    (folder / "groups.json").write_text(json.dumps({"first": classes[:1]}))
    for name in register_folder(folder):
        assert MetadataCatalog.get(name).own_groups == {"first": [0]}
    (folder / "groups.json").unlink()
    os.symlink("nothing", folder / "groups.json")
    with pytest.raises(InputError, match="cannot be read"):
        register_folder(folder)
