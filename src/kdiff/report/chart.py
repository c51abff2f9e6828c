"""Curves as SVG within a page: lines stretch with it, letters and strokes do not, colours are the page's own, light or dark.

The outer drawing has no scale of its own: places are per cent of its box, sizes are the page's. The lines lie in an inner one
of 1000 × 1000 that is stretched to the box, with strokes that are not. Labels of the axes hang outside the box, in margins
that CSS leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdiff.report.markup import Markup, element, join, number

MAX_POINTS = 1000  # of a line, more than a screen has pixels for
K_TICKS = {0.0: "noise 0", 0.5: "velocity ½", 1.0: "data 1"}


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points by x, and the class that gives it a colour."""

    name: str
    points: Sequence[tuple[float, float | None]]
    style: str

    @property
    def there(self) -> list[tuple[float, float]]:
        """The points that are numbers."""
        return [(x, y) for x, y in self.points if y is not None and math.isfinite(y)]


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in [low, high], `most` or fewer, at even distances."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if math.floor(high / (m * power)) - math.ceil(low / (m * power)) < most)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high] for a logarithmic axis: 1, 2, 5 of each decade; powers of ten if there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 2, 5)):
        found = [m * 10.0**decade for decade in decades for m in parts if low <= m * 10.0**decade <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 6)]
    return nice_ticks(low, high, 4)


def chart(lines: Sequence[Line], label: str, log: bool = False, ticks: dict[float, str] | None = None) -> Markup:
    """Curves over steps with their legend, which says where each ends; nothing without points.

    Args:
        lines: the curves.
        label: what is seen, for those who do not see.
        log: a logarithmic vertical axis, for positive values.
        ticks: what stands at which value; the axis then spans them. Round numbers if left out.
    """
    lines = [line for line in lines if [y for _, y in line.there if y > 0 or not log]]
    if not lines:
        return Markup("")
    places = [place for line in lines for place in line.there if place[1] > 0 or not log]
    last = max(*(x for x, _ in places), 1)
    low, high = _limits([y for _, y in places], log) if ticks is None else (min(ticks), max(ticks))
    if ticks is None:
        ticks = {tick: f"{tick:.6g}" for tick in (log_ticks(low, high) if log else nice_ticks(low, high))}
    scale: Callable[[float], float] = math.log if log else float

    def up(y: float) -> float:
        return 1 - (scale(y) - scale(low)) / (scale(high) - scale(low))

    marks = [_tick_y(up(y), text) for y, text in ticks.items()]
    marks += [_tick_x(x / last, f"{x:,.0f}", x == last) for x in nice_ticks(0, last, 4)]
    drawn = [_polyline(line, lambda x: x / last, up, log) for line in lines]
    inner = element(
        "svg", *drawn, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%", height="100%", overflow="visible"
    )
    ends = [
        _dot(line.there[-1][0] / last, up(line.there[-1][1]), line.style) for line in lines if line.there[-1][1] > 0 or not log
    ]
    wide = "plot wide" if max(map(len, ticks.values())) > 7 else "plot"
    plot = element("div", element("svg", *marks, inner, *ends, role="img", aria_label=label), class_=wide)
    return element("div", legend(lines), plot, element("p", "step", class_="axis"), class_="chart")


def legend(lines: Sequence[Line]) -> Markup:
    """What the curves are, and where they end."""
    return element(
        "ul",
        *(
            element("li", element("span", class_=f"swatch {line.style}"), line.name, " ", number(line.there[-1][1]))
            for line in lines
        ),
        class_="legend",
    )


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
    """The curve, with gaps where it has no numbers; of very many points some, the last among them."""
    every = math.ceil(len(line.points) / MAX_POINTS)
    pieces: list[list[str]] = [[]]
    for x, y in line.points[::-1][::every][::-1]:
        if y is None or not math.isfinite(y) or (log and y <= 0):
            pieces.append([])
        else:
            pieces[-1].append(f"{1000 * across(x):.1f},{1000 * up(y):.1f}")
    path = "".join(f"M{' '.join(piece)}" for piece in pieces if piece)
    return element("path", d=path, class_=f"line {line.style}", vector_effect="non-scaling-stroke")


def k_scale(k: float, start: float | None = None) -> Markup:
    """k on its line from noise prediction through velocity to data prediction, and where it came from."""
    marks = [element("line", x1=_per_cent(at), x2=_per_cent(at), y1="12", y2="28", class_="notch") for at in (0.0, 0.5, 1.0)]
    anchors = {"noise": (0.0, "start"), "velocity": (0.5, "middle"), "data": (1.0, "end")}
    names = [element("text", name, x=_per_cent(at), y="50", text_anchor=anchor) for name, (at, anchor) in anchors.items()]
    track = element("line", x1="0", x2="100%", y1="20", y2="20", class_="track")
    way = []
    if start is not None and start != k:
        way = [
            element("line", x1=_per_cent(start), x2=_per_cent(k), y1="20", y2="20", class_="way"),
            element("circle", cx=_per_cent(start), cy="20", r="5", class_="start"),
        ]
    label = f"k = {k:.4g} on the line from noise prediction (0) through velocity (½) to data prediction (1)"
    if way:
        label += f"; it began at {start:.4g}"
    dot = element("circle", cx=_per_cent(k), cy="20", r="8", class_="now")
    return element("svg", track, *marks, *names, *way, dot, class_="k-scale", height="56", role="img", aria_label=label)
