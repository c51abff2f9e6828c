"""A measure against k, from the tidy rows of one data set: fixed values of k as a curve, and each learned k where it ended.

Each point is a seed, and the line joins the means of the fixed k. A learned k that has found the best k lies at the lowest
point of the curve.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kdiff.report.drawing import INK
from kdiff.studies.comparison import MEASURES, fixed_targets, main_number
from kdiff.studies.tables import deviation, with_spread
from kdiff.targets import PAPER_CLAMP

FLOOR = "#999999"
LOSSES = {
    "loss": ("loss", INK),
    "loss_along": ("along the principal directions", "#4c72b0"),
    "loss_across": ("across them", "#dd8452"),
}
NEGLIGIBLE = 1e-3  # a smaller share of the loss is rounding, as when the principal directions span all of the data


def shown_losses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of LOSSES that rows have and that are more than rounding."""
    least = NEGLIGIBLE * min((row["loss"] for row in rows if row["loss"] is not None), default=0.0)
    return [name for name in LOSSES if max((row[name] for row in rows if row.get(name) is not None), default=-1.0) >= least]


def draw_curve(
    axes: Axes, rows: Sequence[dict[str, Any]], measure: str, sampler: str = "clean", colours: Mapping[str, str] | None = None
) -> None:
    """Draw a measure against k.

    Args:
        axes: where to draw.
        rows: tidy rows of one data set.
        measure: which measure of the rows.
        sampler: which sampler of the rows.
        colours: colours by target; all other targets are drawn in INK.
    """
    colours, fixed = colours or {}, fixed_targets(rows)
    chosen = [row for row in rows if (row["measure"], row["sampler"]) == (measure, sampler)]
    floors = {fixed[row["target"]]: row["exact"] for row in chosen if row["target"] in fixed and row["exact"] is not None}
    if floors:
        axes.plot(*zip(*sorted(floors.items())), color=FLOOR, linewidth=1.5, label="floor: exact denoiser")
    values = _draw(axes, chosen, "value", "fixed k: seeds and their mean", INK, colours)
    _mark_learned(axes, chosen, "value", INK, colours, named=True)
    _frame(axes, chosen, values + list(floors.values()), MEASURES.get(measure, measure))


def draw_losses(
    axes: Axes, rows: Sequence[dict[str, Any]], colours: Mapping[str, str] | None = None, clamped: bool = True
) -> None:
    """Draw the loss at the end of training against k, and its parts along and across the data's principal directions.

    Args:
        axes: where to draw.
        rows: tidy rows of one data set.
        colours: colours of the targets that are not a fixed k.
        clamped: whether to shade the k at which the clamp of the v-loss acts. The clamp gives times near 0 or 1 less weight, so
            losses in the shaded parts compare only roughly with the others.
    """
    runs = list({(row["target"], row["seed"]): row for row in rows}.values())
    shown: list[float] = []
    for field, (label, colour) in LOSSES.items():
        if any(row.get(field) is None for row in runs):
            continue
        if field not in shown_losses(runs):
            axes.plot([], [], color=colour, label=f"{label}: none")
            continue
        shown += _draw(axes, runs, field, label, colour, {})
        _mark_learned(axes, runs, field, colour, colours or {}, named=False)
    low, high = _frame(axes, runs, shown, "training loss")
    for start, end in ((max(low, 0), PAPER_CLAMP), (1 - PAPER_CLAMP, min(high, 1))):
        if clamped and start < end:
            named = None if axes.patches else "the loss is clamped"
            axes.axvspan(start, end, color="#000000", alpha=0.06, linewidth=0, label=named)
    axes.legend(fontsize=7, frameon=False)


def _draw(
    axes: Axes, rows: Sequence[dict[str, Any]], field: str, label: str, colour: str, colours: Mapping[str, str]
) -> list[float]:
    """Draw the fixed k as points, with a line through their means. Returns the values of the field of all targets with a k."""
    by_k: dict[float, list[float]] = {}
    for target, k in fixed_targets(rows).items():
        values = [row[field] for row in rows if row["target"] == target]
        axes.plot([k] * len(values), values, "o", color=colours.get(target, colour), markersize=3.5, alpha=0.6, mew=0)
        by_k.setdefault(k, []).extend(values)
    axes.plot(list(by_k), [statistics.mean(v) for v in by_k.values()], "-", color=colour, linewidth=1.2, label=label)
    return [row[field] for row in rows if row["k"] is not None]


def _mark_learned(
    axes: Axes, rows: Sequence[dict[str, Any]], field: str, edge: str, colours: Mapping[str, str], named: bool
) -> None:
    """Draw a star for each seed of the other targets where its k ended. Its edge has the colour of the line it belongs to."""
    fixed = fixed_targets(rows)
    others = [row for row in rows if row["k"] is not None and row["target"] not in fixed]
    for target in dict.fromkeys(row["target"] for row in others):
        ks, values, called = zip(*((row["k"], row[field], main_number(row)[0]) for row in others if row["target"] == target))
        label = f"{target}: {called[0]} = {with_spread(statistics.mean(ks), deviation(ks))}" if named else None
        style: dict[str, Any] = {"color": colours.get(target, INK), "markersize": 9, "mec": edge, "mew": 0.6, "zorder": 3}
        axes.plot(ks, values, "*", label=label, **style)


def logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers: powers of ten, or 1, 2 and 5 of each decade if there are few."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _frame(axes: Axes, rows: Sequence[dict[str, Any]], values: Sequence[float], label: str) -> tuple[float, float]:
    """Draw axes and legend; the vertical axis is logarithmic if values span more than a factor of 10. Returns the ends of k."""
    if min(values) > 0 and max(values) > 10 * min(values):
        logarithmic(axes)
    elif min(values) >= 0:
        axes.set_ylim(bottom=0)
    ks = [row["k"] for row in rows if row["k"] is not None]
    margin = 0.04 * (max(ks) - min(ks))
    low, high = min(ks) - margin, max(ks) + margin
    axes.set(xlim=(low, high), xlabel="k", ylabel=label)
    if (min(ks), max(ks)) == (0, 1):
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\nnoise", "0.25", "0.5\nvelocity", "0.75", "1\ndata"])
    axes.legend(fontsize=7, frameon=False)
    return low, high
