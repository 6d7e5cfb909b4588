import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from sar.checkpoints.array_pickle import load_arrays
from sar.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def load(tmp_path):
    def load_bytes(content):
        (tmp_path / "a.pkl").write_bytes(content)
        return load_arrays(tmp_path / "a.pkl")

    return load_bytes


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        *(np.arange(6).reshape(2, 3).astype(t) for t in "bBhHiIlLefd?FD"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24.0).reshape(2, 3, 4)[:, ::2].transpose(2, 0, 1),
        np.zeros((0, 3)),
        np.array(2.5),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.arange(3, dtype=">i4"),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_are_read_as_they_were(array, protocol, load):
    read = load(pickle.dumps(array, protocol=protocol))
    assert isinstance(read, np.ndarray)
    native = array.astype(array.dtype.newbyteorder("="))  # which NumPy makes of it, too
    np.testing.assert_array_equal(read, native, strict=protocol < 5 or array.dtype == native.dtype)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_and_scalars(protocol, load):
    shared = np.ones(3, np.float32)
    content = OrderedDict(
        a=[1, 2.5, "x", b"y", None, True], b={"c": (shared, shared)}, d=np.float64(3), e={1, 2}
    )
    content["f"] = np.int64(-4)
    if protocol < 4:  # sets are functions there
        del content["e"]
    read = load(pickle.dumps(content, protocol=protocol))
    assert read.keys() == content.keys() and read["a"] == content["a"]
    assert read["d"] == 3 and read["d"].dtype == np.float64 and read["f"] == -4
    first, second = read["b"]["c"]
    assert first is second
    assert torch.equal(torch.from_numpy(first), torch.ones(3))


def test_the_pickles_of_python_2_and_numpy_1(load):
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\xff\xff\x01\x00tb."
    )
    np.testing.assert_array_equal(load(content), np.array([-1, 1], np.int16), strict=True)


def _pickled(dtype_name, dtype_flags, shape, content):
    """An array's pickle of protocol 2, with a dtype state as NumPy writes it, but for the flags."""
    name = pickle.dumps(dtype_name, 0)[:-1]
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + b"cnumpy\ndtype\n" + name + b"K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([dtype_flags]) + b"tb\x89"
        b"U" + bytes([len(content)]) + content + b"tb."
    )


def test_bytes_never_become_addresses_of_objects(load):
    flags = np.dtype(object).flags
    assert flags & 1  # each item is an object, whose references are counted
    array = load(_pickled("f8", flags, (2,), b"\x41" * 16))
    assert array.dtype == np.float64 and not array.dtype.hasobject
    assert array.dtype.flags == np.dtype("f8").flags


@pytest.mark.parametrize(
    "content",
    [
        _pickled("O", 63, (1,), b"\x41" * 8),
        _pickled("V8", 0, (1,), b"\x41" * 8),
        _pickled("f8,O", 63, (1,), b"\x41" * 16),
        pickle.dumps(np.array([object], dtype=object)),
        pickle.dumps(np.zeros(1, [("a", "f4")])),
    ],
)
def test_arrays_of_anything_but_numbers_and_text_are_refused(content, load):
    with pytest.raises(InputError, match="refused, since it has an array of dtype|would run"):
        load(content)


@pytest.mark.parametrize("shape", [(3,), (2**40,), (-1,), (-2, -1), (2**63, 2)])
def test_shapes_that_the_bytes_do_not_fill_are_refused(shape, load):
    with pytest.raises((ValueError, OverflowError)):
        load(_pickled("f8", 0, shape, b"\x41" * 16))


@pytest.mark.parametrize(
    "function", [eval, print, np.load, np.ndarray.tofile, torch.load, type], ids=repr
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_functions_are_refused_by_name(function, protocol, load):
    with pytest.raises(InputError, match="refused, since it would run"):
        load(pickle.dumps({"weights": function}, protocol=protocol))


def test_a_size_never_becomes_that_many_bytes(load):
    size = pickle.dumps(4_000_000_000, 2)[2:-1]
    with pytest.raises(TypeError):
        load(b"\x80\x02c__builtin__\nbytes\n" + size + b"\x85R.")
