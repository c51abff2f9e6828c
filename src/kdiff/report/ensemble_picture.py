"""Pictures of judged ensembles: truth, members, mean and spread for some held-out conditions, and the histogram of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from kdiff.evaluation.own_data import Seen
from kdiff.report.drawing import INK, new_figure, plain, save_figure

MEMBERS = 3  # shown beside the truth
GREEN = "#1a7a4c"


def draw_ensemble(path: Path, seen: Seen, ensemble: dict[str, Any]) -> None:
    """Write a row for each condition. Grids of two axes are images, of three their middle plane; others are curves.

    Fields of several channels show the one in which the truth varies most, in units of the held-out data.
    """
    x, scale = seen.truth, torch.tensor(ensemble["scale"])
    channel, name = 0, ""
    if x.ndim > 2:
        varied = [float((x[:, c][~x[:, c].isnan()].double().std() / scale[c]).nan_to_num(0.0)) for c in range(x.shape[1])]
        channel = int(np.argmax(varied))
        name = f", channel {ensemble['channels'][channel]}" if x.shape[1] > 1 else ""
    truth, members = plane(x, channel, lead=1), plane(seen.members, channel, lead=2)
    title = f"Ensembles of {ensemble['members']} members for held-out conditions{name}"
    draw = _draw_images if truth.ndim == 3 else _draw_curves
    draw(path, truth, members, seen, title)


def plane(x: Tensor, channel: int, lead: int) -> np.ndarray:
    """A channel of x (..., C, *grid) with `lead` axes before the channel: curves (..., L) or images (..., H, W).

    Of volumes it is the plane in the middle of the first axis of the grid; vectors (..., D) are curves.
    """
    values = x.double().cpu()
    if x.ndim > lead + 1:
        values = values.select(lead, channel)
        if values.ndim > lead + 2:
            values = values.select(lead, values.shape[lead] // 2)
    return values.numpy()


def _said(seen: Seen, row: int) -> str:
    conditions = seen.conditions[row].replace("; ", "\n") if seen.conditions else ""
    return f"{conditions}\nCRPS {seen.scores[row]:.3g}".strip()


def _draw_images(path: Path, truth: np.ndarray, members: np.ndarray, seen: Seen, title: str) -> None:
    rows, shown = len(truth), min(MEMBERS, members.shape[1])
    columns = ["truth", *(f"member {i + 1}" for i in range(shown)), "mean", "spread"]
    side = 1.45
    ratio = min(3.0, max(0.4, truth.shape[1] / truth.shape[2]))
    figure = new_figure(side * len(columns) + 1.6, side * ratio * rows + 0.8)
    low, high = (np.nanquantile(np.concatenate([truth.ravel(), members[:, :shown].ravel()]), q) for q in (0.002, 0.998))
    spread = members.std(axis=1, ddof=1)
    limits: dict[str, Any] = {"vmin": low, "vmax": high if high > low else low + 1, "cmap": "viridis"}
    wide: dict[str, Any] = {"vmin": 0, "vmax": float(spread.max()) or 1.0, "cmap": "magma"}
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for row in range(rows):
        pictures = [truth[row], *members[row, :shown], members[row].mean(axis=0), spread[row]]
        for column, picture in enumerate(pictures):
            place = axes[row, column]
            drawn = place.imshow(picture, interpolation="nearest", **(wide if column == len(columns) - 1 else limits))
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
            if row == 0:
                place.set_title(columns[column], fontsize=8, color=INK)
            if column == len(columns) - 2:
                mean = drawn
        axes[row, 0].set_ylabel(_said(seen, row), fontsize=7, rotation=0, ha="right", va="center", color=INK)
    for image, place in ((mean, axes[:, :-1]), (drawn, axes[:, -1:])):
        bar = figure.colorbar(
            image, ax=place, location="bottom", shrink=0.6 if place.shape[1] > 1 else 0.9, aspect=30, pad=0.02
        )
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=9, color=INK)
    save_figure(figure, path)


def _draw_curves(path: Path, truth: np.ndarray, members: np.ndarray, seen: Seen, title: str) -> None:
    rows, points = truth.shape
    marks = {"marker": "."} if points < 40 else {}
    figure = new_figure(7.0, 1.5 * rows + 0.6)
    at = np.arange(points)
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0]):
        ensemble = members[row]
        mean, deviation = ensemble.mean(axis=0), ensemble.std(axis=0, ddof=1)
        axes.fill_between(
            at, mean - 2 * deviation, mean + 2 * deviation, color=GREEN, alpha=0.15, linewidth=0, label="mean ± 2 spreads"
        )
        for i, member in enumerate(ensemble[:8]):
            axes.plot(at, member, color=GREEN, linewidth=0.4, label="members" if i == 0 else None)
        axes.plot(at, mean, color=GREEN, linewidth=1.2, label="mean")
        axes.plot(at, truth[row], color=INK, linewidth=1.2, label="truth", **marks)
        legend: dict[str, Any] = {} if row else {"loc": "upper right", "ncols": 4}
        plain(axes, **legend)
        axes.set_ylabel(_said(seen, row), fontsize=7, rotation=0, ha="right", va="center", color=INK)
    axes.set_xlabel("entry" if seen.truth.ndim == 2 else "grid point", fontsize=8)
    figure.suptitle(title, fontsize=9, color=INK)
    save_figure(figure, path)


def draw_ranks(path: Path, ensemble: dict[str, Any]) -> None:
    """Write the histogram of the ranks of the truth. The line is the frequency of every rank if the truth is like a member."""
    figure = new_figure(4.2, 2.8)
    axes = figure.add_subplot()
    details = ensemble["details"]
    frequency = details["model"]["ranks"]
    axes.bar(range(len(frequency)), frequency, width=0.9, color=GREEN, alpha=0.7)
    axes.axhline(1 / len(frequency), color=INK, linewidth=1)
    axes.set(xlabel="members below the truth", ylabel="frequency")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axes, f"Ranks of the truth: {details['model']['conditions']} conditions")
    save_figure(figure, path)
