"""The picture of a sweep: the distance as contours over two varied numbers, as lines over one, or as points over none.

The other varied options have a panel (contours) or a line for each combination of their values. If steps are the only varied
number, the axis is their cost in evaluations of the network. A star marks the best setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kdiff.report.curve import logarithmic
from kdiff.report.drawing import INK, new_figure, plain, save_figure
from kdiff.studies.sweep_result import Setting, Sweep

NUMBERS = ("guidance", "steps", "ema")
MAX_PANELS = 6
TICKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
ENOUGH = 3  # a number with fewer values is not an axis of contours
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")


def draw_sweep(path: Path, found: Sweep) -> None:
    """Write the picture of a sweep."""
    finite = [setting for setting in found.settings if setting.finite]
    several = {name: len({setting.options[name] for setting in finite}) for name in NUMBERS}
    axes = [name for name in NUMBERS if several[name] >= ENOUGH][:2]
    if len(axes) < 2:  # steps come first, because readers ask what a setting costs
        axes = sorted((name for name in NUMBERS if several[name] > 1), key=lambda name: name != "steps")[:1]
    parts = _parts(found, axes, "")
    if len(axes) == 2 and len(parts) <= MAX_PANELS:
        _draw_contours(path, found, parts, axes)
    else:
        figure = new_figure(7.5, 4.5)
        _draw_lines(figure.add_subplot(), found, _parts(found, axes[:1], found.measure), axes[:1])
        save_figure(figure, path)


def _number(setting: Setting, name: str) -> float:
    """The value of an option on an axis. The raw weights, ema "none", are an average with decay 0."""
    value = setting.options[name]
    return 0.0 if value == "none" else float(value)


def _parts(found: Sweep, axes: Sequence[str], alone: str) -> dict[str, list[Setting]]:
    """The finite settings by the varied options that are not an axis; under the name `alone` if there are none."""
    others = [name for name in found.varied if name not in axes]
    parts: dict[str, list[Setting]] = {}
    for setting in found.settings:
        if setting.finite:
            parts.setdefault(setting.label(others) if others else alone, []).append(setting)
    return parts


def _draw_contours(path: Path, found: Sweep, parts: dict[str, list[Setting]], names: Sequence[str]) -> None:
    values = np.array([setting.value for settings in parts.values() for setting in settings])
    levels = np.geomspace(values.min(), max(values.max(), values.min() * 1.001), 12)
    columns = min(3, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = new_figure(4.2 * columns + 0.8, 3.6 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(parts) :]:
        axes.set_axis_off()
    drawn: Any = None
    for axes, (label, settings) in zip(panels.flat, parts.items()):
        x, y = ([_number(setting, name) for setting in settings] for name in names)
        if len(set(x)) > 1 and len(set(y)) > 1:
            drawn = axes.tricontourf(x, y, [setting.value for setting in settings], levels=levels, cmap="viridis_r")
        for setting, across, up in zip(settings, x, y):
            best, weight = setting is found.best, "bold" if setting in found.close else "normal"
            place: dict[str, Any] = {"xytext": (0, 8 if best else 4), "textcoords": "offset points", "annotation_clip": False}
            axes.annotate(f"{setting.value:.3g}", (across, up), ha="center", fontsize=6, weight=weight, **place)
            axes.plot(across, up, "*" if best else ".", color=INK, markersize=11 if best else 4, clip_on=False)
        axes.set(xlabel=names[0].replace("_", " "), ylabel=names[1])
        axes.use_sticky_edges = False
        axes.margins(0.08)
        axes.set_title(label, fontsize=9, color=INK)
    if drawn is not None:
        figure.colorbar(drawn, ax=panels.ravel().tolist(), label=found.measure, format="%.3g")
    figure.suptitle(f"{found.measure} (star: the best; bold: not significantly worse)", fontsize=9, color=INK)
    save_figure(figure, path)


def _draw_lines(axes: Axes, found: Sweep, parts: dict[str, list[Setting]], names: list[str]) -> None:
    costs = names in (["steps"], [])

    def place(setting: Setting) -> float:
        return setting.evaluations if costs else _number(setting, names[0])

    for i, (label, settings) in enumerate(parts.items()):
        colour, style = COLOURS[i % len(COLOURS)], ("-", "--", ":")[i // len(COLOURS) % 3]
        x, y = zip(*sorted(((place(setting), setting.value) for setting in settings), key=lambda point: point[0]))
        axes.plot(x, y, f"o{style}", color=colour, markersize=4, label=label)
    axes.plot(place(found.best), found.best.value, "*", color=INK, markersize=13, label=f"best: {found.best.value:.3g}")
    axes.set(xlabel="evaluations of the network per sample" if costs else names[0], ylabel=found.measure)
    if costs:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [tick for tick in TICKS if low <= tick <= high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    logarithmic(axes)
    plain(axes, size=10, label=10, ncols=2 if len(parts) > 6 else 1)
