"""A comparison in one row: samples of up to four targets, and each target's main number over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdiff.data import Dataset
from kdiff.report.comparison_picture import draw_over_time, target_colours
from kdiff.report.drawing import Images, new_figure, panel, save_figure, view_of
from kdiff.run.generate import generate
from kdiff.run.run import load_run
from kdiff.studies.runner import Job

MOST, SIDE = 4, 6  # targets; images in a row and in a column


def draw_strip(path: Path, jobs: Sequence[Job], dataset: Dataset) -> None:
    """Draw the strip: samples of the first seed with the default sampler, the targets' numbers of all seeds."""
    targets = list(dict.fromkeys(job.target for job in jobs))[-MOST:]
    colours = target_colours(targets)
    view = view_of(dataset.part("train")[0], dataset.manifold)
    shown = SIDE**2 if isinstance(view, Images) else view.shown
    figure = new_figure(2.1 * (len(targets) + 1.4), 2.5)
    grid = figure.add_gridspec(1, len(targets) + 1, width_ratios=[*[1] * len(targets), 1.4])
    for i, target in enumerate(targets):
        run = load_run(next(job for job in jobs if job.target == target).folder)
        x, _ = generate(run.model, shown, run.shape, run.class_counts)
        panel(figure, grid[i], x, view, target, colours[target], columns=SIDE)
    draw_over_time(figure.add_subplot(grid[-1]), jobs, colours)
    save_figure(figure, path)
