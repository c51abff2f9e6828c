"""A learned k for every direction of a basis, each with its own parameter (derived for this project).

    u = K x − (I − K) n,   K = diag(k_i) in an orthonormal basis,   k_i = sigmoid(rate · w_i)

It holds `kdiff.targets.Spectral` and the one learned k as special cases. In the basis "channels" it is one k for each channel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdiff.targets.constant import Learned, initial_logit, whole
from kdiff.targets.description import Curve
from kdiff.targets.scatter import MakeMoments, MakeSamples
from kdiff.targets.target import PAPER_CLAMP
from kdiff.targets.turned import TurnedTarget


class LearnedDirections(TurnedTarget, Learned):
    """k_i = sigmoid(rate · w_i) for every direction i of a basis.

    Args:
        shape: the shape of a sample.
        basis: "principal", "patch", "dct", "channels" or "random" (`kdiff.targets.bases`). By default "patch", and for
            vectors of up to 4,096 numbers "principal".
        init: k at the start, the same in every direction.
        rate: the pace, as for `LearnedK`.
        pull: the weight p of a term of the model's loss, p times the variance over directions of logit k_i. It pulls all k to
            one value.
        size: the side of a patch.
        seed: the seed of a random basis.
        moments: a function that returns the moments of the data, or None if saved weights follow.
        samples: a function that returns the training samples, likewise.
        min_denominator: the clamp of the loss.
        clamp_target: as for every target.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        basis: str | None = None,
        init: float = 0.9,
        rate: float = 10.0,
        pull: float = 0.0,
        size: int | None = None,
        seed: int = 0,
        moments: MakeMoments = None,
        samples: MakeSamples = None,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        if not (math.isfinite(pull) and pull >= 0):
            raise ValueError(f"pull is {pull}; expected 0 or a positive number")
        self._set_basis(basis, shape, size, seed, 1e-12, 1.0, moments, samples)
        self.pull = float(pull)
        self._learn([initial_logit(init)], rate)
        self.w = nn.Parameter(self.w.detach().expand(self.basis.coefficient_shape).clone())

    def logits(self) -> Tensor:
        """logit k of every direction, of the basis's `coefficient_shape`."""
        return self.rate * whole(self.w)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k and 1 − k of every direction."""
        logits = self.logits()
        return torch.sigmoid(logits), torch.sigmoid(-logits)

    def penalty(self) -> Tensor | None:
        """p times the variance of logit k_i over directions, or None if there is no pull."""
        return self.pull * self.logits().var(correction=0) if self.pull else None

    def gradients(self) -> dict[str, Tensor]:
        """The length of the gradient of w."""
        return {} if self.w.grad is None else {"w_gradient": whole(self.w.grad).norm()}

    @torch.no_grad()
    def k_each(self) -> Tensor:
        """k of every direction, of the basis's `coefficient_shape`."""
        return torch.sigmoid(self.logits())

    def state(self) -> dict[str, float]:
        """The mean k over directions, and its ends."""
        k = self.k_each()
        return {"mean k": k.mean().item(), "least k": k.min().item(), "greatest k": k.max().item()}

    def curves(self) -> list[Curve]:
        """k over directions, the greatest variance first."""
        return [Curve("k", "direction", *self._over_directions(self.k_each()))]

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"{super().extra_repr()}, rate={self.rate:g}"
