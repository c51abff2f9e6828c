"""HTML from Python values. Everything that is not markup already is escaped, so no name that a user gives can become markup.

Pages hold everything that they show. Pictures are data URIs, curves are SVG, and a policy in the head forbids any request.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from kdiff.report.style import STYLE

VOID = {"br", "img", "link", "meta"}
# The browser loads only what the page itself holds, even if foreign markup got into the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PNG = b"\x89PNG\r\n\x1a\n"


class Markup(str):
    """Text that is HTML. All other strings are escaped when they enter an element."""

    __slots__ = ()


def join(*parts: object) -> Markup:
    """The parts one after another: markup unchanged, floats as `number` shows them, None as nothing, all else escaped."""
    return Markup("".join(map(_markup, parts)))


def _markup(value: object) -> Markup:
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("")
    return number(value) if isinstance(value, float) else Markup(html.escape(str(value)))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """`<tag attribute="…">children</tag>`. `class_` stands for class and `aria_label` for aria-label; None is left out."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    opened = "".join(f' {name}="{html.escape(str(value))}"' for name, value in given.items())
    return Markup(f"<{tag}{opened}>" if tag in VOID else f"<{tag}{opened}>{join(*children)}</{tag}>")


def number(value: float | None, digits: int = 4) -> Markup:
    """A number with `digits` significant digits; the element's value has all digits. "–" stands for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return Markup("–")
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
    return element("data", shown, value=repr(value))


def code(value: object) -> Markup:
    """A value as it is typed."""
    return element("code", value)


def table(header: Sequence[object], rows: Iterable[Sequence[object]], caption: object, label: str) -> Markup:
    """A table in a box that scrolls on a narrow page. The first cell of a row is its header; `label` is for screen readers."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = [element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest)) for first, *rest in rows]
    inner = element("table", element("thead", head), element("tbody", *body))
    box = element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)
    return element("figure", box, element("figcaption", caption), class_="table")


def definitions(facts: dict[str, object]) -> Markup:
    """A list of names with their values; a value of None is left out."""
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in facts.items() if value is not None]
    return element("dl", *pairs)


def picture(path: Path, alt: str, caption: object = None, width: int | None = None, broad: bool = False) -> Markup:
    """A PNG inside the page, with a caption below.

    Args:
        path: the file.
        alt: a description for readers who cannot see the picture.
        caption: the text under the picture.
        width: the greatest width in pixels, to which wider pictures are scaled down; None keeps the size.
        broad: whether the picture scrolls on a narrow page instead of becoming too small to read.

    Raises:
        ValueError: the file is not a PNG.
    """
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f"{path} is not a PNG file; remove it and draw the samples again with kdiff sample")
    if width:
        content = _scaled(content, width)
    size = [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)]
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    image = element("img", src=source, alt=alt, width=size[0], height=size[1], class_="broad" if broad else None)
    if broad:
        image = element("div", image, class_="scroll", tabindex="0", role="region", aria_label=alt)
    return element("figure", image, None if caption is None else element("figcaption", caption))


def _scaled(content: bytes, width: int) -> bytes:
    """The content of a PNG file, scaled down if it is wider than `width` pixels."""
    with Image.open(io.BytesIO(content)) as image:
        if image.width <= width:
            return content
        small = image.convert("RGB").resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, format="PNG", optimize=True)
    return written.getvalue()


def section(title: str, *children: object) -> Markup:
    """A part of the page under a heading; empty if all children are empty."""
    return element("section", element("h2", title), *children) if any(children) else Markup("")


def note(*children: object) -> Markup:
    """A remark."""
    return element("p", *children, class_="note")


def document(title: str, *children: object) -> str:
    """A whole page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', element('main', *children)), lang='en')}\n"
