"""Distance to the nearest neighbour, which shows copies of training data.

    d_i = min_j |a_i - b_j|

The nearest b_j is found from `|a|^2 + |b|^2 - 2 a.b`, a matrix product, in float64: in float32 it cannot resolve distances
below about 1e-3 of the norm, and near copies are the ones that matter here. The distance itself is then computed from the
difference `a_i - b_j`, so that a copy is at exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTS = 2**22  # float64 values per temporary: 32 MiB


def nearest_distance(a: Tensor, b: Tensor, exclude_self: bool = False) -> Tensor:
    """Euclidean distance of each row of `a` to its nearest row of `b`: (Na,) float32, on the device of `a`.

    Args:
        a: (Na, *shape); trailing dimensions are flattened.
        b: (Nb, *shape).
        exclude_self: row i of `a` ignores row i of `b`: `nearest_distance(x, x, True)` gives the distances within x.

    Raises:
        ValueError: different dimensions, rows that are not (N, *shape), no row in `b` to compare with, or
            `exclude_self` with different counts.
    """
    for rows in (a, b):
        if rows.ndim < 2:
            raise ValueError(f"rows must have shape (N, *shape), got {tuple(rows.shape)}")
    device = a.device
    a, b = a.detach().flatten(1), b.detach().to(device).flatten(1)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the rows have different dimensions: {a.shape[1]} and {b.shape[1]}")
    if exclude_self and len(a) != len(b):
        raise ValueError(f"exclude_self compares a set with itself, got sets of {len(a)} and {len(b)}")
    if len(b) < 1 + exclude_self:
        raise ValueError(f"no row left to compare with: the second set has {len(b)}, exclude_self is {exclude_self}")
    size = max(1, min(2048, ELEMENTS // max(1, a.shape[1])))
    parts = [_nearest(a, b, start, size, exclude_self) for start in range(0, len(a), size)]
    return torch.cat(parts).to(device, torch.float32) if parts else torch.empty(0, device=device)


def as_double(x: Tensor) -> Tensor:
    """`x` in float64, moved to the CPU from a device that has none (Apple's)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _nearest(a: Tensor, b: Tensor, start: int, size: int, exclude_self: bool) -> Tensor:
    """Distances of rows start .. start + size of `a` to `b`, which is read in chunks of `size` rows."""
    rows = as_double(a[start : start + size])
    best = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
    for offset in range(0, len(b), size):
        others = as_double(b[offset : offset + size])
        # |a|^2 is the same for every b_j: the smallest |b|^2 - 2 a.b is the nearest.
        scores = torch.addmm(others.square().sum(dim=1), rows, others.T, alpha=-2)
        if exclude_self and offset == start:  # a and b have the same chunks: self pairs are on this diagonal
            scores.fill_diagonal_(torch.inf)
        score, nearest = scores.min(dim=1)
        distance = (rows - others[nearest]).norm(dim=1)
        best = torch.minimum(best, distance.masked_fill(score.isposinf(), torch.inf))  # a chunk may hold the row itself alone
    return best
