"""Every format gives the same cloud, keeps the rest of a file, and never harms the source."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sar.data.clouds import (
    CLOUD_SUFFIXES,
    Cloud,
    has_labels,
    read_cloud,
    read_cloud_label,
    write_labels,
)
from sar.errors import InputError

from .writers import WRITERS, write

N = 6
XYZ = np.array([[x, -2.5 * x, 0.125 * x - 3] for x in range(1, N + 1)])
COLOR = np.arange(3 * N).reshape(N, 3) * 15
INTENSITY = np.linspace(0, 1, N).astype(np.float32)
LABEL = np.array([0, 3, 1, 3, 30, 2])


def example(suffix, tmp_path):
    if suffix in (".las", ".laz"):
        pytest.importorskip("laspy", reason="needs pip install -e .[points]")
        pytest.importorskip("lazrs", reason="needs pip install -e .[points]")
    path = tmp_path / f"cloud{suffix}"
    write(path, xyz=XYZ, color=COLOR, intensity=INTENSITY, label=LABEL)
    return path


def output_of(path, name="output"):
    return path.with_name(name + (".label" if path.suffix == ".bin" else path.suffix))


def test_every_suffix_has_a_writer():
    assert set(WRITERS) == set(CLOUD_SUFFIXES)


@pytest.mark.parametrize("suffix", CLOUD_SUFFIXES)
def test_a_format(suffix, tmp_path):
    path = example(suffix, tmp_path)
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_array_equal(cloud.label, LABEL)
    np.testing.assert_array_equal(read_cloud_label(path), LABEL)
    if suffix != ".bin":
        np.testing.assert_allclose(cloud.color, COLOR / 255, rtol=1e-6)
    if suffix not in (".las", ".laz"):
        np.testing.assert_allclose(cloud.intensity, INTENSITY, rtol=1e-6)
    upper = path.rename(path.with_suffix(suffix.upper()))
    np.testing.assert_array_equal(read_cloud(upper).xyz, XYZ)


@pytest.mark.parametrize("suffix", CLOUD_SUFFIXES)
@pytest.mark.parametrize("labels", [LABEL[::-1], LABEL + 300], ids=["8 bits", "16 bits"])
def test_labels_are_written_into_a_copy(suffix, labels, tmp_path):
    path = example(suffix, tmp_path)
    before, output = path.read_bytes(), output_of(path)
    cloud = read_cloud(path)
    write_labels(path, labels, output)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.glob(".sar-tmp*")] == []
    np.testing.assert_array_equal(read_cloud_label(output), labels)
    if suffix != ".bin":
        copy = read_cloud(output)
        np.testing.assert_array_equal(copy.xyz, cloud.xyz)
        np.testing.assert_array_equal(copy.color, cloud.color)
        np.testing.assert_array_equal(copy.intensity, cloud.intensity)


@pytest.mark.parametrize("suffix", CLOUD_SUFFIXES)
def test_labels_are_added(suffix, tmp_path):
    if suffix in (".las", ".laz"):
        pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    path = tmp_path / f"cloud{suffix}"
    write(path, xyz=XYZ, intensity=INTENSITY)
    assert read_cloud(path).label is None and not has_labels(path)
    with pytest.raises(InputError, match=r"cloud\.\w+ has no labels\. Expected "):
        read_cloud_label(path)
    write_labels(path, LABEL, output_of(path))
    np.testing.assert_array_equal(read_cloud_label(output_of(path)), LABEL)


@pytest.mark.parametrize("suffix", [s for s in CLOUD_SUFFIXES if s not in (".las", ".laz", ".bin")])
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_round_trip(suffix, data, tmp_path):
    shape = (data.draw(st.integers(1, 9)), 3)
    numbers = st.floats(-1e8, 1e8).map(lambda x: x + 0.0)
    xyz = data.draw(hnp.arrays(np.float64, shape, elements=numbers))
    color = data.draw(hnp.arrays(np.uint8, shape))
    color[0] = 255  # otherwise the range of a dark cloud is unknown in a text file
    label = data.draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, 70000)))
    path = tmp_path / f"a{suffix}"
    write(path, xyz=xyz, color=color, label=label)
    write_labels(path, label[::-1], output_of(path))
    for name, expected in ((path, label), (output_of(path), label[::-1])):
        cloud = read_cloud(name)
        np.testing.assert_array_equal(cloud.xyz, xyz)
        np.testing.assert_allclose(cloud.color, color / 255, rtol=1e-6)
        np.testing.assert_array_equal(cloud.label, expected)


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".txt", ".bin"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_coordinate_that_is_not_finite(suffix, value, tmp_path):
    xyz = XYZ.copy()
    xyz[4, 1] = xyz[5, 0] = value
    path = tmp_path / f"cloud{suffix}"
    write(path, xyz=xyz, intensity=INTENSITY)
    with pytest.raises(InputError, match=rf"coordinates of point 4 .*cloud\{suffix} are .*{value}"):
        read_cloud(path)


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".txt"])
def test_labels_are_whole_numbers(suffix, tmp_path):
    path = tmp_path / f"cloud{suffix}"
    write(path, xyz=XYZ, label=LABEL.astype(np.float32))
    label = read_cloud_label(path)
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, LABEL)
    write(path, xyz=XYZ, label=LABEL + np.float32(0.5) * (np.arange(N) == 2))
    for read in (read_cloud, read_cloud_label):
        with pytest.raises(InputError, match=r"label of point 2 .*cloud\.\w+ is 1\.5"):
            read(path)


@pytest.mark.parametrize("suffix", CLOUD_SUFFIXES)
def test_the_source_is_never_replaced(suffix, tmp_path):
    path = example(suffix, tmp_path)
    link = output_of(path, "link")
    truth = path.with_suffix(".label") if suffix == ".bin" else path
    link.symlink_to(truth)
    before = truth.read_bytes()
    for output in (truth, link):
        with pytest.raises(InputError, match="would replace .*Write them to another file"):
            write_labels(path, LABEL[::-1], output)
    with pytest.raises(InputError, match="output.png: expected the suffix"):
        write_labels(path, LABEL, tmp_path / "output.png")
    assert truth.read_bytes() == before


@pytest.mark.parametrize("suffix", CLOUD_SUFFIXES)
def test_wrong_labels_write_nothing(suffix, tmp_path):
    path = example(suffix, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="5 labels for the 6 points"):
        write_labels(path, LABEL[:5], output_of(path))
    if suffix not in (".npz", ".txt", ".xyz", ".csv", ".pts"):
        with pytest.raises(InputError, match="range from 0 to 4294967296"):
            write_labels(path, np.where(LABEL == 30, 2**32, LABEL), output_of(path))
    for labels in (LABEL.astype(float), LABEL[None]):
        with pytest.raises(ValueError, match="expected whole numbers"):
            write_labels(path, labels, output_of(path))
    with pytest.raises(OSError):
        write_labels(path, LABEL, path / output_of(path).name)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_cloud(tmp_path):
    with pytest.raises(InputError, match=r'the unknown suffix "\.png"\. Expected one of \.ply, '):
        (tmp_path / "a.png").write_bytes(b"x")
        read_cloud(tmp_path / "a.png")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="folder.ply is a folder, a pipe or a device"):
        read_cloud(tmp_path / "folder.ply")
    with pytest.raises(InputError, match="missing.npz is not there"):
        read_cloud_label(tmp_path / "missing.npz")
    for suffix in CLOUD_SUFFIXES:
        (tmp_path / f"empty{suffix}").touch()
        with pytest.raises(InputError, match=rf"empty\{suffix} is empty"):
            read_cloud(tmp_path / f"empty{suffix}")


def test_laspy_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "laspy", None)
    (tmp_path / "a.laz").write_bytes(b"LASF")
    with pytest.raises(InputError, match=r"a\.laz needs laspy .*pip install -e \.\[points\]"):
        read_cloud(tmp_path / "a.laz")


def test_a_cloud_checks_its_arrays():
    assert len(Cloud(XYZ)) == N
    with pytest.raises(ValueError, match=r"xyz has .*float32, expected \(6, 3\) and float64"):
        Cloud(XYZ.astype(np.float32))
    with pytest.raises(ValueError, match=r"color has the shape \(5, 3\)"):
        Cloud(XYZ, color=np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match="label has"):
        Cloud(XYZ, label=LABEL.astype(np.uint8))
