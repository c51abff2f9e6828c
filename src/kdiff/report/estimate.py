"""The picture of `kdiff estimate`: the spectrum of the data, and k against d/D with what each theory says of these data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.experiments.estimate import View, at_limit
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.target import PAPER_CLAMP
from kdiff.theory import optimal_k, whitened

LINE = 0.042
RATIOS = np.geomspace(1e-3, 1, 31)
COLOURS = ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#8172b3", "#937860", "#da8bc3", "#64b5cd")


def draw_estimate(path: Path, views: Sequence[View]) -> None:
    """A row per view: eigenvalues and the variance that they hold; the theories' curves and what they say of these data."""
    figure = new_figure(10.5, 3.9 * len(views))
    grid = figure.subplots(len(views), 2, squeeze=False)
    for (left, right), view in zip(grid, views):
        _spectrum(left, view)
        _predictions(right, view)
    save_figure(figure, path)


def _spectrum(axes: Any, view: View) -> None:
    shown = view.eigenvalues[view.eigenvalues > view.eigenvalues[0] * 1e-12]
    index, noise = np.arange(1, len(shown) + 1), view.noise_scale**2
    axes.plot(index, shown, ".-", color="#4c72b0", markersize=3, linewidth=1)
    if shown[0] > 10 * shown[-1]:
        axes.set_yscale("log")
    else:  # less than a decade, which has no ticks
        axes.set_ylim(0, 1.1 * max(shown[0], noise))
    axes.axhline(noise, color="#999999", linewidth=0.8, linestyle=":")
    axes.text(1, noise, f" the noise's variance, {noise:g}", fontsize=7, color="#777777", va="bottom")
    axes.set(xlabel="direction", ylabel="variance")
    axes.set_title(f"{view.name}: spectrum, D = {view.D}, total {view.total_variance:.3g}", fontsize=9, color=INK)
    held = axes.twinx()
    held.plot(index, np.cumsum(shown) / shown.sum(), color="#dd8452", linewidth=1)
    if len(index) > 10:
        axes.set_xscale("log")
    else:
        axes.set_xticks(index)
    held.set_ylim(0, 1.02)
    held.set_ylabel("share of the variance", color="#dd8452", fontsize=8)
    for each in (axes, held):
        each.spines["top"].set_visible(False)
        each.tick_params(labelsize=8)


def _predictions(axes: Any, view: View) -> None:
    """Curves for data with the noise's variance in d of D directions; on them or beside them, these data.

    Estimates of d at their limit are hollow. Minima that tie are dashed lines, all of them.
    """
    axes.semilogx(RATIOS, 1 / (1 + RATIOS), color=INK, linewidth=1.2, label="D/(D + d): linear, loss on u")
    axes.semilogx(RATIOS, 1 / (1 + np.sqrt(RATIOS)), color=INK, linewidth=1, linestyle="--", label="linear, loss on v, start")
    axes.semilogx(RATIOS, _ends(), color=INK, linewidth=1, linestyle=":", label="linear, loss on v, end (clamp 0.05)")
    for i, estimated in enumerate(view.dimensions):
        ratio, colour = estimated.value / view.D, COLOURS[i % len(COLOURS)]
        marker = "o" if estimated.scope == "global" else "D"
        label, fill = f"{estimated.method} ({estimated.scope}): d = {estimated.value:.3g}", colour
        if at_limit(estimated, view.D):
            label, fill = f"{label}, at its limit", "white"
        style = {"color": colour, "markerfacecolor": fill, "markersize": 6, "alpha": 0.8}
        axes.plot(ratio, 1 / (1 + ratio), marker, label=label, zorder=3, **style)
        likely = np.array([estimated.low, estimated.high]) / view.D
        axes.plot(likely, 1 / (1 + likely), color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt", zorder=2)
    # An estimate above D is one not to trust, and to be seen.
    right = max([1.0, *(1.3 * each.value / view.D for each in view.dimensions if each.value > view.D)])
    spectral = [one for one in view.predictions if not one.theory.startswith("D/(D + d)")]
    marks = [(k, one, COLOURS[i % len(COLOURS)]) for i, one in enumerate(spectral) for k in (one.k, *one.ties)]
    for (k, one, colour), place in zip(marks, _apart([k for k, *_ in marks])):
        axes.axhline(k, color=colour, linewidth=1, alpha=0.7, linestyle="--" if one.ties else "-")
        beside = axes.get_yaxis_transform()  # from the right edge on
        text = f"{k:.3f}  {one.theory}{' (a tie)' if one.ties else ''}"
        axes.text(1.01, place, text, transform=beside, fontsize=6.5, color=colour, va="center", clip_on=False)
    axes.set(xlim=(RATIOS[0], right), ylim=(-0.03, 1.03), xlabel="d/D", ylabel="k")
    axes.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    axes.set_title("curves: the noise's variance in d of D directions; lines: these data", fontsize=9, color=INK)
    axes.legend(fontsize=6.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 0.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights for labels, no nearer to each other than a line of text, and off the given ones only where those are close."""
    groups: list[list[int]] = []  # labels that stand line by line, about the mean of their heights
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        groups.append([i])
        while len(groups) > 1 and _top(groups[-2], heights) + LINE > _bottom(groups[-1], heights):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [0.0] * len(heights)
    for group in groups:
        for line, i in enumerate(group):
            places[i] = _bottom(group, heights) + line * LINE
    return places


def _bottom(group: Sequence[int], heights: Sequence[float]) -> float:
    return float(np.mean([heights[i] for i in group])) - (len(group) - 1) * LINE / 2


def _top(group: Sequence[int], heights: Sequence[float]) -> float:
    return _bottom(group, heights) + (len(group) - 1) * LINE


@lru_cache
def _ends() -> list[float]:
    """NaN at d = D, where noise and data prediction are two minima of one loss, and none of them is the curve's end."""
    D, numbers = 1000, [round(ratio * 1000) for ratio in RATIOS]
    return [float(optimal_k(whitened(D, d), space="v", clamp=PAPER_CLAMP)) if d < D else math.nan for d in numbers]
