"""AsymFlow (arXiv 2605.12964): velocity prediction in a few leading directions, and data prediction in all others.

    u = x/s − P n,     P the projection on the leading m components of patches

So a = 1/s in every direction, and b is 1 in the leading m directions and 0 in the rest. On the linear path with s = 1 the
denominator is 1 in the leading directions and 1 − t in the rest. On the line, the leading directions have k = ½ and the rest
have k = 1, but with the scale x − n of the velocity in place of (x − n)/2. The published target has the opposite sign.

s is the scale of the data. The authors use s = 1 on ImageNet, with m = 8 of the 768 components of patches of 16 × 16 pixels,
and another s to start from a model of latents. They then also scale the network's input and time, which is left out here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdiff.targets.description import Curve
from kdiff.targets.scatter import MakeMoments, MakeSamples
from kdiff.targets.target import PAPER_CLAMP
from kdiff.targets.turned import TurnedTarget


class AsymFlow(TurnedTarget):
    """u = x/s − P n, fixed.

    Args:
        shape: the shape of a sample.
        rank: m, the number of leading directions, those of the greatest variance; from 0 to all.
        scale: s.
        basis: "principal", "patch", "dct", "channels" or "random" (`kdiff.targets.bases`). By default "patch", and for
            vectors of up to 4,096 numbers "principal".
        size: the side of a patch.
        seed: the seed of a random basis.
        moments: a function that returns the moments of the data, or None if saved weights follow.
        samples: a function that returns the training samples, likewise.
        min_denominator: the clamp of the loss.
        clamp_target: as for every target.
    """

    shares: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        rank: int = 8,
        scale: float = 1.0,
        basis: str | None = None,
        size: int | None = None,
        seed: int = 0,
        moments: MakeMoments = None,
        samples: MakeSamples = None,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale}; expected a positive number, the scale of the data")
        self._set_basis(basis, shape, size, seed, 1e-12, 1.0, moments, samples)
        count = self.variances.numel()
        if not 0 <= rank <= count:
            raise ValueError(f"rank is {rank}; expected from 0 to {count}, the number of directions of this basis")
        self.rank, self.scale = rank, float(scale)
        self._mark("leading", float(rank))
        self._mark("data_scale", self.scale)
        leading = self.variances.flatten().argsort(descending=True, stable=True)[:rank]
        shares = torch.zeros(count).index_fill(0, leading, 1.0)
        self.register_buffer("shares", shares.reshape(self.variances.shape))

    def coefficients(self, t: Tensor) -> tuple[float, Tensor]:
        """1/s, and 1 in the leading directions and 0 in the rest."""
        return 1 / self.scale, self.shares

    def k_each(self) -> Tensor:
        """The place a/(a + b) of every direction on the line from noise to data."""
        return 1 / (1 + self.scale * self.shares)

    def state(self) -> dict[str, float]:
        """The mean place on the line over directions, and the rank."""
        return {"mean k": self.k_each().mean().item(), "rank": float(self.rank)}

    def curves(self) -> list[Curve]:
        """The place on the line over directions, the greatest variance first."""
        return [Curve("k", "direction", *self._over_directions(self.k_each()))]

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"{super().extra_repr()}, rank={self.rank}, scale={self.scale:g}"
