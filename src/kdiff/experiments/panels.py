"""Panels that several claims are shown by: a measure of every target, cell by cell; and samples of every target of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes

from kdiff.experiments.claim import Study
from kdiff.report.curve import logarithmic
from kdiff.report.run import seen
from kdiff.report.samples import INK
from kdiff.training.generate import generate
from kdiff.training.run import load_run

TARGETS = {"velocity": "#4c72b0", "data": "#55a868", "learned": "#c44e52", "learned(rate=1)": "#dd8452"}


def draw_distances(axes: Axes, study: Study, labels: Mapping[str, str], measure: str = "frechet") -> None:
    """A point per run, cells side by side and targets in colours: on a logarithmic scale, clean last step.

    Args:
        axes: where.
        study: the runs.
        labels: of the cells, in order.
        measure: which.
    """
    there = [target for target in TARGETS if any(study.values(measure, cell=cell, target=target) for cell in labels)]
    for i, cell in enumerate(labels):
        for j, target in enumerate(there):
            values = study.values(measure, cell=cell, target=target)
            places = [i + 0.15 * (j - (len(there) - 1) / 2)] * len(values)
            label = target if i == 0 else None
            axes.plot(places, values, "o", color=TARGETS[target], markersize=5, alpha=0.8, label=label)
    axes.set_xticks(range(len(labels)), list(labels.values()), fontsize=7)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    logarithmic(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)


def draw_samples(axes: Axes, study: Study, lines: Mapping[str, tuple[str, str]], shown: int, title: str) -> None:
    """A line of samples for each run, the same noise for all; the first seed's runs. Latents are decoded.

    Args:
        axes: where.
        study: the runs.
        lines: their cells and targets, all of pictures of one size, by what they are called.
        shown: samples of each.
        title: above them.
    """
    runs = [load_run(study.folder(cell, target, 0)) for cell, target in lines.values()]
    drawn = [generate(run.model, shown, run.shape, run.class_counts, last_step="data")[0] for run in runs]
    pictures, views = zip(*[seen(run, x) for run, x in zip(runs, drawn)])
    views[0].draw(axes, torch.cat(pictures), columns=shown)
    axes.set_yticks((np.arange(len(lines)) + 0.5) * (pictures[0].shape[-2] + 1), list(lines), fontsize=7)
    axes.set_title(title, fontsize=9, color=INK)


def of_targets(study: Study, cell: str, targets: Sequence[str] = tuple(TARGETS)) -> dict[str, tuple[str, str]]:
    """The lines of all targets that a cell has."""
    return {target: (cell, target) for target in targets if study.runs(cell=cell, target=target)}
