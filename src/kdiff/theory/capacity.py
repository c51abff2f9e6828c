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

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kdiff.theory.linear import Optimum, check_spectrum


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
    strengths = np.sqrt(np.repeat(values, counts.astype(int)))  # descending
    D = len(strengths)
    if not 1 <= rank < D:
        raise ValueError(f"rank is {rank}; expected 1 to {D - 1}: a network of full rank that sees t serves every k alike")
    found: dict[tuple[float, ...], Arrangement] = {}
    for strongest in range(rank + 1):
        out = strengths[strongest : D - rank + strongest]
        captured = np.concatenate([strengths[:strongest], strengths[D - rank + strongest :]])
        left, floor = float(out @ out), np.pi / 2 * captured.sum()
        r = np.sqrt((D - rank) / left) if left > 0 else np.inf
        loss = (2 * np.sqrt((D - rank) * left) + floor) / D
        arrangement = Arrangement(
            k=float(r / (1 + r)) if np.isfinite(r) else 1.0,
            loss=float(loss) * noise_scale**2,
            method="closed form",
            strongest=strongest,
            weakest=rank - strongest,
            stable=_stable(captured, out, r),
        )
        found.setdefault(tuple(np.round(out, 12)), arrangement)
    ranked = sorted(found.values(), key=lambda one: one.loss)
    rest = [(one.k, one.loss) for one in ranked[1:] if one.stable]
    ranked[0] = Arrangement(**{**vars(ranked[0]), "others": tuple(rest)})
    return ranked


def _stable(captured: np.ndarray, out: np.ndarray, r: float) -> bool:
    """Whether no left-out direction gains more than a captured one at this r (for r → ∞, to leading order)."""

    def gain(x: np.ndarray) -> np.ndarray:
        return x if np.isinf(r) else r * x**2 - np.pi / 2 * x + 1 / r

    return bool(gain(captured).min() >= gain(out).max() - 1e-9)
