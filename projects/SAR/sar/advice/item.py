"""One piece of advice, and how a list of them is printed."""

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

_WIDTH = 100  # characters of a line
_BLANK = "\0"  # a blank at which no line may break


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
        topic: a few words, such as "tail by image".
        text: sentences with the reason.
        keys: config keys to set, with values as on a command line, but without quotes.
        recipe: keys that only concern the treatment of rare classes. A plain model, trained for
            comparison, does without them.
    """

    topic: str
    text: str
    keys: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, str] = field(default_factory=dict)


def format_advice(items: Sequence[Advice]) -> str:
    """Return the topics in one column, and the texts with their keys, wrapped, in another."""
    indent = max(len(item.topic) for item in items) + 4
    lines = []
    for item in items:
        text = f"  {item.topic:{indent - 2}}{item.text}"
        if keys := item.keys | item.recipe:
            text += f" Set {', '.join(key_and_value(*pair) for pair in keys.items())}."
        lines.append(_wrapped(text, " " * indent))
    return "\n".join(lines)


def format_command(command: str, keys: dict[str, str]) -> str:
    """Return a command with config keys, in lines that a shell reads as one."""
    pairs = [key_and_value(*pair).replace(" ", _BLANK) for pair in keys.items()]
    text = _wrapped(f"  {command.replace(' ', _BLANK)} {' '.join(pairs)}", " " * 6)
    return text.replace("\n", " \\\n").replace(_BLANK, " ")


def key_and_value(key: str, value: str) -> str:
    """Return a key and its value as words of a command line."""
    return f"{key} {shlex.quote(value)}"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
