"""Adams–Bashforth: one evaluation a step, order 2 to 4, from the velocities at the steps before.

The velocity is replaced by the polynomial through its last p values, v_j at t_j, which is integrated over the step from t
to t + h (Hairer, Nørsett & Wanner, 1993, III.5). The grid need not be uniform: the weights w_j of

    z ← z + h Σ_j w_j v_j        solve        Σ_j w_j s_j^m = 1/(m + 1),  m = 0 … p − 1,    s_j = (t_j − t)/h
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.sampling.base import Callback, Velocity, follow
from kdiff.sampling.runge_kutta import euler_step, midpoint_step, ralston_step

# Where p values are not there yet: a local error of O(h^p), which is enough for order p in all, without evaluating the end.
STARTERS = {2: euler_step, 3: midpoint_step, 4: ralston_step}


def step_weights(nodes: list[float], t: float, t_next: float) -> list[float]:
    """The w_j above for values at the times `nodes`, times h: exact for polynomials of degree len(nodes) − 1."""
    h = t_next - t
    s = (torch.tensor(nodes, dtype=torch.float64) - t) / h
    powers = torch.arange(len(nodes), dtype=torch.float64)
    weights = torch.linalg.solve(s[None, :] ** powers[:, None], 1 / (powers + 1))
    return (h * weights).tolist()


@dataclass(frozen=True)
class AdamsBashforth:
    """The method of the given order; "ab2", "ab3" and "ab4" by name.

    One evaluation a step, and for the first order − 1 steps, which are Runge–Kutta's, one (order 2), two (3) or three (4).
    It never evaluates at the end of a step, so that the step to t = 1 is like any other.

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
