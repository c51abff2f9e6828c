"""Float32 or better, whatever the precision of the network.

Conversions divide by numbers as small as 0.05 and subtract large ones; in bfloat16 (eight bits) that costs the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def at_least_float32(value: Any) -> Any:
    """A half-precision tensor as float32; anything else unchanged."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.itemsize < 4:
        return value.float()
    return value


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` with its half-precision tensors as float32 and with autocast off."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        args_, kwargs_ = map(at_least_float32, args), {name: at_least_float32(a) for name, a in kwargs.items()}
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return function(*args_, **kwargs_)
        return function(*args_, **kwargs_)

    return wrapper
