"""Dormand–Prince 5(4) with steps chosen by an error estimate: torchdiffeq's dopri5, kept within [0, 1] and off t = 1.

A step is accepted when the root mean square, over the worst sample of the batch, of error/(atol + rtol |z|) is at most 1.
The step is shared by the batch, so that a sample depends on its batch, to within the tolerance; where figures must not, take a
fixed grid. torchdiffeq on its own steps beyond the last time and interpolates back; here it is made to stop there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.sampling.base import Callback, Velocity, leave_data
from kdiff.sampling.runge_kutta import euler_step


@dataclass(frozen=True)
class Dopri5:
    """torchdiffeq's dopri5, "dopri5" by name; needs `pip install 'kdiff[ode]'`. Order 5, 6 evaluations a step tried.

    Of the times, the first and the last count; the others only say where the callback is called, by interpolation, once all
    is computed. The stretch next to t = 1 of length `last` is a single step that does not evaluate there: Euler's towards
    data, a midpoint step away from it. Its error is about last²/2 · |dv/dt|.

    Args:
        rtol: tolerance relative to |z|. Float32 resolves no less than about 1e-6.
        atol: absolute tolerance.
        last: length of the step next to t = 1.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    last: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and 0 < self.last < 1):
            raise ValueError(f"{self}: expected positive tolerances, and last between 0 and 1")

    def with_short_end(self, times: Tensor) -> Tensor:
        """The grid with a point at 1 − last, unless it has one between there and 1 already, or does not reach 1."""
        near, ascending = 1 - self.last, bool(times[0] < times[-1])
        end, beside = (times[-1], times[-2]) if ascending else (times[0], times[1])
        if end < 1 or beside >= near:
            return times
        point = times.new_tensor([near])
        return torch.cat([times[:-1], point, times[-1:]] if ascending else [times[:1], point, times[1:]])

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """See `Solver`; the callback also sees the point at 1 − last.

        Raises:
            ValueError: torchdiffeq is not installed.
            RuntimeError: no step is short enough for the tolerance.
        """
        times = self.with_short_end(times)
        passed, rest = [z], times
        if times[0] >= 1:
            passed, rest = [z, leave_data(velocity, z, times[0], times[1])], times[1:]
        to_data = bool(rest[-1] >= 1)
        inner = rest[:-1] if to_data else rest
        if len(inner) > 1:
            shown = inner if callback else inner[[0, -1]]
            passed += self._integrate(velocity, passed[-1], shown)
        if to_data:
            passed.append(euler_step(velocity, passed[-1], rest[-2], rest[-1]))
        if callback:
            for i, (t, state) in enumerate(zip(times, passed)):
                callback(i, t, state)
        return passed[-1]

    def _integrate(self, velocity: Velocity, z: Tensor, times: Tensor) -> list[Tensor]:
        """The states at times[1:]."""
        try:
            from torchdiffeq import odeint
        except ImportError:
            raise ValueError("dopri5 needs torchdiffeq, which is not installed; pip install 'kdiff[ode]' installs it") from None
        low, high = times.min(), times.max()

        def field(t: Tensor, z: Tensor) -> Tensor:
            # Only the probe for a first step can lie outside.
            return velocity(z, t.to(times).clamp(low, high))

        options = {"norm": _worst, "step_t": times[-1:].double()}
        try:
            states = odeint(field, z, times.double(), rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        except AssertionError as error:
            raise RuntimeError(f"dopri5 gave up: {error}; loosen rtol and atol, or take a fixed grid") from None
        return list(states[1:])


def _worst(error: Tensor) -> Tensor:
    """The largest root mean square of a sample in the batch."""
    return error.reshape(len(error), -1).square().mean(dim=1).max().sqrt()
