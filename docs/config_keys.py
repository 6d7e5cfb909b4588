"""Write docs/config.md, the config keys with their meanings, from the comments of config.py.

    python docs/config_keys.py

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
PAGE = Path(__file__).with_name("config.md")
HEAD = """# Config keys

<!-- Written by `python docs/config_keys.py` from the comments in projects/SAR/sar/config.py. -->

These keys are added to those of detectron2 and its DeepLab project
([reference](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references)).
Set a key in a YAML file, or as `KEY VALUE` at the end of a command line, which has precedence. An
unknown key, or a value of another type, is an error that names the nearest key.
"""
_KEY = re.compile(r"\b[A-Z]+(?:\.[A-Z_]+)+\b")


@dataclass
class Entry:
    """Keys with their defaults, as written, and their meaning. Without keys: a note."""

    meaning: str
    defaults: dict[str, str] = field(default_factory=dict)


@dataclass
class Section:
    title: str
    entries: list[Entry] = field(default_factory=list)


def read_sections(source: str | None = None) -> list[Section]:
    """Return the sections of add_sar_config, in its order.

    Args:
        source: text of the module; by default, of config.py.

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
    """Return the text of the page: a heading for each section, tables of keys, and notes."""
    lines = [HEAD.rstrip()]
    for section in sections:
        lines += ["", f"## {section.title}"]
        is_table = False
        for entry in section.entries:
            meaning = _KEY.sub(r"`\g<0>`", entry.meaning).replace("|", "\\|")
            if not entry.defaults:
                lines += ["", meaning]
            else:
                if not is_table:
                    lines += ["", "| key | default | meaning |", "|---|---|---|"]
                keys, defaults = (
                    "<br>".join(f"`{text}`" for text in texts)
                    for texts in (entry.defaults, entry.defaults.values())
                )
                lines.append(f"| {keys} | {defaults} | {meaning} |")
            is_table = bool(entry.defaults)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(as_markdown(read_sections()), encoding="utf-8")
