"""Sampling by a stochastic differential equation with the same marginals as the flow (SiT, arXiv 2401.08740, section 2).

For any w(t) ≥ 0, the equation

    dz = (v + ½ w s) dt + √w dW,      s = ∇ log p_t(z) = −n̂/σ,  on the linear path (t v − z)/(1 − t)

gives z the same law at every t as the flow dz/dt = v towards data; w = 0 is the flow itself. The score s is computed from v, so
the equation works for every target. A step of Euler–Maruyama is z ← z + h (v + ½ w s) + √(w h) ξ with ξ ~ N(0, I). The score
removes the added noise again, and with it errors of earlier steps.

The noise of a step is seeded by (seed, t, index of the sample), so a sample does not depend on the batch that it is in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.path import GaussianPath, LinearPath
from kdiff.sampling.noise import draw_noise, mix_seed
from kdiff.sampling.runge_kutta import euler_step
from kdiff.sampling.walk import Callback, Velocity, follow

Diffusion = Callable[[Tensor, GaussianPath], Tensor]
# SiT's choices and its names. Its SBDM, σ(α'σ/α − σ'), is left out because it is infinite at t = 0, where samples start.
DIFFUSIONS: dict[str, Diffusion] = {
    "constant": lambda t, path: torch.ones_like(t),
    "sigma": lambda t, path: path.sigma(t),
    "linear": lambda t, path: 1 - t,
    "decreasing": lambda t, path: (1 + torch.cos(math.pi * t)).square() / 4,
    "increasing_decreasing": lambda t, path: torch.sin(math.pi * t).square(),
}


@dataclass(frozen=True)
class EulerMaruyama:
    """A `Solver`: Euler–Maruyama for the equation above, by name "sde"; one evaluation a step, from noise to data only.

    The step to t = 1 follows the flow, without noise: on the linear path it returns the data prediction. `KDiff.sample` fills
    in `seed`, `indices` and `path` where they are left out.

    Args:
        diffusion: w(t): "constant" (1), "sigma" (σ), "linear" (1 − t), "decreasing" (¼ (1 + cos πt)²), "increasing_decreasing"
            (sin² πt), or a function of (t, path).
        norm: a factor of w. SiT's code multiplies the score by its coefficient w, not by ½ w, so its norm 1 is 2 here.
        seed: the seed of the noise; 0 if left out.
        indices: the numbers of the samples; 0, 1, … if left out.
        path: the path of the velocity; linear if left out.
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

        Raises ValueError if the times decrease (an inversion needs the flow), or if there is not one index for each sample.
        """
        if times[0] > times[-1]:
            raise ValueError("sde runs from noise to data only; from data to noise use a solver of the flow, such as heun")
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
            bits = int.from_bytes(struct.pack("<d", t.item()), "little")  # the same if a run is made in two parts
            noise = draw_noise(indices, z.shape[1:], mix_seed(self.seed or 0, bits)).to(z)
            return z + h * (v + w / 2 * score) + (w * h).sqrt() * noise

        return follow(step, velocity, z, times, callback)
