"""Missing values: entries that are NaN, or that a mask of the file marks. Training and statistics use the present ones only.

    refuse         the default: an error says how many values are missing
    mask           missing entries are 0 once samples are normalised, and the loss leaves them out
    mask_channel   the same, and the network is also shown which entries are present: the condition "present", 1 or 0

An entry that no sample has, such as land in a field of the ocean, is NaN in generated samples too (`Normalisation.absent`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import Normalisation

CHOICES = ("refuse", "mask", "mask_channel")
PRESENT = "present"  # the condition of mask_channel


def check_missing(name: str, missing: str) -> None:
    """Raise ValueError for another word."""
    if missing not in CHOICES:
        raise ValueError(f"{name}: missing is {missing!r}; expected one of {', '.join(CHOICES)}")


def filled(name: str, raw: np.ndarray, mask: np.ndarray | None, missing: str) -> tuple[np.ndarray, Tensor | None]:
    """The samples (N, *shape) with the mean of an entry where it is missing, and which are present; None if all are.

    Raises ValueError if values are missing and `missing` is refuse, for a mask of another shape, and for a sample without any
    value.
    """
    check_missing(name, missing)
    if mask is not None and mask.shape != raw.shape:
        raise ValueError(f"{name}: the mask has shape {mask.shape}; expected that of the samples, {raw.shape}")
    if mask is None and raw.dtype.kind != "f":
        return raw, None
    present = ~np.isnan(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, bool)
    if mask is not None:
        present &= mask.astype(bool)
    if present.all():
        return raw, None
    if missing == "refuse":
        gaps = ~present.reshape(len(raw), -1)
        raise ValueError(refusal(name, int(gaps.sum()), raw.size, int(gaps.any(1).sum()), int(gaps.any(1).argmax())))
    if empty := int((~present.reshape(len(raw), -1).any(1)).sum()):
        raise ValueError(no_values(name, empty))
    # The fill only must not look like an outlier to what judges types; nothing is learned from it.
    total = np.where(present, raw, 0).sum(0, dtype=np.float64) / np.maximum(present.sum(0), 1)
    whole = raw.dtype.kind in "iu"
    return np.where(present, raw, (np.round(total) if whole else total).astype(raw.dtype)), torch.from_numpy(present)


def no_values(name: str, samples: int) -> str:
    """The message about samples without any value."""
    return f"{name}: {samples} samples have no value at all; remove them"


def refusal(name: str, number: int, size: int, samples: int, first: int) -> str:
    """The message about missing values."""
    return (
        f"{name}: {number} values in {samples} samples are NaN, infinite or marked as missing ({number / size:.2%}), the first "
        f"in sample {first}; to train on the values that are there give missing=mask, or else repair or remove those samples"
    )


def fit_present(kind: str, train: Tensor, present: Tensor | None, value_range: tuple[float, float] | None) -> Normalisation:
    """`Normalisation.fit` with statistics of the present entries; of all for None. Entries without values are only shifted."""
    if present is None or kind in ("none", "range"):
        return Normalisation.fit(kind, train, value_range)
    plain = Normalisation.fit(kind, train, value_range)  # checks, and the type
    axes = {"standard": list(range(train.ndim)), "channels": [0, *range(2, train.ndim)], "features": [0]}[kind]
    values = torch.where(present, train.double(), 0.0)
    count = present.sum(axes, keepdim=True).clamp(min=1)
    mean = values.sum(axes, keepdim=True) / count
    scale = (torch.where(present, train.double() - mean, 0.0).square().sum(axes, keepdim=True) / count).sqrt()
    low = torch.where(present, train.double(), torch.inf).amin(axes, keepdim=True)
    high = torch.where(present, train.double(), -torch.inf).amax(axes, keepdim=True)
    scale = torch.where((high <= low) | (scale == 0), 1.0, scale)
    form = plain.shift.shape
    return Normalisation(kind, mean.reshape(form).to(plain.shift.dtype), scale.reshape(form).to(plain.scale.dtype))


def with_gaps(values: np.ndarray, present: Tensor | None) -> np.ndarray:
    """The values as they are hashed: NaN where an entry is missing, so that a part does not depend on other samples."""
    return values if present is None else np.where(present.numpy(), values, values.dtype.type(np.nan))


def summarise_present(x: Tensor, present: Tensor) -> dict[str, float]:
    """`kdiff.data.samples.summarise` over the present entries of x (n, *shape)."""
    x, present = x.double().flatten(1), present.flatten(1)
    there, count = x[present], present.sum(0).clamp(min=1)
    mean = torch.where(present, x, 0.0).sum(0) / count
    total = (torch.where(present, x - mean, 0.0).square().sum(0) / count).sum()
    figures = {"min": there.min(), "max": there.max(), "mean": there.mean(), "std": there.std(correction=0)}
    return {key: float(value) for key, value in {**figures, "total_variance": total}.items()}
