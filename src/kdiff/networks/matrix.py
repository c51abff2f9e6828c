"""Linear networks without bias that start at zero: the networks that the theory of the best k describes.

    Linear            û = W z                                does not see t
    LowRankLinear     û = P Σ_j φ_j(t) G_j z                 sees t; its output lies in the R dimensions that P spans

φ_j are hat functions at the times t_j = 1 − (1 − j/(knots − 1))². Each falls to 0 at the next knot, so the gains are piecewise
linear in t. The knots are densest near t = 1, where the best gain of an empty direction, −(1 − k)/(1 − t), has a pole. Nine of
these knots leave 0.4 % of the loss of an empty direction at k = 0.6 (nine evenly spaced knots leave 2.2 %), and 0.03 % of the
loss of a data direction. The height of φ_j at its own knot is 1/√(1 − t_j), and at the last knot twice the height before. So no
G_j must grow much larger than the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """û = W z for samples of this shape, D values each: W is (D, D), and the output does not depend on t."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        dimension = math.prod(shape)
        self.weight = nn.Parameter(torch.zeros(dimension, dimension))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """W z, shaped like z (batch, *shape); t and the label y are ignored."""
        return (z.flatten(1) @ self.weight.T).reshape(z.shape)


class LowRankLinear(nn.Module):
    """û = P G(t) z: a bottleneck of `rank` dimensions that is the same at all t, with gains that depend on t.

    Args:
        shape: the shape of one sample, D values.
        rank: R, the number of dimensions that the output can reach; 1 to D.
        knots: the number of times at which the gains are free; 2 or more.
    """

    times: Tensor
    heights: Tensor

    def __init__(self, shape: Sequence[int], rank: int, knots: int = 9) -> None:
        super().__init__()
        dimension = math.prod(shape)
        if not 1 <= rank <= dimension:
            raise ValueError(f"rank is {rank}; expected 1 to {dimension}, the dimension of the data")
        if knots < 2:
            raise ValueError(f"knots is {knots}; expected at least 2, the ends of [0, 1]")
        self.knots = knots
        root = 1 - torch.linspace(0, 1, knots)
        self.register_buffer("times", 1 - root**2, persistent=False)
        self.register_buffer("heights", 1 / torch.cat([root[:-1], root[-2:-1] / 2]), persistent=False)
        self.span = nn.Parameter(torch.randn(dimension, rank) / math.sqrt(dimension))
        self.gains = nn.Parameter(torch.zeros(knots, rank, dimension))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """P G(t) z, shaped like z (batch, *shape); t: (batch,). The label y is ignored."""
        times, t = self.times.to(z.dtype), t.to(z.dtype)
        left = (torch.searchsorted(times, t, right=True) - 1).clamp(0, self.knots - 2)
        way = ((t - times[left]) / (times[left + 1] - times[left]))[:, None]
        at = torch.arange(self.knots, device=z.device)
        hats = torch.where(at == left[:, None], 1 - way, 0) + torch.where(at == left[:, None] + 1, way, 0)
        at_knots = (z.flatten(1) @ self.gains.flatten(0, 1).T).unflatten(1, self.gains.shape[:2])
        inner = (at_knots * (hats * self.heights.to(z.dtype))[..., None]).sum(1)
        return (inner @ self.span.T).reshape(z.shape)
