"""Explicit Runge–Kutta methods on a fixed grid: euler, heun, midpoint, rk4 (Hairer, Nørsett & Wanner, 1993, II.1).

    euler      z + h v₁                             order 1, 1 evaluation a step
    heun       z + h (v₁ + v₂)/2                    order 2, 2 evaluations
    midpoint   z + h v(z + (h/2) v₁, t + h/2)       order 2, 2 evaluations
    rk4        z + h (v₁ + 2 v₂ + 2 v₃ + v₄)/6      order 4, 4 evaluations

heun and rk4 evaluate at the end of the step, but the velocity may be singular at t = 1 (see `kdiff.sampling.walk`). There heun
takes an Euler step, as JiT's sampler does: 50 steps cost 99 evaluations. rk4 takes a step of Ralston's third-order method, with
its last evaluation at ¾ of the step, and stays of order 4, because one step with a local error of O(h⁴) costs no order.
"""

from __future__ import annotations

from torch import Tensor

from kdiff.sampling.walk import Callback, Velocity, follow


def euler_step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor, v: Tensor | None = None) -> Tensor:
    """One step of `euler`. v is the velocity at (z, t), if it is already known."""
    return z + (t_next - t) * (velocity(z, t) if v is None else v)


def heun_step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """One step of `heun`."""
    v = velocity(z, t)
    ahead = euler_step(velocity, z, t, t_next, v)
    if t_next >= 1:
        return ahead
    return z + (t_next - t) * (v + velocity(ahead, t_next)) / 2


def midpoint_step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor, v: Tensor | None = None) -> Tensor:
    """One step of `midpoint`. v is the velocity at (z, t), if it is already known."""
    h = t_next - t
    return z + h * velocity(z + h / 2 * (velocity(z, t) if v is None else v), t + h / 2)


def ralston_step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor, v: Tensor | None = None) -> Tensor:
    """One step of Ralston's third-order method (1962), z + h (2 v₁ + 3 v₂ + 4 v₃)/9 at t, t + h/2, t + ¾h."""
    h = t_next - t
    v1 = velocity(z, t) if v is None else v
    v2 = velocity(z + h / 2 * v1, t + h / 2)
    v3 = velocity(z + 3 * h / 4 * v2, t + 3 * h / 4)
    return z + h * (2 * v1 + 3 * v2 + 4 * v3) / 9


def rk4_step(velocity: Velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """One step of `rk4`."""
    if t_next >= 1:
        return ralston_step(velocity, z, t, t_next)
    h = t_next - t
    v1 = velocity(z, t)
    v2 = velocity(z + h / 2 * v1, t + h / 2)
    v3 = velocity(z + h / 2 * v2, t + h / 2)
    v4 = velocity(z + h * v3, t_next)
    return z + h * (v1 + 2 * v2 + 2 * v3 + v4) / 6


def euler(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """First order: z ← z + h v(z, t). One evaluation a step. On the linear path this is DDIM's step (arXiv 2010.02502)."""
    return follow(euler_step, velocity, z, times, callback)


def heun(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order: the mean velocity of both ends of an Euler step. Two evaluations, one if the step ends at t = 1."""
    return follow(heun_step, velocity, z, times, callback)


def midpoint(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order: the velocity in the middle of an Euler step. Two evaluations, also if the step ends at t = 1."""
    return follow(midpoint_step, velocity, z, times, callback)


def rk4(velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """The classical method of fourth order. Four evaluations, three if the step ends at t = 1."""
    return follow(rk4_step, velocity, z, times, callback)
