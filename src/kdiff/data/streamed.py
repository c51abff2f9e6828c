"""Data larger than memory: samples of any type on disk, read by rows in the order of training and normalised batch by batch.

One pass over the file gives everything that a data set needs: the hash of each sample, which decides its part; the fingerprint;
the moments of the training part (`kdiff.data.entry_moments`); and remarks. The hashes are those of the same numbers in memory,
so the parts are the same too. Missing entries do not count, and are hashed as NaN. The result is kept in the cache. While a
step computes, a thread reads the batch of the next one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.checks import MIN_SAMPLES, check_flip, checked_labels
from kdiff.data.condition import make_conditions
from kdiff.data.dataset import Dataset
from kdiff.data.entry_moments import EntryMoments, fitted, summary
from kdiff.data.gapped import Gapped, Presence
from kdiff.data.kept_splits import as_digits, digest_of, from_digits
from kdiff.data.missing import PRESENT, check_missing, no_values, refusal
from kdiff.data.normalisation import Normalisation, check_kind
from kdiff.data.opened import Source
from kdiff.data.progress import shown
from kdiff.data.remarks import Ends, entry_texts, faint_texts, outlier_texts, remark_on_split_sizes, summed
from kdiff.data.source_samples import PresentSamples, SourceSamples
from kdiff.data.split import SHARES, Fingerprint, hash_of, parts_of, split_groups
from kdiff.data.streamed_types import judged
from kdiff.files import cache


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
    mask: Source | None = None,
) -> Dataset:
    """`make_dataset` for samples that stay on disk, with a mask on disk. Labels are in memory; conditions may be sources.

    Raises ValueError for what `make_dataset` refuses.
    """
    check_kind(normalise)
    check_missing(name, missing)
    if source.dtype.kind not in "iufb" or len(source.shape) < 2 or len(source) < MIN_SAMPLES:
        raise ValueError(
            f"{name}: the data must be at least {MIN_SAMPLES} samples of numbers, (N, D), (N, C, H, W) or similar; found "
            f"{source.shape} {source.dtype}"
        )
    check_flip(name, flip, source.shape)
    labels, num_classes = checked_labels(name, y, num_classes, len(source))
    gapped = Gapped(source, mask)
    stream = _Pass(name, gapped, labels, groups, normalise, value_range, missing)
    facts: tuple[Any, ...] = "2", SHARES, digest_of(labels), source.shape, str(source.dtype), normalise, value_range, missing
    facts = (*facts, None if groups is None else digest_of(torch.from_numpy(np.asarray(groups, np.int64))))
    identities = [each.identity for each in (source, mask) if each is not None]
    known = all(each is not None for each in identities)
    kept = (
        cache.json_of(cache.entry("streams", *identities, *facts).with_suffix(".json"), stream.run) if known else stream.run()
    )
    split, normalisation = from_digits(kept["split"]), Normalisation.from_description(kept["normalisation"])
    for text in kept["remarks"]:
        warnings.warn(f"{name}: {text}", stacklevel=3)
    remark_on_split_sizes(name, split, kept["distinct"], 4)
    conditions = dict(conditions or {})
    facts_of = {"streamed": {"statistics_of": f"{int((split == 0).sum())} samples of the training part, in one pass"}}
    if kept["missing"]:
        facts_of["missing"] = {"share": kept["missing"]}
        if missing == "mask_channel":
            conditions[PRESENT] = Presence(gapped)
    check_flip(name, flip, source.shape, bool(kept["missing"]))
    made = make_conditions(name, conditions, condition_kinds or {}, split, source.shape[1:], kept["fingerprint"], flip)
    return Dataset(
        name=name,
        x=SourceSamples(source, normalisation, gapped=gapped if kept["missing"] else None),
        y=labels,
        num_classes=num_classes,
        normalisation=normalisation,
        split=split,
        manifold=None,
        fingerprint=made[1],
        flip=flip,
        about={**(about or {}), **facts_of},
        statistics=kept["statistics"],
        conditions=made[0],
        mask=PresentSamples(gapped) if kept["missing"] else None,
    )


class _Pass:
    """The pass over all samples, and what it finds."""

    def __init__(
        self,
        name: str,
        gapped: Gapped,
        labels: Tensor | None,
        groups: np.ndarray | None,
        normalise: str,
        value_range: tuple[float, float] | None,
        missing: str,
    ) -> None:
        self.name, self.gapped, self.labels, self.groups = name, gapped, labels, groups
        self.kind, self.value_range, self.refuse = normalise, value_range, missing == "refuse"

    def run(self) -> dict[str, Any]:
        """Hashes, fingerprint, statistics and remarks, for JSON."""
        source, kind = self.gapped.source, self.kind
        double, texts = judged(self._read, source.dtype, kind, self.value_range)
        dtype: Any = np.float64 if double else np.float32
        early = None if self.groups is None else split_groups(self.name, self.groups)
        fingerprint, hashes, start = Fingerprint(source.shape, self.labels), list[float](), 0
        train, gaps, ends, outliers = EntryMoments(dtype), _Gaps(), _Ends(), _Outliers(kind)
        for raw, present in self._read():
            with np.errstate(over="ignore"):
                chunk = np.ascontiguousarray(raw, dtype)
                chunk = chunk + dtype(0.0)
            wrong = ~np.isfinite(chunk) if present is None else ~np.isfinite(chunk) & present
            if wrong.any():
                at = start + int(wrong.reshape(len(chunk), -1).any(1).argmax())
                raise ValueError(
                    f"{self.name}: sample {at} holds values that are infinite or beyond float32's range; remove or repair it, "
                    "and others like it"
                )
            gaps.add(present, chunk, start)
            if not (self.refuse and gaps.number):
                hashed = chunk if present is None else np.where(present, chunk, dtype(np.nan))
                fingerprint.update(hashed)
                own = [hash_of(row) for row in hashed]
                hashes += own
                chosen = np.array(own) < SHARES[0] if early is None else early.numpy()[start : start + len(chunk)] == 0
                there = None if present is None else present[chosen]
                train.add(chunk[chosen], there)
                ends.add(chunk, present)
                outliers.add(chunk[chosen], there, start + np.flatnonzero(chosen), train)
            start += len(chunk)
        gaps.check(self.name, self.refuse)
        split = parts_of(self.name, hashes) if early is None else early
        normalisation = self._normalisation(train, ends)
        if gaps.number:
            normalisation = normalisation.without(~gaps.anywhere)
        return {
            "split": as_digits(split),
            "fingerprint": fingerprint.hexdigest(),
            "distinct": len(set(hashes)),
            "normalisation": normalisation.describe(),
            "statistics": summary(train, normalisation),
            "missing": gaps.number / gaps.size,
            "remarks": [*texts, *_entry_texts(kind, train, ends, normalisation), *outliers.texts(train)],
        }

    def _read(self) -> Any:
        return shown(self.gapped.chunks(), len(self.gapped.source), f"reading {self.name}", lambda pair: len(pair[0]), "sample")

    def _normalisation(self, train: EntryMoments, ends: _Ends) -> Normalisation:
        normalisation = fitted(self.kind, train, self.value_range)
        low, high = float(ends.lowest.min()), float(ends.highest.max())
        if self.value_range is not None:
            # In the type of the values: 0.1 in the data must not exceed 0.1 in the range.
            black, white = (value if train.double else float(np.float32(value)) for value in self.value_range)
            if low < black or high > white:
                raise ValueError(
                    f"{self.name}: value_range is {self.value_range} but the values run from {low} to {high}; correct "
                    "value_range or use normalise='standard'"
                )
        edges = [
            normalisation.apply(torch.where(end.isfinite(), end, normalisation.shift)) for end in (ends.lowest, ends.highest)
        ]
        if not all(edge.float().isfinite().all() for edge in edges):
            raise ValueError(f"{self.name}: normalise={self.kind!r} gives values beyond float32's range; rescale the data")
        return normalisation


class _Gaps:
    """The missing entries."""

    def __init__(self) -> None:
        self.number = self.size = self.samples = self.empty = 0
        self.first, self.anywhere = -1, torch.zeros((), dtype=torch.bool)

    def add(self, present: np.ndarray | None, chunk: np.ndarray, start: int) -> None:
        self.size += chunk.size
        there = torch.ones(chunk.shape[1:], dtype=torch.bool) if present is None else torch.from_numpy(present.any(0))
        self.anywhere = self.anywhere | there
        if present is None:
            return
        gaps = ~present.reshape(len(present), -1)
        samples = gaps.any(1)
        self.first = start + int(samples.argmax()) if self.first < 0 else self.first
        self.number, self.samples = self.number + int(gaps.sum()), self.samples + int(samples.sum())
        self.empty += int(gaps.all(1).sum())

    def check(self, name: str, refuse: bool) -> None:
        """Raise ValueError for missing values if they are refused, and for samples without any value."""
        if refuse and self.number:
            raise ValueError(refusal(name, self.number, self.size, self.samples, self.first))
        if self.empty:
            raise ValueError(no_values(name, self.empty))


class _Ends:
    """The extremes of each entry in all parts."""

    lowest: Tensor
    highest: Tensor

    def add(self, rows: np.ndarray, present: np.ndarray | None) -> None:
        low = (rows if present is None else np.where(present, rows, np.inf)).min(0)
        high = (rows if present is None else np.where(present, rows, -np.inf)).max(0)
        first = not hasattr(self, "lowest")
        self.lowest = torch.from_numpy(low) if first else torch.minimum(self.lowest, torch.from_numpy(low))
        self.highest = torch.from_numpy(high) if first else torch.maximum(self.highest, torch.from_numpy(high))


class _Outliers:
    """The largest sum of squared differences of a sample, from the mean that is known when the sample is read."""

    def __init__(self, kind: str) -> None:
        self.kind = kind if kind in ("standard", "channels", "features") else ""
        self.largest, self.first = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def add(self, rows: np.ndarray, present: np.ndarray | None, numbers: np.ndarray, moments: EntryMoments) -> None:
        if not self.kind or not len(rows):
            return
        squares = (torch.from_numpy(rows).double() - moments.groups(self.kind)[1]).square()
        if present is not None:
            squares = torch.where(torch.from_numpy(present), squares, 0.0)
        most, place = summed(squares, self.kind).max(0)
        self.first = torch.where(most > self.largest, torch.from_numpy(numbers)[place], self.first)
        self.largest = torch.maximum(self.largest, most)

    def texts(self, moments: EntryMoments) -> list[str]:
        """The remark, if there is one."""
        if not self.kind or not moments.rows:
            return []
        total = moments.groups(self.kind)[2].reshape(self.largest.shape)
        return outlier_texts(self.kind, self.largest, total, self.first, moments.rows)


def _entry_texts(kind: str, train: EntryMoments, every: _Ends, normalisation: Normalisation) -> list[str]:
    """The remarks on entries and channels."""
    if kind == "standard" and train.mean.ndim > 1 and len(train.mean) > 1:
        count, _, squares = (each.flatten() for each in train.groups("channels"))
        return faint_texts(squares / count.clamp(min=1), torch.maximum(train.low.abs(), train.high.abs()).flatten(1).amax(1))
    if kind not in ("channels", "features"):
        return []
    low, high, lowest, highest = train.low, train.high, every.lowest.double(), every.highest.double()
    whole = train.whole
    if kind == "channels":
        low, lowest = (end.flatten(1).amin(1) for end in (low, lowest))
        high, highest = (end.flatten(1).amax(1) for end in (high, highest))
        whole = whole.flatten(1).all(1)
    return entry_texts(normalisation, Ends(low, high, lowest, highest, whole))
