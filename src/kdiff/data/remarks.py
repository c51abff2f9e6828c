"""Remarks on data that are allowed and yet often a mistake: one warning each, in one line, when a data set is made."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import NOISE, Normalisation
from kdiff.data.split import PARTS, SHARES

OFF = 0.2  # of its share, by which the size of a part may be off without a remark
UPSET = 6.0  # standard deviations by which the size of a part differs from its share if samples are different: never
FAINT = 1e-3  # of the largest variance of a channel: less is hardly learned
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
            _remark_on_faint_channels(name, raw[split == 0])
        return
    axes = [0, *range(2, raw.ndim)] if normalisation.kind == "channels" else [0]
    what = "channel" if normalisation.kind == "channels" else "entry"
    train = raw[split == 0]
    low, high = train.amin(axes), train.amax(axes)
    size = torch.maximum(low.abs(), high.abs())
    whole = (train == train.round()).all(0) if axes == [0] else (train == train.round()).movedim(1, 0).flatten(1).all(1)
    noisy = (high > low) & (high - low <= NOISE * torch.finfo(raw.dtype).eps * size) & ~whole
    if noisy.any():
        worst = int(noisy.flatten().int().argmax())
        ends = f"{low.flatten()[worst]:.9g} to {high.flatten()[worst]:.9g}"
        then = "is only shifted" if normalisation.double else "is scaled to variance 1"
        warnings.warn(
            f"{name}: {_which(what, noisy)} varies in the last digits of {str(raw.dtype).removeprefix('torch.')} only ({ends}) "
            f"and {then}; if these are rounding errors, round or drop this entry",
            stacklevel=LEVEL,
        )
    still = (high == low) & ((raw.amin(axes) < low) | (raw.amax(axes) > high))
    if still.any():
        away = torch.maximum(raw.amax(axes) - high, low - raw.amin(axes)).flatten()
        worst = int(torch.where(still.flatten(), away, -1).argmax())
        warnings.warn(
            f"{name}: {_which(what, still)} is constant in the training part ({low.flatten()[worst]:.6g}) but not in the other "
            f"parts, up to {away[worst]:.6g} away, and no scale is known for it; drop it, or shuffle and add samples",
            stacklevel=LEVEL,
        )


def _remark_on_faint_channels(name: str, train: Tensor) -> None:
    """Remark on the channel (N, C, *grid) with the least variance if another one has a thousand times as much.

    A channel that is constant up to rounding errors has nothing to be learned.
    """
    channels = train.movedim(1, 0).flatten(1).double()
    variances = channels.var(dim=1, correction=0)
    rounded = variances.sqrt() <= NOISE * torch.finfo(torch.float32).eps * channels.abs().amax(1)
    least, most = int(torch.where(rounded, torch.inf, variances).argmin()), int(variances.argmax())
    if variances[least] < FAINT * variances[most]:
        warnings.warn(
            f"{name}: channel {least} has a standard deviation of {variances[least].sqrt():.3g}, and channel {most} has "
            f"{variances[most].sqrt():.3g}, so a model with one scale for both hardly learns channel {least}; give "
            "normalise=channels",
            stacklevel=LEVEL + 1,
        )


def _which(what: str, marked: Tensor) -> str:
    """As text, the first place that is marked, and how many more there are."""
    places: Sequence[int] = marked.flatten().nonzero().flatten().tolist()
    return f"{what} {places[0]}" + (f" (and {len(places) - 1} more)" if len(places) > 1 else "")
