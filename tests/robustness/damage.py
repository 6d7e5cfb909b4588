"""Damage that can happen to any file."""

import os
from pathlib import Path

from hypothesis import strategies as st

_PLACE = st.floats(0, 1, exclude_max=True)
DAMAGES = st.one_of(
    st.sampled_from(
        [("missing",), ("folder",), ("dangling link",), ("link to itself",), ("pipe",)]
    ),
    st.tuples(st.just("replaced"), st.binary(max_size=100)),
    st.tuples(st.just("replaced"), st.just(b"<html><body>404 Not Found</body></html>\n")),
    st.tuples(st.just("truncated"), _PLACE),
    st.tuples(st.just("zeroed"), _PLACE),
    st.tuples(st.just("bits flipped"), st.lists(st.tuples(_PLACE, st.integers(0, 7)), min_size=1)),
)


def damage(path: Path, how: tuple) -> None:
    """Damage a file as an element of DAMAGES says."""
    kind, *details = how
    content = bytearray(path.read_bytes())
    if kind in ("missing", "folder", "dangling link", "link to itself", "pipe"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":  # opening it waits for ever
            os.mkfifo(path)
        elif kind != "missing":
            path.symlink_to("nowhere" if kind == "dangling link" else path.name)
        return
    if kind == "replaced":
        content = details[0]
    elif kind == "truncated":
        content = content[: int(details[0] * len(content))]
    elif kind == "zeroed":  # a power failure leaves such blocks
        start = int(details[0] * len(content))
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    else:
        for place, bit in details[0]:
            content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
