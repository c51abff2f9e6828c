"""Two targets of one network, tied by a consistency loss: data prediction early, velocity prediction late, or any two k.

The idea is Self-Consistent Flow's (Han, Hu and Liu, arXiv 2607.12171). One network is asked two questions at every t. Its
answers û₁ and û₂ are outputs for the targets k₁ and k₂, scaled to u_i = (k_i x − (1 − k_i) n)/max(k_i, 1 − k_i): x itself for
k = 1, and x − n for k = ½. Samples come from û₁ up to the time `switch` and from û₂ after it. The loss is

    ½ (L₁ + L₂ + w C),    C = E‖den₁ den₂ (v̂₁ − v̂₂)‖²/D,    den_i = α b_i + σ a_i

with the model's loss L_i for each answer (the v-loss, with the model's weighting). Each den_i cancels the denominator in v̂_i,
so nothing is divided by and no clamp is needed. For data and velocity on the linear path C is ‖x̂₁ − x̂₂‖²/D, the difference of
the two data predictions. An exact network makes v̂₁ = v̂₂ and each L_i minimal; C is then 0, so it moves no minimum.

The paper was not at hand. What is built here follows public summaries of it: one network with two modes; a v-loss, an x-loss
and 0.1 times the squared difference of the two data predictions; the data prediction first and the velocity after t = ½. The
summaries do not give the weights of the first two terms, which are taken as equal here. With early = data, late = velocity and
weighting "den" the loss above is then that loss, times ½. The generalisation to any pair of k and to the model's other
weightings is kdiff's. So are these two choices:

- The question is told by the time that the network is shown: t for the first and t + 2 for the second. Every network has an
  embedding of time, so that this works with all of them, and needs neither parameters nor another output layer.
- C sends gradients to both answers. They estimate one velocity with different errors, and neither is known to be the better
  one at a given time. A stopped gradient would make one of them copy the errors of the other.

A step costs two evaluations of the network. A sample costs as many as with any other target.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from kdiff.path import GaussianPath, broadcast_time, checked_time, full_precision
from kdiff.targets.constant import FixedK
from kdiff.targets.description import LINE, Curve
from kdiff.targets.target import LINEAR, PAPER_CLAMP, Target
from kdiff.targets.varied import GeneralTarget
from kdiff.targets.weighting import Weighting

AWAY = 2.0  # from the times of the first question to those of the second


class SelfConsistent(Target):
    """Two fixed k, asked of one network, with a consistency loss between them.

    Args:
        early: k₁, a number in [0, 1], or "data", "velocity" or "noise".
        late: k₂, likewise; not equal to k₁.
        switch: the time in [0, 1] from which samples come from the second answer.
        consistency: w, the weight of the consistency loss, relative to the losses of the answers.
        min_denominator: the clamp of the loss of each answer.

    Raises:
        ValueError: equal k, or a number that is out of range.
    """

    axis = LINE

    def __init__(
        self,
        early: float | str = 1.0,
        late: float | str = 0.5,
        switch: float = 0.5,
        consistency: float = 0.1,
        min_denominator: float = PAPER_CLAMP,
    ) -> None:
        super().__init__(min_denominator)
        self.early_k, self.late_k = FixedK(early).k, FixedK(late).k
        if self.early_k == self.late_k:
            raise ValueError(
                f"early and late are both {self.early_k:g}; expected two different k, or the target {self.early_k:g}"
            )
        if not 0 <= switch <= 1 or not consistency >= 0:
            raise ValueError(
                f"switch is {switch} and consistency is {consistency}; expected a time in [0, 1] and a weight of at least 0"
            )
        self.switch, self.consistency = float(switch), float(consistency)
        self._scaled = [(k / max(k, 1 - k), (1 - k) / max(k, 1 - k)) for k in (self.early_k, self.late_k)]
        # In a tuple, which is no part of the module: they hold no tensors.
        self.answers = tuple(GeneralTarget(a, b, min_denominator) for a, b in self._scaled)
        self._mark("early", self.early_k)
        self._mark("late", self.late_k)

    def shown(self, t: Tensor) -> Tensor:
        """The times that the network is shown in sampling, shaped like t: those of the second question from `switch` on."""
        return torch.where(t < self.switch, t, t + AWAY)

    def asked(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The times that the network is shown in training: one for each question."""
        return t, t + AWAY

    @staticmethod
    def true_time(shown: Tensor) -> Tensor:
        """The time t that belongs to a time that the network is shown."""
        return torch.where(shown >= AWAY, shown - AWAY, shown)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of the answer that samples come from, shaped like t."""
        late = checked_time(t) >= self.switch
        (a, b), (later_a, later_b) = self._scaled
        return (
            torch.where(late, later_a, torch.full_like(t, a)),
            torch.where(late, later_b, torch.full_like(t, b)),
        )

    def velocity_error(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """The errors v̂_c − v_c of both answers, (2 batch, ...): all of the first, then all of the second.

        u_hat: both answers in the same order, (2 batch, ...). With (batch, ...) it is the answer that samples come from.
        """
        if len(u_hat) == len(x):
            return super().velocity_error(u_hat, x, n, t, path)
        pairs = zip(self.answers, u_hat.chunk(2))
        return torch.cat([answer.velocity_error(u, x, n, t, path) for answer, u in pairs])

    def output_error(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float) -> NoReturn:
        """Two answers have no common loss on u: raises ValueError."""
        raise ValueError("a self_consistent target has two outputs, and loss_space is 'u'; expected loss_space='v'")

    def weighed(self, weighting: Weighting, error: Tensor, t: Tensor, path: GaussianPath = LINEAR) -> Tensor:
        """The loss above, a scalar, of the errors (2 batch, ...) that `velocity_error` returned at the times t (batch,)."""
        first, second = (weighting(e, t, answer, path) for answer, e in zip(self.answers, error.chunk(2)))
        return (first + second + self.consistency * self.disagreement(error, t, path)) / 2

    @full_precision
    def disagreement(self, error: Tensor, t: Tensor, path: GaussianPath = LINEAR) -> Tensor:
        """C, a scalar, of the errors (2 batch, ...) that `velocity_error` returned at the times t (batch,)."""
        # û_i − u_i, which is den_i (v̂_i − v)/det, whether the loss clamps den_i or not
        first, second = (answer.output_units(e, t, path) for answer, e in zip(self.answers, error.chunk(2)))
        t = broadcast_time(t, first)
        dens = [path.alpha(t) * b + path.sigma(t) * a for a, b in self._scaled]
        return (path.determinant(t) * (dens[1] * first - dens[0] * second)).square().mean()

    @property
    def k(self) -> float:
        """The mean over all times of the k that samples come from."""
        return self.switch * self.early_k + (1 - self.switch) * self.late_k

    def state(self) -> dict[str, float]:
        """The mean k, and both k."""
        return {"k": self.k, "early": self.early_k, "late": self.late_k}

    def curves(self) -> list[Curve]:
        """k over t: a step."""
        times = [0.0, self.switch, self.switch, 1.0]
        return [Curve("k", "t", times, [self.early_k, self.early_k, self.late_k, self.late_k])]

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"early={self.early_k:g}, late={self.late_k:g}, switch={self.switch:g}, consistency={self.consistency:g}"
