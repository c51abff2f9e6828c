"""The picture of `kdiff estimate`: the spectrum of the data, and k against d/D with what each theory says of these data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.experiments.estimate import View
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.target import PAPER_CLAMP
from kdiff.theory import optimal_k, whitened

LINE = 0.042
RATIOS = np.geomspace(1e-3, 1, 31)
COLOURS = ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#8172b3", "#937860")


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
    index = np.arange(1, len(shown) + 1)
    axes.loglog(index, shown, ".-", color="#4c72b0", markersize=3, linewidth=1)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
    axes.text(1, 1, " the noise's variance", fontsize=7, color="#777777", va="bottom")
    axes.set(xlabel="direction", ylabel="variance")
    axes.set_title(f"{view.name}: spectrum, D = {view.D}, total {view.total_variance:.3g}", fontsize=9, color=INK)
    held = axes.twinx()
    held.semilogx(index, np.cumsum(shown) / shown.sum(), color="#dd8452", linewidth=1)
    held.set_ylim(0, 1.02)
    held.set_ylabel("share of the variance", color="#dd8452", fontsize=8)
    for each in (axes, held):
        each.spines["top"].set_visible(False)
        each.tick_params(labelsize=8)


def _predictions(axes: Any, view: View) -> None:
    """Curves for data whitened on d of D directions; on them or beside them, these data."""
    axes.semilogx(RATIOS, 1 / (1 + RATIOS), color=INK, linewidth=1.2, label="D/(D + d): linear, loss on u")
    axes.semilogx(RATIOS, 1 / (1 + np.sqrt(RATIOS)), color=INK, linewidth=1, linestyle="--", label="linear, loss on v, start")
    axes.semilogx(RATIOS, _ends(), color=INK, linewidth=1, linestyle=":", label="linear, loss on v, end (clamp 0.05)")
    for i, estimated in enumerate(view.dimensions):
        ratio, colour = estimated.value / view.D, COLOURS[i % len(COLOURS)]
        marker = "o" if estimated.scope == "global" else "D"
        label = f"{estimated.method} ({estimated.scope}): d = {estimated.value:.3g}"
        axes.plot(ratio, 1 / (1 + ratio), marker, color=colour, markersize=6, label=label, zorder=3)
    spectral = [one for one in view.predictions if not one.theory.startswith("D/(D + d)")]
    places = _apart([one.k for one in spectral])
    for i, (one, place) in enumerate(zip(spectral, places)):
        colour = COLOURS[i % len(COLOURS)]
        axes.axhline(one.k, color=colour, linewidth=1, alpha=0.7)
        axes.text(1.05, place, f"{one.k:.2f}  {one.theory}", fontsize=6.5, color=colour, va="center", clip_on=False)
    axes.set(xlim=(RATIOS[0], 1), ylim=(0, 1.03), xlabel="d/D", ylabel="k")
    axes.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    axes.set_title("curves: data whitened on d of D directions; lines: these data", fontsize=9, color=INK)
    axes.legend(fontsize=6.5, frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights for labels, near the given ones and no nearer to each other than a line of text."""
    places, lowest = [0.0] * len(heights), -np.inf
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        places[i] = lowest = max(heights[i], lowest + LINE)
    # Pushed up one after the other: back down by as much as the highest was.
    shift = max((place - height for place, height in zip(places, heights)), default=0.0) / 2
    return [place - shift for place in places]


@lru_cache
def _ends() -> list[float]:
    D = 1000
    return [float(optimal_k(whitened(D, round(ratio * D)), space="v", clamp=PAPER_CLAMP)) for ratio in RATIOS]
