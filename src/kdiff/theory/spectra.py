"""Eigenvalues of the covariance of many rows, of parts of them, and of neighbourhoods.

    Σ = E (x − m)(x − m)ᵀ  from  n, Σ x, Σ xxᵀ, which add up over chunks and over groups of rows,

and for D > N from the N × N inner products ⟨x_i − m, x_j − m⟩ / N, which have the same eigenvalues except for zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdiff.theory.nearest import Rows, read_chunks

LARGEST = 8192  # rows of the largest matrix that is decomposed
BATCH = 2**22  # float64 values of neighbourhoods at a time
Source = Callable[[np.ndarray], np.ndarray]


def spectrum(x: Rows, chunk: int | None = None, centred: bool = True) -> np.ndarray:
    """Eigenvalues (D,), descending, float64, of the covariance of x (N, *shape); of E xxᵀ if `centred` is False.

    Moments are the population's (divided by N), summed over chunks of `chunk` rows; the chunk changes nothing else. For D > N
    the N × N matrix of inner products is decomposed instead, and the other D − N eigenvalues are 0.

    Raises ValueError for no rows, values that are not finite, or N and D both above 8192.
    """
    source = eigenvalue_source(x, np.zeros(len(x), dtype=np.int64), 1, chunk, centred)
    return source(np.ones(1, dtype=bool))


def eigenvalue_source(x: Rows, group: np.ndarray, num_groups: int, chunk: int | None = None, centred: bool = True) -> Source:
    """A function of bool (num_groups,): the eigenvalues (D,), descending, of the rows of x (N, *shape) in these groups.

    `group` (N,) is the group of each row. x is read once, or for D > N once for every chunk. D × D float64 numbers per group,
    or N × N, are held in memory. Raises ValueError as `read_chunks` does, and if N and D are both above 8192.
    """
    dimension = int(np.prod(np.shape(x[0:1])[1:], dtype=np.int64))
    if min(len(x), dimension) > LARGEST:
        raise ValueError(
            f"found {len(x)} points of {dimension} dimensions; eigenvalues need at most {LARGEST} points or dimensions; "
            "give fewer points"
        )
    if dimension > len(x):
        return _from_products(x, group, dimension, chunk, centred)
    return _from_moments(x, group, num_groups, dimension, chunk, centred)


def local_spectra(points: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Eigenvalues (M, min(k, D)), descending, of the covariance of each of M neighbourhoods: k rows (M, k) of points (N, D)."""
    count, k = neighbours.shape
    dimension = points.shape[1]
    values = np.empty((count, min(k, dimension)))
    size = max(1, BATCH // (k * dimension))
    for start in range(0, count, size):
        rows = points[neighbours[start : start + size]].astype(np.float64)
        rows -= rows.mean(axis=1, keepdims=True)
        turned = rows.transpose(0, 2, 1)
        values[start : start + size] = np.linalg.eigvalsh(rows @ turned if k < dimension else turned @ rows)
    return values[:, ::-1].clip(0) / k


def _from_moments(x: Rows, group: np.ndarray, num_groups: int, dimension: int, chunk: int | None, centred: bool) -> Source:
    counts = np.bincount(group, minlength=num_groups)
    sums, products = np.zeros((num_groups, dimension)), np.zeros((num_groups, dimension, dimension))
    shift = np.zeros(dimension)
    for start, rows in read_chunks(x, chunk):
        if centred and start == 0:
            # A shift close to the mean, so that little cancels when the true mean is subtracted from the moments.
            shift = rows.mean(axis=0, dtype=np.float64)
        for each in range(num_groups):
            chosen = rows[group[start : start + len(rows)] == each] - shift
            sums[each] += chosen.sum(axis=0)
            products[each] += chosen.T @ chosen

    def eigenvalues(groups: np.ndarray) -> np.ndarray:
        count = counts[groups].sum()
        moment = np.zeros((dimension, dimension))
        for each in np.flatnonzero(groups):
            moment += products[each]
        moment /= count
        if centred:
            mean = sums[groups].sum(axis=0) / count
            moment -= np.outer(mean, mean)
        return np.linalg.eigvalsh(moment)[::-1].clip(0)

    return eigenvalues


def _from_products(x: Rows, group: np.ndarray, dimension: int, chunk: int | None, centred: bool) -> Source:
    mean = np.zeros(dimension)
    if centred:
        for _, rows in read_chunks(x, chunk):
            mean += rows.sum(axis=0, dtype=np.float64) / len(x)
    inner = np.empty((len(x), len(x)))
    for start, rows in read_chunks(x, chunk):
        here = rows - mean
        for other, columns in read_chunks(x, chunk):
            if other >= start:
                block = here @ (columns - mean).T
                inner[start : start + len(rows), other : other + len(columns)] = block
                inner[other : other + len(columns), start : start + len(rows)] = block.T

    def eigenvalues(groups: np.ndarray) -> np.ndarray:
        chosen = np.flatnonzero(groups[group])
        part = inner[np.ix_(chosen, chosen)]
        if centred:
            part -= part.mean(axis=0)
            part -= part.mean(axis=1, keepdims=True)
        values = np.linalg.eigvalsh(part / len(chosen))[::-1].clip(0)
        return np.pad(values, (0, dimension - len(values)))

    return eigenvalues
