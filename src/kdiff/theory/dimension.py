"""The intrinsic dimension d of data, by the spectrum of the covariance and by the distances to nearest neighbours.

    participation ratio   (Σ λ)² / Σ λ²                                    λ the eigenvalues of the covariance
    energy                smallest q with λ₁ + … + λ_q ≥ 0.95 Σ λ
    TwoNN                 log(r₂/r₁) is exponential with rate d            (Facco, d'Errico, Rodriguez and Laio, 2017)
    MLE                   Σ_{j<k} log(r_k/r_j) is Gamma(k − 1, rate d)     (Levina and Bickel, 2004)

r_j is the distance of a point to its j-th nearest neighbour; the laws hold where the density is constant over the neighbours.
Spectra see linear subspaces only: a circle in the plane has participation ratio 2. Distances see curved manifolds, and above
d of about 15 they underestimate, since the neighbours of a point are then about as far away as the data are wide.
`scikit-dimension` has the same TwoNN and MLE, and more estimators; the closed forms stand here because an interval evaluates
them many times on shared neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import hadamard

from kdiff.theory.halves import deal, intervals
from kdiff.theory.neighbours import CHUNK_BYTES, Rows, distinct_rows, nearest_neighbours, take_rows
from kdiff.theory.spectra import eigenvalue_source, local_spectra

ENERGY = 0.95
DISCARDED = 0.1  # of the ratios r₂/r₁, from the largest
MAX_BYTES = 2**30  # of the points that an estimate is made from
MAX_SPECTRUM = 4096  # the smaller of N and D for eigenvalues
LOCAL_CENTRES = 1000  # neighbourhoods of which eigenvalues are computed


@dataclass(frozen=True)
class DimensionEstimate:
    """One method's value with its interval. `str` gives a line to print.

    Attributes:
        method: "TwoNN", "MLE", "participation ratio" or "energy".
        scope: "global", or "local" for the average over neighbourhoods.
        value: the estimate from all points.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: its nominal coverage of sampling noise.
        num_points: how many points, or for local spectra neighbourhoods, the value comes from.
        limit: the largest value that the method can give for so many points, None if there is none.
        duplicates: how many points were left out because they equal another one; always 0 for global spectra, which count them.
        spread: for "local", the 10 % and 90 % quantiles over the neighbourhoods: sampling noise and real differences together.
    """

    method: str
    scope: str
    value: float
    low: float
    high: float
    confidence: float
    num_points: int
    limit: int | None = None
    duplicates: int = 0
    spread: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.method}, {self.scope}: {self.value:.1f} ({self.low:.1f} to {self.high:.1f}, {self.num_points} points)"


def two_nn(distances: np.ndarray, discard: float = DISCARDED) -> float:
    """TwoNN from the distances (N, k ≥ 2) of `neighbour_distances`, of which the first two columns are used.

    With L_i = log(r₂/r₁) in ascending order and the share `discard` of the largest counted only as larger than the others
    (outliers have large ratios), the unbiased maximum-likelihood estimate from m = (1 − discard) N exponential variables is

        d = (m − 1) / (L_1 + … + L_m + (N − m) L_m)

    Raises ValueError for distances that are 0, not finite or all equal, for too few of them, or discard outside [0, 1).
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
            "TwoNN cannot tell a dimension: the first two neighbours of every point are equally far away, as on a grid"
        )
    return float((kept - 1) / total)


def levina_bickel(distances: np.ndarray) -> float:
    """The maximum-likelihood dimension from the distances (N, k ≥ 2) of `neighbour_distances`, one d for all points.

        1/d = mean over points and j < k of log(r_k / r_j)

    that is, the inverses of the points' estimates are averaged (MacKay and Ghahramani, 2005): it is the joint likelihood's
    maximum, while the mean of the estimates is too large by (k − 1)/(k − 2).

    Raises ValueError for distances that are 0, not finite or all equal, or fewer than 2 of them per point.
    """
    _check_distances(distances, 2)
    mean = np.log(distances[:, -1:] / distances[:, :-1]).mean()
    if mean == 0:
        raise ValueError("MLE cannot tell a dimension: all neighbours of every point are equally far away")
    return float(1 / mean)


def local_levina_bickel(distances: np.ndarray) -> np.ndarray:
    """One estimate per point (N,), (k − 2) / Σ_{j<k} log(r_k / r_j), from distances (N, k ≥ 3).

    Unbiased, with standard deviation d/√(k − 3) by chance alone; infinite where all k neighbours are equally far away.
    Raises ValueError for distances that are 0 or not finite, or fewer than 3 of them per point.
    """
    _check_distances(distances, 3)
    with np.errstate(divide="ignore"):
        return (distances.shape[1] - 2) / np.log(distances[:, -1:] / distances[:, :-1]).sum(axis=1)


def spectrum(x: Rows, chunk: int | None = None, centred: bool = True) -> np.ndarray:
    """Eigenvalues (D,), descending, float64, of the covariance of x (N, *shape); with centred=False of E xxᵀ.

    Moments are the population's (divided by N), summed over chunks of `chunk` rows, which changes nothing else. For D > N the
    N × N matrix of inner products is decomposed instead; the D − N other eigenvalues are 0.

    Raises ValueError for no rows, values that are not finite, or N and D both above 8192.
    """
    source = eigenvalue_source(x, np.zeros(len(x), dtype=np.int64), 1, chunk, centred)
    return source(np.ones(1, dtype=bool))


def participation_ratio(eigenvalues: np.ndarray) -> float:
    """(Σ λ)² / Σ λ² of eigenvalues (D,), between 1 and D: q for q equal ones among zeros. ValueError if none is positive."""
    return float(_participation(_checked_spectrum(eigenvalues)))


def energy_dimension(eigenvalues: np.ndarray, share: float = ENERGY) -> int:
    """The smallest number of eigenvalues (D,) that add up to `share` in (0, 1] of all, up to 10⁻⁹ of all for rounding.

    Raises ValueError if no eigenvalue is positive, or for a share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], found {share}")
    return int(_energy(_checked_spectrum(eigenvalues), share))


def estimate_dimensions(
    x: Rows,
    *,
    neighbours: int = 20,
    max_points: int = 10000,
    subsamples: int = 16,
    confidence: float = 0.95,
    seed: int = 0,
    owners: np.ndarray | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> list[DimensionEstimate]:
    """Every method's estimate of the dimension of x (N, *shape), with intervals.

    Global: participation ratio and energy of the spectrum, TwoNN, MLE. Local, over each point's nearest neighbours: the median
    of the points' MLE values, and the mean of participation ratio and energy of up to 1000 neighbourhoods' spectra, which
    cannot exceed neighbours − 1. Of equal points the neighbours' methods keep one.

    The interval is value ± t s. Points (or owners) are dealt at random into G = `subsamples` groups, and in G − 1 balanced ways
    (columns of a Hadamard matrix) the groups into two halves A, B; neighbours are those within the half. The halves share no
    points, so (θ_A − θ_B)/2 has the standard error of θ from all points if that falls as 1/√N; s is its root mean square, t
    Student's quantile for G − 1 degrees of freedom. The interval covers sampling noise alone, for independent points or owners;
    it is too wide where the error falls faster (a participation ratio with all eigenvalues equal). That of the global energy
    belongs to the real number at which the running sum crosses 95 %; its ends are rounded up, as the value is. It does not
    cover the method's bias: too few points for the dimension, a curved or noisy manifold, an uneven density.

    Args:
        x: only `len(x)` and slices are used.
        neighbours: k of MLE and of the local spectra; at least 3.
        max_points: of more points, so many are drawn at random; fewer if they would take more than 1 GiB. Of more than 4096
            points with D > 4096, spectra use 4096.
        subsamples: groups G, a power of two from 4.
        confidence: nominal coverage of the interval, in (0, 1).
        seed: of all that is drawn at random.
        owners: (N,), for points that depend on each other: the number of what each was taken from, as the image of a patch.
            Points of one owner are dealt into one group, so that the interval is that of independent owners; of fewer owners
            than subsamples into as many groups as they allow, at least 4.
        tick: is told how many of how many evaluations are done, after each, for a progress bar.

    Raises:
        ValueError: an argument out of range, values that are not finite, too few points that differ (every half must hold
            neighbours + 2), or fewer than 4 owners.
    """
    if neighbours < 3 or subsamples < 4 or subsamples & (subsamples - 1):
        raise ValueError(f"needed: neighbours from 3 and subsamples a power of two from 4, found {neighbours} and {subsamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), found {confidence}")
    needed = subsamples * -(-(neighbours + 2) // (subsamples // 2))
    if max_points < needed or len(x) < needed:
        raise ValueError(
            f"{neighbours} neighbours and {subsamples} subsamples need at least {needed} points, found {len(x)} and "
            f"max_points={max_points}; give more points, or fewer neighbours (from 3)"
        )
    owners = np.arange(len(x)) if owners is None else np.asarray(owners)
    if owners.shape != (len(x),):
        raise ValueError(f"owners have shape {owners.shape}; expected one for each of {len(x)} points")
    rng = np.random.default_rng(seed)
    count = min(len(x), max_points, max(needed, MAX_BYTES // take_rows(x[0:1]).nbytes))
    chosen = np.sort(rng.choice(len(x), count, replace=False)) if count < len(x) else None
    points, owners = take_rows(x, chosen), owners if chosen is None else owners[chosen]
    several = len(np.unique(owners))
    if several < 4:
        raise ValueError(f"intervals need at least 4 owners (images that patches are from), found {several}")
    while subsamples > several:
        subsamples //= 2
    distinct = distinct_rows(points)
    if len(distinct) < needed:
        raise ValueError(
            f"{neighbours} neighbours and {subsamples} subsamples need at least {needed} different points, found "
            f"{len(distinct)} among {count}"
        )
    halves = hadamard(subsamples)[:, 1:].T > 0
    # Both evaluate everything from all points and from the two halves of every way to split them.
    done, total = itertools.count(1), 2 * (1 + 2 * len(halves))

    def evaluated() -> None:
        if tick:
            tick(next(done), total)

    estimates = _global_spectra(points, owners, subsamples, halves, confidence, rng, evaluated)
    if len(distinct) < count:
        points, owners = points[distinct], owners[distinct]
    copies = count - len(distinct)
    return estimates + _from_neighbours(points, owners, neighbours, subsamples, halves, confidence, copies, rng, evaluated)


def _global_spectra(
    points: np.ndarray,
    owners: np.ndarray,
    subsamples: int,
    halves: np.ndarray,
    confidence: float,
    rng: np.random.Generator,
    evaluated: Callable[[], None],
) -> list[DimensionEstimate]:
    if min(points.shape) > MAX_SPECTRUM:
        chosen = np.sort(rng.choice(len(points), MAX_SPECTRUM, replace=False))
        points, owners = points[chosen], owners[chosen]
    # Chunks that leave each group enough rows for its matrix product to be worth the adding up.
    chunk = max(1, subsamples * CHUNK_BYTES // (8 * points.shape[1]))
    source = eigenvalue_source(points, deal(owners, subsamples, rng), subsamples, chunk)

    def evaluate(groups: np.ndarray) -> np.ndarray:
        values = _checked_spectrum(source(groups))
        return np.array([_participation(values), _crossing(values, ENERGY)])

    ratio, crossing = (
        (value, value - width, value + width) for value, width in intervals(evaluate, halves, confidence, evaluated)
    )
    # A whole number does not tell how near the next one was: the interval is found for the crossing, and rounded then.
    energy, low, high = (float(np.ceil(each - 1e-9)) for each in crossing)
    limit = min(len(points) - 1, points.shape[1])
    return [
        DimensionEstimate("participation ratio", "global", *ratio, confidence, len(points), limit),
        DimensionEstimate("energy", "global", energy, low, high, confidence, len(points), limit),
    ]


def _from_neighbours(
    points: np.ndarray,
    owners: np.ndarray,
    neighbours: int,
    subsamples: int,
    halves: np.ndarray,
    confidence: float,
    duplicates: int,
    rng: np.random.Generator,
    evaluated: Callable[[], None],
) -> list[DimensionEstimate]:
    # Of so many, at least `neighbours` lie in a half; but for one point in a thousand or less, which the half leaves out. Where
    # owners repeat they come in clumps, and more of them are looked at.
    clumps = 1 if len(np.unique(owners)) == len(points) else 2
    searched = min(len(points) - 1, clumps * (2 * neighbours + int(np.ceil(8 * neighbours**0.5))))
    distances, numbers = nearest_neighbours(points, searched)
    group = deal(owners, subsamples, rng)
    centre = np.zeros(len(points), dtype=bool)
    centre[rng.choice(len(points), min(LOCAL_CENTRES, len(points)), replace=False)] = True
    spreads: list[tuple[float, float]] = []

    def evaluate(groups: np.ndarray) -> np.ndarray:
        inside = groups[group]
        near = inside[numbers]
        rank = near.cumsum(axis=1)
        chosen = inside & (rank[:, -1] >= neighbours)
        near = near[chosen] & (rank[chosen] <= neighbours)
        within = distances[chosen][near].reshape(-1, neighbours)
        there = numbers[chosen][near].reshape(-1, neighbours)[centre[chosen]]
        values = local_spectra(points, there)
        local = [local_levina_bickel(within), _participation(values), _energy(values, ENERGY)]
        if groups.all():
            low, high = (np.array([np.quantile(each, q, method="nearest") for each in local]).tolist() for q in (0.1, 0.9))
            spreads.extend(zip(low, high))
        return np.array([two_nn(within), levina_bickel(within), np.median(local[0]), local[1].mean(), local[2].mean()])

    found = intervals(evaluate, halves, confidence, evaluated)
    most = min(neighbours - 1, points.shape[1])
    rows = [
        ("TwoNN", "global", len(points), None, None),
        ("MLE", "global", len(points), None, None),
        ("MLE", "local", len(points), None, spreads[0]),
        ("participation ratio", "local", int(centre.sum()), most, spreads[1]),
        ("energy", "local", int(centre.sum()), most, spreads[2]),
    ]
    return [
        DimensionEstimate(method, scope, value, value - width, value + width, confidence, count, limit, duplicates, spread)
        for (method, scope, count, limit, spread), (value, width) in zip(rows, found)
    ]


def _participation(eigenvalues: np.ndarray) -> np.ndarray:
    return eigenvalues.sum(axis=-1) ** 2 / (eigenvalues**2).sum(axis=-1)


def _energy(eigenvalues: np.ndarray, share: float) -> np.ndarray:
    held = eigenvalues.cumsum(axis=-1)
    return 1 + (held < (share - 1e-9) * held[..., -1:]).sum(axis=-1)


def _crossing(eigenvalues: np.ndarray, share: float) -> float:
    """Where along eigenvalues (D,) their sum reaches the share, as a real number: `_energy` is the next whole one."""
    last = int(_energy(eigenvalues, share)) - 1
    before = eigenvalues[:last].sum()
    return last + min(1.0, float((share * eigenvalues.sum() - before) / eigenvalues[last]))


def _checked_spectrum(eigenvalues: np.ndarray) -> np.ndarray:
    """Descending, the largest divided out so that squares stay in range."""
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))[::-1]
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError("eigenvalues must be a vector of finite numbers, some of them positive: do the data vary?")
    return values / values[0]


def _check_distances(distances: np.ndarray, least: int) -> None:
    if distances.ndim != 2 or len(distances) == 0 or distances.shape[1] < least:
        raise ValueError(f"distances must have shape (N, k) with k ≥ {least}, found {distances.shape}")
    if not (np.isfinite(distances).all() and (distances > 0).all()):
        raise ValueError("distances must be positive and finite; drop equal points first: x[distinct_rows(x)]")
