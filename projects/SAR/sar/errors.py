"""Errors that a user can mend: what is wrong, where, and what to do."""

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Bad input: a file, a data set, a config key, a checkpoint.

    The message is for the user, complete without a traceback: it names what is wrong, the place
    (file, class id, config key) and the remedy. The command-line programs print it and exit with 1.
    Control characters that a name or a value brings along are shown as escapes. That includes line
    breaks, so that the name of a file cannot add a line to the message.

    Args:
        lines: the message, as a rule of one line.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


# Control and format characters (escape sequences, direction overrides), halves of surrogate pairs,
# and separators of lines and paragraphs.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Joiners of letters, which several scripts and emoji need.
_JOINERS = "\u200c\u200d"


def printable(text: object, keep: str = "") -> str:
    """Return text of others as one harmless line: "\\x1b[31m" for the code that turns text red.

    Args:
        text: a class name, file name, config value, ...; anything else is converted with `str`.
        keep: characters to keep as they are, such as line breaks that the program wrote itself.
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
    """A hint for a mistyped name: ' Did you mean "x"?', or '' where nothing is near."""
    # Compared without case, since registries and config keys differ in theirs.
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    return f' Did you mean "{by_lower_case[matches[0]]}"?' if matches else ""


def listed(items: Sequence, at_most: int = 5, separator: str = ", ") -> str:
    """The first of some things, and how many there are beside: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return separator.join(map(str, items[:at_most])) + more


def dimensions(shape: Sequence[int]) -> str:
    """The shape of an array as '64x3x7x7'; of no dimension, 'a scalar'."""
    return "x".join(map(str, shape)) or "a scalar"


def shortened(value: object) -> str:
    """A value of a JSON file as it stands there, of which 80 characters at most."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
