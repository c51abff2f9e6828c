"""Guidance: the velocity v_ref + w (v − v_ref), which moves away from a reference velocity v_ref, in an interval of t.

    classifier-free (arXiv 2207.12598)   v_ref comes from the same model without its conditions, or without some of them;
                                         both run as one batch
    autoguidance (arXiv 2406.02507)      v_ref comes from a weaker model with the same conditions

Guidance may act on some channels only; the others keep v. It may act in an interval of t only (arXiv 2404.07724); outside of
it, and at w = 1, only v is evaluated. The interval is open at both ends, as in JiT's sampler; with `closed` it includes its
start, as in LightningDiT's. And guidance may be rescaled (arXiv 2305.08891, eq. 15–16). As in that paper, the data prediction
is rescaled: with x̂ = (σ v − σ' z)/(α'σ − σ'α), each sample's guided x̂_g becomes

    φ x̂_g std(x̂)/std(x̂_g) + (1 − φ) x̂_g

and is turned back into a velocity. At φ = 1 a large w then no longer increases the spread of a sample's values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdiff.path import GaussianPath, LinearPath, full_precision
from kdiff.sampling.walk import Velocity


def null_like(value: Any, null: Any) -> Tensor:
    """The condition "none" for every sample in `value` (batch, ...)."""
    return torch.as_tensor(null, dtype=value.dtype, device=value.device).expand_as(value)


def guided_velocity(
    velocity: Callable[..., Tensor],
    conditions: Mapping[str, Any],
    null: Mapping[str, Any] | None,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    channels: Sequence[int] | None = None,
    weak: Callable[..., Tensor] | None = None,
    path: GaussianPath | None = None,
    closed: bool = False,
    only: Sequence[str] | None = None,
) -> Velocity:
    """A velocity of (z, t) alone, with the conditions filled in, and guided by `scale` in an interval of t.

    Args:
        velocity: called as velocity(z, t, **conditions).
        conditions: tensors (batch, ...); other values are passed on unchanged.
        null: for each condition that guidance acts on, the value that stands for "none" (`{"y": 10}`).
        scale: w; 1 is no guidance, 0 the reference alone.
        interval: guide while low < t < high (low = 0 includes t = 0), or with `closed` while low <= t < high.
        rescale: φ in [0, 1]; 0 leaves the guided velocity as it is.
        channels: indices into dimension 1 of z that guidance acts on; all if left out. Some published samplers guide three.
        weak: the reference velocity of a weaker model, called like `velocity`; classifier-free guidance if left out.
        path: the path of the velocity, needed for `rescale`; linear if left out.
        closed: whether the interval includes its start.
        only: the names of the conditions that the reference is without; it keeps all others. If left out, it has none of those
            in `null`.

    Raises:
        ValueError: the scale is not finite, there is neither a null condition nor a weaker model, the interval is not ordered
            within [0, 1], φ is outside [0, 1], z does not have the channels, or `only` names something else than conditions
            with a null.
    """
    low, high = interval
    if not math.isfinite(scale):
        raise ValueError(f"guidance is {scale}; expected a finite number (1 is no guidance)")
    if not 0 <= low < high <= 1:
        raise ValueError(f"guidance_interval is {interval}; expected two numbers 0 <= low < high <= 1 (t = 0 is noise)")
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale is {rescale}; expected a number from 0 (none) to 1")

    def conditional(z: Tensor, t: Tensor) -> Tensor:
        return velocity(z, t, **conditions)

    if scale == 1:
        return conditional
    pair = _with_reference(velocity, weak, conditions, null, scale, only)

    def velocity_with_guidance(z: Tensor, t: Tensor) -> Tensor:
        if not (t < high and (low == 0 or t > low or (closed and t == low))):
            return conditional(z, t)
        v, reference = pair(z, t)
        guided = reference + scale * (v - reference)
        if channels is not None:
            guided = torch.where(_mask(z, channels), guided, v)
        return _rescaled(guided, v, z, t, path or LinearPath(), rescale) if rescale else guided

    return velocity_with_guidance


def _with_reference(
    velocity: Callable[..., Tensor],
    weak: Callable[..., Tensor] | None,
    conditions: Mapping[str, Any],
    null: Mapping[str, Any] | None,
    scale: float,
    only: Sequence[str] | None,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """v and v_ref as a function of (z, t); without a weaker model they come from one batch of twice the size."""
    if weak:
        if only is not None:
            raise ValueError(
                f"guide_on is {list(only)}, but guidance leads away from a weaker model, which gets all conditions; leave "
                "guide_on out"
            )
        return lambda z, t: (velocity(z, t, **conditions), weak(z, t, **conditions))
    guided = [name for name, value in conditions.items() if null and name in null and isinstance(value, Tensor)]
    if not guided:
        raise ValueError(
            f"guidance {scale:g} needs to know what 'no condition' is: train with null={{'y': …}} and a null_rate above 0 and "
            f"pass the condition, or pass a weaker model; null is {dict(null or {})}, the conditions are {list(conditions)}"
        )

    if only is not None:
        if not only or not set(only) <= set(guided):
            raise ValueError(
                f"guide_on is {list(only)}; expected some of the conditions that are given and can be left out: "
                f"{', '.join(guided)}"
            )
        guided = list(only)

    def both(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.cat([value, null_like(value, null[name]) if name in guided else value])  # type: ignore[index]

    doubled = {name: both(name, value) for name, value in conditions.items()}

    def pair(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        v, reference = velocity(torch.cat([z, z]), t, **doubled).chunk(2)
        return v, reference

    return pair


def _mask(z: Tensor, channels: Sequence[int]) -> Tensor:
    """True at the channels, shaped to broadcast against z."""
    number = z.shape[1] if z.ndim > 1 else 0
    if not all(0 <= channel < number for channel in channels):
        raise ValueError(f"guidance_channels are {list(channels)}; the samples have channels 0 … {number - 1}")
    mask = torch.zeros(number, dtype=torch.bool, device=z.device)
    mask[list(channels)] = True
    return mask.reshape(-1, *[1] * (z.ndim - 2))


@full_precision
def _rescaled(guided: Tensor, v: Tensor, z: Tensor, t: Tensor, path: GaussianPath, rescale: float) -> Tensor:
    """The guided velocity, changed so that (at φ = 1) each sample's data prediction has the spread of the unguided one."""
    x_guided, x_hat = path.data(z, guided, t), path.data(z, v, t)
    spread, wanted = (x.reshape(len(x), -1).std(dim=1, correction=0) for x in (x_guided, x_hat))
    factor = 1 + rescale * (torch.where(spread > 0, wanted / spread, 1.0) - 1)
    # A change of v by δ changes x̂ by δ σ/(α'σ − σ'α).
    return guided + (factor.reshape(-1, *[1] * (z.ndim - 1)) - 1) * x_guided * path.determinant(t) / path.sigma(t)
