"""What is kept between runs."""

import os

import pytest

from sar.files.cache import cache_path, load_cached, states_of, store_cached


def test_a_result_is_found_by_its_key():
    path = cache_path("things", [1, "a"])
    assert load_cached(path) is None
    store_cached(path, {"count": 3})
    assert load_cached(cache_path("things", [1, "a"])) == {"count": 3}
    assert load_cached(cache_path("things", [2, "a"])) is None
    assert load_cached(cache_path("others", [1, "a"])) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_broken_file_holds_nothing(content):
    path = cache_path("things", [])
    path.parent.mkdir()
    path.write_bytes(content)
    assert load_cached(path) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    store_cached(tmp_path / "file" / "result.json", 1)


def test_states_of_files(tmp_path):
    files = [str(tmp_path / name) for name in ("a", "b", "odd\udcff")]
    for file in files:
        with open(os.fsencode(file), "w") as opened:
            opened.write("1")
    before = states_of(files)
    assert states_of(files) == before
    assert states_of(files[::-1]) != before
    os.utime(files[0], ns=(1, 1))
    touched = states_of(files)
    os.remove(files[1])
    assert len({before, touched, states_of(files)}) == 3
