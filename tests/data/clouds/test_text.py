import numpy as np
import pytest

from sar.data.clouds import read_cloud, write_labels
from sar.errors import InputError

XYZ = [[1, 2, 3], [4.5, -5, 6e-1]]


def cloud_of(tmp_path, text, name="a.txt", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return read_cloud(path)


def rows(extra, separator=" "):
    return "".join(
        separator.join([*map(str, point), *extra[index]]) + "\n" for index, point in enumerate(XYZ)
    )


@pytest.mark.parametrize("separator", [" ", "  ", "\t", ",", ", ", ";", " ; "])
@pytest.mark.parametrize("mark", ["", "#", "// "])
def test_separators_and_names(separator, mark, tmp_path):
    names = separator.join(
        ["X", "Y", "Z", "Rf", "Gf", "Bf", "Nx", "Ny", "Nz", "Intensity", "class"]
    )
    extra = ["0 0.5 1 0 0 -1 12 3".split(), "1 1 0.25 1 0 0 7 4".split()]
    text = f"{mark}{names}\n" + rows(extra, separator).replace("\n", "\r\n")
    cloud = cloud_of(tmp_path, text)
    np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_array_equal(cloud.color, [[0, 0.5, 1], [1, 1, 0.25]])
    np.testing.assert_array_equal(cloud.normal, [[0, 0, -1], [1, 0, 0]])
    np.testing.assert_array_equal(cloud.intensity, [12, 7])
    np.testing.assert_array_equal(cloud.label, [3, 4])


def test_files_without_names(tmp_path):
    assert cloud_of(tmp_path, rows([[], []])).label is None
    color = np.array([[255, 0, 51], [0, 0, 0]], np.float32) / 255
    for first, label in (("", None), ("\n# made by a program\n\n", None), ("\ufeff", [7, 8])):
        extra = [["255", "0", "51"], ["0", "0", "0"]]
        if label:
            extra = [[*line, str(one)] for line, one in zip(extra, label, strict=True)]
        cloud = cloud_of(tmp_path, first + rows(extra))
        np.testing.assert_array_equal(cloud.xyz, XYZ)
        np.testing.assert_allclose(cloud.color, color)
        np.testing.assert_array_equal(cloud.label, label)


def test_pts_has_the_number_of_its_points(tmp_path):
    extra = [["-900", "255", "0", "51"], ["8", "0", "0", "0"]]
    cloud = cloud_of(tmp_path, "2\n" + rows(extra), "a.pts")
    np.testing.assert_array_equal(cloud.intensity, [-900, 8])
    np.testing.assert_allclose(cloud.color[0], [1, 0, 0.2], rtol=1e-6)
    assert cloud.label is None
    write_labels(tmp_path / "a.pts", np.array([5, 6]), tmp_path / "b.pts")
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.pts").label, [5, 6])
    with pytest.raises(InputError, match="2 points, but its first line promises 3"):
        cloud_of(tmp_path, "3\n" + rows(extra), "a.pts")
    with pytest.raises(InputError, match="7 columns without names, and their meaning is unclear"):
        cloud_of(tmp_path, rows(extra), "a.pts")


@pytest.mark.parametrize("separator", [",", ", ", ";", " ; "])
@pytest.mark.parametrize("names", ["", "x y z label", "x y z label extra"])
def test_a_separator_may_end_each_line(names, separator, tmp_path):
    columns = names.split()
    first = "".join(f"{name}{separator}" for name in columns) + "\n" if names else ""
    extra = [["7", "0", ""], ["8", "0", ""]] if len(columns) == 5 else [["7", ""], ["8", ""]]
    extra = extra if names else [[""], [""]]
    cloud = cloud_of(tmp_path, first + rows(extra, separator).replace("\n", "\r\n\n"), "a.csv")
    np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_array_equal(cloud.label, [7, 8] if names else None)
    write_labels(tmp_path / "a.csv", np.array([5, 6]), tmp_path / "b.csv")
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.csv").xyz, XYZ)
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.csv").label, [5, 6])


def test_labels_are_added_instead_of_an_empty_column(tmp_path):
    cloud_of(tmp_path, "x,y,z,\n1,2,3,\n4,5,6,\n", "a.csv")
    write_labels(tmp_path / "a.csv", np.array([5, 6]), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_bytes() == b"x,y,z,label\n1,2,3,5\n4,5,6,6\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("1,2,3,\n4,5,\n", "Line 2 of .* has 2 columns, expected 3"),
        ("1,2,3,\n4,5,6,,\n", 'Line 2 of .* has "", expected a number'),
        ("x,y,z,label\n1,2,3,\n", "names 4 columns .* line 2, has 3"),
        (rows([["1"], ["2"]]), r"4 columns without names.* such as `x y z intensity` or `x y z la"),
        ("x y z\n" + rows([["1"], ["2"]]), r"names 3 columns \(x, y, z\), but .* line 2, has 4"),
        ("a b c\n" + rows([[], []]), r"no coordinates x, y and z\. Its columns are a, b, c"),
        ("x y z red\n" + rows([["1"], ["2"]]), r"columns red without green, blue"),
        ("x y z label\n" + rows([["1"], ["road"]]), r'Line 3 of .* has "road", expected a number'),
        ("x y z label\n" + rows([["road"], ["1"]]), r'Line 2 of .* is "1 2 3 road"\. Expected num'),
        ("x,y,z\n1,2,3\n\n4,5\n", "Line 4 of .* has 2 columns, expected 3"),
        ("x,y,z\n1,2,3\n4,,5\n", 'Line 3 of .* has "", expected a number'),
        ("x;y;z\n1,5;2,5;3,5\n", 'Line 2 of .* is "1,5;2,5;3,5".* write decimal points'),
        ("# nothing\nx y z\n\n", "has no points"),
        ("1 2 3 0.1 -0.2 0.3\n", "colours of .* range from -0.2 to 0.3"),
        ("1 2 3 0 0 70000\n", "colours of .* range from 0 to 70000"),
        ("a" * 100_000, "Line 1 of .* has 100000 characters"),
        ("x\0y\0z\0", "is not a text file"),
    ],
)
def test_a_wrong_file(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        cloud_of(tmp_path, text)
    assert "a.txt" in str(caught.value)


def test_the_copy_keeps_its_style(tmp_path):
    path, output = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_bytes(b"// X;Y;Z;Class;Other\r\n1;2;3;4;0x\r\n".replace(b"0x", b"10"))
    write_labels(path, np.array([9]), output)
    assert output.read_bytes() == b"// X;Y;Z;Class;Other\r\n1;2;3;9;10\r\n"
    path.write_bytes(b"1\t2.50\t3\n")
    write_labels(path, np.array([9]), output)
    assert output.read_bytes() == b"x\ty\tz\tlabel\n1\t2.50\t3\t9\n"
