"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): a multistep method that holds on to the data prediction.

With the data prediction x̂ = (σ v − σ' z)/(α'σ − σ'α), on the linear path z + (1 − t) v, the flow dz/dt = v reads

    d(z/σ) = x̂ d(α/σ) = x̂ e^λ dλ,      λ = log(α/σ), on the linear path log(t/(1 − t))

so that a step from t to t' is exact wherever x̂ is constant, however long it is:

    z' = (σ'/σ) z + (α' − α σ'/σ) x̂ = (σ'/σ) z + α' (1 − e^{−h}) x̂,      h = λ' − λ

The second order replaces x̂ by its linear extrapolation in λ, from the step before (of length h₀) to the middle of this one:

    D = x̂ + (h/2h₀) (x̂ − x̂_before)

On the linear path (σ'/σ) z + (α' − α σ'/σ) x̂ = z + (t' − t) v: the first order is Euler's method, DDIM. Both ends of time
are at infinity in λ, and the formulas have limits there: after a step from t = 0, h₀ = ∞ and D = x̂. In the step to t = 1
h is infinite and D has no limit, so D = x̂ there: it ends at z' = x̂, as it does in the published method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.path import GaussianPath, LinearPath
from kdiff.sampling.base import Callback, Velocity, follow


@dataclass(frozen=True)
class DataMultistep:
    """DPM-Solver++(2M), "dpmpp_2m" by name: second order, one evaluation a step.

    The first step, one that follows t = 0, and the one to t = 1 (or, from data to noise, to t = 0) are of first order.

    Args:
        path: the path that the velocity belongs to; linear if left out. `KDiff.sample` gives its own.
    """

    path: GaussianPath | None = None

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """See `Solver`."""
        path = self.path or LinearPath()
        before: list[tuple[Tensor, Tensor]] = []  # λ and x̂ of the last step

        def step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            x_hat = path.data(z, velocity(z, t), t)
            lam, lam_next = ((path.alpha(time) / path.sigma(time)).log() for time in (t, t_next))
            estimate = x_hat
            if before:
                lam_before, x_before = before.pop()
                ahead = (lam_next - lam) / (2 * (lam - lam_before))
                estimate = x_hat + torch.where(ahead.isfinite(), ahead, 0.0) * (x_hat - x_before)
            before.append((lam, x_hat))
            shrink = path.sigma(t_next) / path.sigma(t)
            return shrink * z + (path.alpha(t_next) - path.alpha(t) * shrink) * estimate

        return follow(step, velocity, z, times, callback)
