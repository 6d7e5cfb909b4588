"""Fill an HTML page with its styles, scripts and data, so that it needs no other files."""

import json
from collections.abc import Sequence
from importlib.resources import files


def html_page(package: str, template: str, parts: Sequence[str], data: dict) -> str:
    """Return a page. In the template, `/* NAME */` stands for a part, `/* data.json */` for data.

    Args:
        package: the package with the files.
        template: the HTML file.
        parts: names of the styles and scripts.
        data: in types that JSON can hold, without NaN. Its texts cannot end or change a script.
    """

    def read(name: str) -> str:
        return files(package).joinpath(name).read_text(encoding="utf-8")

    # "</script>" or "<!--" in a class name would end or change the script.
    text = json.dumps(data, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    page = read(template)
    for name in parts:
        page = page.replace(f"/* {name} */", read(name))
    return page.replace("/* data.json */", text)
