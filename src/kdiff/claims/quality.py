"""One number for the quality of a run's samples, and whether one target is as good as the best of several.

For labelled images the number is the Fréchet distance. For data on a known manifold over a plane of p dimensions, a sliced
Wasserstein distance SW within the plane does not see what lies off it. So both are combined,

    distance = √(p SW² + off²),

with the root-mean-square distance `off` of samples from the manifold. For a flat plane this is the 2-Wasserstein distance, if
the distance within the plane is the same in all directions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from kdiff.claims.claim import Finding, Study, decided
from kdiff.claims.evidence import spread
from kdiff.config.training import TrainConfig
from kdiff.run.build import load_dataset
from kdiff.studies.paired import MARGIN, WORSE, best_of, intervals, log_ratios, over_best
from kdiff.studies.tables import markdown

QUALITY = "quality"
Pair = tuple[str, str]  # a cell, and a target of it


@lru_cache
def training_samples(data: str) -> Any:
    """The training samples (N, *shape) of a data set, normalised, and their labels if it has labels."""
    return load_dataset(TrainConfig(data=data)).part("train")


@lru_cache
def plane_dim(data: str) -> int:
    """p, the dimension of the plane under a known manifold."""
    manifold = load_dataset(TrainConfig(data=data)).manifold
    assert manifold
    return manifold.plane_dim


def quality_rows(study: Study, cell: str, heldout: bool = False) -> list[dict[str, Any]]:
    """Tidy rows of one cell with the single measure "quality": a row for each run and sampler, with the floors of other rows.

    With `heldout`, images are compared with held-out images; copies of training images do not lower this distance. If there are
    few held-out images, the distance is mostly its own floor: it then shows the direction of a difference, but not its size.
    Data on a manifold are compared as without `heldout`.
    """
    rows = [row for row in study.rows if row["cell"] == cell]
    if any(row.get("measure") == "distance" for row in rows):  # of a study that has judged by one number already
        return [{**row, "measure": QUALITY} for row in rows if row["measure"] == "distance"]
    off = {(r["target"], r["seed"], r["sampler"]): r for r in rows if r["measure"] == "off_manifold"}
    if not off:
        measure = "frechet_heldout" if heldout else "frechet"
        return [{**row, "measure": QUALITY} for row in rows if row["measure"] == measure]
    p = plane_dim(study.data(cell))

    def together(row: dict[str, Any], field: str) -> float | None:
        beside = off[row["target"], row["seed"], row["sampler"]]
        return None if row[field] is None else math.sqrt(p * row[field] ** 2 + beside[field] ** 2)

    fields = ("value", "grouped", "heldout", "exact")
    inside = [row for row in rows if row["measure"] == "sliced_wasserstein"]
    return [{**row, "measure": QUALITY, **{field: together(row, field) for field in fields}} for row in inside]


def by_target(rows: Sequence[dict[str, Any]], field: str = "value", sampler: str = "clean") -> dict[str, list[float]]:
    """A field of the rows by target: one number for each run, in order of seeds."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["sampler"] == sampler:
            found.setdefault(row["target"], {})[row["seed"]] = row[field]
    return {target: [values[seed] for seed in sorted(values)] for target, values in found.items()}


def target_table(rows: Mapping[str, list[dict[str, Any]]], first: str, last: str, beside: Mapping[Pair, str]) -> str:
    """A table with a line for each cell and target: k, v-loss, the distance under both samplers and its floors.

    `first` and `last` are the headers of the first and last column; the last holds the texts `beside`, by cell and target.
    """
    lines, exact = [], any(row["exact"] is not None for found in rows.values() for row in found)
    for name, found in rows.items():
        fields = {field: by_target(found, field) for field in ("k", "loss", "value", "grouped", "exact")}
        paper = by_target(found, sampler="paper")
        for target, values in fields["value"].items():
            figures = [spread(v) for v in (fields["k"][target], fields["loss"][target], values, paper[target])]
            floor = next((value for value in fields["exact"][target] if value is not None), None)
            grouped = f"{statistics.mean(fields['grouped'][target]):.3g}"
            floors = ["" if floor is None else f"{floor:.3g}"] * exact + [grouped, f"{found[0]['heldout']:.3g}"]
            lines.append([name, target, *figures, *floors, beside.get((name, target), "")])
    header = [first, "target", "k", "v-loss", "distance, clean", "distance, paper's sampler"]
    floors = ["floor: exact denoiser, clean"] * exact + ["clean, in groups", "floor: held out"]
    return markdown([*header, *floors, last], lines)


def not_apart(values: Mapping[str, Sequence[float]]) -> list[str]:
    """The best target, and the targets that are not significantly worse."""
    best = best_of(values)
    if len(values) == 1:
        return [best]
    _, each = intervals({t: log_ratios(v, values[best]) for t, v in values.items() if t != best})
    return [target for target in values if target == best or not each[target].low > 0]


def reaches_the_best(
    statement: str, ours: Mapping[str, Sequence[float]], others: Mapping[str, Mapping[str, Sequence[float]]], what: str
) -> Finding:
    """Whether one target is as good as the best of the others in every cell, by a measure where lower is better.

    Refuted if in one cell ours is at least 2 % worse than one of the others, with 95 % confidence for all comparisons together.
    Confirmed if over all cells ours is at most 10 % worse than the best of each cell, with 95 % confidence, both if the best is
    chosen for every seed by the other seeds and if it is chosen by all seeds. Inconclusive otherwise.
    """
    pairs = {(cell, t): log_ratios(ours[cell], v) for cell, targets in others.items() for t, v in targets.items()}
    named = intervals({f"{cell}\n{target}": values for (cell, target), values in pairs.items()})[1]
    compared = dict(zip(pairs, named.values()))  # they hold together, so ours may be compared with whichever is the best
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
        f"{what} relative to the best of each cell: {_percent(overall.mean)} ({span}), at worst {_percent(ratios[worst])} "
        f"({worst}), {len(ours)} cell{'s' * (len(ours) > 1)}"
    )
    for cell, target in beaten.items():
        found = compared[cell, target]
        by = f"{_percent(found.mean)} (at least {_percent(found.low)})"
        evidence += f"; significantly worse than target {target} in {cell}: {by}"
    fine = max(overall.high, sterner.high) < math.log1p(MARGIN)
    return Finding(statement, decided(fine and not beaten, bool(beaten)), evidence)


def _percent(log_ratio: float) -> str:
    """A ratio as its difference from 1 in percent, or as a factor if it is far above 1."""
    ratio = math.exp(log_ratio)
    return f"× {ratio:.3g}" if ratio >= 2 else f"{ratio - 1:+.1%}"
