"""Classifier-free guidance (arXiv 2207.12598): v = v_null + w (v_cond − v_null), on all channels, in an interval of t.

Both branches run as one batch; outside the interval, or at w = 1, only the conditional one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdiff.sampling.solvers import Velocity


def null_like(value: Any, null: Any) -> Tensor:
    """The condition "none" for every sample that `value` (batch, ...) speaks of."""
    return torch.as_tensor(null, dtype=value.dtype, device=value.device).expand_as(value)


def classifier_free(
    velocity: Callable[..., Tensor],
    conditions: Mapping[str, Any],
    null: Mapping[str, Any] | None,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Velocity:
    """A velocity of (z, t) alone: conditioned, and guided by `scale` while low < t < high (low = 0 includes t = 0).

    Args:
        velocity: called as velocity(z, t, **conditions).
        conditions: tensors (batch, ...); other values are passed on as they are.
        null: for each condition that guidance acts on, what stands for "none" (`{"y": 10}`).
        scale: w; 1 is no guidance, 0 the unconditional model.
        interval: the open interval of t in which to guide (arXiv 2404.07724).

    Raises:
        ValueError: guidance without a null condition, or an interval that is not ordered within [0, 1].
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"guidance_interval is {interval}; expected two numbers 0 <= low < high <= 1 (t = 0 is noise)")

    def conditional(z: Tensor, t: Tensor) -> Tensor:
        return velocity(z, t, **conditions)

    if scale == 1:
        return conditional
    guided = [name for name in conditions if null and name in null]
    if not guided:
        raise ValueError(
            f"guidance {scale:g} needs to know what 'no condition' is: build KDiff with null={{'y': …}} and pass the "
            f"condition; null is {dict(null or {})}, the conditions are {list(conditions)}"
        )

    def both(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.cat([value, null_like(value, null[name]) if name in guided else value])  # type: ignore[index]

    doubled = {name: both(name, value) for name, value in conditions.items()}

    def velocity_with_guidance(z: Tensor, t: Tensor) -> Tensor:
        if not (t < high and (low == 0 or t > low)):
            return conditional(z, t)
        v, v_null = velocity(torch.cat([z, z]), t, **doubled).chunk(2)
        return v_null + scale * (v - v_null)

    return velocity_with_guidance
