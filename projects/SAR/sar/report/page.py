"""Write the content of a comparison as one HTML page that needs no other files."""

from sar.files.html_page import html_page


def render(content: dict, recommendation: dict | None = None) -> str:
    """Return the page with template, style, script and data in one text.

    Args:
        content: from `compare`.
        recommendation: from `sar.study.summary.advise`, for the top of the page; None for none.
    """
    parts = ("page.css", "charts.js", "tables.js", "page.js")
    data = content | {"recommendation": recommendation}
    return html_page(__package__, "page.html", parts, data)
