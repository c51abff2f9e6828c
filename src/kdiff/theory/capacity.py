"""The best k of a linear network with too little room: it sees t, but its output lies in a fixed subspace of R < D dimensions.

Loss on v, uniform t, no clamp, noise of variance s², r = k/(1 − k). In the eigenbasis of the data's covariance, direction i
costs, with x = √λ_i / s and in units of s²,

    left out:   E ω u² = r x² + 1/r
    captured:   the best linear denoiser's x ∫ x dt / (x² t² + (1 − t)²) = (π/2) x, whatever k is

for at every t the best gain leaves Var(v | z) = x² / (x² t² + (1 − t)²), and k cancels. So capturing gains

    g(x) = r x² − (π/2) x + 1/r  > 0,

convex in x: for any k the R directions best captured are the p strongest and the R − p weakest, for some p. With L the
sum of x² over those left out (D − R of them), the rest of the loss is r L + (D − R)/r, so for each p

    r = √((D − R)/L),     loss = 2 √((D − R) L) + (π/2) Σ_captured x,                                                    (4)

and L = 0 (all of the data captured) means k → 1. A strong direction is captured before an empty one where r x > π/2. An
arrangement is stable under descent where it is the best one at its own k: no left-out direction gains more than a
captured one. Several p can be, and then the start and the pace of k decide which is found: k may stay near ½ for ever.

Where the subspace may turn with t, or gains may not depend on it, this is not the theory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from kdiff.theory.linear import Optimum, check_spectrum
from kdiff.theory.times import Array


@dataclass(frozen=True)
class Arrangement(Optimum):
    """What a rank-limited network may settle on.

    Attributes:
        strongest: how many of the strongest directions are captured.
        weakest: how many of the weakest are.
        stable: no exchange of one captured direction for another lowers the loss at this k.
    """

    strongest: int = 0
    weakest: int = 0
    stable: bool = False


def rank_limited(spectrum: ArrayLike, rank: int, noise_scale: float = 1.0) -> list[Arrangement]:
    """All arrangements (4) for a spectrum (D,), best first.

    Directions of equal variance are one another's equal, so arrangements that differ in nothing else are listed once. k = 1
    and its loss are a limit, approached as r → ∞.

    Raises:
        ValueError: rank not in 1 … D − 1: with R = D nothing is left out, and k makes no difference.
    """
    values, counts = check_spectrum(spectrum, noise_scale)
    x = np.sqrt(np.repeat(values, counts.astype(int)))  # descending
    D = len(x)
    if isinstance(rank, bool) or rank != int(rank) or not 1 <= rank < D:
        raise ValueError(
            f"rank is {rank}; expected a whole number from 1 to {D - 1}: a network of full rank that sees t serves every k "
            "alike"
        )
    rank = int(rank)
    # What is left out is a window of D − R neighbours; sums over it are differences of sums from the start.
    squares, strengths = (np.concatenate([[0.0], np.cumsum(each)]) for each in (x**2, x))
    found: list[Arrangement] = []
    for strongest in range(rank + 1):
        window = slice(strongest, strongest + D - rank)
        if strongest and x[window.start - 1] == x[window.stop - 1]:
            continue  # the same variances as before are left out
        # Nothing is left of the data where the strongest of the rest has no variance; a difference of sums may not see that.
        left = squares[window.stop] - squares[window.start] if x[window.start] > 0 else 0.0
        floor = np.pi / 2 * (strengths[-1] - strengths[window.stop] + strengths[window.start])
        r = np.sqrt((D - rank) / left) if left > 0 else np.inf
        arrangement = Arrangement(
            k=float(r / (1 + r)) if np.isfinite(r) else 1.0,
            loss=float(2 * np.sqrt((D - rank) * left) + floor) / D * noise_scale**2,
            method="closed form",
            strongest=strongest,
            weakest=rank - strongest,
            stable=_stable(x, window, r),
        )
        found.append(arrangement)
    ranked = sorted(found, key=lambda one: one.loss)
    rest = [(one.k, one.loss) for one in ranked[1:] if one.stable]
    ranked[0] = replace(ranked[0], others=tuple(rest))
    return ranked


def _stable(x: Array, window: slice, r: float) -> bool:
    """Whether no direction in the window gains more than one outside it at this r (for r → ∞, to leading order); x descends."""

    def gain(i: int) -> float:
        return float(x[i] if np.isinf(r) else r * x[i] ** 2 - np.pi / 2 * x[i] + 1 / r)

    # The gain is convex in x: largest at the ends of the window, least where x is nearest to its vertex, π/(4r).
    vertex = len(x) - int(np.searchsorted(x[::-1], 0.0 if np.isinf(r) else np.pi / 4 / r))
    captured = []
    for first, last in ((0, window.start - 1), (window.stop, len(x) - 1)):
        if first <= last:
            captured += [min(max(i, first), last) for i in (vertex - 1, vertex)]
    return min(map(gain, captured)) >= max(gain(window.start), gain(window.stop - 1)) - 1e-9
