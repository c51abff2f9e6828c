"""A target of the user's own, in a basis of its own: k by principal direction, as the linear theory has it before training.

    u = V diag(k) Vᵀ x − V diag(1 − k) Vᵀ n,        k_i from `kdiff.theory.k_per_direction`, V the data's principal directions

It lives beside its test, which names it by class path: nothing in kdiff knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdiff.data import Moments
from kdiff.targets import PAPER_CLAMP, Curve, Target
from kdiff.targets.target import LINE
from kdiff.theory import k_per_direction


class PerDirection(Target):
    """k_i for every principal direction, fixed."""

    axis = LINE

    def __init__(
        self, shape: tuple[int, ...], moments: Callable[[], Moments] | None = None, min_denominator: float = PAPER_CLAMP
    ) -> None:
        super().__init__(min_denominator)
        self.shape, size = tuple(shape), math.prod(shape)
        directions, k = torch.eye(size), torch.full((size,), 0.5)
        if moments:
            found = moments()
            directions = found.directions
            k = torch.from_numpy(k_per_direction(found.variances.double().numpy(), space="v")).float()
        self.register_buffer("directions", directions)
        self.register_buffer("k_each", k)

    def turn(self, x: Tensor) -> Tensor:
        """Coordinates (batch, D) along the principal directions."""
        return x.flatten(1) @ self.directions.to(x)

    def turn_back(self, x: Tensor) -> Tensor:
        """Back to (batch, *shape)."""
        return (x @ self.directions.T.to(x)).reshape(-1, *self.shape)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k and 1 − k, (D,)."""
        return self.k_each, 1 - self.k_each

    def state(self) -> dict[str, float]:
        """The mean and the ends."""
        return {"mean k": self.k_each.mean().item(), "least k": self.k_each.min().item()}

    def curves(self) -> list[Curve]:
        """k over directions."""
        return [Curve("k", "direction", list(map(float, range(len(self.k_each)))), self.k_each.tolist())]
