"""Time grids: increasing times from t = 0 (noise) to t = 1 (data), `steps + 1` of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def uniform_times(steps: int) -> Tensor:
    """0, 1/steps, …, 1: shape (steps + 1,), float32."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    return torch.linspace(0, 1, steps + 1)


def check_times(times: Tensor | Sequence[float]) -> Tensor:
    """`times` as a tensor, refused unless it is strictly monotonic within [0, 1] (decreasing grids run from data to noise)."""
    times = torch.as_tensor(times, dtype=None if isinstance(times, Tensor) else torch.float32)
    differences = times.diff() if times.ndim == 1 else times
    if times.ndim != 1 or len(times) < 2 or not ((differences > 0).all() or (differences < 0).all()):
        raise ValueError(f"times must be a strictly monotonic list of at least two numbers; found {times.tolist()}")
    if times.min() < 0 or times.max() > 1:
        raise ValueError(f"times must lie in [0, 1] (0 noise, 1 data); found {times.min():g} to {times.max():g}")
    return times
