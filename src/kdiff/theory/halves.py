"""Intervals of estimates by balanced halves: points are dealt into groups, and the groups into two halves in many ways.

The halves A, B of a way share no points, so (θ_A − θ_B)/2 has the standard error of θ from all points if that falls as 1/√N.
With its root mean square s over the ways an interval is θ ± t s, t Student's quantile.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import stdtrit


def deal(owners: np.ndarray, subsamples: int, rng: np.random.Generator) -> np.ndarray:
    """The group of each point (N,): owners are dealt at random, as evenly as they go round."""
    each, of_owner = np.unique(owners, return_inverse=True)
    group: np.ndarray = (rng.permutation(len(each)) % subsamples)[of_owner]
    return group


def intervals(
    evaluate: Callable[[np.ndarray], np.ndarray],
    halves: np.ndarray,
    confidence: float,
    evaluated: Callable[[], None],
) -> list[tuple[float, float]]:
    """Value from all groups, and half the width of its interval, for each of the numbers that `evaluate(groups)` gives."""

    def counted(groups: np.ndarray) -> np.ndarray:
        values = evaluate(groups)
        evaluated()
        return values

    values = counted(np.ones(halves.shape[1], dtype=bool))
    differences = np.array([counted(half) - counted(~half) for half in halves]) / 2
    widths = stdtrit(len(halves), (1 + confidence) / 2) * np.sqrt(np.mean(differences**2, axis=0))
    return [(float(value), float(width)) for value, width in zip(values, widths)]
