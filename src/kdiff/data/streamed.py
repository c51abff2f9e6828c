"""Data larger than memory: samples of any type on disk, read by rows in the order of training and normalised batch by batch.

One pass over the file gives everything that a data set needs: the hash of each sample, which decides its part; the fingerprint;
and the moments of the training part in float64, chunk by chunk (n = n₁ + n₂, δ = m₂ − m₁, m = m₁ + δ n₂/n, S = S₁ + S₂ +
δ² n₁ n₂/n; Chan, Golub and LeVeque, 1983). The hashes are those of the same numbers in memory, so the parts are the same too.
The result is kept in the cache. While a step computes, a thread reads the batch of the next one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.checks import MIN_SAMPLES, checked_labels
from kdiff.data.condition import make_conditions
from kdiff.data.dataset import Dataset
from kdiff.data.kept_splits import as_digits, digest_of, from_digits
from kdiff.data.missing import check_missing, refusal
from kdiff.data.normalisation import Normalisation, check_kind
from kdiff.data.opened import Source
from kdiff.data.precision import fits_float32
from kdiff.data.progress import shown
from kdiff.data.remarks import remark_on_split_sizes
from kdiff.data.samples import LazySamples
from kdiff.data.split import SHARES, Fingerprint, hash_of, parts_of, split_groups
from kdiff.files import cache


class SourceSamples(LazySamples):
    """Samples of a source, float32 and normalised when they are read; `x[rows]` is the same as in memory."""

    def __init__(self, source: Source, normalisation: Normalisation, rows: np.ndarray | None = None) -> None:
        super().__init__(source.shape, normalisation, rows)
        self.source = source
        self._pending: tuple[bytes, Future[np.ndarray]] | None = None
        self._thread: tuple[int, ThreadPoolExecutor] | None = None

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        numbers = self._numbers(rows)
        flat = np.atleast_1d(numbers)
        pending, self._pending = self._pending, None
        raw = pending[1].result() if pending and pending[0] == flat.tobytes() else self._read(flat)
        x = self._normalised(raw)
        return x[0] if numbers.ndim == 0 else x

    def ahead(self, rows: Tensor) -> None:
        """Begin to read these rows in a thread."""
        flat = np.atleast_1d(self._numbers(rows))
        if self._thread is None or self._thread[0] != os.getpid():  # a thread does not survive a fork
            self._thread = os.getpid(), ThreadPoolExecutor(1, "kdiff-reader")
        self._pending = flat.tobytes(), self._thread[1].submit(self._read, flat)

    def select(self, rows: Tensor) -> SourceSamples:
        """These rows (numbers or bool (N,)), not read yet."""
        return SourceSamples(self.source, self.normalisation, self._chosen(rows))

    def _numbers(self, rows: int | slice | Tensor) -> np.ndarray:
        """The rows on disk: shape (n,), or () for a whole number."""
        count = len(self)
        if isinstance(rows, slice):
            numbers = np.arange(*rows.indices(count))
        else:
            numbers = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
            numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers
            if numbers.size and not (-count <= numbers.min() and numbers.max() < count):
                raise IndexError(f"rows run from {numbers.min()} to {numbers.max()}, but there are {count}")
            numbers = np.where(numbers < 0, numbers + count, numbers)
        return np.asarray(numbers if self.rows is None else self.rows[numbers], np.int64)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """The raw rows in the order that is asked for; they are read in the order of the file."""
        order = np.argsort(numbers, kind="stable")
        raw = self.source.read(numbers[order])
        values = np.empty(raw.shape, np.float64 if self.normalisation.double else np.float32)
        values[order] = raw
        values += 0.0
        return values

    def _normalised(self, x: np.ndarray) -> Tensor:
        return super()._normalised(x).float()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pending": None, "_thread": None}


def streamed_dataset(
    name: str,
    source: Source,
    normalise: str,
    value_range: tuple[float, float] | None = None,
    y: np.ndarray | None = None,
    num_classes: int | None = None,
    flip: bool = False,
    about: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Any] | None = None,
    condition_kinds: Mapping[str, str] | None = None,
    groups: np.ndarray | None = None,
    missing: str = "refuse",
) -> Dataset:
    """`make_dataset` for samples that stay on disk; conditions and labels are in memory.

    Raises ValueError for what `make_dataset` refuses, and for `flip` and missing values, which are for data in memory only.
    """
    check_kind(normalise)
    check_missing(name, missing)
    if flip:
        raise ValueError(f"{name}: flip is for images of type uint8 and for data of up to 256 MB; leave flip out")
    if source.dtype.kind not in "iufb" or len(source.shape) < 2 or len(source) < MIN_SAMPLES:
        raise ValueError(
            f"{name}: the data must be at least {MIN_SAMPLES} samples of numbers, (N, D), (N, C, H, W) or similar; found "
            f"{source.shape} {source.dtype}"
        )
    labels, num_classes = checked_labels(name, y, num_classes, len(source))

    def work() -> dict[str, Any]:
        return _pass(name, source, labels, groups, _needs_double(name, source, normalise, value_range))

    facts: tuple[Any, ...] = source.identity, SHARES, digest_of(labels), source.shape, str(source.dtype), normalise, value_range
    facts = (*facts, None if groups is None else digest_of(torch.from_numpy(np.asarray(groups, np.int64))))
    kept = work() if source.identity is None else cache.json_of(cache.entry("streams", *facts).with_suffix(".json"), work)
    split = from_digits(kept["split"])
    moments = {
        key: torch.tensor(value, dtype=torch.float64).reshape(source.shape[1:]) for key, value in kept["moments"].items()
    }
    if value_range is not None and (kept["low"] < value_range[0] or kept["high"] > value_range[1]):
        raise ValueError(
            f"{name}: value_range is {value_range} but the values run from {kept['low']} to {kept['high']}; correct "
            "value_range or use normalise='standard'"
        )
    normalisation = _fit(normalise, moments, bool(kept["double"]), value_range)
    remark_on_split_sizes(name, split, kept["distinct"])
    made = make_conditions(name, conditions or {}, condition_kinds or {}, split, source.shape[1:], kept["fingerprint"])
    train = int((split == 0).sum())
    return Dataset(
        name=name,
        x=SourceSamples(source, normalisation),
        y=labels,
        num_classes=num_classes,
        normalisation=normalisation,
        split=split,
        manifold=None,
        fingerprint=made[1],
        about={**(about or {}), "streamed": {"statistics_of": f"{train} samples of the training part, in one pass"}},
        statistics=_summary(moments, normalisation),
        conditions=made[0],
    )


def _needs_double(name: str, source: Source, kind: str, value_range: tuple[float, float] | None) -> bool:
    """What `kdiff.data.precision.double_values` decides, in one pass over the file, or two."""
    if np.can_cast(source.dtype, np.float32) or kind == "none":
        return False
    exact, moments = True, _Moments()
    for raw in shown(source.chunks(), len(source), f"types of {name}", len, "sample"):
        chunk = np.ascontiguousarray(raw, np.float64)
        if not (np.abs(chunk) <= np.finfo(np.float32).max).all():  # refused later, with the first place
            return False
        exact = exact and bool((chunk.astype(np.float32) == chunk).all())
        moments.add(chunk)
    if exact:
        return False
    fitted = _fit(kind, moments.tensors(), True, value_range)
    chunks = shown(source.chunks(), len(source), f"precision of {name}", len, "sample")
    return not all(fits_float32(fitted, torch.from_numpy(np.ascontiguousarray(raw, np.float64))) for raw in chunks)


def _pass(name: str, source: Source, labels: Tensor | None, groups: np.ndarray | None, double: bool) -> dict[str, Any]:
    """Hashes, fingerprint and moments, of float32 or float64 values."""
    dtype: Any = np.float64 if double else np.float32
    fingerprint, hashes, train = Fingerprint(source.shape, labels), [], _Moments()
    early = None if groups is None else split_groups(name, groups)
    low, high, start = np.inf, -np.inf, 0
    for raw in shown(source.chunks(), len(source), f"reading {name}", len, "sample"):
        with np.errstate(over="ignore"):
            chunk = np.ascontiguousarray(raw, dtype)
            chunk = chunk + dtype(0.0)
        wrong = ~np.isfinite(chunk)
        if wrong.any():
            if missing := int(np.isnan(chunk).sum()):
                gaps = wrong.reshape(len(chunk), -1).any(1)
                text = refusal(name, missing, chunk.size, int(gaps.sum()), start + int(gaps.argmax()))
                raise ValueError(f"{text} (counted up to sample {start + len(chunk) - 1}; a mask needs data of up to 256 MB)")
            raise ValueError(f"{name}: a value in samples {start} … {start + len(chunk) - 1} is beyond float32's range")
        fingerprint.update(chunk)
        own = [hash_of(row) for row in chunk]
        hashes += own
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        chosen = np.array(own) < SHARES[0] if early is None else early.numpy()[start : start + len(chunk)] == 0
        train.add(chunk[chosen])
        start += len(chunk)
    return {
        "split": as_digits(parts_of(name, hashes) if early is None else early),
        "fingerprint": fingerprint.hexdigest(),
        "distinct": len(set(hashes)),
        "double": double,
        "moments": train.plain(),
        "low": low,
        "high": high,
    }


class _Moments:
    """Count, mean and sum of squared differences of each entry, in float64, and the smallest and largest value."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """Merge the moments of these rows (n, *shape)."""
        more = len(rows)
        if not more:
            return
        wide = torch.from_numpy(rows).double()
        # Counted from one sample, because sums of large numbers are rounded.
        variance, mean = torch.var_mean(wide - wide[:1], 0, correction=0)
        mean, low, high = mean + wide[0], wide.amin(0), wide.amax(0)
        if not self.count:
            self.count, self.mean, self.squares, self.low, self.high = more, mean, variance * more, low, high
            return
        total, difference = self.count + more, mean - self.mean
        self.squares += variance * more + difference**2 * (self.count * more / total)
        self.mean += difference * (more / total)
        self.low, self.high, self.count = torch.minimum(self.low, low), torch.maximum(self.high, high), total

    def tensors(self) -> dict[str, Tensor]:
        """Mean, variance, smallest and largest value of each entry; empty if there were no rows."""
        if not self.count:
            return {}
        return {"mean": self.mean, "variance": self.squares / self.count, "low": self.low, "high": self.high}

    def plain(self) -> dict[str, list[float]]:
        """The same as flat lists for JSON."""
        return {key: value.flatten().tolist() for key, value in self.tensors().items()}


def _fit(kind: str, moments: Mapping[str, Tensor], double: bool, value_range: tuple[float, float] | None) -> Normalisation:
    """`Normalisation.fit` from the moments of each entry."""
    mean, variance = moments["mean"], moments["variance"]
    if kind in ("none", "range"):
        return Normalisation.fit(kind, torch.zeros((), dtype=torch.float64 if double else torch.float32), value_range)
    if kind == "channels" and mean.ndim < 2:
        raise ValueError(f"normalise='channels' is for samples (C, H, W) or similar, found {tuple(mean.shape)}; use 'features'")
    axes = {"standard": list(range(mean.ndim)), "channels": list(range(1, mean.ndim)), "features": []}[kind]
    shift, low, high = mean, moments["low"], moments["high"]
    if axes:
        keep = kind == "channels"
        middle = mean.mean(axes, keepdim=True)
        variance = (variance + (mean - middle) ** 2).mean(axes, keepdim=keep)
        shift, low, high = mean.mean(axes, keepdim=keep), low.amin(axes, keepdim=keep), high.amax(axes, keepdim=keep)
    dtype = torch.float64 if double else torch.float32
    scale = variance.sqrt().to(dtype)
    constant = (high == low) | (scale == 0)
    if kind == "standard" and constant:
        raise ValueError(f"normalise='standard' needs values that vary, found {float(shift)} everywhere; check the data")
    return Normalisation(kind, shift.to(dtype), torch.where(constant, torch.ones_like(scale), scale))


def _summary(moments: Mapping[str, Tensor], normalisation: Normalisation) -> dict[str, float]:
    """min, max, mean, std and total_variance of the normalised training part (see `kdiff.data.samples.summarise`)."""
    shift, scale = normalisation.shift.double(), normalisation.scale.double()
    mean, variance = (moments["mean"] - shift) / scale, moments["variance"] / scale**2
    low, high = ((moments[key] - shift) / scale for key in ("low", "high"))
    std = (variance.mean() + mean.var(correction=0)).sqrt()
    figures = {"min": low.min(), "max": high.max(), "mean": mean.mean(), "std": std, "total_variance": variance.sum()}
    return {key: float(value) for key, value in figures.items()}
