"""The residual of the best linear denoiser, in every direction and at every time (derived for this project).

    a_i = σ s²/(α² λ_i + σ² s²),    b_i = α λ_i/(α² λ_i + σ² s²),    den = α b + σ a = 1

with the variance λ_i of the data along direction i and the scale s of the noise. Then E u z = a α λ − b σ s² = 0: an output
û = 0 gives the best linear (Wiener) denoiser of data of mean zero, and the network learns only what a linear denoiser cannot
know. As den = 1, u is the residual of the velocity on the linear path, and no clamp acts. EDM's preconditioning is the case of
one λ for all directions, up to the scale of u (`kdiff.theory.wiener`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdiff.path import GaussianPath
from kdiff.targets.description import Curve
from kdiff.targets.scatter import MakeMoments, MakeSamples
from kdiff.targets.target import LINEAR, PAPER_CLAMP
from kdiff.targets.turned import TurnedTarget

TIMES = [(i + 0.5) / 10 for i in range(10)]  # of the mean in `state`


class Wiener(TurnedTarget):
    """The Wiener residual in a basis, fixed.

    Args:
        shape: the shape of a sample.
        basis: "principal", "patch", "dct", "channels" or "random" (`kdiff.targets.bases`). By default "patch", and for
            vectors of up to 4,096 numbers "principal".
        size: the side of a patch.
        seed: the seed of a random basis.
        floor: the least λ, in units of the noise's variance. At t = 1 it keeps a and b finite in empty directions.
        path: the model's path; linear if left out. On another path the conversions are exact too, but den is not 1.
        noise_scale: the scale s of the noise.
        moments: a function that returns the moments of the data, or None if saved weights follow.
        samples: a function that returns the training samples, likewise.
        min_denominator: the clamp of the loss.
        clamp_target: as for every target.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        basis: str | None = None,
        size: int | None = None,
        seed: int = 0,
        floor: float = 1e-4,
        path: GaussianPath = LINEAR,
        noise_scale: float = 1.0,
        moments: MakeMoments = None,
        samples: MakeSamples = None,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        self._set_basis(basis, shape, size, seed, floor, noise_scale, moments, samples)
        self.path = path

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of every direction at t."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        total = alpha.square() * self.variances + sigma.square()
        return sigma / total, alpha * self.variances / total

    def _k_at(self, t: Tensor, variances: Tensor) -> Tensor:
        """The place a/(a + b) = σ/(σ + α λ) on the line from noise to data."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return sigma / (sigma + alpha * variances)

    def state(self) -> dict[str, float]:
        """The mean place on the line over directions and times, the ends over directions at t = ½, and the floor of λ."""
        mean = torch.stack([self._k_at(t, self.variances).mean() for t in self.variances.new_tensor(TIMES)]).mean()
        middle = self._k_at(self.variances.new_tensor(0.5), self.variances)
        ends = {"least k(0.5)": middle.min().item(), "greatest k(0.5)": middle.max().item()}
        return {"mean k": mean.item(), **ends, "floor": self.floor}

    def curves(self) -> list[Curve]:
        """The place on the line over t, in the directions of greatest, middle and least variance."""
        times = torch.linspace(0, 1, 51, device=self.variances.device)
        ordered = self.variances.flatten().sort(descending=True).values
        chosen = {"greatest": ordered[0], "middle": ordered[len(ordered) // 2], "least": ordered[-1]}
        return [
            Curve(f"k, {name} variance", "t", times.tolist(), self._k_at(times, value).tolist())
            for name, value in chosen.items()
        ]
