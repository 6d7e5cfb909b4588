"""Errors that a user can fix, and helpers for their messages."""

import difflib
import json
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: a file, a data set, a config key, a checkpoint.

    The message says what is wrong, where (file, class id, config key) and what to do. It needs no
    traceback: the command-line programs print it and exit with 1. Control characters, line breaks
    included, are shown as escapes, so that a file name cannot add a line to the message.

    Args:
        lines: the lines of the message; usually one.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


# Unicode categories: control, format, surrogate, line and paragraph separator.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Several scripts and emoji need these joiners of letters.
_JOINERS = "\u200c\u200d"


def printable(text: object, keep: str = "") -> str:
    """Return untrusted text as one harmless line: "\\x1b[31m" for the code that turns text red.

    Args:
        text: a class name, file name, config value, ...; converted with `str`.
        keep: characters to keep, such as line breaks of the program itself.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _INVISIBLE and character not in keep + _JOINERS
        else character
        for character in text
    )


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return a hint for a mistyped name: ' Did you mean "x"?', or '' if no name is similar."""
    # Ignore case: registries and config keys differ in it.
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    return f' Did you mean "{by_lower_case[matches[0]]}"?' if matches else ""


def listed(items: Sequence, at_most: int = 5, separator: str = ", ") -> str:
    """Return the first items and the number of the others: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return separator.join(map(str, items[:at_most])) + more


def dimensions(shape: Sequence[int]) -> str:
    """Return a shape as '64x3x7x7', or 'a scalar' if it has no dimension."""
    return "x".join(map(str, shape)) or "a scalar"


def shortened(value: object) -> str:
    """Return a value as JSON, cut after 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().split("\n")[0]


@contextmanager
def forward_errors(describe: Callable[[str], str]) -> Iterator[None]:
    """Turn an error of a model that is called in the `with` block into an InputError.

    Such as too little memory, or an image that is smaller than a pooling window.

    Args:
        describe: returns the message, given the first line of the error, without a full stop.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = first_line(error).rstrip(".") or type(error).__name__
        raise InputError(describe(reason)) from error


def describe_exception(error: Exception) -> str:
    """Return an error of a library in one line: its type, its text, and where it was raised.

    An assertion without a text is described by its line of code.
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = first_line(error) or frame.line or ""
    return f"{type(error).__name__}: {reason} ({frame.filename}, line {frame.lineno})"
