"""Solvers of dz/dt = v(z, t), each a short function `solver(velocity, z, times, callback=None) -> z`.

`velocity(z, t)` takes t as a 0-dimensional tensor; `callback(step, t, z)` sees the starting point and every step's end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]


class Solver(Protocol):
    """The signature that all solvers share."""

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """Follow the velocity from z at times[0] to times[-1]."""
        ...


def _step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor, order: int) -> Tensor:
    v = velocity(z, t)
    ahead = z + (t_next - t) * v
    if order == 1:
        return ahead
    return z + (t_next - t) * (v + velocity(ahead, t_next)) / 2


def _solve(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None, order: Callable[[Tensor], int]) -> Tensor:
    if callback:
        callback(0, times[0], z)
    for i, (t, t_next) in enumerate(zip(times[:-1], times[1:])):
        z = _step(velocity, z, t, t_next, order(t_next))
        if callback:
            callback(i + 1, t_next, z)
    return z


def euler(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """First order: z ← z + Δt v(z, t). One evaluation per step."""
    return _solve(velocity, z, times, callback, lambda t_next: 1)


def heun(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order: the mean of the velocities at both ends of an Euler step. Two evaluations per step.

    A step that ends at t = 1, where the velocity may be singular, is an Euler step: 99 evaluations for 50 steps.
    """
    return _solve(velocity, z, times, callback, lambda t_next: 2 if t_next < 1 else 1)


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}


def find_solver(solver: str | Solver) -> Solver:
    """A solver by name; a function is returned as it is."""
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        raise ValueError(f"no solver is called {solver!r}; expected one of {', '.join(SOLVERS)}, or a function")
    return SOLVERS[solver]
