"""Nearest neighbours among rows, by brute force in bounded memory.

    |a − b|² = |a|² + |b|² − 2 a·b

is a matrix product, which is fast in float32, but close pairs cancel in it. So it only proposes rows. For the k + 8 rows that
it finds closest, the distances are computed again from a − b. The result for a centre is accepted if no other row can be
closer, given a bound on the product's rounding errors. Other centres are searched again in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 2**26  # bytes of float64 rows that are read at a time
CENTRES = 2048  # centres at a time
SPARE = 8  # rows proposed in addition to the k requested ones
BATCH_BYTES = 2**21  # bytes of differences a − b at a time, so that they stay in the processor's cache


class Rows(Protocol):
    """Samples (N, *shape): array, tensor, or rows that are read when needed. Only `len(x)` and `x[start:stop]` are used."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def read_chunks(x: Rows, chunk: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row number and the flat rows (n, D) of each chunk of x; by default a chunk has up to 64 MiB in float64.

    float64 (and whole numbers of more than 16 bits) are read as float64, everything else as float32. Raises ValueError for no
    rows, rows without axes, values that are not finite, or a chunk below 1; TypeError for values that are not real numbers.
    """
    if len(x) == 0:
        raise ValueError("x has no rows")
    if chunk is None:
        chunk = max(1, CHUNK_BYTES // (8 * _flat(x[0:1]).shape[1]))
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, found {chunk}")
    for start in range(0, len(x), chunk):
        yield start, _flat(x[start : start + chunk])


def take_rows(x: Rows, chosen: np.ndarray | None = None) -> np.ndarray:
    """The rows with the numbers `chosen` (ascending; default all) as an array (n, D). Types and errors as in `read_chunks`."""
    if chosen is None and isinstance(x, np.ndarray | Tensor) and len(x):
        return _flat(x)
    numbers = np.arange(len(x)) if chosen is None else chosen
    first = _flat(x[0:1]) if len(x) else np.empty((0, 0))
    taken = np.empty((len(numbers), first.shape[1]), first.dtype)
    for start, rows in read_chunks(x):
        low, high = np.searchsorted(numbers, [start, start + len(rows)])
        taken[low:high] = rows[numbers[low:high] - start]
    return taken


def distinct_rows(points: np.ndarray) -> np.ndarray:
    """The number of the first row of each set of equal rows of `points` (N, D), ascending."""
    first: dict[bytes, int] = {}
    for number, row in enumerate(points):
        # Adding 0 turns −0 into 0: the two are equal, but their bytes differ.
        first.setdefault(hashlib.blake2b((row + 0).tobytes(), digest_size=16).digest(), number)
    return np.fromiter(first.values(), np.int64, len(first))


def neighbour_distances(x: Rows, k: int, centres: np.ndarray | None = None, chunk: int | None = None) -> np.ndarray:
    """The distances of `nearest_neighbours` alone: (M, k)."""
    return nearest_neighbours(x, k, centres, chunk)[0]


def nearest_neighbours(
    x: Rows, k: int, centres: np.ndarray | None = None, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances from M centres to their k nearest other rows, ascending, and the numbers of those rows.

    Args:
        x: (N, *shape); one flat copy is held, in float32 unless x is float64.
        k: 1 to N − 1.
        centres: row numbers (M,); default all rows.
        chunk: the number of centres at a time; it changes time and memory, not the result.

    Returns:
        Distances (M, k) in float64, computed in the precision of x, and row numbers (M, k) in int64. A row equal to the centre
        counts as another row at distance 0; to avoid this, keep only the rows of `distinct_rows`.

    Raises:
        ValueError: k or a centre is out of range, chunk is below 1, there are no rows, or values are not finite.
        TypeError: centres are not whole numbers, or values are not real numbers.
    """
    points = take_rows(x)
    count = len(points)
    if not 1 <= k < count:
        raise ValueError(f"k must lie between 1 and the number of other rows, {count - 1}, found {k}")
    rows = np.arange(count) if centres is None else np.asarray(centres)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(f"centres must be a vector of row numbers, found {rows.dtype} of shape {rows.shape}")
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(f"centres must lie between 0 and {count - 1}, found {rows.min()} to {rows.max()}")
    size = CENTRES if chunk is None else chunk
    if size < 1:
        raise ValueError(f"chunk must be at least 1 row, found {size}")
    mean = points.mean(axis=0, dtype=np.float64)
    distances, numbers = np.empty((len(rows), k)), np.empty((len(rows), k), dtype=np.int64)
    for start in range(0, len(rows), size):
        here = np.arange(start, min(start + size, len(rows)))
        for dtype in (np.float32, np.float64):
            near, found, certain = _search(points, mean, rows[here], k, dtype)
            distances[here], numbers[here] = near, found
            here = here[~certain]
            if not len(here):
                break
    return distances, numbers


def _search(
    points: np.ndarray, mean: np.ndarray, rows: np.ndarray, k: int, dtype: type[np.floating]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances and numbers (n, k), and for each of the `rows` (n,) whether it is certain that no other row is closer."""
    dimension = points.shape[1]
    size = max(1, CHUNK_BYTES // (8 * dimension))
    centres = _centred(points[rows], mean, dtype)
    norms = np.einsum("nd,nd->n", centres, centres)
    best, found = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64)
    largest = 0.0
    for start in range(0, len(points), size):
        block = _centred(points[start : start + size], mean, dtype)
        squares = np.einsum("nd,nd->n", block, block)
        largest = max(largest, float(squares.max()))
        scores = centres @ block.T
        scores *= -2
        scores += squares
        (own,) = np.nonzero((rows >= start) & (rows < start + len(block)))
        scores[own, rows[own] - start] = np.inf
        score, column = torch.from_numpy(scores).topk(min(k + SPARE, len(block)), largest=False, sorted=False)
        best, found = torch.cat([best.to(score), score], dim=1), torch.cat([found, column + start], dim=1)
        best, kept = best.topk(min(k + SPARE, best.shape[1]), largest=False, sorted=False)
        found = found.gather(1, kept)
    if not torch.isfinite(best).all():  # the centre itself was proposed, because there are fewer than k + SPARE other rows
        best, kept = best.topk(len(points) - 1, largest=False, sorted=False)
        found = found.gather(1, kept)
    numbers = found.numpy()
    distances = _exact_distances(points, rows, numbers)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    distances, numbers = np.take_along_axis(distances, order, 1), np.take_along_axis(numbers, order, 1)
    if dtype is np.float64 or best.shape[1] == len(points) - 1:
        return distances, numbers, np.ones(len(rows), dtype=bool)
    # The rounding errors of D terms add up like a random walk (Higham and Mary, 2019): √D steps of 2⁻²⁴, times four.
    slack = 2.0**-22 * np.sqrt(dimension) * (np.sqrt(norms) + np.sqrt(largest)) ** 2
    return distances, numbers, distances[:, -1] ** 2 < best.numpy().max(axis=1) + norms - slack


def _exact_distances(points: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """|points[rows[i]] − points[numbers[i, j]]| from the differences, (n, m) float64."""
    distances = np.empty(numbers.shape)
    size = max(1, BATCH_BYTES // (points.itemsize * numbers.shape[1] * points.shape[1]))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        difference = points[numbers[part]]
        difference -= points[rows[part], None]
        distances[part] = np.einsum("nkd,nkd->nk", difference, difference)
    return np.sqrt(distances)


def _centred(points: np.ndarray, mean: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    return np.subtract(points, mean, out=np.empty(points.shape, dtype), casting="same_kind")


def _flat(block: Any) -> np.ndarray:
    """(n, D) float32 or float64, finite."""
    if isinstance(block, Tensor):
        block = block.detach().cpu()
        block = (block.float() if block.dtype == torch.bfloat16 else block).numpy()
    values = np.asarray(block)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"x must hold real numbers, found {values.dtype}")
    if values.ndim < 2 or values.size == 0:
        raise ValueError(f"x must have shape (N, *shape), found {len(values)} rows of shape {values.shape[1:]}")
    values = values.reshape(len(values), -1).astype(np.result_type(values.dtype, np.float32), copy=False)
    if not np.isfinite(values).all():
        raise ValueError("x holds values that are not finite (NaN or infinite); remove those rows first")
    return values
