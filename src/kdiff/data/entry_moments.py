"""Mean, variance and extremes of each entry of samples that come in chunks, and the normalisation that follows from them.

n = n₁ + n₂, δ = m₂ − m₁, m = m₁ + δ n₂/n, S = S₁ + S₂ + δ² n₁ n₂/n (Chan, Golub and LeVeque, 1983), in float64. Entries that
are missing do not count, so each entry has its own n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import NOISE, Normalisation


class EntryMoments:
    """The moments of samples (n, *shape), which are added in chunks of type `dtype`, float32 or float64.

    - `rows`: how many samples were added.
    - `count`: how many values each entry has; 0-dimensional as long as none is missing.
    - `mean`, `squares`, `low`, `high`: the mean, the sum of squared differences from it, and the extremes of each entry.
    - `whole`: whether all values of an entry are whole numbers, if they lie so close together that it matters.
    """

    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    whole: Tensor

    def __init__(self, dtype: Any) -> None:
        self.double, self.rows, self.count = np.dtype(dtype) == np.float64, 0, torch.zeros((), dtype=torch.float64)

    @property
    def gapped(self) -> bool:
        """Whether values were missing."""
        return self.count.ndim > 0

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, of the population."""
        return self.squares / self.count.clamp(min=1)

    def add(self, rows: np.ndarray, present: np.ndarray | None = None) -> None:
        """Merge the moments of these rows (n, *shape); `present` says which entries count, all by default."""
        if not len(rows):
            return
        wide = torch.from_numpy(rows).double()
        if present is None:
            more = torch.tensor(float(len(rows)), dtype=torch.float64)
            # Counted from one sample, because sums of large numbers are rounded.
            variance, mean = torch.var_mean(wide - wide[:1], 0, correction=0)
            mean, low, high, squares = mean + wide[0], wide.amin(0), wide.amax(0), variance * more
        else:
            there = torch.from_numpy(present)
            more = there.sum(0).double()
            low, high = (torch.where(there, wide, end) for end in (torch.inf, -torch.inf))
            low, high = low.amin(0), high.amax(0)
            origin = torch.where(low.isfinite(), low, 0.0)
            mean = origin + torch.where(there, wide - origin, 0.0).sum(0) / more.clamp(min=1)
            squares = torch.where(there, wide - mean, 0.0).square().sum(0)
        if not self.rows:
            self.count, self.mean, self.squares, self.low, self.high = more, mean, squares, low, high
            self.whole = torch.ones_like(mean, dtype=torch.bool)
        else:
            total, difference = self.count + more, mean - self.mean
            some = total.clamp(min=1)
            self.squares += squares + difference**2 * (self.count * more / some)
            self.mean += difference * (more / some)
            self.low, self.high, self.count = torch.minimum(self.low, low), torch.maximum(self.high, high), total
        self.rows += len(rows)
        if (narrow := self.narrow() & self.whole).any():
            values = wide[:, narrow]
            fit = values == values.round()
            self.whole[narrow] = (fit if present is None else fit | ~there[:, narrow]).all(0)

    def narrow(self) -> Tensor:
        """Which entries have different values that are equal up to rounding errors."""
        return _narrow(self.low, self.high, self.double)

    def filled(self, fill: Tensor) -> EntryMoments:
        """The moments with this value (*shape) in place of every missing one, which is the mean but for rounding."""
        found = EntryMoments(np.float64 if self.double else np.float32)
        found.rows, found.count, found.mean = self.rows, torch.tensor(float(self.rows), dtype=torch.float64), fill
        found.squares, found.whole = self.squares, self.whole
        found.low = torch.where(self.count < self.rows, torch.minimum(self.low, fill), self.low)
        found.high = torch.where(self.count < self.rows, torch.maximum(self.high, fill), self.high)
        return found

    def constant(self) -> Tensor:
        """Which entries have one value, in float64 up to rounding errors (as `kdiff.data.normalisation.same`)."""
        equal = self.high <= self.low
        return equal | (self.narrow() & ~self.whole) if self.double else equal

    def groups(self, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """Number, mean and sum of squared differences of the values that share a mean: all, those of a channel or an entry."""
        count = self.count.expand(self.mean.shape)
        axes = {"standard": list(range(self.mean.ndim)), "channels": list(range(1, self.mean.ndim))}.get(kind, [])
        if not axes:
            return count, self.mean, self.squares
        keep = kind == "channels"
        total = count.sum(axes, keepdim=True)
        middle = (count * self.mean).sum(axes, keepdim=True) / total.clamp(min=1)
        squares = (self.squares + count * (self.mean - middle) ** 2).sum(axes, keepdim=keep)
        form = squares.shape
        return total.reshape(form), middle.reshape(form), squares


def _narrow(low: Tensor, high: Tensor, double: bool) -> Tensor:
    eps = torch.finfo(torch.float64 if double else torch.float32).eps
    return (high > low) & (high - low <= NOISE * eps * torch.maximum(high.abs(), low.abs()))


def fitted(kind: str, moments: EntryMoments, value_range: tuple[float, float] | None) -> Normalisation:
    """`Normalisation.fit`, or `kdiff.data.missing.fit_present`, from the moments of each entry."""
    dtype, ndim = (torch.float64 if moments.double else torch.float32), moments.mean.ndim
    if kind in ("none", "range"):
        return Normalisation.fit(kind, torch.zeros((), dtype=dtype), value_range)
    if value_range is not None:
        raise ValueError(
            f"normalise={kind!r} with value_range={value_range}: a value_range belongs to normalise='range'; give both, e.g. "
            "normalise='range', value_range=(0, 255), or neither"
        )
    if kind == "channels" and ndim < 2:
        shape = tuple(moments.mean.shape)
        raise ValueError(f"normalise='channels' is for samples (C, H, W) or similar, found {shape}; use 'features'")
    axes = {"standard": list(range(ndim)), "channels": list(range(1, ndim)), "features": []}[kind]
    shift, variance, low, high, narrow = moments.mean, moments.variance, moments.low, moments.high, moments.narrow()
    whole = moments.whole
    if axes:
        keep = kind == "channels"
        if moments.gapped:
            count, shift, squares = moments.groups(kind)
            variance = squares / count.clamp(min=1)
        else:
            middle = moments.mean.mean(axes, keepdim=True)
            variance = (variance + (moments.mean - middle) ** 2).mean(axes, keepdim=keep)
            shift = moments.mean.mean(axes, keepdim=keep)
        low, high = low.amin(axes, keepdim=keep), high.amax(axes, keepdim=keep)
        narrow, whole = (
            _narrow(low, high, moments.double),
            whole.flatten(len(whole.shape) - len(axes)).all(-1).reshape(low.shape),
        )
    scale = variance.sqrt().to(dtype)
    constant = (high <= low) | (scale == 0)
    if moments.double and not moments.gapped:
        constant |= narrow & ~whole
    if kind == "standard" and constant:
        raise ValueError(f"normalise='standard' needs values that vary, found {float(shift)} everywhere; check the data")
    return Normalisation(kind, shift.to(dtype), torch.where(constant, torch.ones_like(scale), scale))


def summary(moments: EntryMoments, normalisation: Normalisation) -> dict[str, float]:
    """min, max, mean, std and total_variance of the normalised samples (see `kdiff.data.samples.summarise`)."""
    shift, scale = normalisation.shift.double(), normalisation.scale.double()
    mean, variance = (moments.mean - shift) / scale, moments.variance / scale**2
    low, high = ((end - shift) / scale for end in (moments.low, moments.high))
    count = moments.count.expand(mean.shape)
    middle = (count * mean).sum() / count.sum()
    std = ((count * (variance + (mean - middle) ** 2)).sum() / count.sum()).sqrt()
    figures = {"min": low.min(), "max": high.max(), "mean": middle, "std": std, "total_variance": variance.sum()}
    return {key: float(value) for key, value in figures.items()}
