"""Formulas for the intrinsic dimension d of data, from the spectrum of the covariance or from distances to nearest neighbours.

    participation ratio   (Σ λ)² / Σ λ²                                    λ the eigenvalues of the covariance
    energy                smallest q with λ₁ + … + λ_q ≥ 0.95 Σ λ
    TwoNN                 log(r₂/r₁) is exponential with rate d            (Facco, d'Errico, Rodriguez and Laio, 2017)
    MLE                   Σ_{j<k} log(r_k/r_j) is Gamma(k − 1, rate d)     (Levina and Bickel, 2004)

r_j is the distance of a point to its j-th nearest neighbour; the laws hold where the density is constant over the neighbours. A
spectrum sees linear subspaces only: a circle in the plane has participation ratio 2. Distances see curved manifolds, but they
underestimate d above about 15, because the neighbours of a point are then about as far away as the data are wide.
`scikit-dimension` has the same TwoNN and MLE, and more estimators. The closed forms are repeated here because an interval
evaluates them many times on shared neighbours (`kdiff.theory.intrinsic_dimension`).
"""

from __future__ import annotations

import numpy as np

ENERGY = 0.95
DISCARDED = 0.1  # the share of the largest ratios r₂/r₁, whose values are not used


def two_nn(distances: np.ndarray, discard: float = DISCARDED) -> float:
    """TwoNN from the first two columns of the distances (N, k ≥ 2) of `neighbour_distances`.

    Outliers have large ratios, so the share `discard` of the largest is counted only as larger than the others. With
    L_i = log(r₂/r₁) in ascending order, the unbiased maximum-likelihood estimate for m = (1 − discard) N exponential values is

        d = (m − 1) / (L_1 + … + L_m + (N − m) L_m)

    Raises ValueError if distances are 0, not finite, all equal or too few, or if discard is outside [0, 1).
    """
    _check_distances(distances, 2)
    if not 0 <= discard < 1:
        raise ValueError(f"discard must lie in [0, 1), found {discard}")
    logs = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = int(len(logs) * (1 - discard))
    if kept < 2:
        raise ValueError(f"TwoNN needs at least 2 ratios that it keeps, found {kept} of {len(logs)} points")
    total = logs[:kept].sum() + (len(logs) - kept) * logs[kept - 1]
    if total == 0:
        raise ValueError(
            "TwoNN cannot estimate a dimension: the first two neighbours of every point are equally far away, as on a grid"
        )
    return float((kept - 1) / total)


def levina_bickel(distances: np.ndarray) -> float:
    """The maximum-likelihood dimension from the distances (N, k ≥ 2) of `neighbour_distances`, one d for all points.

        1/d = mean over points and j < k of log(r_k / r_j)

    This averages the inverses of the points' estimates (MacKay and Ghahramani, 2005), which gives the maximum of the joint
    likelihood. The mean of the estimates themselves is too large by the factor (k − 1)/(k − 2).

    Raises ValueError if distances are 0, not finite or all equal, or if there are fewer than 2 per point.
    """
    _check_distances(distances, 2)
    mean = np.log(distances[:, -1:] / distances[:, :-1]).mean()
    if mean == 0:
        raise ValueError("MLE cannot estimate a dimension: all neighbours of every point are equally far away")
    return float(1 / mean)


def local_levina_bickel(distances: np.ndarray) -> np.ndarray:
    """One estimate per point (N,), (k − 2) / Σ_{j<k} log(r_k / r_j), from distances (N, k ≥ 3).

    It is unbiased, with standard deviation d/√(k − 3) by chance alone, and infinite where all k neighbours are equally far
    away. Raises ValueError if distances are 0 or not finite, or if there are fewer than 3 per point.
    """
    _check_distances(distances, 3)
    with np.errstate(divide="ignore"):
        return (distances.shape[1] - 2) / np.log(distances[:, -1:] / distances[:, :-1]).sum(axis=1)


def participation_ratio(eigenvalues: np.ndarray) -> float:
    """(Σ λ)² / Σ λ² of eigenvalues (D,), from 1 to D: q for q equal ones among zeros. ValueError if none is positive."""
    return float(participation(checked_eigenvalues(eigenvalues)))


def energy_dimension(eigenvalues: np.ndarray, share: float = ENERGY) -> int:
    """The smallest number of eigenvalues (D,) whose sum reaches `share` in (0, 1] of the total, up to 10⁻⁹ of it for rounding.

    Raises ValueError if no eigenvalue is positive, or if the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], found {share}")
    return int(energy(checked_eigenvalues(eigenvalues), share))


def participation(eigenvalues: np.ndarray) -> np.ndarray:
    """The participation ratio of each spectrum (..., D), without checks."""
    return eigenvalues.sum(axis=-1) ** 2 / (eigenvalues**2).sum(axis=-1)


def energy(eigenvalues: np.ndarray, share: float) -> np.ndarray:
    """The energy dimension of each descending spectrum (..., D), without checks."""
    held = eigenvalues.cumsum(axis=-1)
    return 1 + (held < (share - 1e-9) * held[..., -1:]).sum(axis=-1)


def crossing(eigenvalues: np.ndarray, share: float) -> float:
    """The place along eigenvalues (D,) where their sum reaches the share, a real number; `energy` is the next whole one."""
    last = int(energy(eigenvalues, share)) - 1
    before = eigenvalues[:last].sum()
    return last + min(1.0, float((share * eigenvalues.sum() - before) / eigenvalues[last]))


def checked_eigenvalues(eigenvalues: np.ndarray) -> np.ndarray:
    """Eigenvalues (D,) descending, divided by the largest one so that squares stay in range.

    Raises ValueError if they are not finite, or none is positive.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))[::-1]
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError("eigenvalues must be a vector of finite numbers, some of them positive; check that the data vary")
    return values / values[0]


def _check_distances(distances: np.ndarray, least: int) -> None:
    if distances.ndim != 2 or len(distances) == 0 or distances.shape[1] < least:
        raise ValueError(f"distances must have shape (N, k) with k ≥ {least}, found {distances.shape}")
    if not (np.isfinite(distances).all() and (distances > 0).all()):
        raise ValueError("distances must be positive and finite; drop equal points first: x[distinct_rows(x)]")
