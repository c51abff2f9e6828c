"""The covariance Σ of data as a sum of outer products, from their moments or in one pass over the samples, in float64.

Σ = Σ_i λ_i v_i v_iᵀ                              from the principal directions v_i
Σ = E (x − s)(x − s)ᵀ − (m − s)(m − s)ᵀ           from samples of mean m, with any s close to m
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

MAX_DENSE = 4096  # the largest D of a basis that is kept as one matrix (D, D), and of `kdiff.data.Moments`
MANY, FEW = 20_000, 2048  # samples that a covariance is measured on, up to D = MAX_DENSE and beyond
CHUNK = 2**22  # numbers of a chunk of samples

MakeMoments = Callable[[], Any] | None  # a function that returns `kdiff.data.Moments`
MakeSamples = Callable[[], Any] | None  # a function that returns samples (N, *shape): a tensor or `kdiff.data.LazySamples`


def scatter(shape: tuple[int, ...], moments: MakeMoments, samples: MakeSamples) -> Iterator[tuple[float, Tensor]]:
    """Weights w and float64 rows r (n, *shape) with Σ = Σ_r w r rᵀ, in one pass over the samples.

    With the mean s of the first samples, Σ = E (x − s)(x − s)ᵀ − (m − s)(m − s)ᵀ: the last row has the weight −1.
    """
    if samples is None:
        if moments is None:
            raise ValueError("the variances of the data are unknown; expected moments or samples")
        found = moments()
        rows = (found.directions.double() * found.variances.double().clamp_min(0).sqrt()).T
        yield from ((1.0, chunk.reshape(-1, *shape)) for chunk in rows.split(max(1, CHUNK // math.prod(shape))))
        return
    x, size = samples(), math.prod(shape)
    if tuple(x.shape[1:]) != shape or len(x) < 2:
        raise ValueError(f"samples have the shape {tuple(x.shape)}; expected at least 2 of shape {shape}")
    count = min(len(x), MANY if size <= MAX_DENSE else FEW)
    chosen = torch.linspace(0, len(x) - 1, count, dtype=torch.float64).round().long()
    shift, total = None, torch.zeros(shape, dtype=torch.float64)
    for places in chosen.split(max(2, CHUNK // size)):
        rows = x[places].detach().cpu().double()
        shift = rows.mean(0) if shift is None else shift
        rows = rows - shift
        if not rows.isfinite().all():
            raise ValueError("a basis needs finite samples, found NaN or infinite values")
        total += rows.sum(0)
        yield 1 / count, rows
    yield -1.0, total[None] / count


def components(covariance: Tensor) -> Tensor:
    """Eigenvectors of a symmetric matrix as columns, the largest eigenvalue first; their largest entries are positive."""
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()
