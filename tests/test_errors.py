import pickle

import pytest

from sar.errors import InputError, dimensions, listed, printable, shortened


@pytest.mark.parametrize(
    "items, expected",
    [([], ""), ([1], "1"), ([1, 2, 3], "1; 2; 3"), (range(7), "0; 1; 2 and 4 more")],
)
def test_listed(items, expected):
    assert listed(items, 3, separator="; ") == expected


@pytest.mark.parametrize("shape, expected", [((), "a scalar"), ((5,), "5"), ((8, 3, 1), "8x3x1")])
def test_dimensions(shape, expected):
    assert dimensions(shape) == expected


def test_shortened():
    assert shortened("road") == '"road"' and shortened(None) == "null"
    assert shortened("x" * 79) == '"' + "x" * 76 + "..."


@pytest.mark.parametrize(
    "text, expected",
    [
        ("straße 道路 ",) * 2,
        ("क्\u200dष",) * 2,
        ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"),
        ("a\r\nb\tc\x00\x7f", r"a\r\nb\tc\x00\x7f"),
        ("\u202egnp.exe \u2066\u2028", r"\u202egnp.exe \u2066\u2028"),
        ("caf\udce9", r"caf\udce9"),
        (3, "3"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected


def test_an_error_keeps_its_own_lines_and_nothing_else_that_moves_the_cursor():
    error = InputError("two problems:", "  file \x1b]0;title\x07.png\r\nerror: forged\t")
    text = "two problems:\n  file \\x1b]0;title\\x07.png\\r\\nerror: forged\\t"
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == text
    assert str(InputError()) == ""
