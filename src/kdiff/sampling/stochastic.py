"""Sampling by a stochastic differential equation with the marginals of the flow (SiT, arXiv 2401.08740, section 2).

For any w(t) ≥ 0,

    dz = (v + ½ w s) dt + √w dW,      s = ∇ log p_t(z) = −n̂/σ,  on the linear path (t v − z)/(1 − t)

has the same law of z at every t as dz/dt = v, towards data; w = 0 is the flow itself. The score s comes from v, so that this
works for every target. A step of Euler–Maruyama: z ← z + h (v + ½ w s) + √(w h) ξ, ξ ~ N(0, I). The noise that is added is
taken off again by the score, errors of earlier steps with it.

The noise of a step is seeded by (seed, t, index of the sample), so that a sample does not depend on the batch it is made in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.path import GaussianPath, LinearPath
from kdiff.sampling.base import Callback, Velocity, follow
from kdiff.sampling.noise import draw_noise, mix_seed
from kdiff.sampling.runge_kutta import euler_step

Diffusion = Callable[[Tensor, GaussianPath], Tensor]
# SiT's choices by their names there. Its SBDM, σ(α'σ/α − σ'), is left out: infinite at t = 0, where samples start.
DIFFUSIONS: dict[str, Diffusion] = {
    "constant": lambda t, path: torch.ones_like(t),
    "sigma": lambda t, path: path.sigma(t),
    "linear": lambda t, path: 1 - t,
    "decreasing": lambda t, path: (1 + torch.cos(math.pi * t)).square() / 4,
    "increasing_decreasing": lambda t, path: torch.sin(math.pi * t).square(),
}


@dataclass(frozen=True)
class EulerMaruyama:
    """The equation above by Euler–Maruyama, "sde" by name: one evaluation a step, from noise to data only.

    The step to t = 1 is one of the flow, without noise: on the linear path it returns the data prediction.

    Args:
        diffusion: w(t): "constant" (1), "sigma" (σ), "linear" (1 − t), "decreasing" (¼ (1 + cos πt)²),
            "increasing_decreasing" (sin² πt), or a function of (t, path).
        norm: a factor of w. SiT's code multiplies the score by its coefficient, not by half of it: its 1 is 2 here.
        seed: of the noise; 0 if left out. `KDiff.sample` gives its own.
        indices: the samples' numbers; 0, 1, … if left out. `KDiff.sample` gives its own.
        path: the path that the velocity belongs to; linear if left out. `KDiff.sample` gives its own.
    """

    diffusion: str | Diffusion = "sigma"
    norm: float = 1.0
    seed: int | None = None
    indices: Sequence[int] | None = None
    path: GaussianPath | None = None

    def __post_init__(self) -> None:
        if isinstance(self.diffusion, str) and self.diffusion not in DIFFUSIONS:
            raise ValueError(f"no diffusion is called {self.diffusion!r}; expected one of {', '.join(DIFFUSIONS)}")
        if not self.norm >= 0:
            raise ValueError(f"norm is {self.norm}; expected a number of at least 0 (0 is the flow, without noise)")

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """See `Solver`.

        Raises:
            ValueError: decreasing times (inversion wants the flow), or not an index for each sample.
        """
        if times[0] > times[-1]:
            raise ValueError("the sde runs from noise to data; from data to noise take a solver of the flow, such as heun")
        path = self.path or LinearPath()
        diffusion = DIFFUSIONS[self.diffusion] if isinstance(self.diffusion, str) else self.diffusion
        indices = range(len(z)) if self.indices is None else self.indices
        if len(indices) != len(z):
            raise ValueError(f"{len(indices)} indices were given for {len(z)} samples; expected one for each")

        def step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            if t_next >= 1:
                return euler_step(velocity, z, t, t_next)
            v, h = velocity(z, t), t_next - t
            w = self.norm * diffusion(t, path)
            score = -path.noise(z, v, t) / path.sigma(t)
            noise = draw_noise(indices, z.shape[1:], mix_seed(self.seed or 0, _bits(t.item()))).to(z)
            return z + h * (v + w / 2 * score) + (w * h).sqrt() * noise

        return follow(step, velocity, z, times, callback)


def _bits(t: float) -> int:
    """The time as a whole number: the noise of a step is the same if a walk is made in two parts."""
    return int.from_bytes(struct.pack("<d", t), "little")
