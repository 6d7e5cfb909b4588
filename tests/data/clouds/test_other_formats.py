"""What is special in NPZ, LAS and KITTI."""

import io
import struct
import zipfile

import numpy as np
import pytest

from sar.data.clouds import read_cloud, read_cloud_label, write_labels
from sar.errors import InputError

from .writers import write_kitti, write_las

XYZ = np.arange(12.0).reshape(4, 3) + 1
LABEL = np.array([0, 1, 2, 31])


def test_npz_keeps_other_arrays_and_never_unpickles(tmp_path):
    path, output = tmp_path / "a.npz", tmp_path / "b.npz"
    other = np.array([{"never": "unpickled"}], object)
    np.savez_compressed(path, xyz=XYZ.astype(np.float32), other=other, normal=XYZ.astype(np.int8))
    write_labels(path, LABEL, output)
    cloud = read_cloud(output)
    np.testing.assert_array_equal(cloud.label, LABEL)
    np.testing.assert_allclose(cloud.normal, XYZ / 127, rtol=1e-6)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(output) as new:
        assert set(new.namelist()) == {*old.namelist(), "label.npy"}
        assert all(old.read(name) == new.read(name) for name in old.namelist())
    np.savez(path, xyz=XYZ.astype(object))
    with pytest.raises(InputError, match="array xyz of .*a.npz has the type object"):
        read_cloud(path)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"points": XYZ}, "has no array xyz. Its arrays are points"),
        ({"xyz": XYZ.T}, "xyz of .* has the shape 3x4. Expected Nx3"),
        ({"xyz": XYZ, "label": LABEL[:3]}, "label of .* has the shape 3. Expected 4"),
        ({"xyz": XYZ, "color": XYZ[0]}, "color of .* has the shape 3. Expected 4x3"),
        ({"xyz": XYZ[:0]}, "has no points"),
    ],
)
def test_npz_of_wrong_arrays(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_cloud(tmp_path / "a.npz")


def test_npz_without_points_is_refused_when_only_labels_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", xyz=XYZ[:0], label=LABEL[:0])
    for read in (read_cloud, read_cloud_label):
        with pytest.raises(InputError, match="a.npz has no points: remove it"):
            read(tmp_path / "a.npz")


def test_npz_with_a_header_that_lies(tmp_path):
    array = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("xyz.npy", array.getvalue() + XYZ.tobytes())
    with pytest.raises(InputError, match="xyz of .*a.npz promises 1000000000000x3 numbers"):
        read_cloud(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_has_room_for_any_class(suffix, tmp_path):
    laspy = pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    path, output = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for point_format, labels, dimension in (
        (3, LABEL, "classification"),
        (3, LABEL + 1, "label"),
        (7, LABEL + 200, "classification"),
        (7, LABEL + 300, "label"),
    ):
        write_las(path, XYZ, color=np.zeros((4, 3)), label=LABEL, point_format=point_format)
        write_labels(path, labels, output)
        las = laspy.read(output)
        np.testing.assert_array_equal(np.array(las[dimension]), labels)
        np.testing.assert_array_equal(las.xyz, XYZ)
        if dimension == "label":
            np.testing.assert_array_equal(np.array(las.classification), LABEL)
        np.testing.assert_array_equal(read_cloud_label(output), labels)
        again = tmp_path / f"c{suffix}"
        write_labels(output, labels[::-1], again)
        np.testing.assert_array_equal(read_cloud_label(again), labels[::-1])


def test_las_with_several_labels_reads_the_first_and_replaces_it(tmp_path):
    """CloudCompare adds a dimension of its own to a file that has labels already."""
    laspy = pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    names = ("scalar_Label", "label", "Label", "LABEL", "scalar_label", "Scalar_Label", "lAbel")
    las = laspy.create(point_format=3)
    las.x, las.y, las.z = XYZ.T
    for value, name in enumerate(names):
        las.add_extra_dim(laspy.ExtraBytesParams(name, np.uint8))
        las[name] = np.full(4, value)
    path, output = tmp_path / "a.las", tmp_path / "b.las"
    las.write(path)
    assert read_cloud_label(path).tolist() == [0] * 4
    write_labels(path, LABEL, output)
    assert read_cloud_label(output).tolist() == LABEL.tolist()
    assert [int(laspy.read(output)[name][0]) for name in names[1:]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["label", "classes", "category"])
def test_las_that_was_never_classified_may_have_another_label(name, tmp_path):
    laspy = pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    path, output = tmp_path / "a.las", tmp_path / "b.las"
    write_las(path, XYZ)
    las = laspy.read(path)
    las.add_extra_dim(laspy.ExtraBytesParams(name, np.uint8))
    las.write(path)
    assert read_cloud(path).label.tolist() == [0] * 4
    write_labels(path, LABEL, output)
    assert read_cloud_label(output).tolist() == LABEL.tolist()
    assert np.array(laspy.read(output)[name]).tolist() == LABEL.tolist()


def test_las_with_predictions_of_only_class_0_has_labels(tmp_path):
    laspy = pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    path, output = tmp_path / "a.las", tmp_path / "b.las"
    for label in (None, LABEL):
        write_las(path, XYZ, label=label)
        write_labels(path, 0 * LABEL, output)
        assert read_cloud_label(output).tolist() == [0] * 4
        assert np.array(laspy.read(output)["label"]).tolist() == [0] * 4


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_with_a_header_that_lies(suffix, tmp_path):
    pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    path = tmp_path / f"a{suffix}"
    write_las(path, XYZ, point_format=6)
    data = path.read_bytes()
    for place, form, value in ((247, "<Q", 10**12), (100, "<I", 2**31), (243, "<I", 2**31)):
        size = struct.calcsize(form)
        path.write_bytes(data[:place] + struct.pack(form, value) + data[place + size :])
        with pytest.raises(InputError, match=rf"a\{suffix} .*(header|fit)"):
            read_cloud(path)
    if suffix == ".laz":
        (start,) = struct.unpack_from("<I", data, 96)
        (table,) = struct.unpack_from("<q", data, start)
        layer = start + 8 + 30 + 4  # after the first point, of 30 bytes, and the count
        for place in (start, table + 4, layer):
            path.write_bytes(data[:place] + b"\xff\xff\xff\x7f" + data[place + 4 :])
            with pytest.raises(InputError, match="compressed points of .*a.laz do not fit"):
                read_cloud(path)
    path.write_bytes(b"ply\n")
    with pytest.raises(InputError, match="is not a LAS or LAZ file"):
        read_cloud(path)


def test_colours_of_16_bits(tmp_path):
    pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    color = np.array([[0, 1, 2], [255, 128, 64], [3, 4, 5], [6, 7, 8]])
    for factor in (1, 1 / 257):  # many programs write 8 bits
        write_las(tmp_path / "a.las", XYZ, color=color * factor)
        found = read_cloud(tmp_path / "a.las").color
        np.testing.assert_allclose(found, color / 255, atol=1e-3)


@pytest.mark.parametrize(
    "values, kind, full_scale",
    [
        ([0, 1, 200, 255], "u1", 255),
        ([0, 1, 200, 255], "u2", 65535),
        ([0, 300, 9, 65535], "u2", 65535),
        ([0, -300, 9, 32767], "i2", 65535),
        ([0, 1, 200, 255], "i8", 1),  # tiles of one scanner can have 255 and 256 as their largest
        ([0, 1, 200, 256], "i8", 1),
        ([0, 0.5, 1, 0.25], "f4", 1),
        ([0, -900, 20, 9], "f4", 1),
    ],
)
def test_intensities_are_scaled_by_the_range_of_their_type_only(values, kind, full_scale, tmp_path):
    values = np.array(values, kind)
    np.savez(tmp_path / "a.npz", xyz=XYZ, intensity=values)
    found = read_cloud(tmp_path / "a.npz").intensity
    np.testing.assert_array_equal(found, values.astype(np.float32) / np.float32(full_scale))


def test_intensities_of_las_have_16_bits(tmp_path):
    pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    for values in ([0, 3, 200, 255], [0, 3, 200, 65535]):
        write_las(tmp_path / "a.las", XYZ, intensity=values)
        found = read_cloud(tmp_path / "a.las").intensity
        np.testing.assert_allclose(found, np.array(values) / 65535, rtol=1e-6)


def test_remissions_of_kitti_stay_as_they_are(tmp_path):
    values = np.random.default_rng(0).random(4, np.float32)
    write_kitti(tmp_path / "a.bin", XYZ, intensity=values)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.bin").intensity, values)


def test_kitti_labels_may_lie_in_their_own_folder(tmp_path):
    path = tmp_path / "velodyne" / "000000.bin"
    path.parent.mkdir()
    write_kitti(path, XYZ, label=LABEL)
    assert read_cloud(path).label.tolist() == LABEL.tolist()
    (tmp_path / "labels").mkdir()
    moved = path.with_suffix(".label").rename(tmp_path / "labels" / "000000.label")
    assert read_cloud_label(path).tolist() == LABEL.tolist()
    assert read_cloud_label(moved).tolist() == LABEL.tolist()
    with pytest.raises(InputError, match="would replace .*labels/000000.label"):
        write_labels(path, LABEL, moved)
    moved.write_bytes(moved.read_bytes()[:-4])
    with pytest.raises(
        InputError, match="000000.label has 3 labels, but .*000000.bin has 4 points"
    ):
        read_cloud(path)
    moved.write_bytes(b"12345")
    with pytest.raises(InputError, match="000000.label has 5 bytes"):
        read_cloud_label(path)


@pytest.mark.parametrize(
    "data, message",
    [
        (bytes(32), "largest coordinate is 0 m"),
        (np.full(8, 1e20, "<f4").tobytes(), "largest coordinate is 1e"),
        (bytes(33), "33 bytes, which is not a multiple of 16"),
    ],
)
def test_a_file_that_is_not_a_scan(data, message, tmp_path):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_cloud(tmp_path / "a.bin")
