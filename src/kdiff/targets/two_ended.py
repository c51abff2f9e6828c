"""A k of time with two ends, data prediction early and velocity prediction late, where no clamp ever acts.

    k(t) = (1 − t) k₀ + t k₁,        0.05 ≤ k₀ ≤ 1,   0 ≤ k₁ ≤ 0.95

The denominator is k₀ at t = 0 and 1 − k₁ at t = 1, and it is at least 0.05 at all times, on the linear and the
variance-preserving path: for a given t it is linear in k₀ and in k₁, so it is least at a corner of this box, and there it is at
least 0.05. Every t gives a gradient to both ends, also where the density of t vanishes at 0 and 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdiff.path import checked_time
from kdiff.targets.constant import Learned, whole
from kdiff.targets.description import LINE, Curve
from kdiff.targets.target import PAPER_CLAMP


class TwoEndedK(Learned):
    """u = k(t) x − (1 − k(t)) n with k linear in t, fixed or learned.

    Learned ends are k₀ = 0.05 + 0.95 sigmoid(rate · w₀) and k₁ = 0.95 sigmoid(rate · w₁).

    Args:
        early: k₀, at the start if it is learned.
        late: k₁, likewise.
        learned: whether the ends are learned together with the network.
        rate: their pace, as for `LearnedK`.
        min_denominator: the clamp of the loss.
        clamp_target: as for every target.
    """

    axis = LINE

    def __init__(
        self,
        early: float = 0.95,
        late: float = 0.5,
        learned: bool = False,
        rate: float = 10.0,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        self.learned = learned
        if not (PAPER_CLAMP <= early <= 1 and 0 <= late <= 1 - PAPER_CLAMP):
            raise ValueError(f"early is {early} and late is {late}; expected early in [0.05, 1] and late in [0, 0.95]")
        shares = (early - PAPER_CLAMP) / (1 - PAPER_CLAMP), late / (1 - PAPER_CLAMP)
        if not learned:
            self._keep_fixed([early, late], ["early", "late"])
        elif not all(0 < share < 1 for share in shares):
            raise ValueError(
                f"early is {early} and late is {late}, but a learned early lies strictly between 0.05 and 1, and late "
                "strictly between 0 and 0.95, because a sigmoid never reaches its ends; as in early=0.95, late=0.5"
            )
        else:
            self._learn([math.log(share / (1 - share)) for share in shares], rate)

    def ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """k₀, 1 − k₀, k₁ and 1 − k₁, each exact near 0, with gradients to w if they are learned."""
        w = self.rate * whole(self.w)
        if not self.learned:
            return w[0], 1 - w[0], w[1], 1 - w[1]
        up, down = (1 - PAPER_CLAMP) * torch.sigmoid(w), (1 - PAPER_CLAMP) * torch.sigmoid(-w)
        return PAPER_CLAMP + up[0], down[0], up[1], PAPER_CLAMP + down[1]

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k(t) and 1 − k(t), shaped like t."""
        t = checked_time(t)
        early, rest_early, late, rest_late = self.ends()
        return (1 - t) * early + t * late, (1 - t) * rest_early + t * rest_late

    @property
    def k(self) -> float:
        """The mean of k over all times."""
        early, _, late, _ = self.ends()
        return (early + late).item() / 2

    def state(self) -> dict[str, float]:
        """The mean k, and k at both ends."""
        early, _, late, _ = self.ends()
        return {"k": self.k, "k(0)": early.item(), "k(1)": late.item()}

    def curves(self) -> list[Curve]:
        """k over t."""
        early, _, late, _ = self.ends()
        return [Curve("k", "t", [0.0, 1.0], [early.item(), late.item()])]

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        # One process alone may print a model, so nothing is gathered here.
        if hasattr(self.w, "full_tensor"):
            return f"rate={self.rate:g}, sharded"
        ends = f"early={self.state()['k(0)']:.4g}, late={self.state()['k(1)']:.4g}"
        return f"{ends}, rate={self.rate:g}" if self.learned else f"{ends}, fixed"
