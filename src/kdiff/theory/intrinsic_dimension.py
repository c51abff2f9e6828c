"""The intrinsic dimension d of data, by every method of `kdiff.theory.estimators`, with intervals.

Methods read the spectrum of the covariance, or the distances to nearest neighbours, of all points (global) or around each point
(local). The intervals come from balanced halves of the points (`kdiff.theory.halves`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
from kdiff.theory.halves import Halves
from kdiff.theory.nearest import CHUNK_BYTES, Rows, distinct_rows, nearest_neighbours, take_rows
from kdiff.theory.spectra import eigenvalue_source, local_spectra

MAX_BYTES = 2**30  # bytes of the points that an estimate uses
MAX_SPECTRUM = 4096  # the largest size of a matrix to decompose
LOCAL_CENTRES = 1000  # the number of neighbourhoods with eigenvalues


@dataclass(frozen=True)
class DimensionEstimate:
    """The value of one method with its interval. `str` gives a line to print.

    Attributes:
        method: "TwoNN", "MLE", "participation ratio" or "energy".
        scope: "global", or "local" for the average over neighbourhoods.
        value: the estimate from all points.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: nominal coverage of the interval, for sampling noise.
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
    """Estimates of the dimension of x (N, *shape) by every method, with intervals.

    Global: participation ratio and energy of the spectrum, TwoNN, MLE. Local, from each point's nearest neighbours: the median
    of the points' MLE values, and the mean participation ratio and energy of the spectra of up to 1000 neighbourhoods, which
    cannot exceed neighbours − 1. The methods that use neighbours keep one of several equal points.

    The interval is value ± t s (`kdiff.theory.halves`). The points (or owners) are dealt at random into G = `subsamples`
    groups, and the groups in G − 1 balanced ways into two halves A and B. Neighbours are searched within a half. s is the root
    mean square of (θ_A − θ_B)/2, and t is Student's quantile for G − 1 degrees of freedom. The interval covers sampling noise
    only, for independent points or owners. It is too wide where the error falls faster than 1/√N (a participation ratio with
    all eigenvalues equal). The interval of the global energy belongs to the real number at which the running sum crosses 95 %;
    its ends are rounded up, like the value. No interval covers the method's bias: too few points for the dimension, a curved or
    noisy manifold, an uneven density.

    Args:
        x: only `len(x)` and slices are used.
        neighbours: k of MLE and of the local spectra; at least 3.
        max_points: if there are more points, this many are drawn at random, or fewer if they would take more than 1 GiB.
            Spectra use 4096 points if there are more and D > 4096.
        subsamples: the number of groups G, a power of two from 4.
        confidence: nominal coverage of the interval, in (0, 1).
        seed: the seed of all random draws.
        owners: (N,), for points that depend on each other: the number of the object that each point was taken from, such as the
            image of a patch. Points of one owner stay in one group, so the interval is that of independent owners. With fewer
            owners than subsamples, there are as many groups as the owners allow, at least 4.
        tick: called as tick(done, total) after each evaluation, for a progress bar.

    Raises:
        ValueError: an argument is out of range, values are not finite, too few points differ (a half must hold neighbours + 2),
            or there are fewer than 4 owners.
    """
    if neighbours < 3 or subsamples < 4 or subsamples & (subsamples - 1):
        raise ValueError(f"neighbours is {neighbours}, subsamples {subsamples}; expected 3 or more, and a power of two from 4")
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
    # Spectra and neighbours are each evaluated on all points and on the two halves of every split.
    done, total = itertools.count(1), 2 * (1 + 2 * (subsamples - 1))

    def evaluated() -> None:
        if tick:
            tick(next(done), total)

    halves = Halves(subsamples, confidence, rng, evaluated)
    estimates = _global_spectra(points, owners, halves)
    if len(distinct) < count:
        points, owners = points[distinct], owners[distinct]
    return estimates + _from_neighbours(points, owners, neighbours, count - len(distinct), halves)


def _global_spectra(points: np.ndarray, owners: np.ndarray, halves: Halves) -> list[DimensionEstimate]:
    if min(points.shape) > MAX_SPECTRUM:
        chosen = np.sort(halves.rng.choice(len(points), MAX_SPECTRUM, replace=False))
        points, owners = points[chosen], owners[chosen]
    # Chunks in which each group has enough rows, so that its matrix product is worth the addition.
    chunk = max(1, halves.subsamples * CHUNK_BYTES // (8 * points.shape[1]))
    source = eigenvalue_source(points, halves.deal(owners), halves.subsamples, chunk)

    def evaluate(groups: np.ndarray) -> np.ndarray:
        values = checked_eigenvalues(source(groups))
        return np.array([participation(values), crossing(values, ENERGY)])

    ratio, real = ((value, value - width, value + width) for value, width in halves.intervals(evaluate))
    # A whole number does not show how close the next one was. So the interval of the crossing is found, and then rounded.
    whole, low, high = (float(np.ceil(each - 1e-9)) for each in real)
    limit = min(len(points) - 1, points.shape[1])
    return [
        DimensionEstimate("participation ratio", "global", *ratio, halves.confidence, len(points), limit),
        DimensionEstimate("energy", "global", whole, low, high, halves.confidence, len(points), limit),
    ]


def _from_neighbours(
    points: np.ndarray, owners: np.ndarray, neighbours: int, duplicates: int, halves: Halves
) -> list[DimensionEstimate]:
    # Enough neighbours are searched so that at least `neighbours` of them lie in a half, except for at most one point in a
    # thousand, which the half leaves out. Points of one owner come in clumps, so more neighbours are searched then.
    clumps = 1 if len(np.unique(owners)) == len(points) else 2
    searched = min(len(points) - 1, clumps * (2 * neighbours + int(np.ceil(8 * neighbours**0.5))))
    distances, numbers = nearest_neighbours(points, searched)
    group = halves.deal(owners)
    centre = np.zeros(len(points), dtype=bool)
    centre[halves.rng.choice(len(points), min(LOCAL_CENTRES, len(points)), replace=False)] = True
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

    found = halves.intervals(evaluate)
    most = min(neighbours - 1, points.shape[1])
    rows = [
        ("TwoNN", "global", len(points), None, None),
        ("MLE", "global", len(points), None, None),
        ("MLE", "local", len(points), None, spreads[0]),
        ("participation ratio", "local", int(centre.sum()), most, spreads[1]),
        ("energy", "local", int(centre.sum()), most, spreads[2]),
    ]
    return [
        DimensionEstimate(
            method, scope, value, value - width, value + width, halves.confidence, count, limit, duplicates, spread
        )
        for (method, scope, count, limit, spread), (value, width) in zip(rows, found)
    ]
