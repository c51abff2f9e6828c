"""Fields and tokens larger than memory: read by rows like samples, and normalised batch by batch.

One pass over a condition, once the parts are known, gives its statistics and its share of the fingerprint. A row of NaN means
that the sample has no such condition, and does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from kdiff.data.entry_moments import EntryMoments, fitted
from kdiff.data.normalisation import Normalisation
from kdiff.data.opened import Source
from kdiff.data.progress import shown
from kdiff.data.streamed_types import judged

FITTED = {"field": "channels", "tokens": "features"}  # what shares a mean: a channel of a field, a number of all tokens


class Channel(Source):
    """Fields (N, *grid) of one channel as (N, 1, *grid)."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.dtype, self.block = source, source.name, source.dtype, source.block
        self.shape = (len(source), 1, *source.shape[1:])
        self.identity = None if source.identity is None else ("channel", source.identity)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, in a new array."""
        return self.source.read(rows)[:, None]


def pass_over(what: str, source: Source, kind: str, split: Tensor, digest: Any) -> dict[str, Any]:
    """The normalisation of a field or tokens (N, ...), with statistics of the training part, and remarks, for JSON.

    The values are added to `digest` as in `kdiff.data.condition`. Raises ValueError for what is refused there: infinite
    numbers, rows that are NaN in part, and only NaN.
    """
    double, texts = judged(lambda: _rows(what, source, kind), source.dtype, FITTED[kind], None)
    dtype: Any = np.float64 if double else np.float32
    moments, none, infinite, partly, start, same = EntryMoments(dtype), 0, 0, 0, 0, True
    part, first = split.numpy(), None
    for raw in shown(source.chunks(), len(source), f"reading {what}", len, "sample"):
        wide = np.array(raw, "<f8", order="C")
        wide += 0.0
        gaps = np.isnan(wide)
        wide[gaps] = np.nan
        digest.update(wide.data)
        gaps = gaps.reshape(len(wide), -1)
        partly += int((gaps.any(1) & ~gaps.all(1)).sum())
        infinite += int(np.isinf(wide).sum())
        there = ~gaps[:, 0]
        none += int((~there).sum())
        if there.any():
            first = wide[there][0] if first is None else first
            same = same and bool((wide[there] == first).all())
        with np.errstate(over="ignore"):
            values = np.asarray(raw, dtype)
        if not infinite and np.isinf(values).any():
            raise ValueError(f"{what} has values beyond float32's range; rescale it")
        moments.add(_flat(values[there & (part[start : start + len(raw)] == 0)], kind))
        start += len(raw)
    if infinite:
        raise ValueError(f"{what} holds {infinite} infinite numbers; repair or remove these samples")
    if partly:
        raise ValueError(
            f"{what} is NaN in part of its row for {partly} samples; a row of NaN only means no condition, so fill the gaps, "
            "split the array into several conditions, or make the whole rows NaN"
        )
    if not moments.rows:
        where = "every sample" if none == start else "every sample of the training part"
        raise ValueError(f"{what} is NaN for {where}; leave it out")
    if same and not none:
        texts = [*texts, "is the same for every sample, so it says nothing; leave it out"]
    return {"normalisation": fitted(FITTED[kind], moments, None).describe(), "remarks": texts}


def normalisation_of(facts: dict[str, Any]) -> Normalisation:
    """The normalisation that a pass found."""
    return Normalisation.from_description(facts["normalisation"])


def _flat(values: np.ndarray, kind: str) -> np.ndarray:
    """Fields (n, c, *grid) as they are, and tokens (n, length, q) as (n · length, q)."""
    return values.reshape(-1, values.shape[-1]) if kind == "tokens" else values


def _rows(what: str, source: Source, kind: str) -> Iterator[tuple[np.ndarray, None]]:
    """The rows of samples that have the condition, in chunks."""
    for raw in shown(source.chunks(), len(source), f"types of {what}", len, "sample"):
        flat = raw.reshape(len(raw), -1)
        yield _flat(raw[~np.isnan(flat[:, 0])] if raw.dtype.kind == "f" else raw, kind), None
