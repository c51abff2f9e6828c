"""One picture of a comparison: samples of each target side by side, k over time, and quality with spread and floors.

With three fixed k or more, a curve of quality and of the losses against k as well; then only some of many fixed k have samples.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from kdiff.components import build
from kdiff.data import Dataset
from kdiff.evaluation.judge import matched_heldout
from kdiff.experiments.compare import MEASURES, best_target, fixed_targets, has_curve, main_measure, summarise
from kdiff.experiments.runner import Job
from kdiff.report.curve import FLOOR, draw_curve, draw_losses, logarithmic
from kdiff.report.samples import INK, View, new_figure, save_figure, view_of
from kdiff.training.generate import generate
from kdiff.training.metrics import read_metrics
from kdiff.training.run import load_run

MAX_COLUMNS = 7
COLOURS = ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")
NAMED = dict(zip(("noise", "velocity", "data", "learned"), COLOURS))
OFF_SCALE = 20  # times as much as what is read against each other


def draw_comparison(path: Path, jobs: Sequence[Job], rows: Sequence[dict[str, Any]], dataset: Dataset) -> None:
    """Draw the comparison: the first seed's samples (paper's sampler with a clean last step), all seeds' k and figures."""
    targets = shown_targets(rows)
    colours = _colours(targets)
    view = view_of(dataset.part("train")[0], dataset.manifold)
    columns = min(len(targets) + 1, MAX_COLUMNS)
    lines = math.ceil((len(targets) + 1) / columns)
    charts = 2 if has_curve(rows) else 1
    figure = new_figure(max(2.3 * columns, 8), 2.6 * lines + 3 * charts)
    grid = figure.add_gridspec(1 + charts, 1, height_ratios=[lines, *[1.15] * charts])
    top = grid[0].subgridspec(lines, columns)

    _panel(figure, top[0, 0], matched_heldout(dataset)[: view.shown], view, "held-out data", INK)
    for i, target in enumerate(targets, start=1):
        run = load_run(next(job for job in jobs if job.target == target).folder)
        x, _ = generate(run.model, view.shown, run.shape, run.class_counts, last_step="data")
        _panel(figure, top[i // columns, i % columns], x, view, target, colours[target])

    measure = main_measure(rows)
    count = len({job.config.seed for job in jobs})
    facts = f"{rows[0]['num_samples']} samples, {count} seed{'s' if count > 1 else ''}"
    if has_curve(rows):
        quality, losses = _two(figure, grid[1])
        draw_curve(quality, rows, measure, colours=colours)
        _plain(quality, f"{MEASURES[measure]} against k (clean last step; {facts}; lower is better)")
        draw_losses(losses, rows, colours, clamped=jobs[0].config.loss_space == "v")
        _plain(losses, "training loss against k, and its parts")
    over_time, quality = _two(figure, grid[charts])
    _draw_k(over_time, jobs, colours)
    _draw_quality(quality, rows, measure, colours)
    _plain(quality, f"{MEASURES[measure]} ({facts}; lower is better)")
    save_figure(figure, path)


def shown_targets(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Those with samples: all, while a line has room for them, or no curve shows the others.

    Else those that are no fixed k, the named ones, the best fixed k, and the ends and the middle of them.
    """
    targets = list(dict.fromkeys(row["target"] for row in rows))
    if len(targets) < MAX_COLUMNS or not has_curve(rows):
        return targets
    fixed = fixed_targets(rows)
    ordered = list(fixed)
    middle = min(ordered, key=lambda target: abs(2 * fixed[target] - fixed[ordered[0]] - fixed[ordered[-1]]))
    kept = {*NAMED, ordered[0], middle, ordered[-1], best_target(rows, fixed)}
    return [target for target in targets if target in kept or target not in fixed]


def _colours(targets: Sequence[str]) -> dict[str, str]:
    """The usual four have their own in every picture."""
    taken = {NAMED[target] for target in targets if target in NAMED}
    free = itertools.cycle([colour for colour in COLOURS if colour not in taken])
    return {target: NAMED.get(target) or next(free) for target in targets}


def _draw_k(axes: Axes, jobs: Sequence[Job], colours: Mapping[str, str]) -> None:
    """k over the steps, of all seeds, from where it began."""
    for job in jobs:
        # Lines of metrics have k behind their step: the first has moved already.
        start = {"step": 0, **build("target", job.config.target).state()}
        points = [(row["step"], row["k"]) for row in [start, *read_metrics(job.folder / "metrics.jsonl")] if "k" in row]
        if points and job.target in colours:
            axes.plot(*zip(*points), color=colours[job.target], linewidth=1.2)
    axes.set(ylim=(-0.03, 1.03), xlabel="step", ylabel="k")
    axes.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    _plain(axes, "k over time")


def _draw_quality(axes: Axes, rows: Sequence[dict[str, Any]], measure: str, colours: Mapping[str, str]) -> None:
    """All seeds of the targets that have a colour, with their floors. What is far off is an arrow with its mean."""
    targets = list(colours)
    summaries = {(t, sampler): summarise(rows, t, sampler, measure) for t in targets for sampler in ("paper", "clean")}
    clean = [summaries[target, "clean"] for target in targets]
    # What is read against each other: the best samples and their groups, and the groups' floor.
    limit = OFF_SCALE * max(min(s.mean for s in clean), min(s.grouped for s in clean), clean[0].heldout)
    beyond = False
    for i, target in enumerate(targets):
        groups = []
        for sampler, marker, offset in (("paper", "o", -0.12), ("clean", "D", 0.12)):
            seeds = [r["value"] for r in rows if (r["target"], r["sampler"], r["measure"]) == (target, sampler, measure)]
            groups.append((offset, seeds, marker, colours[target] if sampler == "clean" else "white"))
            exact = summaries[target, sampler].exact
            if exact is not None:
                axes.plot([i + offset - 0.1, i + offset + 0.1], [exact] * 2, color=FLOOR, linewidth=1.5)
        groups.append((0.34, [summaries[target, "clean"].grouped], "s", "white"))
        for offset, values, marker, filled in groups:
            style: dict[str, Any] = {"color": colours[target], "mfc": filled, "markersize": 4.5}
            if statistics.mean(values) <= limit:
                axes.plot([i + offset] * len(values), values, marker, alpha=0.8, **style)
                continue
            beyond = True
            _mark_beyond(axes, i + offset, statistics.mean(values), marker, style)
    axes.set_xlim(-0.5, len(targets) - 0.5)
    turned = len(targets) > 4
    axes.set_xticks(range(len(targets)), targets, rotation=15 if turned else 0, fontsize=8)
    handles = [
        axes.plot([], [], "o", color=INK, mfc="white", markersize=5, label="paper's sampler")[0],
        axes.plot([], [], "D", color=INK, markersize=5, label="clean last step")[0],
        axes.plot([], [], "s", color=INK, mfc="white", markersize=5, label=f"clean, in groups of {rows[0]['group_size']}")[0],
        axes.axhline(clean[0].heldout, linestyle=":", color=INK, linewidth=1, label="floor of the groups: held-out data"),
    ]
    if any(summary.exact is not None for summary in summaries.values()):
        handles.append(axes.plot([], [], "-", color=FLOOR, label="floor: exact denoiser")[0])
    logarithmic(axes)
    if beyond:
        # Room for the arrows and their figures above all else.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.3)
        handles.append(axes.plot([], [], "^", color=INK, markersize=4, label="beyond the scale, at this mean")[0])
    axes.legend(
        handles=handles, fontsize=7, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2 if turned else -0.12)
    )


def _mark_beyond(axes: Axes, x: float, value: float, marker: str, style: Mapping[str, Any]) -> None:
    """A marker at the upper edge, an arrow above it, and the value below it."""
    edge = axes.get_xaxis_transform()
    axes.plot(x, 0.99, "^", color=style["color"], markersize=4, transform=edge)
    axes.plot(x, 0.93, marker, transform=edge, **style)
    axes.text(x, 0.89, f"{value:.3g}", rotation=90, fontsize=7, ha="center", va="top", color=style["color"], transform=edge)


def _two(figure: Any, place: Any) -> tuple[Axes, Axes]:
    halves = place.subgridspec(1, 2)
    return figure.add_subplot(halves[0]), figure.add_subplot(halves[1])


def _panel(figure: Any, place: Any, x: torch.Tensor, view: View, title: str, colour: str) -> None:
    axes = figure.add_subplot(place)
    view.draw(axes, x)
    axes.set_title(title, fontsize=9, color=colour)


def _plain(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_size(9)
