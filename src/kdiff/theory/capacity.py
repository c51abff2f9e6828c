"""The best k of a linear network with too little room: it sees t, but its output lies in a fixed subspace of R < D dimensions.

The loss is on v, with uniform t, no clamp, noise of variance s², and r = k/(1 − k). In the eigenbasis of the data's covariance,
direction i costs, with x = √λ_i / s and in units of s²,

    left out:   E ω u² = r x² + 1/r
    captured:   the loss of the best linear denoiser, x ∫ x dt / (x² t² + (1 − t)²) = (π/2) x, for every k

because at every t the best gain leaves Var(v | z) = x² / (x² t² + (1 − t)²), where k cancels. So capturing a direction gains

    g(x) = r x² − (π/2) x + 1/r  > 0.

g is convex in x: for any k the R directions best captured are the p strongest and the R − p weakest, for some p. The D − R
directions left out cost r L + (D − R)/r, where L is the sum of their x². So for each p

    r = √((D − R)/L),     loss = 2 √((D − R) L) + (π/2) Σ_captured x,                                                    (4)

and L = 0 (all of the data captured) means k → 1. A strong direction is captured before an empty one if r x > π/2. An
arrangement is stable under descent if it is the best one at its own k, so that no direction left out gains more than a captured
one. Several p can be stable. The start and the pace of k then decide which one is found, and k may stay near ½ for ever.

The theory does not hold if the subspace may turn with t, or if the gains may not depend on t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from kdiff.theory.quadrature import Array
from kdiff.theory.terms import Optimum, check_spectrum


@dataclass(frozen=True)
class Arrangement(Optimum):
    """A choice of captured directions on which a rank-limited network may settle.

    Attributes:
        strongest: how many of the strongest directions are captured.
        weakest: how many of the weakest directions are captured.
        stable: no exchange of one captured direction for another lowers the loss at this k.
    """

    strongest: int = 0
    weakest: int = 0
    stable: bool = False


def rank_limited(spectrum: ArrayLike, rank: int, noise_scale: float = 1.0) -> list[Arrangement]:
    """All arrangements (4) for a spectrum (D,), best first.

    Arrangements that differ only in directions of equal variance are listed once. k = 1 and its loss are the limit for r → ∞.
    Raises ValueError if the rank is not in 1 … D − 1. With R = D nothing is left out, and k makes no difference.
    """
    values, counts = check_spectrum(spectrum, noise_scale)
    x = np.sqrt(np.repeat(values, counts.astype(int)))  # descending
    D = len(x)
    if isinstance(rank, bool) or rank != int(rank) or not 1 <= rank < D:
        raise ValueError(
            f"rank is {rank}; expected a whole number from 1 to {D - 1}, because a network of full rank that sees t reaches "
            "the same loss for every k"
        )
    rank = int(rank)
    # The directions left out are a window of D − R neighbours, so sums over them are differences of cumulative sums.
    squares, strengths = (np.concatenate([[0.0], np.cumsum(each)]) for each in (x**2, x))
    found: list[Arrangement] = []
    for strongest in range(rank + 1):
        window = slice(strongest, strongest + D - rank)
        if strongest and x[window.start - 1] == x[window.stop - 1]:
            continue  # the same variances are left out as for the p before
        # If the strongest direction left out has no variance, L is exactly 0; a difference of sums may differ from 0.
        left = squares[window.stop] - squares[window.start] if x[window.start] > 0 else 0.0
        floor = np.pi / 2 * (strengths[-1] - strengths[window.stop] + strengths[window.start])
        r = np.sqrt((D - rank) / left) if left > 0 else np.inf
        k = float(r / (1 + r)) if np.isfinite(r) else 1.0
        loss = float(2 * np.sqrt((D - rank) * left) + floor) / D * noise_scale**2
        stable = _stable(x, window, r)
        found.append(Arrangement(k, loss, "closed form", strongest=strongest, weakest=rank - strongest, stable=stable))
    ranked = sorted(found, key=lambda one: one.loss)
    rest = [(one.k, one.loss) for one in ranked[1:] if one.stable]
    ranked[0] = replace(ranked[0], others=tuple(rest))
    return ranked


def _stable(x: Array, window: slice, r: float) -> bool:
    """Whether no direction in the window gains more than one outside, at this r (r → ∞: to leading order). x descends."""

    def gain(i: int) -> float:
        return float(x[i] if np.isinf(r) else r * x[i] ** 2 - np.pi / 2 * x[i] + 1 / r)

    # The gain is convex in x: it is largest at an end of the window, and least where x is closest to the vertex π/(4r).
    vertex = len(x) - int(np.searchsorted(x[::-1], 0.0 if np.isinf(r) else np.pi / 4 / r))
    captured = []
    for first, last in ((0, window.start - 1), (window.stop, len(x) - 1)):
        if first <= last:
            captured += [min(max(i, first), last) for i in (vertex - 1, vertex)]
    return min(map(gain, captured)) >= max(gain(window.start), gain(window.stop - 1)) - 1e-9
