"""Adams–Bashforth methods of order 2 to 4, which need one evaluation a step because they reuse the velocities of earlier steps.

The velocity is replaced by the polynomial through its last p values, v_j at t_j. This polynomial is integrated over the step
from t to t + h (Hairer, Nørsett & Wanner, 1993, III.5). The grid need not be uniform: the weights w_j of

    z ← z + h Σ_j w_j v_j        solve        Σ_j w_j s_j^m = 1/(m + 1),  m = 0 … p − 1,    s_j = (t_j − t)/h
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.sampling.runge_kutta import euler_step, midpoint_step, ralston_step
from kdiff.sampling.walk import Callback, Velocity, follow

# For the first steps, which lack p values. A local error of O(h^p) suffices for order p overall. None evaluates at its end.
STARTERS = {2: euler_step, 3: midpoint_step, 4: ralston_step}


def step_weights(nodes: list[float], t: float, t_next: float) -> list[float]:
    """The weights h w_j of velocities at the times `nodes`, exact for polynomials of degree len(nodes) − 1."""
    h = t_next - t
    s = (torch.tensor(nodes, dtype=torch.float64) - t) / h
    powers = torch.arange(len(nodes), dtype=torch.float64)
    weights = torch.linalg.solve(s[None, :] ** powers[:, None], 1 / (powers + 1))
    return (h * weights).tolist()


@dataclass(frozen=True)
class AdamsBashforth:
    """A `Solver`: the Adams–Bashforth method of the given order, by name "ab2", "ab3" or "ab4".

    A step costs one evaluation. The first order − 1 steps are Runge–Kutta steps and cost one evaluation each (order 2), two
    (order 3) or three (order 4). No step evaluates at its end, so the step to t = 1 is like any other.

    Args:
        order: 2, 3 or 4.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in STARTERS:
            raise ValueError(f"order is {self.order}; expected one of {', '.join(map(str, STARTERS))}")

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """See `Solver`."""
        history: list[tuple[float, Tensor]] = []  # times and velocities, the newest first

        def step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            v = velocity(z, t)
            history.insert(0, (t.item(), v))
            del history[self.order :]
            if len(history) < self.order:
                return STARTERS[self.order](velocity, z, t, t_next, v)
            weights = step_weights([time for time, _ in history], t.item(), t_next.item())
            for weight, (_, v) in zip(weights, history):
                z = z + weight * v
            return z

        return follow(step, velocity, z, times, callback)
