"""Remarks on data that are allowed and yet often a mistake: one warning each, in one line, when a data set is made."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import NOISE, Normalisation
from kdiff.data.samples import rows_per_chunk
from kdiff.data.split import PARTS, SHARES

OFF = 0.2  # of its share, by which the size of a part may be off without a remark
UPSET = 6.0  # standard deviations by which the size of a part differs from its share if samples are different: never
FAINT = 1e-3  # of the largest variance of a channel: less is hardly learned
OUTLIER, MANY = 0.5, 30  # of the variance, carried by one of at least so many samples
LEVEL = 3  # the frames between a warning and the caller of `make_dataset`


def remark_on_split(name: str, values: np.ndarray, split: Tensor) -> None:
    """Remark on parts whose sizes are far from their shares because samples (N, *shape) are equal."""
    if _near(split):
        return
    distinct = len({hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest() for row in values})
    remark_on_split_sizes(name, split, distinct, LEVEL + 1)


def _near(split: Tensor) -> bool:
    """Whether the sizes of the parts are near their shares."""
    count, sizes = len(split), torch.bincount(split.long(), minlength=len(PARTS)).tolist()
    allowed = (max(OFF * share * count, UPSET * (count * share * (1 - share)) ** 0.5) for share in SHARES)
    return all(abs(size - share * count) <= most for size, share, most in zip(sizes, SHARES, allowed))


def remark_on_split_sizes(name: str, split: Tensor, distinct: int, level: int = LEVEL) -> None:
    """The remark of `remark_on_split`, of samples `distinct` of which are different."""
    count, sizes = len(split), torch.bincount(split.long(), minlength=len(PARTS)).tolist()
    if distinct == count or _near(split):
        return
    found = ", ".join(f"{part} {size:,}" for part, size in zip(PARTS, sizes))
    wanted = ", ".join(f"{count * share:,.0f}" for share in SHARES)
    warnings.warn(
        f"{name}: only {distinct:,} of the {count:,} samples are different, and equal samples share a part, so the parts hold "
        f"{found} instead of about {wanted}; remove repeated samples",
        stacklevel=level,
    )


def remark_on_labels(name: str, labels: np.ndarray, classes: int) -> None:
    """Remark on classes without samples: labels that begin at 1, or have gaps."""
    sizes = np.bincount(labels, minlength=classes)
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return
    listed = ", ".join(map(str, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    first = f"begin at {len(empty)}" if empty[-1] == len(empty) - 1 else f"leave out {listed}"
    warnings.warn(
        f"{name}: the labels {first}, so only {classes - len(empty)} of the {classes} classes have samples; renumber the "
        f"labels by np.unique(y, return_inverse=True)[1], or give num_classes={classes} if this is meant",
        stacklevel=LEVEL + 1,
    )


def remark_on_entries(name: str, raw: Tensor, split: Tensor, normalisation: Normalisation) -> None:
    """Remark on entries or channels that vary by rounding errors only, or that are constant in the training part alone.

    With one scale for all channels, remark on a channel that hardly varies beside another one.
    """
    if normalisation.kind not in ("features", "channels"):
        if normalisation.kind == "standard" and raw.ndim > 2 and raw.shape[1] > 1:
            channels = raw[split == 0].movedim(1, 0).flatten(1).double()
            _say(name, faint_texts(channels.var(dim=1, correction=0), channels.abs().amax(1)))
        return
    axes = [0, *range(2, raw.ndim)] if normalisation.kind == "channels" else [0]
    train = raw[split == 0]
    low, high = train.amin(axes), train.amax(axes)
    whole = (train == train.round()).all(0) if axes == [0] else (train == train.round()).movedim(1, 0).flatten(1).all(1)
    _say(name, entry_texts(normalisation, Ends(low, high, raw.amin(axes), raw.amax(axes), whole)))


def _say(name: str, texts: Sequence[str]) -> None:
    for text in texts:
        warnings.warn(f"{name}: {text}", stacklevel=LEVEL + 1)


class Ends(NamedTuple):
    """Of each entry or channel: extremes in the training part and in all parts, and whether all values are whole numbers."""

    low: Tensor
    high: Tensor
    lowest: Tensor
    highest: Tensor
    whole: Tensor


def entry_texts(normalisation: Normalisation, ends: Ends) -> list[str]:
    """The remarks on entries or channels that vary by rounding errors only, or are constant in the training part alone."""
    texts, what = [], "channel" if normalisation.kind == "channels" else "entry"
    dtype = "float64" if normalisation.double else "float32"
    size, high, low = torch.maximum(ends.low.abs(), ends.high.abs()), ends.high, ends.low
    noisy = (high > low) & (high - low <= NOISE * torch.finfo(getattr(torch, dtype)).eps * size) & ~ends.whole
    if noisy.any():
        worst = int(noisy.flatten().int().argmax())
        between = f"{low.flatten()[worst]:.9g} to {high.flatten()[worst]:.9g}"
        then = "is only shifted" if normalisation.double else "is scaled to variance 1"
        texts.append(
            f"{_which(what, noisy)} varies in the last digits of {dtype} only ({between}) and {then}; if these are rounding "
            "errors, round or drop this entry"
        )
    still = (high == low) & ((ends.lowest < low) | (ends.highest > high))
    if still.any():
        away = torch.maximum(ends.highest - high, low - ends.lowest).flatten()
        worst = int(torch.where(still.flatten(), away, -1).argmax())
        texts.append(
            f"{_which(what, still)} is constant in the training part ({low.flatten()[worst]:.6g}) but not in the other parts, "
            f"up to {away[worst]:.6g} away, and no scale is known for it; drop it, or shuffle and add samples"
        )
    return texts


def faint_texts(variances: Tensor, sizes: Tensor) -> list[str]:
    """The remark on the channel with the least variance if another one has a thousand times as much.

    `sizes` are the largest absolute values. A channel that is constant up to rounding errors has nothing to be learned.
    """
    rounded = variances.sqrt() <= NOISE * torch.finfo(torch.float32).eps * sizes
    least, most = int(torch.where(rounded, torch.inf, variances).argmin()), int(variances.argmax())
    if not variances[least] < FAINT * variances[most]:
        return []
    return [
        f"channel {least} has a standard deviation of {variances[least].sqrt():.3g}, and channel {most} has "
        f"{variances[most].sqrt():.3g}, so a model with one scale for both hardly learns channel {least}; give "
        "normalise=channels"
    ]


def remark_on_outliers(name: str, x: Tensor, split: Tensor, kind: str) -> None:
    """Remark on the sample of the training part that carries most of the variance of an entry or channel, or of all values."""
    if kind not in ("standard", "channels", "features"):
        return
    rows = (split == 0).nonzero().flatten()
    largest = total = torch.zeros(())
    first = torch.zeros((), dtype=torch.int64)
    for chunk in rows.split(rows_per_chunk(tuple(x.shape))):
        squares = summed(x[chunk].double().square(), kind)
        most, place = squares.max(0)
        first = torch.where(most > largest, chunk[place], first)
        largest, total = torch.maximum(largest, most), total + squares.sum(0)
    _say(name, outlier_texts(kind, largest, total, first, len(rows)))


def summed(values: Tensor, kind: str) -> Tensor:
    """The sums for each sample (n, *shape) over what shares a mean: all values, those of a channel, or each entry."""
    return values.flatten(1).sum(1) if kind == "standard" else values.flatten(2).sum(2) if kind == "channels" else values


def outlier_texts(kind: str, largest: Tensor, total: Tensor, rows: Tensor, count: int) -> list[str]:
    """The remark on a sample that carries most of the variance.

    Args:
        kind: that of the normalisation, which says what shares a mean.
        largest: the largest sum of squared differences from the mean of one sample, for each entry or channel, or for all.
        total: the sum over all samples.
        rows: the number of that sample.
        count: how many samples the training part has.
    """
    share = torch.where(total > 0, largest / total, 0.0).flatten()
    worst = int(share.argmax())
    if count < MANY or not share[worst] > OUTLIER:
        return []
    several = int((share > OUTLIER).sum()) - 1
    what = {"channels": f"channel {worst}", "features": f"entry {worst}"}.get(kind, "all values")
    more = f" (and one sample that of {several} more)" if several else ""
    return [
        f"sample {int(rows.flatten()[worst])} alone carries {share[worst]:.0%} of the variance of {what}{more}, so the other "
        "samples hardly differ once they are normalised; if its values are errors or mean missing ones, repair or remove it"
    ]


def _which(what: str, marked: Tensor) -> str:
    """As text, the first place that is marked, and how many more there are."""
    places: Sequence[int] = marked.flatten().nonzero().flatten().tolist()
    return f"{what} {places[0]}" + (f" (and {len(places) - 1} more)" if len(places) > 1 else "")
