"""A k for every direction from two numbers and the spectrum of the data (derived for this project).

    u = K x − (I − K) n,   K diagonal in an orthonormal basis,   logit k_i = w₀ − w₁ log λ_i

λ_i is the variance of the data along direction i in units of the noise's variance. w₁ = 0 is one k for all directions. w₀ = 0
with w₁ = ½ is k_i/(1 − k_i) = 1/√λ_i, the best of the loss on v at û = 0; with w₁ = 1 it is k_i = 1/(1 + λ_i), the best of the
loss on u of a linear network (`kdiff.theory.k_per_direction`). Directions in which the data hardly vary get data prediction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdiff.targets.constant import Learned, whole
from kdiff.targets.description import Curve
from kdiff.targets.scatter import MakeMoments, MakeSamples
from kdiff.targets.target import PAPER_CLAMP
from kdiff.targets.turned import TurnedTarget


class Spectral(TurnedTarget, Learned):
    """logit k_i = w₀ − w₁ log λ_i in a basis, with fixed or learned w₀ and w₁.

    Args:
        shape: the shape of a sample.
        basis: "principal", "patch", "dct", "channels" or "random" (`kdiff.targets.bases`). By default "patch", and for
            vectors of up to 4,096 numbers "principal". In a random basis the λ are those of the principal components, as a
            control.
        w0: w₀, at the start if it is learned.
        w1: w₁, likewise.
        learned: whether w₀ and w₁ are learned together with the network.
        rate: their pace, as for `LearnedK`.
        pull: the weight p of a term p w₁² that the model's loss adds. It pulls w₁ to 0, that is to one k for all directions.
        size: the side of a patch.
        seed: the seed of a random basis.
        floor: the least λ. Directions with less variance get the k of this one.
        noise_scale: the scale of the noise.
        moments: a function that returns the moments of the data, or None if saved weights follow.
        samples: a function that returns the training samples, likewise.
        min_denominator: the clamp of the loss.
        clamp_target: as for every target.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        basis: str | None = None,
        w0: float = 0.0,
        w1: float = 0.5,
        learned: bool = True,
        rate: float = 10.0,
        pull: float = 0.0,
        size: int | None = None,
        seed: int = 0,
        floor: float = 1e-4,
        noise_scale: float = 1.0,
        moments: MakeMoments = None,
        samples: MakeSamples = None,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        if not (math.isfinite(w0) and math.isfinite(w1)):
            raise ValueError(f"w0 and w1 are {w0} and {w1}; expected finite numbers")
        if not (math.isfinite(pull) and pull >= 0) or (pull and not learned):
            raise ValueError(f"pull is {pull} with learned={learned}; expected 0, or a positive number with learned=True")
        self._set_basis(basis, shape, size, seed, floor, noise_scale, moments, samples)
        self.learned, self.pull = learned, float(pull)
        if learned:
            self._learn([float(w0), float(w1)], rate)
        else:
            self._keep_fixed([float(w0), float(w1)], ["fixed_w0", "fixed_w1"])

    def weights(self) -> Tensor:
        """w₀ and w₁, (2,), with gradients if they are learned."""
        return self.rate * whole(self.w)

    def logits(self) -> Tensor:
        """logit k of every direction, of the basis's `coefficient_shape`."""
        w0, w1 = self.weights()
        return w0 - w1 * self.variances.log()

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k and 1 − k of every direction."""
        logits = self.logits()
        return torch.sigmoid(logits), torch.sigmoid(-logits)

    def penalty(self) -> Tensor | None:
        """p w₁², or None if there is no pull."""
        return self.pull * self.weights()[1].square() if self.pull else None

    @torch.no_grad()
    def k_each(self) -> Tensor:
        """k of every direction, of the basis's `coefficient_shape`."""
        return torch.sigmoid(self.logits())

    def state(self) -> dict[str, float]:
        """The mean k over directions, its ends, w₀, w₁ and the floor of λ."""
        k, (w0, w1) = self.k_each(), self.weights().tolist()
        ends = {"least k": k.min().item(), "greatest k": k.max().item()}
        return {"mean k": k.mean().item(), **ends, "w0": w0, "w1": w1, "floor": self.floor}

    def curves(self) -> list[Curve]:
        """k over directions, the greatest variance first."""
        return [Curve("k", "direction", *self._over_directions(self.k_each()))]

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        # One process alone may print a model, so nothing is gathered here.
        sharded = hasattr(self.w, "full_tensor")
        numbers = "sharded" if sharded else "w0={:.4g}, w1={:.4g}".format(*(self.rate * self.w.detach()).tolist())
        return f"{super().extra_repr()}, {numbers}, " + (f"rate={self.rate:g}" if self.learned else "fixed")
