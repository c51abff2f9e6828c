"""Curves as SVG within a page. Lines stretch with the page, letters and strokes do not; colours are those of the page's CSS.

The outer SVG has no scale: positions are per cent of its box, and sizes are those of the page. The lines lie in an inner SVG of
1000 × 1000 that is stretched to the box, without stretching the strokes. The labels of the axes lie outside the box, in margins
that the CSS leaves free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdiff.report.drawing import labelled_values, value_label
from kdiff.report.markup import Markup, element, join, number
from kdiff.targets import Axis

MAX_POINTS = 1000  # points of a line that are drawn; a screen has room for no more


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points in order of x, and the CSS class that gives it a colour."""

    name: str
    points: Sequence[tuple[float, float | None]]
    style: str

    @property
    def there(self) -> list[tuple[float, float]]:
        """The points whose y is a finite number."""
        return [(x, y) for x, y in self.points if y is not None and math.isfinite(y)]


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` evenly spaced round numbers in [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if math.floor(high / (m * power)) - math.ceil(low / (m * power)) < most)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high] for a logarithmic axis: powers of ten, or 1, 2 and 5 of each decade if these are too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 2, 5)):
        found = [m * 10.0**decade for decade in decades for m in parts if low <= m * 10.0**decade <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 6)]
    return nice_ticks(low, high, 4)


def chart(lines: Sequence[Line], label: str, log: bool = False, axis: Axis | None = None, along: str = "step") -> Markup:
    """Curves, with a legend that gives the last value of each. Empty if no curve has a point to draw.

    Args:
        lines: the curves.
        label: a description for readers who cannot see the picture.
        log: whether the vertical axis is logarithmic. Values that are not positive are left out then.
        axis: the target's axis, which gives the vertical axis its labels and its range; the range is wider if values lie
            outside. If left out, the labels are round numbers.
        along: the label of the horizontal axis.
    """
    lines = [line for line in lines if [y for _, y in line.there if y > 0 or not log]]
    if not lines:
        return Markup("")
    places = [place for line in lines for place in line.there if place[1] > 0 or not log]
    last = max(x for x, _ in places) or 1
    values = [y for _, y in places]
    if axis:
        ticks = {at: f"{name} {value_label(at)}".lstrip() for at, name in labelled_values(axis).items()}
        low, high = min(*ticks, *values), max(*ticks, *values)
    else:
        low, high = _limits(values, log)
        ticks = {tick: f"{tick:.6g}" for tick in (log_ticks(low, high) if log else nice_ticks(low, high))}
    scale: Callable[[float], float] = math.log if log else float

    def up(y: float) -> float:
        return 1 - (scale(y) - scale(low)) / (scale(high) - scale(low))

    marks = [_tick_y(up(y), text) for y, text in ticks.items()]
    shown = "{:,.0f}" if last >= 4 else "{:g}"
    marks += [_tick_x(x / last, shown.format(x), x == last) for x in nice_ticks(0, last, 4)]
    drawn = [_polyline(line, lambda x: x / last, up, log) for line in lines]
    size: dict[str, object] = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
    inner = element("svg", *drawn, **size, overflow="visible")
    final = [(*line.there[-1], line.style) for line in lines]
    ends = [_dot(x / last, up(y), style) for x, y, style in final if y > 0 or not log]
    wide = "plot wide" if max(map(len, ticks.values())) > 7 else "plot"
    plot = element("div", element("svg", *marks, inner, *ends, role="img", aria_label=label), class_=wide)
    return element("div", legend(lines), plot, element("p", along, class_="axis"), class_="chart")


def legend(lines: Sequence[Line]) -> Markup:
    """The name, the colour and the last value of each curve."""
    swatches = [element("span", class_=f"swatch {line.style}") for line in lines]
    named = [element("li", swatch, line.name, " ", number(line.there[-1][1])) for swatch, line in zip(swatches, lines)]
    return element("ul", *named, class_="legend")


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        margin = max((high / low) ** 0.06, 1.02)
        return low / margin, high * margin
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _per_cent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _tick_y(share: float, text: str) -> Markup:
    at = _per_cent(share)
    line = element("line", x1="0", x2="100%", y1=at, y2=at, class_="grid")
    return join(line, element("text", text, x="-10", y=at, dy="0.32em", text_anchor="end"))


def _tick_x(share: float, text: str, is_last: bool) -> Markup:
    return element("text", text, x=_per_cent(share), y="100%", dy="1.7em", text_anchor="end" if is_last else "middle")


def _dot(across: float, up: float, style: str) -> Markup:
    return element("circle", cx=_per_cent(across), cy=_per_cent(up), r="3.5", class_=f"end {style}")


def _polyline(line: Line, across: Callable[[float], float], up: Callable[[float], float], log: bool) -> Markup:
    """The curve, with gaps where it has no numbers. Of more than MAX_POINTS points, only every n-th and the last are drawn."""
    every = math.ceil(len(line.points) / MAX_POINTS)
    pieces: list[list[str]] = [[]]
    for x, y in line.points[::-1][::every][::-1]:
        if y is None or not math.isfinite(y) or (log and y <= 0):
            pieces.append([])
        else:
            pieces[-1].append(f"{1000 * across(x):.1f},{1000 * up(y):.1f}")
    path = "".join(f"M{' '.join(piece)}" for piece in pieces if piece)
    return element("path", d=path, class_=f"line {line.style}", vector_effect="non-scaling-stroke")


def position_scale(axis: Axis, called: str, value: float, start: float | None = None) -> Markup:
    """The axis of a target as a scale with a mark at `value`, and another where it began; longer if they lie outside."""
    labels = {at: name or value_label(at) for at, name in labelled_values(axis).items()}
    shown = [*labels, value, *([] if start is None else [start])]
    low, high = min(shown), max(shown)

    def place(at: float) -> str:
        return _per_cent((at - low) / (high - low))

    marks = [element("line", x1=place(at), x2=place(at), y1="12", y2="28", class_="notch") for at in labels]
    anchors = {low: "start", high: "end"}
    names = [element("text", name, x=place(x), y="50", text_anchor=anchors.get(x, "middle")) for x, name in labels.items()]
    track = element("line", x1="0", x2="100%", y1="20", y2="20", class_="track")
    way = []
    if start is not None and start != value:
        way = [
            element("line", x1=place(start), x2=place(value), y1="20", y2="20", class_="way"),
            element("circle", cx=place(start), cy="20", r="5", class_="start"),
        ]
    ends = ", ".join(f"{name} ({value_label(at)})" if name else value_label(at) for at, name in labelled_values(axis).items())
    label = f"{called} = {value:.4g} on the axis of {ends}" + (f"; it began at {start:.4g}" if way else "")
    dot = element("circle", cx=place(value), cy="20", r="8", class_="now")
    return element("svg", track, *marks, *names, *way, dot, class_="k-scale", height="56", role="img", aria_label=label)
