"""The intrinsic dimension d of data, by every method of `kdiff.theory.estimators`, with intervals.

Methods read the spectrum of the covariance, or the distances to nearest neighbours, of all points (global) or around each
(local). An interval is that of balanced halves of the points (`kdiff.theory.halves`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import hadamard

from kdiff.theory.estimators import (
    ENERGY,
    checked_eigenvalues,
    crossing,
    energy,
    levina_bickel,
    local_levina_bickel,
    participation,
    two_nn,
)
from kdiff.theory.halves import deal, intervals
from kdiff.theory.neighbours import CHUNK_BYTES, Rows, distinct_rows, nearest_neighbours, take_rows
from kdiff.theory.spectra import eigenvalue_source, local_spectra

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
        values = checked_eigenvalues(source(groups))
        return np.array([participation(values), crossing(values, ENERGY)])

    ratio, real = ((value, value - width, value + width) for value, width in intervals(evaluate, halves, confidence, evaluated))
    # A whole number does not tell how near the next one was: the interval is found for the crossing, and rounded then.
    whole, low, high = (float(np.ceil(each - 1e-9)) for each in real)
    limit = min(len(points) - 1, points.shape[1])
    return [
        DimensionEstimate("participation ratio", "global", *ratio, confidence, len(points), limit),
        DimensionEstimate("energy", "global", whole, low, high, confidence, len(points), limit),
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
        local = [local_levina_bickel(within), participation(values), energy(values, ENERGY)]
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
