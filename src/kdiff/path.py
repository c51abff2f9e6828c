"""Gaussian paths from noise to data: z = α(t) x + σ(t) n, with velocity v = dz/dt = α'(t) x + σ'(t) n.

Time runs from t = 0 (noise: α = 0, σ = 1) to t = 1 (data: α = 1, σ = 0), everywhere in kdiff.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from kdiff.precision import full_precision


def broadcast_time(t: Tensor | float, like: Tensor) -> Tensor:
    """`t` so that it broadcasts against `like` (batch, ...): a number, (batch,), or a shape of the rank of `like`.

    Times keep a precision of their own, float32 or better, also beside half-precision samples.
    """
    if not isinstance(t, Tensor):
        dtype = like.dtype if like.itemsize >= 4 else torch.float32
        return torch.full((), t, dtype=dtype, device=like.device)
    if t.ndim == 0 or t.ndim == like.ndim:
        return t
    if t.ndim == 1 and t.shape[0] in (1, like.shape[0]):
        return t.reshape(-1, *[1] * (like.ndim - 1))
    raise ValueError(
        f"t has shape {tuple(t.shape)}; expected a number, ({like.shape[0]},) or a shape of rank {like.ndim} "
        f"that broadcasts against {tuple(like.shape)}"
    )


class GaussianPath(ABC):
    """z = α(t) x + σ(t) n. A path gives α, σ and their derivatives; all else follows.

    Data and noise are recovered from a point and its velocity by inverting the 2×2 system (z, v) ← (x, n), whose
    determinant `α'σ − σ'α` must be positive on [0, 1].
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α(t): how much data; α(0) = 0, α(1) = 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """σ(t): how much noise; σ(0) = 1, σ(1) = 0."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor | float:
        """dα/dt."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor | float:
        """dσ/dt."""

    def determinant(self, t: Tensor) -> Tensor | float:
        """α'σ − σ'α, positive: 1 on the linear path."""
        return self.alpha_dot(t) * self.sigma(t) - self.sigma_dot(t) * self.alpha(t)

    @full_precision
    def mix(self, x: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """The noisy sample z = α x + σ n. x, n: (batch, ...); t: a number or (batch,)."""
        t = broadcast_time(t, x)
        return self.alpha(t) * x + self.sigma(t) * n

    @full_precision
    def interpolate(self, x: Tensor, n: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The noisy sample z and its velocity v. x, n: (batch, ...); t: a number or (batch,)."""
        t = broadcast_time(t, x)
        return self.mix(x, n, t), self.alpha_dot(t) * x + self.sigma_dot(t) * n

    @full_precision
    def data(self, z: Tensor, v: Tensor, t: Tensor | float) -> Tensor:
        """x = (σ v − σ' z) / (α'σ − σ'α); on the linear path z + (1 − t) v."""
        t = broadcast_time(t, z)
        return (self.sigma(t) * v - self.sigma_dot(t) * z) / self.determinant(t)

    @full_precision
    def noise(self, z: Tensor, v: Tensor, t: Tensor | float) -> Tensor:
        """n = (α' z − α v) / (α'σ − σ'α); on the linear path z − t v."""
        t = broadcast_time(t, z)
        return (self.alpha_dot(t) * z - self.alpha(t) * v) / self.determinant(t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LinearPath(GaussianPath):
    """z = t x + (1 − t) n, v = x − n: flow matching, rectified flow, JiT, LightningDiT."""

    def alpha(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def alpha_dot(self, t: Tensor) -> float:
        """1."""
        return 1.0

    def sigma_dot(self, t: Tensor) -> float:
        """−1."""
        return -1.0

    def determinant(self, t: Tensor) -> float:
        """1, without the rounding of (1 − t) + t."""
        return 1.0


class VariancePreservingPath(GaussianPath):
    """z = sin(πt/2) x + cos(πt/2) n: α² + σ² = 1, so that data of unit variance keeps it at every t.

    The trigonometric path of Albergo & Vanden-Eijnden (arXiv 2209.15571); its derivatives stay bounded at both ends,
    unlike those of the diffusion schedules with linear β.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """sin(πt/2)."""
        return torch.sin(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        """cos(πt/2), computed as sin(π(1 − t)/2): exactly 0 at t = 1."""
        return torch.sin((1 - t) * (math.pi / 2))

    def alpha_dot(self, t: Tensor) -> Tensor:
        """(π/2) cos(πt/2)."""
        return self.sigma(t) * (math.pi / 2)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """−(π/2) sin(πt/2)."""
        return self.alpha(t) * (-math.pi / 2)

    def determinant(self, t: Tensor) -> float:
        """π/2, constant."""
        return math.pi / 2
