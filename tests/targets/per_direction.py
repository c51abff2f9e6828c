"""Targets of a user's own. One is in its own basis: k by principal direction, as the linear theory has it before training.

    u = V diag(k) Vᵀ x − V diag(1 − k) Vᵀ n,        k_i from `kdiff.theory.k_per_direction`, V the data's principal directions

The other, u = r x − n with a learned r, has its own number on its own axis. Both lie beside their test, which names them by
class path: nothing in kdiff knows of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdiff.data import Moments
from kdiff.targets import LINE, PAPER_CLAMP, Axis, Curve, Target
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


class Ratio(Target):
    """u = r x − n with r = exp(w), learned; the axis has a name at 1, or none."""

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        self.axis = Axis(0.0, 5.0, {1.0: "one"} if named else {})
        self.w = nn.Parameter(torch.tensor(0.5))

    def coefficients(self, t: Tensor) -> tuple[Tensor, float]:
        """exp(w) and 1."""
        return self.w.exp(), 1.0

    def state(self) -> dict[str, float]:
        """r."""
        return {"ratio": self.w.exp().item()}
