"""Time grids: `steps + 1` increasing times from t = 0 (noise) to t = 1 (data).

    uniform          i / steps
    shifted(s)       s t / (1 + (s − 1) t) of the uniform t: s < 1 puts more points near noise (LightningDiT: 0.3)
    karras(rho)      evenly spaced in (σ/α)^{1/ρ} (EDM, arXiv 2206.00364, eq. 5)

The shift multiplies t/(1 − t) by s, so it adds log s to λ = log(t/(1 − t)), the log-SNR. Stable Diffusion 3 counts time from
data to noise, τ = 1 − t, and shifts τ to a τ/(1 + (a − 1) τ) (arXiv 2403.03206, eq. 23): the same grid with a = 1/s.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from kdiff.config.parts import Part, resolve
from kdiff.path import checked_time


def uniform_times(steps: int) -> Tensor:
    """0, 1/steps, …, 1: shape (steps + 1,), float32."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    return torch.linspace(0, 1, steps + 1)


def shifted_times(steps: int, shift: float) -> Tensor:
    """s t / (1 + (s − 1) t) for uniform t and s = `shift` > 0: shape (steps + 1,), float32. 1 is the uniform grid."""
    if not shift > 0:
        raise ValueError(f"shift is {shift}; expected a positive number (0.3 puts more points near noise, 1 is uniform)")
    uniform = uniform_times(steps)
    t = uniform.double()
    return (shift * t / (1 + (shift - 1) * t)).to(uniform.dtype)


def karras_times(steps: int, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """EDM's grid in the noise-to-signal ratio σ/α = (1 − t)/t of the linear path: shape (steps + 1,), float32.

    The ratios are (σ_max^{1/ρ} + i/(steps − 1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ for i = 0 … steps − 1, and then 0 for the data.
    The first ratio, σ_max, is replaced by t = 0, because samples start at noise alone.
    """
    if not (rho > 0 and 0 < sigma_min < sigma_max):
        raise ValueError(
            f"rho is {rho}, sigma_min {sigma_min} and sigma_max {sigma_max}; expected rho > 0 and 0 < sigma_min < sigma_max"
        )
    noise, data = uniform_times(steps)[[0, -1]].split(1)
    ratios = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64) ** rho
    return torch.cat([noise, (1 / (1 + ratios[1:])).to(noise.dtype), data])


TIMES: dict[str, Callable[..., Tensor]] = {"uniform": uniform_times, "shifted": shifted_times, "karras": karras_times}


def check_times(times: Tensor | Sequence[float]) -> Tensor:
    """`times` as a tensor; ValueError unless they are strictly monotonic within [0, 1]. Decreasing times run towards noise.

    Times that miss [0, 1] by one float32 rounding become 0 or 1.
    """
    given = torch.as_tensor(times, dtype=None if isinstance(times, Tensor) else torch.float32)
    # A grid is short and read anyway, so it is checked at once, also on a device.
    grid: Tensor = checked_time(given.cpu(), "times").to(given.device)
    differences = grid.diff() if grid.ndim == 1 else grid
    if grid.ndim != 1 or len(grid) < 2 or not ((differences > 0).all() or (differences < 0).all()):
        raise ValueError(f"times must be a strictly monotonic list of at least two numbers; found {grid.tolist()}")
    return grid


def find_times(times: str | Part | Tensor | Sequence[float] | None, steps: int) -> Tensor:
    """The grid of times that is meant: uniform if None; by name, "shifted(0.3)" or "karras(rho=7)"; or the listed times.

    `steps` is the number of steps of a uniform or named grid. A name may also be the class path of a function, which is called
    with `steps` if it has this argument. A list may also be text, "[0, 0.2, 1]". Raises ValueError if the name or an option is
    unknown, or if the times are not monotonic within [0, 1].
    """
    if times is None:
        return uniform_times(steps)
    if not isinstance(times, str | Part):
        return check_times(times)
    text = str(times).strip()
    if text.startswith("["):
        try:
            listed = torch.tensor(ast.literal_eval(text), dtype=torch.float32)
        except (SyntaxError, TypeError, ValueError):
            raise ValueError(f"cannot read the times {text!r}; expected a list of numbers, as in [0, 0.2, 1]") from None
        return check_times(listed)
    grids = {name: partial(grid, steps) for name, grid in TIMES.items()}
    also = "a list of times, as in [0, 0.2, 1], or the class path of a function of steps"
    return check_times(resolve("grid of times", times, grids, {"steps": steps}, also=also)())
