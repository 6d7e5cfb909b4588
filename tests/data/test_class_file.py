import time
import unicodedata
from contextlib import suppress

import pytest

from sar.data.datasets.class_file import read_class_file
from sar.errors import InputError


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "classes.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_class_file(path)

    return read


def test_colours_comments_and_blank_lines(read):
    assert read(
        b"\xef\xbb\xbf# id 0 follows\r\nroad\r\n\r\nroad marking 250 200 60\r\n"
        b"  pothole\t#C81e28  \r\nlane 2\r\n\xc3\xa9tang\r\n"
    ) == [
        ("road", None),
        ("road marking", [250, 200, 60]),
        ("pothole", [200, 30, 40]),
        ("lane 2", None),
        ("étang", None),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "0: gravel\n1: kerb\n",
        "0 gravel\n1 kerb\n",
        "0;gravel\n1;kerb\n",
        "00\tgravel\n01\tkerb\n",
        "gravel: 0\nkerb: 1\n",
        "Pixel Value, Class\n0, gravel\n1, kerb\n",
        "# comment\nid,name\n\n0,gravel\n1,kerb\n",
        "class_name\tclass_id\ngravel\t0\nkerb\t1\n",
        "gravel:::\nkerb:::\n",
        "__ignore__\ngravel\nkerb\n",
        "id name\n0 gravel\n1 kerb\n",
        "Idx Name\n0 gravel\n1 kerb\n",
        "class_id class_name\n0 gravel\n1 kerb\n",
        "name,trainId\ngravel,0\nkerb,1\n",
        "gravel 0\nkerb 1\n",
        "gravel (0)\nkerb (1)\n",
        "gravel -> 0\nkerb -> 1\n",
        "0. gravel\n1. kerb\n",
        "0) gravel\n1) kerb\n",
        "0 | gravel\n1 | kerb\n",
        "0 -> gravel\n1 -> kerb\n",
        "class 0 gravel\nclass 1 kerb\n",
    ],
)
def test_ids_and_headers(read, content):
    assert read(content) == [("gravel", None), ("kerb", None)]


@pytest.mark.parametrize(
    "content",
    [
        "# label:color_rgb:parts:actions\ngravel:0,0,0::\nkerb:255,0,0:wheel,door:run\n",
        "label:color_rgb:parts:actions\ngravel:0,0,0::\nkerb:255,0,0::\n",
        "name,r,g,b\ngravel,0,0,0\nkerb,255,0,0\n",
        "0 gravel 0 0 0\n1 kerb 255 0 0\n",
        "id,name,colour\n0,gravel,#000000\n1,kerb,#ff0000\n",
        "id;name;r;g;b\n0;gravel;0;0;0\n1;kerb;255;0;0\n",
        "name r g b\ngravel 0 0 0\nkerb 255 0 0\n",
        "Class Name,Hex Code\ngravel,#000\nkerb,#f00\n",
        "title,color\ngravel,#000000\nkerb,#ff0000\n",
        "gravel (0, 0, 0)\nkerb (255, 0, 0)\n",
        "gravel #000\nkerb #f00\n",
        "gravel#000000\nkerb#ff0000\n",
        "gravel 0x000000\nkerb 0xff0000\n",
        "gravel 0 0 0 0\nkerb 1 255 0 0\n",
    ],
)
def test_colours_of_other_formats(read, content):
    assert read(content) == [("gravel", [0, 0, 0]), ("kerb", [255, 0, 0])]


@pytest.mark.parametrize(
    "name",
    [
        "door, double door",
        "building: roof",
        "3 series",
        "car (parked)",
        "traffic light 2",
        "class 3 road",
        "3.5 mm jack",
        "version 1.5",
        "C#",
        "7",
    ],
)
def test_names_with_marks_and_numbers(read, name):
    assert read(f"road\n{name}\n") == [("road", None), (name, None)]


@pytest.mark.parametrize("name", ["red", "label", "parts", "red label"])
def test_words_of_headers_can_be_classes(read, name):
    assert read(f"{name}\nroad 2\n") == [(name, None), ("road 2", None)]


def test_numbers_that_only_the_names_have_in_common(read):
    assert read("lane 1\nlane 2\n") == [("lane 1", None), ("lane 2", None)]
    assert read("3 series\n5 series\n") == [("3 series", None), ("5 series", None)]


def test_labelmes_background_is_a_class(read):
    assert read("__ignore__\n_background_\ncat\n") == [("_background_", None), ("cat", None)]


def test_names_are_composed(read):
    assert read(unicodedata.normalize("NFD", "étang\n")) == [("étang", None)]
    with pytest.raises(InputError, match="named on line 1 already"):
        read("étang\n" + unicodedata.normalize("NFD", "étang\n"))


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "names no class"),
        ("# nothing\n\n", "names no class"),
        ("road\n\ncar\nroad 1 2 3\n", r'line 4: the class "road" is named on line 1'),
        ("road 10 20 300\n", r'line 1: the colour of "road" is \[10, 20, 300\]'),
        ("road 1 2 " + "9" * 5000, r"line 1: the colour of"),
        (b"r\xe4der\n", "cannot be read .*UTF-8"),
        ("\n".join(map(str, range(65536))), "names 65536 classes"),
        ("1: gravel\n2: kerb\n", "line 1: .* number 1, but the line stands for the id 0"),
        ("0: gravel\n2: kerb\n", "line 2: .* number 2, but the line stands for the id 1"),
        ("9" * 5000 + ": gravel", "line 1: .* number 999999999, but"),
        ("1 gravel\n2 kerb\n", "line 1: .* number 1, but the line stands for the id 0"),
        ("0: gravel\nkerb\n", 'line 2: "kerb" has no id'),
        ("names:\n  0: gravel\n", 'line 1: "names:" looks like a header'),
        ("class\ngravel\n", 'line 1: "class" looks like a header'),
        ("64 128 64\tAnimal\n", "line 1: .* number 64"),
        ("gravel\n__ignore__\n", 'line 2: "__ignore__" is not a class name'),
        ("- gravel\n- kerb\n", 'line 1: "- gravel" is not a class name'),
        ("['gravel', 'kerb']\n", "line 1: .* is not a class name"),
        ("gravel,\nkerb,\n", 'line 1: "gravel," is not a class name'),
        ("kerb 1\ngravel 0\n", "line 1: .* number 1, but the line stands for the id 0"),
        ("1. kerb\n0. gravel\n", "line 1: .* number 1, but the line stands for the id 0"),
        ("class 1 kerb\nclass 0 gravel\n", "line 1: .* number 1, but"),
        ("gravel 0\nkerb 1\nroad\n", 'line 3: "road" has no id'),
        ("gravel 200 0 0 255\nkerb 0 200 0 255\n", "line 1: .* number 200, but"),
        ("gravel,200,0,0,255\nkerb,0,200,0,255\n", "line 1: .* number 200, but"),
        ("gravel 0.5 0.2 0.1\nkerb\n", "line 1: .* is not a class name"),
        ("gravel 200 0\nkerb\n", "line 1: .* is not a class name"),
        ("id name\ngravel\nkerb\n", 'line 1: "id name" looks like a header'),
        ("category\ngravel\n", 'line 1: "category" looks like a header'),
        ("nom,couleur\ngravel,#ff0000\n", "line 1: .* is not a class name"),
        ("#ff0000 gravel\n#00ff00 kerb\n", "line 1: .* may be a colour or a comment"),
        ("road\ngravel # stones\n", "line 2: .* is not a class name"),
        ("| 0 | gravel |\n", "line 1: .* is not a class name"),
        ("<names>\n", "line 1: .* is not a class name"),
        ("// classes\ngravel\n", "line 1: .* is not a class name"),
        ("% classes\ngravel\n", "line 1: .* is not a class name"),
        ("gravel;kerb;bollard\n", "line 1: .* is not a class name"),
        ("gravel, kerb, bollard\n", "line 1: .* is not a class name"),
        ("-1: void\n0: road\n", "line 1: .* has no id"),
        ("gravel\x1b[31m\n", "line 1, has control characters"),
    ],
)
def test_wrong_lines_are_refused(read, tmp_path, content, expected):
    with pytest.raises(InputError, match=expected) as error:
        read(content)
    assert str(tmp_path / "classes.txt") in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("line", ["a" + 3000 * " " + "b", "a" + 3000 * "\t" + "b", "a " * 3000])
def test_long_lines_take_no_time(read, line):
    begin = time.process_time()
    with suppress(InputError):
        read(line)
    assert time.process_time() - begin < 2
