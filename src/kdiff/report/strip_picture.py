"""A comparison in one row: samples of up to four targets, and their main numbers over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdiff.data import Dataset
from kdiff.report.comparison_picture import draw_over_time, scales_of, target_colours
from kdiff.report.drawing import ImageView, new_figure, panel, save_figure, short_label, view_of
from kdiff.run.generate import generate
from kdiff.run.run import load_run
from kdiff.studies.runner import Job

MOST, SIDE = 4, 6  # targets; images in a row and in a column
WIDTH, LEAST_HEIGHT = 2.1, 1.5  # inches, for the samples of a target; for the numbers over the steps


def draw_strip(path: Path, jobs: Sequence[Job], dataset: Dataset) -> None:
    """Draw the strip: samples of the first seed with the default sampler, and the numbers of all seeds on one axis."""
    targets = list(dict.fromkeys(job.target for job in jobs))[-MOST:]
    colours = target_colours(targets)
    view = view_of(dataset.part("train")[0], dataset.manifold)
    shown = SIDE**2 if isinstance(view, ImageView) else view.shown
    drawn = [job for job in jobs if job.target in colours]
    scales = scales_of(drawn)[:1]
    figure = new_figure(WIDTH * (len(targets) + 1.4 * len(scales)), WIDTH)
    left, *right = figure.subfigures(1, 1 + len(scales), width_ratios=[len(targets), *[1.4] * len(scales)], squeeze=False)[0]
    for place, target in zip(left.add_gridspec(1, len(targets)), targets):
        run = load_run(next(job for job in drawn if job.target == target).folder, calibrated=False)
        x, _ = generate(run.model, shown, run.shape, run.given)
        samples = panel(left, place, x, view, short_label(target), colours[target], columns=SIDE)
    for part, scale in zip(right, scales):
        draw_over_time(part.add_subplot(), drawn, colours, scale)
    # The height is such that the samples fill their places. What their title needs is known once they have been laid out.
    ratio = samples.get_data_ratio()
    figure.set_figheight(WIDTH * ratio)
    figure.draw_without_rendering()
    place = samples.get_position(original=True).transformed(left.transSubfigure)
    figure.set_figheight(max(WIDTH * ratio + (place.width * ratio - place.height) / figure.dpi, LEAST_HEIGHT))
    save_figure(figure, path)
