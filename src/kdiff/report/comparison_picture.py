"""One picture of a comparison: samples of each target side by side, the targets' numbers over the steps, and quality with
spread and floors.

With three or more fixed k, the picture also has curves of quality and of the losses against k. Samples are then shown for only
some of many fixed k.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from kdiff.data import Dataset
from kdiff.evaluation.subsets import matched_heldout
from kdiff.report.curve import FLOOR, draw_curve, draw_losses, logarithmic
from kdiff.report.drawing import INK, new_figure, panel, plain, save_figure, scale_to, short_label, view_of
from kdiff.run.generate import generate
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run, target_at_start
from kdiff.studies.comparison import MEASURES, best_target, fixed_targets, has_curve, judged_by, main_measure, summarise
from kdiff.studies.runner import Job
from kdiff.targets import Axis, Description

MAX_COLUMNS = 7
COLOURS = ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")
NAMED = dict(zip(("noise", "velocity", "data", "learned"), COLOURS))
OFF_SCALE = 20  # a target whose measure is that many times as high as the best is drawn beyond the scale


def draw_comparison(path: Path, jobs: Sequence[Job], rows: Sequence[dict[str, Any]], dataset: Dataset) -> None:
    """Draw the samples of the first seed (default sampler), and numbers and quality of all seeds."""
    targets = shown_targets(rows)
    colours = target_colours(targets)
    view = view_of(dataset.part("train")[0], dataset.manifold)
    columns = min(len(targets) + 1, MAX_COLUMNS)
    lines = math.ceil((len(targets) + 1) / columns)
    shown = [job for job in jobs if job.target in colours]
    first, *others = scales_of(shown) or [""]
    charts = 1 + has_curve(rows) + bool(others)
    figure = new_figure(max(2.3 * columns, 8), 2.6 * lines + 3 * charts)
    grid = figure.add_gridspec(1 + charts, 1, height_ratios=[lines, *[1.15] * charts])
    top = grid[0].subgridspec(lines, columns)

    panel(figure, top[0, 0], matched_heldout(dataset).x[: view.shown], view, "held-out data", INK)
    for i, target in enumerate(targets, start=1):
        run = load_run(next(job for job in jobs if job.target == target).folder, calibrated=False)
        x, _ = generate(run.model, view.shown, run.shape, run.given, last_step="data")
        panel(figure, top[i // columns, i % columns], x, view, short_label(target), colours[target])

    measure = main_measure(rows)
    count = len({job.config.seed for job in jobs})
    facts = f"{rows[0]['num_samples']} samples, {count} seed{'s' if count > 1 else ''}"
    if has_curve(rows):
        quality, losses = _row(figure, grid[1])
        draw_curve(quality, rows, measure, colours=colours)
        plain(quality, f"{MEASURES[measure]} against k (clean last step; {facts}; lower is better)", size=8)
        draw_losses(losses, rows, colours, clamped=jobs[0].config.loss_space == "v")
        plain(losses, "training loss and its parts against k", size=8)
    *over_time, quality = _row(figure, grid[1 + has_curve(rows)], 2 if first else 1)
    over_time += _row(figure, grid[charts], len(others)) if others else []
    for axes, scale in zip(over_time, [first, *others]):
        draw_over_time(axes, shown, colours, scale)
    _draw_quality(quality, rows, measure, colours)
    plain(quality, f"{MEASURES[measure]} ({facts}; lower is better)", size=8)
    save_figure(figure, path)


def shown_targets(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The targets whose samples are shown: all of them if they fit in one line, or if there is no curve over k.

    Otherwise all that are not a fixed k, the named ones, and the best, the first, the middle and the last fixed k.
    """
    targets = list(dict.fromkeys(row["target"] for row in rows))
    if len(targets) < MAX_COLUMNS or not has_curve(rows):
        return targets
    fixed = fixed_targets(rows)
    ordered = list(fixed)
    middle = min(ordered, key=lambda target: abs(2 * fixed[target] - fixed[ordered[0]] - fixed[ordered[-1]]))
    kept = {*NAMED, ordered[0], middle, ordered[-1], best_target(rows, fixed)}
    return [target for target in targets if target in kept or target not in fixed]


def target_colours(targets: Sequence[str]) -> dict[str, str]:
    """A colour for each target. The usual four targets have the same colour in every picture."""
    taken = {NAMED[target] for target in targets if target in NAMED}
    free = itertools.cycle([colour for colour in COLOURS if colour not in taken])
    return {target: NAMED.get(target) or next(free) for target in targets}


def _scale(target: Description) -> Axis | str:
    """What the main number of a target is drawn on: its axis, or without one a scale with the number's name ("": no number)."""
    return (target.axis or next(iter(target.scalars))) if target.scalars else ""


def scales_of(jobs: Sequence[Job]) -> list[Axis | str]:
    """The scales that the targets' main numbers need, each once, axes first."""
    found: list[Axis | str] = [""]
    for job in jobs:
        scale = _scale(target_at_start(job.folder))
        found += [] if scale in found else [scale]
    return sorted(found[1:], key=lambda scale: isinstance(scale, str))


def draw_over_time(axes: Axes, jobs: Sequence[Job], colours: Mapping[str, str], scale: Axis | str) -> None:
    """Draw the main numbers that belong to one scale over the steps, for all seeds, from the values before the first step."""
    names: dict[str, None] = {}
    for job in jobs:
        first = target_at_start(job.folder)
        if _scale(first) == scale:
            name = next(iter(first.scalars))
            # A line of metrics holds the number after its step, so at the first line it has already moved.
            rows = [{"step": 0, **first.scalars}, *read_metrics(job.folder / "metrics.jsonl")]
            axes.plot(
                *zip(*[(row["step"], row[name]) for row in rows if name in row]), color=colours[job.target], linewidth=1.2
            )
            names[name] = None
    scale_to(axes, scale if isinstance(scale, Axis) else None)
    axes.set(xlabel="step", ylabel=", ".join(names))
    plain(axes, f"{', '.join(names)} over the steps", size=8)


def _draw_quality(axes: Axes, rows: Sequence[dict[str, Any]], measure: str, colours: Mapping[str, str]) -> None:
    """Draw all seeds of the targets that have a colour, with floors. Arrows with the mean stand for values beyond the scale."""
    targets = list(colours)
    both = [(t, sampler) for t in targets for sampler in ("paper", "clean") if judged_by(rows, t, sampler)]
    summaries = {(t, sampler): summarise(rows, t, sampler, measure) for t, sampler in both}
    clean = [summaries[target, "clean"] for target in targets]
    # The scale must show the best samples, the best groups and the floor of the groups.
    limit = OFF_SCALE * max(min(s.mean for s in clean), min(s.grouped for s in clean), clean[0].heldout)
    beyond = False
    for i, target in enumerate(targets):
        groups = []
        for sampler, marker, offset in (("paper", "o", -0.12), ("clean", "D", 0.12)):
            seeds = [r["value"] for r in rows if (r["target"], r["sampler"], r["measure"]) == (target, sampler, measure)]
            groups.append((offset, seeds, marker, colours[target] if sampler == "clean" else "white"))
            exact = summaries[target, sampler].exact if seeds else None
            if exact is not None:
                axes.plot([i + offset - 0.1, i + offset + 0.1], [exact] * 2, color=FLOOR, linewidth=1.5)
        groups.append((0.34, [summaries[target, "clean"].grouped], "s", "white"))
        for offset, values, marker, filled in groups:
            if not values:
                continue
            style: dict[str, Any] = {"color": colours[target], "mfc": filled, "markersize": 4.5}
            if statistics.mean(values) <= limit:
                axes.plot([i + offset] * len(values), values, marker, alpha=0.8, **style)
                continue
            beyond = True
            _mark_beyond(axes, i + offset, statistics.mean(values), marker, style)
    axes.set_xlim(-0.5, len(targets) - 0.5)
    turned = len(targets) > 4
    labels = [short_label(target) if turned else short_label(target).replace("(", "\n(", 1) for target in targets]
    axes.set_xticks(range(len(targets)), labels, rotation=15 if turned else 0, fontsize=8)
    paper = any(sampler == "paper" for _, sampler in both)
    handles = [
        *(axes.plot([], [], "o", color=INK, mfc="white", markersize=5, label="paper's sampler") if paper else []),
        axes.plot([], [], "D", color=INK, markersize=5, label="clean last step")[0],
        axes.plot([], [], "s", color=INK, mfc="white", markersize=5, label=f"clean, in groups of {rows[0]['group_size']}")[0],
        axes.axhline(clean[0].heldout, linestyle=":", color=INK, linewidth=1, label="floor of the groups: held-out data"),
    ]
    if any(summary.exact is not None for summary in summaries.values()):
        handles.append(axes.plot([], [], "-", color=FLOOR, label="floor: exact denoiser")[0])
    logarithmic(axes)
    if beyond:
        # This leaves room for the arrows and their numbers above everything else.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.3)
        handles.append(axes.plot([], [], "^", color=INK, markersize=4, label="beyond the scale; the number is the mean")[0])
    # The legend lies below the labels of the targets, however high they are.
    figure: Any = axes.get_figure(root=True)
    height = max(label.get_window_extent().height for label in axes.get_xticklabels()) / figure.dpi
    below = axes.transAxes + ScaledTranslation(0, -height - 0.12, figure.dpi_scale_trans)
    columns = 3 if figure.get_figwidth() > 12 else 2
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
    axes.legend(handles=handles, fontsize=7, frameon=False, ncols=columns, **place)


def _mark_beyond(axes: Axes, x: float, value: float, marker: str, style: Mapping[str, Any]) -> None:
    """Draw a marker at the upper edge, with an arrow above it and the value below it."""
    edge = axes.get_xaxis_transform()
    axes.plot(x, 0.99, "^", color=style["color"], markersize=4, transform=edge)
    axes.plot(x, 0.93, marker, transform=edge, **style)
    axes.text(x, 0.89, f"{value:.3g}", rotation=90, fontsize=7, ha="center", va="top", color=style["color"], transform=edge)


def _row(figure: Figure, place: Any, count: int = 2) -> list[Axes]:
    return [figure.add_subplot(part) for part in place.subgridspec(1, count)]
