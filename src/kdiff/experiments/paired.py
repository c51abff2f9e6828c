"""Is one target as good as another? Paired over seeds, in several cells at once.

    d_cs = log(ours / theirs)       cell c, seed s: the same data, batches, times and noise
    s²   = Σ_cs (d_cs − d̄_c)² / Σ_c (n_c − 1)

A logarithm, so that cells whose measures differ a hundredfold count alike; one variance for all cells, because three seeds
alone say next to nothing of one. Intervals are Student's with Σ_c (n_c − 1) degrees of freedom: those of the single cells
are wider, so that all of them hold together with 95 % (Bonferroni).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t

from kdiff.experiments.claim import Verdict

LEVEL = 0.95
MARGIN = 0.1  # "as good" means no more than this much worse


@dataclass(frozen=True)
class Interval:
    """A mean and its interval of 95 %; infinitely wide where there is one seed only."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2g}" + (f" [{self.low:+.2g}, {self.high:+.2g}]" if math.isfinite(self.low) else "")


def intervals(differences: Mapping[str, Sequence[float]]) -> tuple[Interval, dict[str, Interval]]:
    """The interval of the mean over all cells, and of every cell's own mean.

    Raises:
        ValueError: no cell, or a cell without a pair.
    """
    if not differences or not all(differences.values()):
        raise ValueError(f"there are {dict(differences)}; expected at least one pair in every cell")
    freedom = sum(len(values) - 1 for values in differences.values())
    squares = sum((d - statistics.mean(values)) ** 2 for values in differences.values() for d in values)
    deviation = math.sqrt(squares / freedom) if freedom else math.inf

    def interval(mean: float, error: float, comparisons: int) -> Interval:
        quantile = float(student_t.ppf(1 - (1 - LEVEL) / 2 / comparisons, freedom)) if freedom else 1.0
        return Interval(mean, mean - quantile * error, mean + quantile * error)

    means = {cell: statistics.mean(values) for cell, values in differences.items()}
    each = {
        cell: interval(means[cell], deviation / math.sqrt(len(values)), len(differences))
        for cell, values in differences.items()
    }
    error = deviation * math.sqrt(sum(1 / len(values) for values in differences.values())) / len(differences)
    return interval(statistics.mean(means.values()), error, 1), each


def log_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """log(ours / theirs), seed by seed."""
    return [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]


def as_good(differences: Mapping[str, Sequence[float]]) -> tuple[Verdict, str]:
    """Whether ours is as good as theirs, of a measure that is better when lower; and the figures.

    Refuted if it is told apart as worse, over all cells or in one; confirmed if over all cells it is at most 10 % worse with
    95 % confidence, and in no cell told apart as worse; inconclusive otherwise.
    """
    overall, each = intervals(differences)
    worse = [cell for cell, interval in each.items() if interval.low > 0]
    seeds = min(map(len, differences.values()))
    text = f"log ratio {overall}, {len(differences)} cells, {seeds} seeds; by cell: "
    text += "; ".join(f"{cell} {interval}" for cell, interval in each.items())
    if overall.low > 0 or worse:
        return "refuted", text
    return ("confirmed" if overall.high < math.log1p(MARGIN) else "inconclusive"), text
