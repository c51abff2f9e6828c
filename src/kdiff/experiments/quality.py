"""One number for the quality of a run's samples, and whether one target reaches the best of many.

Labelled images: the Fréchet distance. Data on a known manifold over a plane of p dimensions: a sliced distance in the plane
sees nothing of what lies off it, so it is put together with that,

    distance = √(p SW² + off²),

which is the 2-Wasserstein distance for a flat plane if the one within it is the same in all directions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from kdiff.experiments.claim import Finding, Study, Verdict, markdown
from kdiff.experiments.compare import deviation, with_spread
from kdiff.experiments.paired import MARGIN, WORSE, Interval, best_of, intervals, log_ratios, over_best
from kdiff.training.build import load_dataset
from kdiff.training.config import TrainConfig

QUALITY = "quality"
Pair = tuple[str, str]  # a cell, and a target that ours is compared with


@lru_cache
def plane_dim(data: str) -> int:
    """p of a data set on a known manifold."""
    manifold = load_dataset(TrainConfig(data=data)).manifold
    assert manifold
    return manifold.plane_dim


def quality_rows(study: Study, cell: str, heldout: bool = False) -> list[dict[str, Any]]:
    """Tidy rows of one cell, of the measure "quality" alone: a row per run and sampler, floors as in the others.

    With `heldout`, images are compared with those held out, a distance that copies of training images do not lower. Where
    these are few it is mostly its own floor, so that it tells ways and not sizes. Data on a manifold are compared as ever.
    """
    rows = [row for row in study.rows if row["cell"] == cell]
    off = {(r["target"], r["seed"], r["sampler"]): r for r in rows if r["measure"] == "off_manifold"}
    if not off:
        measure = "frechet_heldout" if heldout else "frechet"
        return [{**row, "measure": QUALITY} for row in rows if row["measure"] == measure]
    p = plane_dim(next(str(job.config.data) for job in study.jobs if job.cell == cell))

    def together(row: dict[str, Any], field: str) -> float | None:
        beside = off[row["target"], row["seed"], row["sampler"]]
        return None if row[field] is None else math.sqrt(p * row[field] ** 2 + beside[field] ** 2)

    fields = ("value", "grouped", "heldout", "exact")
    inside = [row for row in rows if row["measure"] == "sliced_wasserstein"]
    return [{**row, "measure": QUALITY, **{field: together(row, field) for field in fields}} for row in inside]


def by_target(rows: Sequence[dict[str, Any]], field: str = "value", sampler: str = "clean") -> dict[str, list[float]]:
    """A field of every target, a number per run, in order of seeds."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["sampler"] == sampler:
            found.setdefault(row["target"], {})[row["seed"]] = row[field]
    return {target: [values[seed] for seed in sorted(values)] for target, values in found.items()}


def target_table(rows: Mapping[str, list[dict[str, Any]]], first: str, last: str, beside: Mapping[tuple[str, str], str]) -> str:
    """A line per cell and target: k, v-loss, distance under both samplers, its floors; and what stands `beside` some lines."""
    lines, exact = [], any(row["exact"] is not None for found in rows.values() for row in found)
    for name, found in rows.items():
        fields = {field: by_target(found, field) for field in ("k", "loss", "value", "grouped", "exact")}
        paper = by_target(found, sampler="paper")
        for target, values in fields["value"].items():
            shown = (fields["k"][target], fields["loss"][target], values, paper[target])
            figures = [with_spread(statistics.mean(v), deviation(v)) for v in shown]
            floor = next((value for value in fields["exact"][target] if value is not None), None)
            grouped = f"{statistics.mean(fields['grouped'][target]):.3g}"
            floors = ["" if floor is None else f"{floor:.3g}"] * exact + [grouped, f"{found[0]['heldout']:.3g}"]
            lines.append([name, target, *figures, *floors, beside.get((name, target), "")])
    header = [first, "target", "k", "v-loss", "distance, clean", "distance, paper's sampler"]
    floors = ["floor: exact denoiser, clean"] * exact + ["clean, in groups", "floor: held out"]
    return markdown([*header, *floors, last], lines)


def not_apart(values: Mapping[str, Sequence[float]]) -> list[str]:
    """The best target, and those that are not told apart from it as worse."""
    best = best_of(values)
    if len(values) == 1:
        return [best]
    _, each = intervals({t: log_ratios(v, values[best]) for t, v in values.items() if t != best})
    return [target for target in values if target == best or not each[target].low > 0]


def against_all(
    ours: Mapping[str, Sequence[float]], others: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[Pair, Interval]:
    """Intervals of log(ours / other) for every cell and every other target of it, which hold all together with 95 %.

    So ours may be compared with the best of the others, whichever that turns out to be.
    """
    ratios = {(cell, t): log_ratios(ours[cell], v) for cell, targets in others.items() for t, v in targets.items()}
    named = intervals({f"{cell}\n{target}": values for (cell, target), values in ratios.items()})[1]
    return {pair: named["\n".join(pair)] for pair in ratios}


def reaches_the_best(
    statement: str, ours: Mapping[str, Sequence[float]], others: Mapping[str, Mapping[str, Sequence[float]]], what: str
) -> Finding:
    """Whether one target is as good as the best of the others in every cell, of a measure that is better when lower.

    Refuted if in a cell ours is at least 2 % worse than some other, with 95 % confidence for all together; confirmed if over
    all cells ours is, with 95 % confidence, no more than 10 % worse than the best of each, chosen for every seed by the others
    and by all; inconclusive otherwise.
    """
    compared = against_all(ours, others)
    beaten: dict[str, str] = {}
    for (cell, target), found in compared.items():
        if found.low > math.log1p(WORSE) and (cell not in beaten or found.mean > compared[cell, beaten[cell]].mean):
            beaten[cell] = target
    of_best = {cell: over_best(ours[cell], targets) for cell, targets in others.items()}
    overall, _ = intervals(of_best)
    sterner, _ = intervals({cell: log_ratios(ours[cell], targets[best_of(targets)]) for cell, targets in others.items()})
    ratios = {cell: statistics.mean(values) for cell, values in of_best.items()}
    worst = max(ratios, key=lambda cell: ratios[cell])
    seeds = min(map(len, ours.values()))
    span = f"{seeds} seeds, 95 %: {_percent(overall.low)} to {_percent(overall.high)}" if seeds > 1 else "one seed, no spread"
    evidence = (
        f"{what} over that of each cell's best: {_percent(overall.mean)} ({span}), at worst {_percent(ratios[worst])} "
        f"({worst}), {len(ours)} cell{'s' * (len(ours) > 1)}"
    )
    for cell, target in beaten.items():
        found = compared[cell, target]
        evidence += f"; told apart as worse in {cell}: than {target} by {_percent(found.mean)} (at least {_percent(found.low)})"
    fine = max(overall.high, sterner.high) < math.log1p(MARGIN)
    verdict: Verdict = "refuted" if beaten else "confirmed" if fine else "inconclusive"
    return Finding(statement, verdict, evidence)


def _percent(log_ratio: float) -> str:
    """A ratio as what it is more than 1, or as a factor where it is far from 1."""
    ratio = math.exp(log_ratio)
    return f"× {ratio:.3g}" if ratio >= 2 else f"{ratio - 1:+.1%}"
