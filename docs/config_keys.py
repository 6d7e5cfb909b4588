"""The config keys with their meanings, read from the comments of config.py: nothing is typed twice.

How a comment there is read:

    # -- Title                       begins a section
    # A note.                        a comment before an empty line, or before a group of keys

    # The meaning of both keys.      a comment before one or several keys
    cfg.MODEL.A = 1
    cfg.MODEL.B = 2
"""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "projects" / "SAR" / "sar" / "config.py"
_KEY = re.compile(r"\b[A-Z]+(?:\.[A-Z_]+)+\b")


@dataclass
class Entry:
    """Keys, by name and default as it is written, with what they mean; or, without keys, a note."""

    meaning: str
    defaults: dict[str, str] = field(default_factory=dict)


@dataclass
class Section:
    title: str
    entries: list[Entry] = field(default_factory=list)


def read_sections(source: str | None = None) -> list[Section]:
    """The sections of add_sar_config, in its order.

    Args:
        source: of the module; that of config.py where not given.

    Raises:
        ValueError: a key without a meaning, or before the first title.
    """
    source = CONFIG.read_text(encoding="utf-8") if source is None else source
    function = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "add_sar_config"
    )
    assignments = {node.lineno: node for node in function.body if isinstance(node, ast.Assign)}
    lines = source.splitlines()
    sections: list[Section] = []
    comment: list[str] = []
    entry: Entry | None = None
    for number in range(function.lineno + 1, function.end_lineno + 2):
        line = lines[number - 1].strip() if number <= function.end_lineno else ""
        if line.startswith("# -- "):
            sections.append(Section(line.removeprefix("# -- ")))
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif number in assignments and "CfgNode()" not in line:
            key = ast.unparse(assignments[number].targets[0]).removeprefix("cfg.")
            if comment:
                entry = Entry(" ".join(comment))
                sections[-1].entries.append(entry)
            if entry is None or not sections:
                raise ValueError(f"config.py, line {number}: {key} has no comment before it")
            entry.defaults[key] = ast.unparse(assignments[number].value).replace("'", '"')
            comment = []
            continue
        elif comment and sections:
            sections[-1].entries.append(Entry(" ".join(comment)))
        if not line.startswith("#"):
            comment = []
        entry = None
    return sections


def as_markdown(sections: list[Section]) -> str:
    """A heading a section, a definition an entry."""
    parts = []
    for section in sections:
        parts.append(f"## {section.title}")
        for entry in section.entries:
            meaning = _KEY.sub(r"`\g<0>`", entry.meaning)
            keys = ", ".join(f"`{key}` = `{value}`" for key, value in entry.defaults.items())
            parts.append(f"{keys}\n: {meaning}" if keys else meaning)
    return "\n\n".join(parts) + "\n"
