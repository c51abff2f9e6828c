"""Isotropic power spectrum of fields in one, two or three dimensions, per channel, and the distance between two spectra.

For fields x (C, n₁, …, n_d) with N = n₁ ⋯ n_d grid points, μ the mean of a channel over all samples and grid points, and a
window w with Σ w² = N (w = 1 without a window):

    F(f) = Σ_r w(r) (x(r) − μ) exp(−2πi f·r),     f_j in {0, 1/n_j, 2/n_j, …}, cycles per grid point
    P_b  = mean over samples of  Σ_{f in bin b} |F(f)|² / N²

Bin 0 is f = 0 alone: the variance of the mean of a sample. Bin b > 0 holds the modes with |f| min_j n_j nearest to b. By
Parseval's identity, Σ_b P_b is the variance of all entries of the channel (weighted by w² with a window).

|f| is the same in all directions only if the grid has the same spacing along all axes. Axes of one point are left out.

The distance of two spectra is the mean of |ln(P_b / Q_b)| over channels and bins: 0.1 means that powers differ by about 10 per
cent. Three kinds of bins are left out. Bin 0 and bins of |f| > ½ have few directions. In bins with fewer than `LEAST` values
(modes times samples), chance alone moves the power by more than a quarter. In bins where the power of a mode is within the
rounding of float32, nothing is known.

For two sets of Gaussian fields of the same law with a and b values in a bin, E |ln(P/Q)| is about √(4/π (1/a + 1/b)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Window = Literal["none", "hann"]
LEAST = 30  # values in a bin: its power then has a standard error of √(2/30), a quarter
SHORTEST = 4  # grid points of an axis
VALUES = 2**22  # transformed at once
PERIODIC = 2.0  # a mean square step over the edge that is larger than this, in units of that beside it, is not periodic


@dataclass(frozen=True)
class PowerSpectrum:
    """The spectrum of one set of samples.

    - `frequency`: (B,), mean |f| of the modes of a bin, in cycles per grid point; ½ is the Nyquist frequency.
    - `modes`: (B,), the number of modes in a bin.
    - `power`: (C, B), P_b, in the squared units of the channel.
    - `count`: the number of samples.
    - `window`: the window, "none" or "hann".
    """

    frequency: Tensor
    modes: Tensor
    power: Tensor
    count: int
    window: Window

    @property
    def density(self) -> Tensor:
        """The mean power of one mode of each bin, (C, B)."""
        return self.power / self.modes

    def usable(self) -> Tensor:
        """Which bins of each channel the distance uses, bool (C, B), as far as this set decides it."""
        values = self.modes * self.count
        known = (self.frequency > 0) & (self.frequency <= 0.5) & (values >= LEAST)
        rounding = (torch.finfo(torch.float32).eps ** 2) * self.power.sum(dim=1, keepdim=True) * 100
        return known & (self.density * self.modes.sum() > rounding)


@dataclass(frozen=True)
class SpectrumDistance:
    """The distance over all channels, that of each channel, and how many of the bins (of all channels) were used."""

    value: float
    channels: list[float]
    used: int
    bins: int


def power_spectrum(x: Tensor, window: Window = "none") -> PowerSpectrum:
    """The spectrum of fields x (N, C, *grid) with a grid of one to three axes.

    Args:
        x: the fields.
        window: "none" for fields that are periodic along every axis. "hann" takes the edges of other fields to 0, so that the
            step from one edge to the other does not appear at all frequencies; it spreads every frequency over its
            neighbours.

    Raises:
        ValueError: no samples, another number of axes, axes of two or three points, or values that are not finite.
    """
    if window not in ("none", "hann"):
        raise ValueError(f"the window is {window!r}; expected none or hann")
    check_grid(tuple(x.shape[1:]))
    if not len(x):
        raise ValueError("there are no samples to take a spectrum of")
    x = x.detach().cpu().reshape(len(x), x.shape[1], *(size for size in x.shape[2:] if size > 1))
    grid = tuple(x.shape[2:])
    mean = torch.stack([part.double().sum(dim=(0, *range(2, x.ndim))) for part in _chunks(x)]).sum(dim=0)
    mean = (mean * x.shape[1] / x.numel()).reshape(-1, *[1] * len(grid))
    if not mean.isfinite().all():
        raise ValueError("the fields have values that are not finite, so they have no spectrum; missing values must be filled")
    weight = _window(grid, window)
    bins, frequency, modes = _bins(grid)
    total = torch.zeros(x.shape[1], len(modes), dtype=torch.float64)
    axes = tuple(range(2, x.ndim))
    for part in _chunks(x):
        squares = torch.fft.fftn((part.double() - mean) * weight, dim=axes).abs().square().sum(dim=0).flatten(1)
        total.index_add_(1, bins, squares)
    return PowerSpectrum(frequency, modes, total / (len(x) * math.prod(grid) ** 2), len(x), window)


def check_grid(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless samples of this shape (C, *grid) have a spectrum."""
    grid = [size for size in shape[1:] if size != 1]
    if not 2 <= len(shape) <= 4 or not grid or min(grid) < SHORTEST:
        raise ValueError(
            f"samples of shape {shape} have no spectrum; expected (C, L), (C, H, W) or (C, D, H, W) with at least {SHORTEST} "
            "points along each axis"
        )


def spectrum_distance(samples: PowerSpectrum, data: PowerSpectrum) -> SpectrumDistance:
    """The mean of |ln(P / Q)| over the bins that both sets can fill (see the module).

    The rounding of float32 is judged by `data` alone: samples with less power than that are wrong there.
    Raises ValueError if the grids, the channels or the windows differ, or if no bin is left.
    """
    if samples.power.shape != data.power.shape or not torch.equal(samples.modes, data.modes):
        raise ValueError(
            f"the spectra are of {_described(samples)} and {_described(data)}; expected the same grid and channels"
        )
    if samples.window != data.window:
        raise ValueError(f"the spectra have the windows {samples.window} and {data.window}; expected the same")
    used = data.usable() & (samples.modes * samples.count >= LEAST)
    if not used.any():
        raise ValueError(
            f"no bin of the spectrum has {LEAST} values, with {samples.count} samples and {data.count} of the data; take more"
        )
    logs = (
        ((samples.power + torch.finfo(torch.float64).tiny) / data.power.clamp(min=torch.finfo(torch.float64).tiny)).log().abs()
    )
    channels = [logs[c][used[c]].mean().item() if used[c].any() else math.nan for c in range(len(logs))]
    return SpectrumDistance(logs[used].mean().item(), channels, int(used.sum()), used.numel())


def edge_steps(x: Tensor) -> list[float]:
    """For each axis of the grid: the mean square step from the last point to the first, in units of that next to the edge.

    About 1 for periodic fields; larger where the two ends of an axis have nothing to do with each other. Channels count in
    units of their variance. 1 for axes of fewer than four points, and where nothing changes at the edge.
    """
    x = x.detach().cpu().double()
    deviation = x.std(dim=(0, *range(2, x.ndim)), keepdim=True)
    x = torch.where(deviation > 0, x / deviation, 0.0)
    steps = []
    for axis in range(2, x.ndim):
        if x.shape[axis] < SHORTEST:
            steps.append(1.0)
            continue
        first, second, last, before = (x.select(axis, place) for place in (0, 1, -1, -2))
        over, beside = (first - last).square().mean(), ((second - first).square() + (last - before).square()).mean() / 2
        steps.append(1.0 if over <= 1e-12 else (over / beside.clamp(min=1e-12)).item())
    return steps


def window_for(x: Tensor) -> Window:
    """The window that fields x (N, C, *grid) need: "none" if they look periodic along every axis, else "hann"."""
    return "hann" if max(edge_steps(x)) > PERIODIC else "none"


def _described(spectrum: PowerSpectrum) -> str:
    return f"{spectrum.power.shape[0]} channels on {int(spectrum.modes.sum())} grid points"


def _chunks(x: Tensor) -> Iterable[Tensor]:
    return x.split(max(1, VALUES // math.prod(x.shape[1:])))


def _window(grid: tuple[int, ...], window: Window) -> Tensor:
    """The window on the grid, float64, with a mean square of 1."""
    weight = torch.ones(grid, dtype=torch.float64)
    if window == "hann":
        for axis, size in enumerate(grid):
            along = torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size).square()
            weight = weight * along.reshape([-1 if other == axis else 1 for other in range(len(grid))])
    return weight / weight.square().mean().sqrt()


def _bins(grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The bin of every mode in flat order, and the mean |f| and the number of modes of every bin."""
    square = torch.zeros(grid, dtype=torch.float64)
    for axis, size in enumerate(grid):
        along = torch.fft.fftfreq(size, dtype=torch.float64).square()
        square = square + along.reshape([-1 if other == axis else 1 for other in range(len(grid))])
    length = square.sqrt().flatten()
    bins = (length * min(grid)).round().long().clamp(min=1)
    bins[length == 0] = 0
    # Along the longer axes of a grid, no bin is empty; empty ones would only be those beyond the last mode.
    modes = torch.bincount(bins)
    frequency = torch.zeros(len(modes), dtype=torch.float64).index_add_(0, bins, length)
    kept = modes > 0
    return (kept.cumsum(0) - 1)[bins], frequency[kept] / modes[kept], modes[kept]
