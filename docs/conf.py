"""Sphinx's configuration: `make docs`."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parent))

import config_keys  # noqa: E402

project = "SAR for detectron2"
extensions = ["myst_parser"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False
html_theme = "furo"
html_math_renderer = "mathml"
html_title = project
html_show_sphinx = False
html_copy_source = False


class ConfigKeys(SphinxDirective):
    """All keys of config.py."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(config_keys.CONFIG))
        return self.parse_text_to_nodes(
            config_keys.as_markdown(config_keys.read_sections()), allow_section_headings=True
        )


# Equations as MathML, which browsers draw themselves: no JavaScript, no network.
def inline_math(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(latex2mathml.tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.add_directive("config-keys", ConfigKeys)
