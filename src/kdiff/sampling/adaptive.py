"""Dormand–Prince 5(4), with steps chosen by an error estimate: torchdiffeq's dopri5, kept within [0, 1] and away from t = 1.

A step is accepted if, in every sample of the batch, the root mean square of error/(atol + rtol |z|) is at most 1. All samples
of a batch share the step, so a sample depends on its batch, to within the tolerance. Where results must not depend on the
batch, use a fixed grid. torchdiffeq itself steps beyond the last time and interpolates back; here it stops at the last time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiff.path import checked_time
from kdiff.sampling.runge_kutta import euler_step
from kdiff.sampling.walk import Callback, Velocity, leave_data

EVALUATIONS = 6  # of an attempted step


@dataclass(frozen=True)
class Dopri5:
    """A `Solver`: torchdiffeq's dopri5, by name "dopri5"; needs `pip install 'kdiff[ode]'`.

    The order is 5, and an attempted step costs 6 evaluations. Only the first and the last of the times matter to the result.
    The other times say where the callback is called; the states there are interpolated after the whole integration. The stretch
    of length `last` next to t = 1 is a single step that does not evaluate at t = 1: an Euler step towards data, a midpoint step
    away from data. Its error is about last²/2 · |dv/dt|.

    Args:
        rtol: tolerance relative to |z|. Float32 resolves nothing below about 1e-6.
        atol: absolute tolerance.
        last: length of the step next to t = 1.
        max_steps: the most steps that are tried, the rejected ones included. A stiff field needs more and more of them.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    last: float = 1e-3
    max_steps: int = 1000

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and 0 < self.last < 1 and self.max_steps >= 1):
            raise ValueError(f"{self}: expected positive tolerances, last between 0 and 1, and max_steps of at least 1")

    def with_short_end(self, times: Tensor) -> Tensor:
        """The grid with a point at 1 − last, unless it already has a point between 1 − last and 1, or does not reach 1."""
        near, ascending = 1 - self.last, bool(times[0] < times[-1])
        end, beside = (times[-1], times[-2]) if ascending else (times[0], times[1])
        if end < 1 or beside >= near:
            return times
        point = times.new_tensor([near])
        return torch.cat([times[:-1], point, times[-1:]] if ascending else [times[:1], point, times[1:]])

    def __call__(self, velocity: Velocity, z: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
        """See `Solver`. The callback is also called at the point 1 − last.

        Raises ValueError if torchdiffeq is not installed, and RuntimeError if no step is short enough for the tolerance, if
        `max_steps` are not enough, or if the velocity is not finite.
        """
        times = self.with_short_end(checked_time(times, "times"))
        passed, rest = [z], times
        if times[0] >= 1:
            passed, rest = [z, leave_data(velocity, z, times[0], times[1])], times[1:]
        to_data = bool(rest[-1] >= 1)
        inner = rest[:-1] if to_data else rest
        if len(inner) > 1:
            passed += self._integrate(velocity, passed[-1], inner if callback else inner[[0, -1]])
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
        low, high, most = times.min(), times.max(), EVALUATIONS * self.max_steps
        count, reached, at, last = 0, times[0], times[0], z

        def field(t: Tensor, z: Tensor) -> Tensor:
            nonlocal count, at, last
            if count >= most:
                raise RuntimeError(
                    f"dopri5 stopped at t = {float(reached):.6g}, on its way from {times[0]:g} to {times[-1]:g}, after "
                    f"{self.max_steps} steps ({count} evaluations of the velocity): the velocity is stiff, or rtol = "
                    f"{self.rtol:g} and atol = {self.atol:g} are too small. Make them larger, use a fixed grid such as heun, "
                    f"or allow more steps, as in dopri5(max_steps={10 * self.max_steps})"
                )
            # Only torchdiffeq's probe for the length of the first step can lie outside.
            count, at = count + 1, t.to(times).clamp(low, high)
            last = velocity(z, at)
            return last

        def begin_step(t: Tensor, z: Tensor, dt: Tensor) -> None:
            nonlocal reached
            reached = t

        field.callback_step = begin_step  # type: ignore[attr-defined]
        options = {"norm": _worst, "step_t": times[-1:].double()}
        try:
            states = odeint(field, z, times.double(), rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        except AssertionError:
            finite = last.isfinite().reshape(len(last), -1).all(dim=1)
            why = "no step is short enough for the tolerance; make rtol and atol larger, or use a fixed grid such as heun"
            if not finite.all():
                wrong = f"{int((~finite).sum())} of {len(finite)} samples"
                why = f"the velocity of {wrong} at t = {float(at):.6g} is not a finite number"
            raise RuntimeError(f"dopri5 gave up at t = {float(reached):.6g} after {count} evaluations: {why}") from None
        return list(states[1:])


def _worst(error: Tensor) -> Tensor:
    """The largest root mean square among the samples of the batch."""
    return error.reshape(len(error), -1).square().mean(dim=1).max().sqrt()
