"""The directions along which data vary: the leading eigenvectors of the covariance Σ that hold a given share of tr Σ.

Σ = E (x − m)(x − m)ᵀ = V diag(λ) Vᵀ, λ₁ ≥ λ₂ ≥ …;  q is the smallest number with λ₁ + … + λ_q ≥ energy · tr Σ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.data.samples import Samples

MAX_DIMENSION = 4096


@dataclass(frozen=True)
class Moments:
    """Mean (D,), variances (D,) in falling order and their orthonormal directions (D, D), float32 on the CPU."""

    mean: Tensor
    variances: Tensor
    directions: Tensor


def moments(x: Samples, max_samples: int = 20000) -> Moments:
    """The moments of samples x (N, *shape); `principal_directions` explains `max_samples` and the errors."""
    mean, values, vectors = _decomposed(x, max_samples)
    return Moments(mean.float(), values.float(), vectors.float())


def principal_directions(x: Samples, energy: float = 0.95, max_samples: int = 20000) -> Tensor:
    """The leading principal directions of samples x (N, *shape): orthonormal float32 columns (D, q), on x's device.

    If there are more than `max_samples` samples, that many evenly spaced ones are used. The sign of a direction makes its
    largest entry positive. `energy` in (0, 1] is reached up to 10⁻⁹ of tr Σ, so that rounding adds no directions to data that
    fill a subspace.

    Raises ValueError if D exceeds 4096 (the covariance would be too large to decompose), or for fewer than 2 samples, values
    that are not finite, data without any variance, or an energy or `max_samples` out of range.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must lie in (0, 1], found {energy}")
    _, values, vectors = _decomposed(x, max_samples)
    held = values.cumsum(0)
    count = int((held < (energy - 1e-9) * held[-1]).sum()) + 1
    return vectors[:, :count].float().to(x[:1].device)


def _decomposed(x: Samples, max_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, eigenvalues in falling order and eigenvectors of Σ, in float64 on the CPU: some accelerators have no float64."""
    if x.ndim < 2 or len(x) < 2 or max_samples < 2:
        raise ValueError(
            f"at least 2 samples (N, *shape) are needed, found shape {tuple(x.shape)} and max_samples={max_samples}"
        )
    dimension = math.prod(x.shape[1:])
    if dimension > MAX_DIMENSION:
        raise ValueError(f"principal directions are computed for up to {MAX_DIMENSION} dimensions, found {dimension}")
    thinned = torch.linspace(0, len(x) - 1, max_samples, dtype=torch.float64).long()
    flat = x[thinned if len(x) > max_samples else slice(None)].detach().cpu().double().flatten(1)
    if not torch.isfinite(flat).all():
        raise ValueError("principal directions need finite values, found NaN or infinite values")
    if (flat == flat[0]).all():
        raise ValueError("principal directions need data that vary, found equal samples only")
    centred = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    vectors = vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return flat.mean(0), values.flip(0).clamp_min(0), vectors * largest.sign()
