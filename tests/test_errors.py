import pytest

from sar.errors import dimensions, listed, shortened


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
