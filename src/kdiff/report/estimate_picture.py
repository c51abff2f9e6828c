"""The picture of `kdiff estimate`: the spectrum of the data, and k against d/D with the prediction of each theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.report.drawing import INK, new_figure, plain, save_figure
from kdiff.studies.estimation import View, at_limit
from kdiff.targets import PAPER_CLAMP
from kdiff.theory import optimal_k, whitened

LINE = 0.042  # the height of a line of text on the axis of k
RATIOS = np.geomspace(1e-3, 1, 31)
COLOURS = ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#8172b3", "#937860", "#da8bc3", "#64b5cd")


def draw_estimate(path: Path, views: Sequence[View]) -> None:
    """Draw a row per view: the eigenvalues with their cumulative share of the variance, then k according to the theories."""
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
    else:  # a logarithmic axis of less than a decade would have no ticks
        axes.set_ylim(0, 1.1 * max(shown[0], noise))
    axes.axhline(noise, color="#999999", linewidth=0.8, linestyle=":")
    axes.text(1, noise, f" variance of the noise: {noise:g}", fontsize=7, color="#777777", va="bottom")
    axes.set(xlabel="principal direction", ylabel="variance")
    plain(axes, f"{view.name}: spectrum, D = {view.D}, total variance {view.total_variance:.3g}", size=8, label=10)
    held = axes.twinx()
    held.plot(index, np.cumsum(shown) / shown.sum(), color="#dd8452", linewidth=1)
    if len(index) > 10:
        axes.set_xscale("log")
    else:
        axes.set_xticks(index)
    held.set_ylim(0, 1.02)
    held.set_ylabel("cumulative share of the variance", color="#dd8452", fontsize=8)
    held.spines["top"].set_visible(False)
    held.tick_params(labelsize=8)


def _predictions(axes: Any, view: View) -> None:
    """Draw curves of k for data with the noise's variance in d of D directions, and the predictions for these data.

    Estimates of d at their limit are hollow. All minima that tie are drawn, as dashed lines.
    """
    axes.semilogx(RATIOS, 1 / (1 + RATIOS), color=INK, linewidth=1.2, label="linear, loss on u: D/(D + d)")
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
    # An estimate of d above D cannot be trusted, so the axis is wide enough to show it.
    right = max([1.0, *(1.3 * each.value / view.D for each in view.dimensions if each.value > view.D)])
    spectral = [one for one in view.predictions if not one.theory.startswith("D/(D + d)")]
    marks = [(k, one, COLOURS[i % len(COLOURS)]) for i, one in enumerate(spectral) for k in (one.k, *one.ties)]
    for (k, one, colour), place in zip(marks, _apart([k for k, *_ in marks])):
        axes.axhline(k, color=colour, linewidth=1, alpha=0.7, linestyle="--" if one.ties else "-")
        beside = axes.get_yaxis_transform()
        text = f"{k:.3f}  {one.theory}{' (a tie)' if one.ties else ''}"
        axes.text(1.01, place, text, transform=beside, fontsize=6.5, color=colour, va="center", clip_on=False)
    axes.set(xlim=(RATIOS[0], right), ylim=(-0.03, 1.03), xlabel="d/D", ylabel="k")
    axes.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    title = "curves: data with the noise's variance in d of D directions; lines: this data set"
    plain(axes, title, size=8, label=10, fontsize=6.5, loc="lower left", bbox_to_anchor=(0, 0.03))


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights for labels at least one line of text apart. Only labels that would overlap are moved."""
    groups: list[list[int]] = []  # labels that stand line by line, about the mean of their heights

    def bottom(group: Sequence[int]) -> float:
        return float(np.mean([heights[i] for i in group])) - (len(group) - 1) * LINE / 2

    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        groups.append([i])
        while len(groups) > 1 and bottom(groups[-2]) + len(groups[-2]) * LINE > bottom(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = {i: bottom(group) + line * LINE for group in groups for line, i in enumerate(group)}
    return [places[i] for i in range(len(heights))]


@lru_cache
def _ends() -> list[float]:
    """The best k at the end of training on the v-loss, for RATIOS. NaN at d = D, where k = 0 and k = 1 are equal minima."""
    D, numbers = 1000, [round(ratio * 1000) for ratio in RATIOS]
    return [float(optimal_k(whitened(D, d), space="v", clamp=PAPER_CLAMP)) if d < D else math.nan for d in numbers]
