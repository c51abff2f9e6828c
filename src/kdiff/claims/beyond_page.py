"""The tables and the picture of the study `beyond`, of all cells that have finished runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiff.claims.beyond_analysis import Settings, by_seed, chosen, mean, ratios, shown, targets_of
from kdiff.claims.beyond_cells import CELLS, FROZEN_GRID, FULL_GRID, PAPER, PLAIN, RECIPE, WEIGHTINGS, fixed
from kdiff.claims.beyond_judging import AVERAGES, CONTROLS
from kdiff.claims.claim import Outcome, Study
from kdiff.claims.evidence import precise
from kdiff.claims.panels import tidy
from kdiff.report.curve import logarithmic
from kdiff.report.drawing import INK, new_figure, save_figure
from kdiff.studies.paired import interval
from kdiff.studies.tables import deviation, markdown, with_spread

MATTERS = 1.2  # a choice matters if it makes the distance larger by more than this factor
COLOURS = {"none": "#8c8c8c", "den": "#dd8452", "log": "#4c72b0"}
NAMES = {RECIPE: "recipe", PLAIN: "the default before", PAPER: "the paper's"}
MARKS = {RECIPE: ("*", "#c44e52", 11), PLAIN: ("o", INK, 5), PAPER: ("x", INK, 5)}
LABELS = {"frechet": "Fréchet, held-out", "manifold": "√(p SW² + off²)", "sliced": "sliced Wasserstein"}
NOTES = [
    "Where a cell, a target or a seed is missing, its runs are not finished; the same command does them.",
    "The seconds in the table of costs were measured for one run on one x86-64 core that shared its cache with other work.",
]


def advice(study: Study, settings: Settings) -> list[str]:
    """What to pick, cell by cell: how much the choice matters over the whole grid, and under the log weight near its best k."""
    little, much = list[str](), list[str]()
    if not study.full:  # its grid has one k between 0.7 and 1
        return []
    for cell in study.cells:
        if chosen(study, cell, settings.targets, settings.choosing) is None:
            continue
        values = {target: mean(by_seed(study, cell, target)[s] for s in settings.choosing) for target in settings.targets}
        near = [values[fixed(k, "log")] for k in settings.grid if 0.7 <= k < 1]
        text = f"{cell} (whole grid {max(values.values()) / min(values.values()):.3g}, log weight {max(near) / min(near):.3g})"
        (little if max(near) < MATTERS * min(values.values()) else much).append(text)
    notes = []
    if little:
        notes.append(
            f"The log weight with any k of the grid from 0.7 to 0.95 is within {MATTERS} times the best of the grid, so that k "
            f"does not matter, in: {', '.join(little)}. In brackets: the largest distance over the smallest."
        )
    if much:
        notes.append(f"It matters more than that which k is taken, or which weight, in: {', '.join(much)}.")
    return notes


def spread(values: Sequence[float]) -> str:
    """The mean ± standard deviation; empty without values."""
    return with_spread(statistics.mean(values), deviation(list(values))) if values else ""


def table(study: Study, settings: Settings, best: Mapping[str, str | None]) -> str:
    """All tables."""
    parts = ["Held-out cells: distances of the judging seeds", held_out_table(study, settings, best)]
    parts += ["Fixed k: distances by weight (the closest of a line in bold), and the least copying ratio", grid_table(study)]
    parts += ["All other targets", targets_table(study)]
    if controls := controls_table(study):
        parts += ["Controls on development cells: distance divided by that of the clean samples", controls]
    return "\n\n".join([*parts, "The cells, and what a run of each costs", costs_table(study)])


def held_out_table(study: Study, settings: Settings, best: Mapping[str, str | None]) -> str:
    """A line for each held-out cell: the grid's best, the recipe, what it replaces, and their ratios."""
    lines = []
    for cell, target in best.items():
        names = [target or "", RECIPE, PLAIN, PAPER]
        found = [[v for s, v in by_seed(study, cell, name).items() if s in settings.judging] for name in names]
        after = [v for s, v in by_seed(study, cell, RECIPE, "calibrated").items() if s in settings.judging]
        logs = [ratios(study, cell, RECIPE, name, settings.judging) for name in (target or "", PLAIN, PAPER)]
        compared = [shown(interval(values)) if values else "" for values in logs]
        copied = by_seed(study, cell, RECIPE, measure="copying").values()
        figures = [target or "not chosen yet", *map(spread, found), spread(after), *compared, spread([*copied])]
        lines.append([cell, *figures, f"{floor_of(study, cell):.3g}"])
    header = ["cell", "best of the grid", "distance of the best", "recipe", "the default before", "the paper's"]
    header += ["recipe, calibrated", "recipe/best", "recipe/default before", "recipe/paper's", "copying, recipe", "floor"]
    return markdown(header, lines)


def floor_of(study: Study, cell: str) -> float:
    """The floor of a cell; NaN if no run is finished."""
    return next((row["heldout"] for row in study.rows if row["cell"] == cell and row.get("heldout") is not None), math.nan)


def grid_table(study: Study) -> str:
    """A line for each cell and weight, a column for each k."""
    ks, lines = sorted({*FULL_GRID, *FROZEN_GRID}), []
    for cell in study.cells:
        for weighting in WEIGHTINGS:
            found = {k: by_seed(study, cell, fixed(k, weighting)) for k in ks}
            means = {k: mean(values.values()) for k, values in found.items() if values}
            if not means:
                continue
            texts = {k: f"{value:.3g}" for k, value in means.items()}
            nearest = min(means, key=lambda k: means[k])
            texts[nearest] = f"**{texts[nearest]}**"
            copied = [v for k in ks for v in by_seed(study, cell, fixed(k, weighting), measure="copying").values()]
            seeds = str(max(map(len, found.values())))
            least = min((value for value in copied if not math.isnan(value)), default=math.nan)
            lines.append([cell, weighting, seeds, *(texts.get(k, "") for k in ks), f"{least:.3g}"])
    return markdown(["cell", "weight", "seeds", *(f"k = {k:g}" for k in ks), "copying, least"], lines)


def targets_table(study: Study) -> str:
    """A line for each cell and target that is no fixed k of the grid, and for those whose samples were calibrated too."""
    lines, grid = [], {fixed(k, weighting) for k in (*FULL_GRID, *FROZEN_GRID) for weighting in WEIGHTINGS}
    for cell in study.cells:
        for target in targets_of(study, cell):
            values = by_seed(study, cell, target)
            after = by_seed(study, cell, target, "calibrated")
            if target in grid and not after:
                continue
            ks = [row["k"] for row in study.runs(cell=cell, target=target) if row["k"] is not None]
            adopted = by_seed(study, cell, target, "calibrated", "adopted")
            line = [cell, target, f"{len(values)}", spread([*values.values()]), precise(ks, 3) if ks else ""]
            copied = [value for value in by_seed(study, cell, target, measure="copying").values() if not math.isnan(value)]
            line += [spread([*after.values()]), f"{sum(adopted.values()):g} of {len(adopted)}" if adopted else ""]
            lines.append([*line, spread(copied)])
    return markdown(["cell", "target", "seeds", "distance", "k", "calibrated", "adopted", "copying"], lines)


def controls_table(study: Study) -> str:
    """For each control the geometric mean over targets, the least and the largest ratio, and whether the order changes."""
    names, lines = [*CONTROLS, *AVERAGES], []
    for cell in study.cells:
        whole = {target: by_seed(study, cell, target, "half").get(0) for target in targets_of(study, cell)}
        base = {target: value for target, value in whole.items() if value}
        if not base:
            continue
        line = [cell, min(base, key=lambda target: base[target])]
        for name in names:
            other = {target: by_seed(study, cell, target, name)[0] for target in base}
            change = [other[target] / base[target] for target in base]
            first = min(other, key=lambda target: other[target])
            line.append(f"{mean(change):.3g} ({min(change):.3g} to {max(change):.3g}); best: {first}")
        lines.append(line)
    return markdown(["cell", "best target, clean", *names], lines) if lines else ""


def costs_table(study: Study) -> str:
    """Data, network, training, part, measure and seconds of each cell; the finished runs and their mean seconds."""
    lines = []
    for name, cell in CELLS.items():
        config = study.cells.get(name, cell.config)
        runs = study.runs(cell=name)
        taken = f"{statistics.mean(row['train_seconds'] for row in runs):.0f}" if runs else ""
        what = [name, str(config.data), str(config.network), f"{config.steps} × {config.batch_size}"]
        seconds = [f"{cell.seconds[0]:g} + {cell.seconds[1]:g}", f"{len(runs)}", taken]
        lines.append([*what, cell.part, LABELS[cell.measure], *seconds])
    header = ["cell", "data", "network", "steps × batch", "part", "measure", "seconds of a run (training + judging)"]
    return markdown([*header, "finished runs", "seconds of training, mean"], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """For each cell the distance over k under each weight, and the recipe, the default before and the paper's at their k."""
    there = [cell for cell in study.cells if CELLS[cell].part != "persistence" and study.runs(cell=cell)]
    columns = min(3, max(1, len(there)))
    rows = max(1, math.ceil(len(there) / columns))
    figure = new_figure(3.6 * columns, 2.5 * rows + 0.4)
    least = min((row["k"] for row in study.rows if row["k"] is not None), default=0.0)
    for i, cell in enumerate(there):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_cell(axes, study, cell)
        axes.set_xlim(least - 0.03, 1.03)
        if i % columns == 0:
            axes.set_ylabel("distance", fontsize=8)
        if i + columns >= len(there):
            axes.set_xlabel("k", fontsize=8)
    handles, labels = dict[str, Any](), []
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    labels = [*handles]
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw_cell(axes: Any, study: Study, cell: str) -> None:
    for weighting in WEIGHTINGS:
        found = {k: by_seed(study, cell, fixed(k, weighting)) for k in sorted({*FULL_GRID, *FROZEN_GRID})}
        found = {k: values for k, values in found.items() if values}
        if not found:
            continue
        means = [mean(values.values()) for values in found.values()]
        axes.plot([*found], means, "-", color=COLOURS[weighting], linewidth=1.2, label=f"fixed k, weight {weighting}")
        for k, values in found.items():
            axes.plot([k] * len(values), [*values.values()], ".", color=COLOURS[weighting], markersize=3)
    for target, (mark, colour, size) in MARKS.items():
        values, runs = by_seed(study, cell, target), study.runs(cell=cell, target=target)
        ks = {row["seed"]: row["k"] for row in runs}
        at = [ks[seed] for seed in values]
        axes.plot(at, [*values.values()], mark, color=colour, markersize=size, alpha=0.7, mfc="none", label=NAMES[target])
    logarithmic(axes)
    axes.tick_params(which="both", labelsize=7)
    tidy(axes, f"{cell}: {LABELS[CELLS[cell].measure]}", size=7.5)
