"""Sphinx configuration. Pages are Markdown (MyST); the reference is read from docstrings."""

from __future__ import annotations

import re

from kdiff import __version__

project = "kdiff"
author = "The kdiff authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "results/*/*.md"]  # tables that pages include
html_theme = "furo"
html_title = f"kdiff {__version__}"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Every reference to a name in kdiff must resolve. Names of other projects and type variables (one capital) are not checked.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!kdiff\.).*"), ("py:class", r"kdiff\..*\.[A-Z]")]


def plain_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Make the docstrings' plain text safe for reStructuredText, before napoleon reads their sections.

    Docstrings here are written to be read in an editor: `code` in single backticks, formulas such as |v̂|² as they are,
    indented blocks for formulas on lines of their own.
    """
    in_section = False
    for i, line in enumerate(lines):
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Examples|Notes?):", line):
            in_section = True
        elif line and not line.startswith(" "):
            in_section = False
        if not in_section and line.startswith("    "):
            # A line block keeps the formula's own lines.
            lines[i] = "    | " + escape(line[4:])
        else:
            lines[i] = escape(line)


def escape(line: str) -> str:
    """`code` becomes a literal; the characters that mean something to reStructuredText lose that meaning."""
    parts = re.split(r"(`+[^`]+`+)", line)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = "``" + part.strip("`") + "``"
        else:
            parts[i] = re.sub(r"([|\\]|\*|(?<=\w)_(?!\w))", r"\\\1", part)
    return "".join(parts)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_text, priority=100)
