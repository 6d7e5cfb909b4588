import struct
import warnings

import numpy as np
import pytest

from sar.data.clouds import read_cloud, read_cloud_label, write_labels
from sar.errors import InputError

from .writers import write_ply

XYZ = np.array([[1.5, 2, 3], [-4, 5, 6.25], [7, 8, 9]])
HEADER = """\
ply
format {form} 1.0
comment end_header is below
element camera 1
property list uchar float view
property double focus
element vertex 3
property uchar blue
property double z
property list {length} short neighbours
property float y
property float scalar_Classification
property uchar red
property int x
property uchar green
element face 1
property list uchar int vertex_indices
property uchar red
end_header
"""
LISTS = ([7, -8], [], [1])
VALUES = ((30, 3.0, 2.5, 4.0, 10, -1, 20), (31, 6.0, 5.5, 5.0, 11, -2, 21), (0, 9, 8, 6, 0, -3, 0))


def mixed(form, order, length="uchar"):
    """Return a file with lists of several lengths before and in its vertices."""
    header = HEADER.format(form=form, length=length).encode()
    if order == "":
        text = "2 1.5 2.5 100\n"
        for (blue, z, *rest), items in zip(VALUES, LISTS, strict=True):
            text += " ".join(map(str, (blue, z, len(items), *items, *rest))) + "\n"
        return header + text.encode() + b"3 0 1 2 9\n"
    data = struct.pack(f"{order}Bffd", 2, 1.5, 2.5, 100)
    for (blue, z, *rest), items in zip(VALUES, LISTS, strict=True):
        data += struct.pack(f"{order}Bd{'B' if length == 'uchar' else 'i'}", blue, z, len(items))
        data += struct.pack(f"{order}{len(items)}hffBiB", *items, *rest)
    return header + data + struct.pack(f"{order}BiiiB", 3, 0, 1, 2, 9)


FORMS = [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")]


@pytest.mark.parametrize("form, order", FORMS)
def test_any_order_of_properties_and_lists(form, order, tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(mixed(form, order))
    write_labels(path, np.array([300, 5, 0]), tmp_path / "b.ply")
    for name, label in (("a.ply", [4, 5, 6]), ("b.ply", [300, 5, 0])):
        cloud = read_cloud(tmp_path / name)
        np.testing.assert_array_equal(cloud.xyz, [[-1, 2.5, 3], [-2, 5.5, 6], [-3, 8, 9]])
        expected = np.array([[10, 20, 30], [11, 21, 31], [0, 0, 0]]) / 255
        np.testing.assert_allclose(cloud.color, expected, rtol=1e-6)
        np.testing.assert_array_equal(cloud.label, label)
        assert cloud.intensity is None and cloud.normal is None
    written = (tmp_path / "b.ply").read_bytes()
    assert b"property ushort scalar_Classification\n" in written
    assert written.count(b"\nproperty ") == mixed(form, order).count(b"\nproperty ")
    assert written.endswith(mixed(form, order)[-14 if order else -10 :])  # the face


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
@pytest.mark.parametrize("order", ["<", ""])
def test_other_line_breaks(newline, order, tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, xyz=XYZ, order=order)
    header, mark, data = path.read_bytes().partition(b"end_header\n")
    header, mark = header.replace(b"\n", newline), mark.replace(b"\n", newline)
    path.write_bytes(header + mark + (data if order else data.replace(b"\n", newline)))
    write_labels(path, np.array([4, 5, 6]), tmp_path / "b.ply")
    np.testing.assert_array_equal(read_cloud(path).xyz, XYZ)
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.ply").xyz, XYZ)
    np.testing.assert_array_equal(read_cloud_label(tmp_path / "b.ply"), [4, 5, 6])


@pytest.mark.parametrize("empty", [b"\n", b" \t\n\r\n"])
def test_empty_lines_of_a_text_are_skipped(empty, tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, xyz=XYZ, order="")
    header, mark, data = path.read_bytes().partition(b"end_header\n")
    path.write_bytes(header + mark + empty + data.replace(b"\n", b"\n" + empty))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_cloud(path).xyz, XYZ)
    write_labels(path, np.array([4, 5, 6]), tmp_path / "b.ply")
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.ply").xyz, XYZ)
    np.testing.assert_array_equal(read_cloud_label(tmp_path / "b.ply"), [4, 5, 6])
    assert (tmp_path / "b.ply").read_bytes().endswith(empty + b"3 0 1 2\n" + empty)
    path.write_bytes(path.read_bytes().replace(b"7.0", b"road"))
    number = 1 + path.read_bytes()[: path.read_bytes().index(b"road")].count(b"\n")
    with pytest.raises(InputError, match=f'Line {number} of .*a.ply has "road"'):
        read_cloud(path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"ply\n", b"PLY\n", "is not a PLY file, because its first line is not `ply`"),
        (b"", b"", ""),  # without its end
        (b"element vertex 3", b"element vertex 0", "has no points"),
        (b"element vertex 3", b"element vertex 999999999999999", "that its header promises|promis"),
        (b"element vertex 3", b"element vertex -3", 'Line 7 .* is "element vertex -3", which PLY'),
        (b"element vertex 3", b"element point 3", "has 0 elements vertex, expected one"),
        (b"property int x", b"property text x", 'is "property text x", which PLY does not have'),
        (b"property int x", b"property int w", r"has the columns y, z without x"),
        (b"property int x", b"property int y", "two properties of the element vertex the same"),
        (b"element camera 1", b"element camera 9", "promises"),
        (b"1.0\n", b"2.0\n", "which PLY does not have"),
    ],
)
@pytest.mark.parametrize("form, order", FORMS[:2])
def test_a_wrong_header(form, order, old, new, message, tmp_path):
    path = tmp_path / "a.ply"
    data = mixed(form, order)
    if new == b"":
        old, message = data[data.index(b"end_header\n") :], "has no line `end_header`"
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_cloud(path)
    assert "a.ply" in str(caught.value)


@pytest.mark.parametrize("form, order", FORMS)
def test_a_truncated_file(form, order, tmp_path):
    path = tmp_path / "a.ply"
    data = mixed(form, order)
    end = len(data) - (14 if order else 10)  # of the vertices
    for size in (data.index(b"\nend_header") + 12, end - 20, end - 3):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"a\.ply .*(promises|do not fit)"):
            read_cloud(path)


def test_numbers_of_a_text_fit_their_types(tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, xyz=XYZ, order="", label=np.array([1, 2, 3], np.uint8))
    path.write_bytes(path.read_bytes().replace(b"6.25 2", b"6.25 300"))
    with pytest.raises(
        InputError, match='"label" of vertex 1 .* is 300. Expected .* from 0 to 255'
    ):
        read_cloud(path)
    path.write_bytes(path.read_bytes().replace(b"6.25 300", b"6.25 road"))
    with pytest.raises(InputError, match='Line 13 of .*a.ply has "road", expected a number'):
        read_cloud(path)


def test_a_negative_length_of_a_list(tmp_path):
    path = tmp_path / "a.ply"
    data = mixed("binary_little_endian", "<", "int")
    assert read_cloud_label_of(path, data) == [4, 5, 6]
    place = data.index(struct.pack("<Bdi", 30, 3, 2)) + 9
    with pytest.raises(InputError, match="has a list of -1 numbers"):
        read_cloud_label_of(path, data[:place] + b"\xff" * 4 + data[place + 4 :])


def read_cloud_label_of(path, data):
    path.write_bytes(data)
    return read_cloud_label(path).tolist()
