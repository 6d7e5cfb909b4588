"""From the content of a comparison to one HTML page that needs nothing else."""

import json
from importlib.resources import files


def render(content: dict) -> str:
    """The page: template, style, script and data in one text, that loads nothing.

    Args:
        content: of `compare`.
    """
    parts = {name: _read(name) for name in ("page.css", "charts.js", "page.js")}
    # In a script, "</script>" or "<!--" in a class's name would be HTML.
    data = json.dumps(content, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    page = _read("page.html")
    for name, text in (parts | {"data.json": data}).items():
        page = page.replace(f"/* {name} */", text)
    return page


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
