"""Whether data that are read in chunks need float64, and which values float32 loses: as `kdiff.data.precision`, in passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.entry_moments import EntryMoments, fitted
from kdiff.data.normalisation import Normalisation
from kdiff.data.precision import LOST, changed_by_float64, fits_float32, kept_values, loss_text, whole_numbers_text

Chunks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray | None]]]  # rows, and which entries are present; None for all
LARGEST = float(np.finfo(np.float32).max)


def judged(chunks: Chunks, dtype: np.dtype[Any], kind: str, value_range: tuple[float, float] | None) -> tuple[bool, list[str]]:
    """Whether values of this type need float64 to be normalised, and remarks on values that are lost all the same.

    Types that float32 holds need no pass. Others need one, or two if float32 does not hold their values, or three if values are
    lost. As in memory, a missing value counts like the mean of its entry.
    """
    if np.can_cast(dtype, np.float32):
        return False, []
    moments, exact, changed, size, largest = EntryMoments(np.float64), True, 0, 0, 0.0
    for raw, present in chunks():
        chunk = np.ascontiguousarray(raw, np.float64)
        there = chunk if present is None else chunk[present]
        if not (np.abs(there) <= LARGEST).all():  # refused later, with the first place
            return False, []
        exact = exact and bool((there.astype(np.float32) == there).all())
        moments.add(chunk, present)
        size += chunk.size
        largest = max(largest, float(np.abs(there).max(initial=0.0)))
        changed += changed_by_float64(raw if present is None else raw[present], there)
    texts = [whole_numbers_text(changed, size, largest)] if changed else []
    if not moments.rows:
        return False, texts
    fill = moments.mean.round() if dtype.kind in "iu" else moments.mean.numpy().astype(dtype).astype(np.float64)
    fill = torch.as_tensor(fill)
    if exact and not (moments.gapped and (fill.float().double() != fill)[moments.count < moments.rows].any()):
        return False, texts
    base = moments.filled(fill) if moments.gapped else moments
    try:
        map_ = fitted(kind, base, value_range)
    except ValueError:  # data that do not vary, or the wrong kind for them: refused later, by what the training part holds
        return False, texts

    def filled() -> Iterator[Tensor]:
        for raw, present in chunks():
            chunk = np.ascontiguousarray(raw, np.float64)
            yield torch.from_numpy(chunk if present is None else np.where(present, chunk, fill.numpy()))

    needed, errors = False, [torch.zeros_like(fill) for _ in range(2)]
    for values in filled():
        needed = needed or not fits_float32(map_, values)
        for double in (False, True):
            found = (kept_values(map_, values, double) - values).abs().amax(0)
            errors[double] = torch.maximum(errors[double], found)
    return needed, [*texts, *_lost(filled, base, map_, errors[needed], needed)]


def _lost(
    filled: Callable[[], Iterator[Tensor]], moments: EntryMoments, map_: Normalisation, errors: Tensor, double: bool
) -> list[str]:
    """The remark on the entry that loses most, if it loses values."""
    share = torch.where(moments.constant(), 0.0, errors / moments.variance.sqrt()).flatten()
    worst = int(share.argmax())
    if not share[worst] > LOST:
        return []
    before, after = [], []
    for values in filled():
        before.append(values.flatten(1)[:, worst].clone())
        after.append(kept_values(map_, values, double).flatten(1)[:, worst].clone())
    there, left = (int(torch.cat(column).unique().numel()) for column in (before, after))
    if there == left:
        return []
    spread, mean = (float(each.flatten()[worst]) for each in (moments.variance.sqrt(), moments.mean))
    return [loss_text(left, there, worst, int((share > LOST).sum()) - 1, spread, mean, map_.kind)]
