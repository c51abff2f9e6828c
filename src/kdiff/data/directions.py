"""The directions along which data vary: eigenvectors of the covariance Σ, as many as hold a share of the variance tr Σ.

Σ = E (x − m)(x − m)ᵀ = V diag(λ) Vᵀ, λ₁ ≥ λ₂ ≥ …;  q is the smallest number with λ₁ + … + λ_q ≥ energy · tr Σ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdiff.data.samples import Samples

MAX_DIMENSION = 4096


def principal_directions(x: Samples, energy: float = 0.95, max_samples: int = 20000) -> Tensor:
    """The leading principal directions of samples x (N, *shape): orthonormal float32 columns (D, q), on x's device.

    Of more than `max_samples` samples, that many at even distances are used. The sign of a direction makes its largest
    entry positive. `energy` in (0, 1] is met up to 10⁻⁹ of tr Σ, so that rounding adds no directions to data that fill
    a subspace.

    Raises ValueError if D exceeds 4096 (the covariance would be too large to decompose), or for fewer than 2 samples,
    values that are not finite, data without any variance, or an energy or `max_samples` out of range.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must lie in (0, 1], found {energy}")
    if x.ndim < 2 or len(x) < 2 or max_samples < 2:
        raise ValueError(
            f"at least 2 samples (N, *shape) are needed, found shape {tuple(x.shape)} and max_samples={max_samples}"
        )
    dimension = math.prod(x.shape[1:])
    if dimension > MAX_DIMENSION:
        raise ValueError(f"principal directions are computed for up to {MAX_DIMENSION} dimensions, found {dimension}")
    thinned = torch.linspace(0, len(x) - 1, max_samples, dtype=torch.float64).long()
    chosen = x[thinned if len(x) > max_samples else slice(None)].detach()
    # On the CPU: some accelerators have no float64.
    flat = chosen.cpu().double().flatten(1)
    if not torch.isfinite(flat).all():
        raise ValueError("principal directions need finite values, found NaN or infinite ones")
    if (flat == flat[0]).all():
        raise ValueError("principal directions need data that vary, found equal samples only")
    centred = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    held = values.flip(0).clamp_min(0).cumsum(0)
    count = int((held < (energy - 1e-9) * held[-1]).sum()) + 1
    leading = vectors.flip(1)[:, :count]
    largest = leading.gather(0, leading.abs().argmax(0, keepdim=True))
    return (leading * largest.sign()).float().to(chosen.device)
