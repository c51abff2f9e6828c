"""How the time t of a training sample is drawn: t = Q(p), with p uniform on (0, 1) and Q the quantile function of the law of t.

Drawing through Q gives every law a stratified form. In a batch, p_i = (i + uniform)/batch in random order covers [0, 1] evenly,
while each p_i alone is still uniform. This removes most of the noise that t adds to the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdiff.config.parts import Spec, resolve


class Timesteps(ABC):
    """A law of t on [0, 1]. A subclass defines its quantile function."""

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
    """t = sigmoid(mean + std · normal) (arXiv 2403.03206). LightningDiT: (0, 1); JiT: (−0.8, 0.8), with more t near noise."""

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified)
        if not std > 0:
            raise ValueError(f"std is {std}; expected a positive number")
        self.mean, self.std = float(mean), float(std)

    def quantile(self, p: Tensor) -> Tensor:
        """sigmoid(mean + std Φ⁻¹(p))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(p))


TIMESTEPS: dict[str, Callable[..., Timesteps]] = {"uniform": Uniform, "logit_normal": LogitNormal}


def find_timesteps(spec: Spec, **given: Any) -> Callable[[], Timesteps]:
    """A function that builds the law named by `spec`; `kdiff.config.parts.resolve` describes `given` and the errors."""
    return resolve("law of timesteps", spec, TIMESTEPS, given, of=Timesteps)
