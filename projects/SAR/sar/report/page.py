"""Write the content of a comparison as one HTML page that needs no other files."""

import json
from importlib.resources import files


def render(content: dict, recommendation: dict | None = None) -> str:
    """Return the page with template, style, script and data in one text.

    Args:
        content: from `compare`.
        recommendation: from `sar.study.summary.advise`, for the top of the page; None for none.
    """
    content = content | {"recommendation": recommendation}
    parts = {name: _read(name) for name in ("page.css", "charts.js", "tables.js", "page.js")}
    # "</script>" or "<!--" in a class name would end or change the script.
    data = json.dumps(content, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    page = _read("page.html")
    for name, text in (parts | {"data.json": data}).items():
        page = page.replace(f"/* {name} */", text)
    return page


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
