"""Intervals of estimates by balanced halves: points are dealt into groups, and the groups are split in half in many ways.

The halves A and B of a split share no points. So (θ_A − θ_B)/2 has the standard error of the estimate θ from all points if this
error falls as 1/√N. With s its root mean square over the splits, and t Student's quantile, the interval is θ ± t s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import hadamard
from scipy.special import stdtrit


@dataclass(frozen=True)
class Halves:
    """G = `subsamples` groups, a power of two, and G − 1 ways to split them in half (columns of a Hadamard matrix)."""

    subsamples: int
    confidence: float  # nominal coverage of the intervals
    rng: np.random.Generator  # deals the points into the groups
    evaluated: Callable[[], None]  # called after each evaluation

    def deal(self, owners: np.ndarray) -> np.ndarray:
        """The group of each point (N,). The owners are dealt at random, as evenly as possible."""
        each, of_owner = np.unique(owners, return_inverse=True)
        group: np.ndarray = (self.rng.permutation(len(each)) % self.subsamples)[of_owner]
        return group

    def intervals(self, evaluate: Callable[[np.ndarray], np.ndarray]) -> list[tuple[float, float]]:
        """For each number that `evaluate(groups)` gives, its value from all groups and half the width of its interval."""

        def counted(groups: np.ndarray) -> np.ndarray:
            values = evaluate(groups)
            self.evaluated()
            return values

        splits = hadamard(self.subsamples)[:, 1:].T > 0
        values = counted(np.ones(self.subsamples, dtype=bool))
        differences = np.array([counted(half) - counted(~half) for half in splits]) / 2
        widths = stdtrit(len(splits), (1 + self.confidence) / 2) * np.sqrt(np.mean(differences**2, axis=0))
        return [(float(value), float(width)) for value, width in zip(values, widths)]
