"""One picture of a comparison: samples of each target side by side, k over time, and quality with spread and floors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdiff.data import Dataset
from kdiff.evaluation.judge import matched_heldout
from kdiff.experiments.compare import MEASURES, main_measure, summarise
from kdiff.experiments.runner import Job
from kdiff.report.samples import INK, View, new_figure, save_figure, view_of
from kdiff.training.generate import generate
from kdiff.training.metrics import read_metrics
from kdiff.training.run import load_run

MAX_COLUMNS = 7
COLOURS = ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")


def draw_comparison(path: Path, jobs: Sequence[Job], rows: Sequence[dict[str, Any]], dataset: Dataset) -> None:
    """Draw the comparison: the first seed's samples (paper's sampler with a clean last step), all seeds' k and figures."""
    targets = list(dict.fromkeys(job.target for job in jobs))
    colour = dict(zip(targets, COLOURS * math.ceil(len(targets) / len(COLOURS))))
    view = view_of(dataset.part("train")[0], dataset.manifold)
    columns = min(len(targets) + 1, MAX_COLUMNS)
    lines = math.ceil((len(targets) + 1) / columns)
    figure = new_figure(max(2.3 * columns, 8), 2.6 * lines + 3)
    grid = figure.add_gridspec(2, 1, height_ratios=[lines, 1.15])
    top = grid[0].subgridspec(lines, columns)
    bottom = grid[1].subgridspec(1, 2)

    _panel(figure, top[0, 0], matched_heldout(dataset)[: view.shown], view, "held-out data", INK)
    for i, target in enumerate(targets, start=1):
        job = next(job for job in jobs if job.target == target)
        run = load_run(job.folder)
        x, _ = generate(run.model, view.shown, run.shape, run.class_counts, last_step="data")
        _panel(figure, top[i // columns, i % columns], x, view, target, colour[target])

    axes = figure.add_subplot(bottom[0])
    for job in jobs:
        steps = [row for row in read_metrics(job.folder / "metrics.jsonl") if "k" in row]
        axes.plot([row["step"] for row in steps], [row["k"] for row in steps], color=colour[job.target], linewidth=1.2)
    axes.set(ylim=(-0.03, 1.03), xlabel="step", ylabel="k")
    axes.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    _plain(axes, "k over time")

    axes = figure.add_subplot(bottom[1])
    measure = main_measure(rows)
    for i, target in enumerate(targets):
        for sampler, marker, offset in (("paper", "o", -0.12), ("clean", "D", 0.12)):
            summary = summarise(rows, target, sampler, measure)
            filled = colour[target] if sampler == "clean" else "white"
            seeds = [r["value"] for r in rows if (r["target"], r["sampler"], r["measure"]) == (target, sampler, measure)]
            axes.plot([i + offset] * len(seeds), seeds, marker, color=colour[target], mfc=filled, markersize=4.5, alpha=0.8)
            if summary.exact is not None:
                axes.plot([i + offset - 0.1, i + offset + 0.1], [summary.exact] * 2, color="#999999", linewidth=1.5)
        grouped = summarise(rows, target, "clean", measure)
        axes.plot(i + 0.34, grouped.grouped, "s", color=colour[target], mfc="white", markersize=4.5)
        heldout = grouped.heldout
    axes.set_yscale("log")
    axes.set_xlim(-0.5, len(targets) - 0.5)
    axes.set_xticks(range(len(targets)), targets, rotation=20 if len(targets) > 4 else 0, fontsize=8)
    handles = [
        axes.plot([], [], "o", color=INK, mfc="white", markersize=5, label="paper's sampler")[0],
        axes.plot([], [], "D", color=INK, markersize=5, label="clean last step")[0],
        axes.plot([], [], "-", color="#999999", label="floor: exact denoiser")[0],
        axes.plot([], [], "s", color=INK, mfc="white", markersize=5, label=f"clean, in groups of {rows[0]['group_size']}")[0],
        axes.axhline(heldout, linestyle=":", color=INK, linewidth=1, label="floor of the groups: held-out data"),
    ]
    axes.legend(handles=handles, fontsize=7, frameon=False)
    count = len({job.config.seed for job in jobs})
    seeds_text = f"{count} seed{'s' if count > 1 else ''}"
    _plain(axes, f"{MEASURES[measure]} ({rows[0]['num_samples']} samples, {seeds_text}; lower is better)")
    save_figure(figure, path)


def _panel(figure: Any, place: Any, x: torch.Tensor, view: View, title: str, colour: str) -> None:
    axes = figure.add_subplot(place)
    view.draw(axes, x)
    axes.set_title(title, fontsize=9, color=colour)


def _plain(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
