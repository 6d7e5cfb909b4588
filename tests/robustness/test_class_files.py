"""Class files: any text is read or refused; the same file never means other classes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from .case import check_dataset, evaluate, predict

HEAD = "MODEL.SEM_SEG_HEAD"
NAMES = ("classes.txt", "labels/", "num_classes=1", f"{HEAD}.NUM_CLASSES", f"{HEAD}.IGNORE_VALUE")
LINE = st.one_of(
    st.sampled_from(["ground", "block 1 2 3", "dot #ff0000", "# comment", "", "  ", "0 ground"]),
    st.text(max_size=20),
)

REFUSED = {
    "a class fewer": b"ground\nblock\n",
    "a repeated class": b"ground\nblock\nground\n",
    "only comments": b"# nothing\n\n",
    "UTF-16": "ground\nblock\ndot\n".encode("utf-16"),
    "not UTF-8": b"gr\xfcn\nblock\ndot\n",
    "a colour too large": b"ground 300 0 0\nblock\ndot\n",
    "a colour of many digits": b"ground 1 2 " + b"9" * 5000 + b"\nblock\ndot\n",
    "too many classes": b"".join(b"c%d\n" % i for i in range(70000)),
}
ACCEPTED = {
    "a byte order mark": b"\xef\xbb\xbfground\nblock\ndot\n",
    "Windows line ends": b"ground\r\nblock\r\ndot\r\n",
    "comments and colours": b"# ids\nground 1 2 3\n\n  block #ff0000\ndot\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, case):
    with case() as one:
        (one.folder / "mine/classes.txt").write_bytes(REFUSED[name])
        assert not one.run(check_dataset, names=NAMES)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name, case):
    with case() as one:
        (one.folder / "mine/classes.txt").write_bytes(ACCEPTED[name])
        assert one.run(check_dataset, names=NAMES) and one.run(predict, names=NAMES)


@given(st.lists(LINE, max_size=6).map("\n".join))
@example("".join(f"c{i}\n" for i in range(300)))
@example("ground\n" + "x" * 1_000_000 + "\ndot\n")
@example("gro\x1b[2Jund\nbl\tock\ndot\x07\n")
@example("a|b\n%s{0}\n../../x\n")
@example("gro\x00und\nblock\ndot\n")
@example("a\u2028b\nblock\x0bd\n")
def test_any_text(case, text):
    with case() as one:
        (one.folder / "mine/classes.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
        one.run(check_dataset, names=NAMES)
        one.run(evaluate, names=(*NAMES, "weights.pth"))


@given(st.binary(max_size=200))
def test_any_bytes(case, content):
    with case() as one:
        (one.folder / "mine/classes.txt").write_bytes(content)
        one.run(check_dataset, names=NAMES)
