"""Parts of the claims' pictures: axes of one look, k over the steps, points for cells side by side, and rows of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdiff.claims.claim import Study
from kdiff.claims.evidence import learned_k
from kdiff.report.curve import logarithmic
from kdiff.report.drawing import INK, new_figure
from kdiff.report.run_view import seen
from kdiff.run.generate import generate
from kdiff.run.run import load_run

TARGETS = {"velocity": "#4c72b0", "data": "#55a868", "learned": "#c44e52", "learned(rate=1)": "#dd8452"}
SHOWN = 6  # samples of each target


def tidy(axes: Axes, title: str = "", size: float = 9, **legend: Any) -> None:
    """No frame at the top and the right, a title of this size, and with any option of `legend` a legend without a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, fontsize=size, color=INK)
    if legend:
        axes.legend(frameon=False, **legend)


def doubling(axes: Axes, label: str, values: Sequence[int]) -> None:
    """Let the horizontal axis be logarithmic with base 2, with a tick at each of these values and none between them."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_xlabel(label)
    axes.minorticks_off()


def draw_k(axes: Axes, study: Study, label: str | None, style: Mapping[str, Any], **wanted: Any) -> None:
    """k over the steps, a line for each run with the values `wanted` (cell, target, seed); the first seed has the label."""
    for run in study.runs(**wanted):
        steps = study.metrics(run["cell"], run["target"], run["seed"])
        named = None if run["seed"] else label
        axes.plot([line["step"] for line in steps], [line["k"] for line in steps], label=named, **style)
    axes.set(xlabel="step", ylabel="k")


def draw_ends(axes: Axes, study: Study, labels: Mapping[str, str], size: float = 7) -> None:
    """Learned k at the end, a point for each run; the cells stand side by side, with these labels in this font size."""
    for i, cell in enumerate(labels):
        ks = list(learned_k(study, cell).values())
        label = None if i else "learned"
        axes.plot([i] * len(ks), ks, "o", color=TARGETS["learned"], markersize=5, alpha=0.8, label=label)
    axes.set_xticks(range(len(labels)), list(labels.values()), fontsize=size)


def draw_distances(axes: Axes, study: Study, labels: Mapping[str, str], title: str) -> None:
    """Fréchet distances (clean last step, logarithmic scale), a point for each run; the cells side by side with labels."""
    there = [target for target in TARGETS if any(study.values("frechet", cell=cell, target=target) for cell in labels)]
    for i, cell in enumerate(labels):
        for j, target in enumerate(there):
            values = study.values("frechet", cell=cell, target=target)
            places = [i + 0.15 * (j - (len(there) - 1) / 2)] * len(values)
            label = target if i == 0 else None
            axes.plot(places, values, "o", color=TARGETS[target], markersize=5, alpha=0.8, label=label)
    axes.set_xticks(range(len(labels)), list(labels.values()), fontsize=7)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    logarithmic(axes)
    tidy(axes, title, fontsize=7)


def draw_samples(axes: Axes, study: Study, lines: Mapping[str, tuple[str, str]], shown: int, title: str) -> None:
    """A row of samples for each of several runs of the first seed, from the same noise in every row. Latents are decoded.

    `lines` has the cell and the target of each run by the name of its row. All must have pictures of one size.
    """
    runs = [load_run(study.folder(cell, target, 0), calibrated=False) for cell, target in lines.values()]
    drawn = [generate(run.model, shown, run.shape, run.given, last_step="data")[0] for run in runs]
    pictures, views = zip(*[seen(run, x) for run, x in zip(runs, drawn)])
    views[0].draw(axes, torch.cat(pictures), columns=shown)
    axes.set_yticks((np.arange(len(lines)) + 0.5) * (pictures[0].shape[-2] + 1), list(lines), fontsize=7)
    axes.set_title(title, fontsize=9, color=INK)


def beside_samples(
    study: Study, judged: Sequence[str], size: tuple[float, float], heights: tuple[float, float]
) -> tuple[Figure, Axes]:
    """A figure with the distances of evaluated cells at the upper right, and below samples of all their targets.

    The axes that are returned are those at the upper left, for k. `heights` are the relative heights of the two rows.
    """
    figure = new_figure(*size)
    grid = figure.add_gridspec(2, 1, height_ratios=heights)
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    left, right = above.subplots(1, 2, width_ratios=(1.6, 1))
    labels = {cell: cell.replace(", ", "\n") for cell in judged}
    draw_distances(right, study, labels, "Fréchet distance, clean last step (a point for each seed)")
    for cell, axes in zip(judged, below.subplots(1, len(judged), squeeze=False)[0]):
        lines = {target: (cell, target) for target in TARGETS if study.runs(cell=cell, target=target)}
        draw_samples(axes, study, lines, SHOWN, cell)
    return figure, left
