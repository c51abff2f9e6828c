"""Is one target as good as another? Comparisons paired over seeds, in several cells at once.

    d_cs = log(ours / theirs)       cell c, seed s: the same data, batches, times and noise
    s_c² = Σ_s (d_cs − d̄_c)² / (n_c − 1)        n_c seeds in cell c, C cells

The logarithm gives every cell the same weight, even if their measures differ a hundredfold. A cell's interval is Student's,
with the cell's own variance and n_c − 1 degrees of freedom. It is widened so that the intervals of all cells hold together
with 95 % confidence (Bonferroni). Cells do not share a variance, because their noise differs too much. With three seeds only
large differences in a single cell are significant. The mean over cells has the standard error √(Σ s_c²/n_c)/C and
Satterthwaite's degrees of freedom, and much smaller differences in it are significant.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student_t

from kdiff.studies.tables import counted_seeds

Verdict = Literal["confirmed", "refuted", "inconclusive"]
LEVEL = 0.95
MARGIN = 0.1  # "as good" means at most this much worse
WORSE = 0.02  # "worse" means at least this much worse: with enough seeds every difference becomes significant


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, which is infinitely wide for a single seed."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2g}" + (f" [{self.low:+.2g}, {self.high:+.2g}]" if math.isfinite(self.low) else "")


def intervals(differences: Mapping[str, Sequence[float]], comparisons: int = 1) -> tuple[Interval, dict[str, Interval]]:
    """The interval of the mean over all cells (95 % over `comparisons` such means together), and of every cell's own mean.

    Raises:
        ValueError: no cell, or a cell without a pair.
    """
    if not differences or not all(differences.values()):
        raise ValueError(f"the differences are {dict(differences)}; expected at least one pair in every cell")
    means = {cell: statistics.mean(values) for cell, values in differences.items()}
    if min(map(len, differences.values())) < 2:
        endless = {cell: Interval(mean, -math.inf, math.inf) for cell, mean in means.items()}
        return Interval(statistics.mean(means.values()), -math.inf, math.inf), endless
    squared = {cell: statistics.variance(values) / len(values) for cell, values in differences.items()}
    each = {cell: interval(values, len(differences)) for cell, values in differences.items()}
    total = sum(squared.values())
    spread = sum(squared[cell] ** 2 / (len(values) - 1) for cell, values in differences.items())
    freedom = total**2 / spread if spread else math.inf
    return _interval(statistics.mean(means.values()), math.sqrt(total) / len(means), freedom, comparisons), each


def interval(differences: Sequence[float], comparisons: int = 1) -> Interval:
    """The interval of a mean: 95 % over `comparisons` such intervals together."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    return _interval(mean, math.sqrt(statistics.variance(differences) / count), count - 1, comparisons)


def _interval(mean: float, error: float, freedom: float, comparisons: int) -> Interval:
    reach = float(student_t.ppf(1 - (1 - LEVEL) / 2 / comparisons, freedom)) * error
    return Interval(mean, mean - reach, mean + reach)


def log_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """log(ours / theirs), seed by seed."""
    return [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]


def over_best(ours: Sequence[float], others: Mapping[str, Sequence[float]]) -> list[float]:
    """log(ours / the best of others), seed by seed; all values are in the same order of seeds.

    For each seed the best is chosen on the other seeds, by the geometric mean. A best that is chosen on the same values as it
    is compared with looks better than it is; a best that is chosen on fewer seeds is sometimes not the best. So this
    comparison favours ours, and one with `best_of` favours the others. Any two seeds share part of their choice, so intervals
    are somewhat narrow. With a single seed, that seed also chooses the best.

    Raises:
        ValueError: others with another number of values.
    """
    if any(len(values) != len(ours) for values in others.values()):
        counts = [*map(len, others.values())]
        raise ValueError(f"there are {len(ours)} values of ours and {counts} of the others; expected as many of each")
    found = []
    for i, value in enumerate(ours):
        rest = {name: [*values[:i], *values[i + 1 :]] or values for name, values in others.items()}
        found.append(math.log(value / others[best_of(rest)][i]))
    return found


def best_of(values: Mapping[str, Sequence[float]]) -> str:
    """The target with the lowest geometric mean."""
    return min(values, key=lambda target: statistics.mean(map(math.log, values[target])))


def as_good(
    differences: Mapping[str, Sequence[float]], sterner: Mapping[str, Sequence[float]] | None = None
) -> tuple[Verdict, str]:
    """Whether ours is as good as theirs by a measure that is better when lower, and the figures behind the verdict.

    Refuted if ours is at least 2 % worse with 95 % confidence, over all cells or in one. Confirmed if it is at most 10 % worse
    over all cells with 95 % confidence, and no cell refutes it. Inconclusive otherwise.

    Args:
        differences: log(ours / theirs) by cell.
        sterner: the same with a bias against ours, if `differences` favour ours. Confirmed only if these confirm it too.
    """
    overall, each = intervals(differences)
    highest = max(overall.high, intervals(sterner)[0].high if sterner else overall.high)
    least = math.log1p(WORSE)
    worse = [cell for cell, interval in each.items() if interval.low > least]
    seeds = min(map(len, differences.values()))
    text = f"log ratio {overall}, {len(differences)} cells, {counted_seeds(seeds)}; by cell: "
    text += "; ".join(f"{cell} {interval}" for cell, interval in each.items())
    if overall.low > least or worse:
        return "refuted", text
    return ("confirmed" if highest < math.log1p(MARGIN) else "inconclusive"), text
