"""What the solvers of dz/dt = v(z, t) share: one signature, a walk along a grid of times, and two rules at t = 1.

At t = 1 the velocity of a network that predicts data is 0/0 (v = (x̂ − z)/(1 − t)), and a network that predicts nearly data
gives a poor velocity there. So no solver here evaluates at t = 1. A step that ends at t = 1 uses a formula without that
velocity. A step that starts at t = 1, from data towards noise, is the midpoint rule with both evaluations in the middle:

    z_m = z + (h/2) v(z, t_m),    z ← z + h v(z_m, t_m),    t_m = t + h/2

Its local error is O(h³), like that of the midpoint rule itself, so walks that start at t = 1 are of order 3 at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from kdiff.path import checked_time

Velocity = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]


class Solver(Protocol):
    """The signature that all solvers share."""

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """Follow the velocity from z at times[0] to times[-1].

        Args:
            velocity: called as velocity(z, t) with a 0-dimensional tensor t; returns a tensor shaped like z.
            z: (batch, ...), the starting point.
            times: increasing (from noise to data) or decreasing, within [0, 1], with steps of any length; see `check_times`.
            callback: called as callback(step, t, z) with the starting point as step 0, and after every step.
        """
        ...


def follow(step: Step, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Take `step(velocity, z, t, t_next)` from each time of the grid to the next; a step from t = 1 is `leave_data` instead."""
    times = checked_time(times, "times")
    if callback:
        callback(0, times[0], z)
    for i, (t, t_next) in enumerate(zip(times[:-1], times[1:])):
        z = leave_data(velocity, z, t, t_next) if t >= 1 else step(velocity, z, t, t_next)
        if callback:
            callback(i + 1, t_next, z)
    return z


def leave_data(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The step from t = 1 back towards noise: two evaluations, both at the middle of the step."""
    h, middle = t_next - t, (t + t_next) / 2
    return z + h * velocity(z + h / 2 * velocity(z, middle), middle)
