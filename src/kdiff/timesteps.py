"""How the time t of a training sample is drawn: t = Q(p) with p uniform on (0, 1) and Q the law's quantile function.

Drawing through Q gives every law a stratified form: p_i = (i + uniform)/batch in random order covers [0, 1] evenly in every
batch, each p_i alone still uniform, which takes most of the noise that t adds to the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Timesteps(ABC):
    """A law of t on [0, 1]; a subclass gives its quantile function."""

    def __init__(self, stratified: bool = False) -> None:
        self.stratified = stratified

    @abstractmethod
    def quantile(self, p: Tensor) -> Tensor:
        """Q(p), shaped like p."""

    def sample(self, batch: int, device: torch.device | str | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Times of shape (batch,), float32."""
        p = torch.rand(batch, device=device, generator=generator)
        if self.stratified:
            p = (torch.randperm(batch, device=device, generator=generator) + p) / batch
        return self.quantile(p)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Uniform(Timesteps):
    """t uniform on [0, 1]."""

    def quantile(self, p: Tensor) -> Tensor:
        """p."""
        return p


class LogitNormal(Timesteps):
    """t = sigmoid(mean + std · normal) (arXiv 2403.03206). LightningDiT: (0, 1); JiT: (−0.8, 0.8), more towards noise."""

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified)
        if not std > 0:
            raise ValueError(f"std is {std}; expected a positive number")
        self.mean, self.std = float(mean), float(std)

    def quantile(self, p: Tensor) -> Tensor:
        """sigmoid(mean + std Φ⁻¹(p))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(p))
