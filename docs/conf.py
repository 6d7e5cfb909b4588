"""Sphinx's configuration: `make docs`."""

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "SAR for detectron2"
extensions = ["myst_parser"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False
html_theme = "furo"
html_math_renderer = "mathml"
html_title = project
html_show_sphinx = False
html_copy_source = False


# Equations as MathML, which browsers draw themselves: no JavaScript, no network.
def inline_math(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(latex2mathml.tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
