"""Sphinx's settings for the site that `make docs` builds from these pages, the README and the docstrings."""

import dataclasses
import sys
from pathlib import Path

import msgspec
from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "arm-control"
copyright = "the authors of arm-control, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["comparison/*"]

html_theme = "furo"
html_title = "arm-control"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
smartquotes = False  # it makes one dash of the two of a flag

# Links to headings, as code hosts make them: `page.md#a-heading`.
myst_heading_anchors = 4
# A docstring has no title of its own, so that its headings begin at the second level.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"

# What autodoc expands, although it has a name that readers know.
EXPANDED_ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")


class MarkdownDirective(SphinxDirective):
    """Markdown in a reStructuredText document: what the docstrings of this project are written in."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse the content; its headings become rubrics, since an object's description has no sections."""
        document = new_document(self.state.document.current_source or "", self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        for section in reversed(list(document.findall(nodes.section))):
            title, *body = section.children
            section.parent.replace(section, [nodes.rubric("", "", *title.children), *body])
        return document.children


def wrap_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Hand a docstring to `MarkdownDirective`."""
    lines[:] = [".. markdown::", "", *(f"   {line}" for line in lines), ""]


def has_listed_fields(obj: object) -> bool:
    """Return True if an object is a class whose fields are documented below it: a dataclass, a Struct or a protocol."""
    if not isinstance(obj, type):
        return False
    return dataclasses.is_dataclass(obj) or issubclass(obj, msgspec.Struct) or getattr(obj, "_is_protocol", False)


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Leave out a signature that would repeat the fields; use NumPy's own names in the others."""
    if signature is None:
        return None
    if has_listed_fields(obj):
        return "", None
    return signature.replace(EXPANDED_ARRAY_LIKE, "ArrayLike"), returns


def relink_readme(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to the README, which a code host shows, lead to the site's first page."""
    source[0] = source[0].replace("(../README.md", "(index.md")


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.add_directive("markdown", MarkdownDirective)
    app.connect("autodoc-process-docstring", wrap_docstring)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("source-read", relink_readme)
