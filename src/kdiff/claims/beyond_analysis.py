"""Ratios of distances in the study `beyond`: per cell, over cells, paired over seeds; also of a study that is not finished.

All ratios are compared by their logarithms (`kdiff.studies.paired`): a geometric mean over seeds in a cell, Student's interval
for each cell (together 95 %), and the mean over cells with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kdiff.claims.beyond_cells import CELLS, CHOOSING, JUDGING, WEIGHTINGS, fixed
from kdiff.claims.claim import Study
from kdiff.studies.paired import Interval, best_of, intervals
from kdiff.studies.tables import counted_seeds

FAILED = 1e6  # the distance of samples that are not finite
Differences = dict[str, list[float]]  # log ratios by cell, in order of seeds


@dataclass(frozen=True)
class Settings:
    """What a form of the study compares: values of k, weights, and the seeds that choose and that judge."""

    grid: Sequence[float]
    weightings: Sequence[str] = WEIGHTINGS
    choosing: Sequence[int] = CHOOSING
    judging: Sequence[int] = JUDGING

    @property
    def targets(self) -> list[str]:
        """All fixed targets."""
        return [fixed(k, weighting) for weighting in self.weightings for k in self.grid]

    def under(self, weighting: str) -> list[str]:
        """The fixed targets under one weighting."""
        return [fixed(k, weighting) for k in self.grid]


def by_seed(study: Study, cell: str, target: str, sampler: str = "clean", measure: str = "distance") -> dict[int, float]:
    """A measure of the finished runs of a target, by seed."""
    wanted = {"cell": cell, "target": target, "sampler": sampler, "measure": measure}
    rows = [row for row in study.rows if all(row.get(name) == value for name, value in wanted.items())]
    missing = FAILED if measure == "distance" else math.nan
    return {row["seed"]: missing if row["value"] is None else row["value"] for row in rows}


def targets_of(study: Study, cell: str) -> list[str]:
    """The targets of a cell that have a finished run."""
    return list(dict.fromkeys(row["target"] for row in study.rows if row["cell"] == cell))


def chosen(study: Study, cell: str, targets: Iterable[str], seeds: Sequence[int]) -> str | None:
    """The target with the lowest geometric mean of distances over these seeds; None unless all their runs are finished."""
    values = {target: by_seed(study, cell, target) for target in targets}
    if not values or not all(set(seeds) <= found.keys() for found in values.values()):
        return None
    return best_of({target: [found[seed] for seed in seeds] for target, found in values.items()})


def ratios(
    study: Study, cell: str, ours: str, theirs: str, seeds: Sequence[int], samplers: tuple[str, str] = ("clean", "clean")
) -> list[float]:
    """log(ours/theirs) for each of these seeds whose two runs are finished."""
    a, b = by_seed(study, cell, ours, samplers[0]), by_seed(study, cell, theirs, samplers[1])
    return [math.log(a[seed] / b[seed]) for seed in seeds if seed in a and seed in b]


@dataclass(frozen=True)
class Ratio:
    """A comparison over cells. `each` are the ratios by cell that are there, `missing` the cells that are not."""

    each: Differences
    missing: list[str] = field(default_factory=list)

    @property
    def intervals(self) -> tuple[Interval, dict[str, Interval]]:
        """The interval over all cells, and that of each cell."""
        return intervals(self.each)

    def __str__(self) -> str:
        if not self.each:
            return f"no cell is finished; missing: {', '.join(self.missing)}"
        overall, cells = self.intervals
        counted = f"{len(cells)} cell{'s' * (len(cells) > 1)}, {counted_seeds(min(map(len, self.each.values())))}"
        text = f"{shown(overall)} in geometric mean over {counted}"
        text += f"; by cell: {', '.join(f'{cell} {shown(found)}' for cell, found in cells.items())}"
        return text + (f"; missing: {', '.join(self.missing)}" if self.missing else "")


def ratio(each: Mapping[str, Sequence[float]], seeds: int) -> Ratio:
    """A comparison of cells; a cell counts as missing if it has fewer than this many seeds."""
    there = {cell: list(found) for cell, found in each.items() if len(found) >= seeds}
    return Ratio(there, [cell for cell in each if cell not in there])


def shown(found: Interval) -> str:
    """A log ratio as a factor, with its interval."""
    text = f"{math.exp(found.mean):.3g}"
    return f"{text} ({math.exp(found.low):.3g} to {math.exp(found.high):.3g})" if math.isfinite(found.low) else text


def mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.mean(map(math.log, values)))


def of_kind(cells: Iterable[str], *kinds: str) -> list[str]:
    """The cells of these kinds."""
    return [cell for cell in cells if CELLS[cell].kind in kinds]
