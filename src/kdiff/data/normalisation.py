"""Normalisation of data, explicit and reversible: x = (raw − shift) / scale.

The optimal k of the linear theory depends on the total variance of x in units of the noise variance, so the scale of the data
is part of every result. The user chooses it by name, the training part alone determines it, and it is recorded as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

KINDS = ("none", "range", "standard", "channels", "features")
GIVEN = "scaling"  # numbers that come with the data: the factor and shift of an autoencoder for its latents
WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # types with values that float32 cannot hold
NOISE = 64  # values that differ by at most this many units in the last place are one number with rounding errors


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The map x = (raw − shift) / scale; `shift` and `scale` are float32, or float64 on the CPU, and broadcast to a sample.

    float64 is for raw values that float32 cannot hold, such as time stamps. `apply` and `undo` then compute in float64 on the
    CPU, because some accelerators have no float64, and the raw values that `undo` returns are float64 on the CPU.

    - `none`: x = raw.
    - `range`: a known range of values [lo, hi] becomes [−1, 1].
    - `standard`: one mean and one standard deviation for all entries of a sample.
    - `channels`: a mean and a standard deviation for each channel of (C, H, W); constant channels are only shifted.
    - `features`: a mean and a standard deviation for every entry of a sample; constant entries are only shifted. In float64
      an entry is also constant if its values are not whole and differ by rounding errors only.
    - `scaling`: a shift and a scale that come with the data; nothing is fitted.

    `absent` marks the entries of a sample (bool, *shape) that no sample has, such as land in a field of the ocean; None if
    there are none. `undo` makes them NaN.

    Raises ValueError for an unknown kind, a scale that is not positive, numbers that are not finite, or unequal shapes.
    """

    kind: str
    shift: Tensor
    scale: Tensor
    absent: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind != GIVEN:
            check_kind(self.kind)
        if not (torch.isfinite(self.shift).all() and torch.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(f"normalisation {self.kind!r} needs a finite shift and a finite, positive scale")
        if self.shift.shape != self.scale.shape:
            raise ValueError(
                f"normalisation {self.kind!r}: shift has shape {tuple(self.shift.shape)} and scale {tuple(self.scale.shape)}, "
                "expected equal shapes"
            )

    @classmethod
    def none(cls) -> Normalisation:
        """The identity, x = raw."""
        return cls("none", torch.tensor(0.0, dtype=torch.float32), torch.tensor(1.0, dtype=torch.float32))

    @classmethod
    def fit(cls, kind: str, train: Tensor, value_range: tuple[float, float] | None = None) -> Normalisation:
        """The normalisation of a kind, with statistics of `train`, raw values of shape (n, *shape).

        Shift and scale are float64 if `train` is float64 or whole numbers of 32 bits or more, else float32. Standard deviations
        are those of the population (divided by n). Raises ValueError for `range` without `value_range`, another kind with it, a
        `value_range` without lo < hi, `standard` with constant data, and `channels` with samples that are not shaped (C, H, W)
        or similar.
        """
        check_kind(kind)
        if (kind == "range") != (value_range is not None):
            raise ValueError(
                f"normalise={kind!r} with value_range={value_range}: a value_range belongs to normalise='range'; give both, "
                "e.g. normalise='range', value_range=(0, 255), or neither"
            )
        dtype = torch.float64 if train.dtype in WIDE else torch.float32
        if value_range is not None:
            low, high = _checked_range(value_range)
            return cls("range", torch.tensor((low + high) / 2, dtype=dtype), torch.tensor((high - low) / 2, dtype=dtype))
        if kind == "none":
            return cls.none()
        values, axes = train.cpu().double(), list(range(train.ndim)) if kind == "standard" else _axes(kind, train)
        # The extremes show what is constant: the computed deviation of equal numbers can be 1e-17 instead of 0.
        constant = same(values, axes, dtype)[0]
        origin = torch.zeros(())
        if dtype == torch.float64:
            # Sums of large numbers are rounded, so the numbers are counted from one of them.
            origin = values[tuple(slice(1) if axis in axes else slice(None) for axis in range(train.ndim))]
            values = values - origin
        if kind == "standard":
            scale, shift = torch.std_mean(values, correction=0)
            constant, shift = constant.squeeze(), shift + origin.squeeze()
        else:
            scale, shift = torch.std_mean(values, dim=axes, correction=0, keepdim=True)
            scale, shift = scale[0], (shift + origin)[0]
        scale = scale.to(dtype)
        if kind == "standard" and bool(constant | (scale == 0)):
            raise ValueError(
                f"normalise='standard' needs values that vary, found {float(shift)} everywhere in the "
                "training part; check the data"
            )
        return cls(kind, shift.to(dtype), torch.where(constant | (scale == 0), torch.ones_like(scale), scale))

    @property
    def double(self) -> bool:
        """Whether the map is computed in float64."""
        return self.shift.dtype == torch.float64

    def apply(self, raw: Tensor) -> Tensor:
        """The normalised values of raw values (..., *shape): float64 for float64, else float32; absent ones are 0."""
        if self.absent is not None:
            whole = replace(self, absent=None)
            return whole.apply(raw).masked_fill_(self.absent.to(raw.device), 0.0)
        if self.double:
            x = raw.cpu().to(torch.float64, copy=True).sub_(self.shift).div_(self.scale)
            return x if raw.dtype == torch.float64 else x.float().to(raw.device)
        # One new tensor that changes in place: for batches of images, allocating memory costs more than the arithmetic.
        x = raw.to(torch.promote_types(raw.dtype, torch.float32), copy=True)
        return x.sub_(self.shift.to(x)).div_(self.scale.to(x))

    def undo(self, x: Tensor) -> Tensor:
        """The raw values scale · x + shift of normalised values x (..., *shape), in the precision and on the device of x.

        If the map is `double`, they are float64 on the CPU.
        """
        if self.double:
            raw = x.cpu().double() * self.scale + self.shift
        else:
            raw = x * self.scale.to(x) + self.shift.to(x)
        return raw if self.absent is None else raw.masked_fill(self.absent.to(raw.device), float("nan"))

    def without(self, absent: Tensor) -> Normalisation:
        """The same map, for samples that never have the entries that are marked."""
        return replace(self, absent=absent) if absent.any() else self

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON: kind, shift and scale as numbers or as nested lists; dtype if the map is `double`; absent."""
        dtype = {"dtype": "float64"} if self.double else {}
        absent = {} if self.absent is None else {"absent": self.absent.int().tolist()}
        return {"kind": self.kind, "shift": self.shift.tolist(), "scale": self.scale.tolist(), **dtype, **absent}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Normalisation:
        """The normalisation that `describe` described; ValueError if an entry is missing or is not a number."""
        missing = [key for key in ("kind", "shift", "scale") if key not in description]
        if missing:
            raise ValueError(f"a normalisation is described by kind, shift and scale; missing: {', '.join(missing)}")
        found = description.get("dtype", "float32")
        if found not in ("float32", "float64"):
            raise ValueError(f"the dtype of a normalisation is {found!r}; expected float64, or no dtype for float32")
        dtype = torch.float64 if found == "float64" else torch.float32
        try:
            shift, scale = (torch.tensor(description[key], dtype=dtype) for key in ("shift", "scale"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"shift and scale of a normalisation must be numbers or lists of numbers: {error}") from error
        absent = description.get("absent")
        return cls(description["kind"], shift, scale, None if absent is None else torch.tensor(absent, dtype=torch.bool))


def same(values: Tensor, axes: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Where float64 values are the same along `axes`, which stay with length 1.

    With dtype float64, values that are not whole may differ by rounding errors. For float32 only equal values are the same.
    """
    high, low = values.amax(list(axes), keepdim=True), values.amin(list(axes), keepdim=True)
    equal = high == low
    if dtype == torch.float64:
        noise = (high - low <= NOISE * torch.finfo(dtype).eps * torch.maximum(high.abs(), low.abs())) & ~equal
        if noise.any():
            equal |= noise & (values != values.round()).sum(list(axes), keepdim=True).bool()
    return equal


def _axes(kind: str, train: Tensor) -> list[int]:
    """The axes of `train` that share a mean and a standard deviation."""
    if kind == "features":
        return [0]
    if train.ndim < 3:
        raise ValueError(
            f"normalise='channels' is for samples (C, H, W) or similar, found shape {tuple(train.shape[1:])}; use 'features'"
        )
    return [0, *range(2, train.ndim)]


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` names a normalisation."""
    if kind not in KINDS:
        raise ValueError(f"normalise must be one of {', '.join(KINDS)}, found {kind!r}")


def _checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError) as error:
        raise ValueError(f"value_range must be two numbers (lo, hi), found {value_range!r}") from error
    if not (low < high and high - low < float("inf")):
        raise ValueError(f"value_range must be finite with lo < hi, found ({low}, {high})")
    return low, high
