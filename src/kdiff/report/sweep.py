"""A sweep as a picture: distance over two varied numbers as contours, over one as lines, over none as points.

Every other option that was varied has a panel (contours) or a line (lines) for each of its values. Steps are drawn as
evaluations of the network, which is what they cost, where they are the only number. The best setting is a star.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kdiff.experiments.sweep import Setting, Sweep
from kdiff.report.curve import logarithmic
from kdiff.report.samples import INK, new_figure, save_figure

NUMBERS = ("guidance", "steps", "ema")
MAX_PANELS = 6
TICKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
ENOUGH = 3  # values of a number, for contours over it
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")


def draw_sweep(path: Path, found: Sweep) -> None:
    """Write the picture of a sweep."""
    finite = [setting for setting in found.settings if setting.finite]
    several = {name: len({setting.options[name] for setting in finite}) for name in NUMBERS}
    axes = [name for name in NUMBERS if several[name] >= ENOUGH][:2]
    if len(axes) < 2:  # steps first: what they cost is what one asks
        axes = sorted((name for name in NUMBERS if several[name] > 1), key=lambda name: name != "steps")[:1]
    others = [name for name in found.varied if name not in axes]
    parts: dict[str, list[Setting]] = {}
    for setting in finite:
        parts.setdefault(setting.label(others) if others else "", []).append(setting)
    if len(axes) == 2 and len(parts) <= MAX_PANELS:
        _draw_contours(path, found, parts, axes)
    else:
        figure = new_figure(7.5, 4.5)
        _draw_lines(figure.add_subplot(), found, parts, axes[:1], [name for name in found.varied if name not in axes[:1]])
        save_figure(figure, path)


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
        x, y = ([float(setting.options[name]) for setting in settings] for name in names)
        if len(set(x)) > 1 and len(set(y)) > 1:
            drawn = axes.tricontourf(x, y, [setting.value for setting in settings], levels=levels, cmap="viridis_r")
        for setting, across, up in zip(settings, x, y):
            weight = "bold" if setting in found.close else "normal"
            place: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "annotation_clip": False}
            axes.annotate(f"{setting.value:.3g}", (across, up), ha="center", fontsize=6, weight=weight, **place)
            best = setting is found.best
            axes.plot(across, up, "*" if best else ".", color=INK, markersize=11 if best else 4, clip_on=False)
        axes.set(xlabel=names[0].replace("_", " "), ylabel=names[1])
        axes.use_sticky_edges = False
        axes.margins(0.08)
        axes.set_title(label, fontsize=9, color=INK)
    if drawn is not None:
        figure.colorbar(drawn, ax=panels.ravel().tolist(), label=found.measure, format="%.3g")
    figure.suptitle(f"{found.measure}; star: the best, bold: not told apart from it", fontsize=9, color=INK)
    save_figure(figure, path)


def _draw_lines(axes: Axes, found: Sweep, parts: dict[str, list[Setting]], names: list[str], others: list[str]) -> None:
    costs = names in (["steps"], [])
    parts = {}
    for setting in found.settings:
        if setting.finite:
            parts.setdefault(setting.label(others) if others else found.measure, []).append(setting)
    for i, (label, settings) in enumerate(parts.items()):
        along = [setting.evaluations if costs else float(setting.options[names[0]]) for setting in settings]
        order = np.argsort(along)
        colour, style = COLOURS[i % len(COLOURS)], ("-", "--", ":")[i // len(COLOURS) % 3]
        x = np.array(along)[order]
        axes.plot(
            x, np.array([setting.value for setting in settings])[order], f"o{style}", color=colour, markersize=4, label=label
        )
    at = found.best.evaluations if costs else float(found.best.options[names[0]])
    axes.plot(at, found.best.value, "*", color=INK, markersize=13, label=f"best: {found.best.value:.3g}")
    axes.set_xlabel("evaluations of the network for a sample" if costs else names[0])
    axes.set_ylabel(found.measure)
    if costs:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [tick for tick in TICKS if low <= tick <= high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    logarithmic(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, ncols=2 if len(parts) > 6 else 1)
