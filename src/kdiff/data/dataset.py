"""A data set: normalised samples, labels, and three parts fixed by a hash of each sample.

h = blake2b(the sample's raw float32 bytes), first 8 bytes read as a fraction of 2⁶⁴: `train` for h < 0.6, `classifier`
(the feature classifier of the evaluation) for h < 0.8, `heldout` for the rest. A sample's part depends on nothing but
the sample: not on the order, the other samples, the labels or the dtype on disk. Equal samples share a part, so nothing
held out has been trained on. Everything is checked here once, before any long work starts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.manifold import Manifold
from kdiff.data.normalisation import Normalisation, check_kind

PARTS = ("train", "classifier", "heldout")
SHARES = (0.6, 0.2, 0.2)
MIN_SAMPLES = 10


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of one kind, as `make_dataset` builds them.

    `x` float32 (N, *shape), normalised; `y` int64 (N,) in 0 … num_classes − 1, or None with num_classes 0; `split` int8
    (N,) with the index of each sample's part in `PARTS`; `manifold` what is known of the data's geometry (toy data
    only); `fingerprint` 16 hex digits of a hash over the raw values in order, their shape and the labels.
    """

    name: str
    x: Tensor
    y: Tensor | None
    num_classes: int
    normalisation: Normalisation
    split: Tensor
    manifold: Manifold | None
    fingerprint: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def dimension(self) -> int:
        """The ambient dimension D: the number of entries of one sample."""
        return self.x[0].numel()

    def part(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Samples and labels of the part `train`, `classifier` or `heldout`, in order; ValueError for another name."""
        if name not in PARTS:
            raise ValueError(f"a data set has the parts {', '.join(PARTS)}, found {name!r}")
        chosen = self.split == PARTS.index(name)
        return self.x[chosen], None if self.y is None else self.y[chosen]

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON.

        min, max, mean, std (over all entries) and total_variance (tr Σ, summed over the D entries) are those of the
        normalised training part.
        """
        train = self.part("train")[0].double().flatten(1)
        return {
            "name": self.name,
            "num_samples": len(self.x),
            "counts": {part: int((self.split == index).sum()) for index, part in enumerate(PARTS)},
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "normalisation": self.normalisation.describe(),
            "fingerprint": self.fingerprint,
            "min": float(train.min()),
            "max": float(train.max()),
            "mean": float(train.mean()),
            "std": float(train.std(correction=0)),
            "total_variance": float(train.var(dim=0, correction=0).sum()),
        }


def make_dataset(
    name: str,
    raw: np.ndarray | Tensor,
    y: np.ndarray | Tensor | None = None,
    normalise: str = "none",
    value_range: tuple[float, float] | None = None,
    manifold: Manifold | None = None,
    num_classes: int | None = None,
) -> Dataset:
    """Check, split and normalise samples `raw` of shape (N, D), (N, C, H, W), …, with labels `y` of shape (N,).

    `normalise` is none, range (with `value_range`, the values that become −1 and 1), standard or features; its
    statistics are taken from the training part. `num_classes` defaults to the largest label + 1. A `manifold` is given
    in raw values.

    Raises TypeError if `raw` or `y` is no array or tensor, and ValueError for: values that are not integers or floats,
    rank below 2, fewer than 10 samples, entries that are not finite or leave `value_range`, labels that are not whole
    numbers, not one per sample or out of range, and samples too few or too equal to fill the three parts.
    """
    check_kind(normalise)
    values = _checked_values(name, raw)
    labels, num_classes = _checked_labels(name, y, num_classes, len(values))
    split = _split(name, values)
    data = torch.from_numpy(values)
    normalisation = Normalisation.fit(normalise, data[split == 0], value_range)
    if value_range is not None:
        # As float32, like the values: 0.1 in the data must not exceed 0.1 in the range.
        low, high = (np.float32(value) for value in value_range)
        if values.min() < low or values.max() > high:
            raise ValueError(
                f"{name}: value_range is ({low}, {high}) but the values run from {values.min()} to {values.max()}; "
                "correct value_range or use normalise='standard'"
            )
    x = normalisation.apply(data)
    if not torch.isfinite(x).all():
        raise ValueError(f"{name}: normalise={normalise!r} takes values beyond float32's range; rescale the data")
    return Dataset(
        name=name,
        x=x,
        y=labels,
        num_classes=num_classes,
        normalisation=normalisation,
        split=split,
        manifold=None if manifold is None else replace(manifold, normalisation=normalisation),
        fingerprint=_fingerprint(values, labels),
    )


def _to_numpy(what: str, array: object) -> np.ndarray:
    """The array or tensor as a NumPy array; bfloat16 and smaller floats, which NumPy lacks, become float32."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        small = array.is_floating_point() and array.dtype not in (torch.float16, torch.float32, torch.float64)
        array = (array.float() if small else array).numpy()
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{what} must be a NumPy array or a torch tensor, found {type(array).__name__}")
    return array


def _checked_values(name: str, raw: object) -> np.ndarray:
    values = _to_numpy(f"{name}: the data", raw)
    if values.dtype.kind not in "iuf":
        hint = "stack the samples to one array of numbers" if values.dtype.kind == "O" else "convert them"
        raise ValueError(
            f"{name}: the data must be integers or floats (uint8, int…, float16/32/64), found {values.dtype}; {hint}"
        )
    if values.ndim < 2 or values[:1].size == 0 < len(values):
        raise ValueError(
            f"{name}: the data must have shape (N, D), (N, C, H, W) or alike, one sample per row, none empty; "
            f"found {values.shape}"
        )
    if len(values) < MIN_SAMPLES:
        raise ValueError(f"{name}: at least {MIN_SAMPLES} samples are needed for the three parts, found {len(values)}")
    with np.errstate(over="ignore"):
        # + 0.0 turns -0.0 into 0.0: equal samples must have equal bytes.
        values = np.ascontiguousarray(values.astype(np.float32) + np.float32(0.0))
    finite = np.isfinite(values).reshape(len(values), -1)
    if not finite.all():
        raise ValueError(
            f"{name}: {(~finite).sum()} values in {(~finite.all(1)).sum()} samples are NaN, infinite or beyond float32's "
            f"range, the first in sample {int(np.argmin(finite.all(1)))}; remove or repair those samples"
        )
    return values


def _checked_labels(name: str, y: object, num_classes: int | None, count: int) -> tuple[Tensor | None, int]:
    if y is None:
        if num_classes:
            raise ValueError(
                f"{name}: num_classes={num_classes} was given without labels; give y too, or leave num_classes out"
            )
        return None, 0
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"{name}: num_classes must be at least 1 for labelled data, found {num_classes}")
    labels = _to_numpy(f"{name}: labels", y)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: labels must be integers, found {labels.dtype}; convert whole numbers with y.astype('int64')")
    if labels.ndim != 1 or len(labels) != count:
        raise ValueError(f"{name}: labels must have shape ({count},), one per sample; found {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if num_classes is None and high >= max(count, 1000):
        # Guessing here would build an embedding table with more rows than there are samples.
        raise ValueError(
            f"{name}: labels run to {high} for {count} samples; renumber them from 0 "
            "(np.unique(y, return_inverse=True)) or give num_classes"
        )
    allowed = max(high + 1, 1) if num_classes is None else num_classes
    if low < 0 or high >= allowed:
        first = int(np.argmax((labels < 0) | (labels >= allowed)))
        raise ValueError(
            f"{name}: labels must lie in 0 … {allowed - 1} (num_classes={allowed}), found {low} … {high}, the first one "
            f"out of range in sample {first}; renumber them from 0 or correct num_classes"
        )
    return torch.from_numpy(labels.astype(np.int64)), allowed


def _split(name: str, values: np.ndarray) -> Tensor:
    """The part of every sample, int8 (N,), by the hash that the module's docstring defines."""
    rows = values.reshape(len(values), -1).astype("<f4", copy=False)
    hashes = [int.from_bytes(hashlib.blake2b(row.tobytes()).digest()[:8], "big") / 2**64 for row in rows]
    split = np.digitize(hashes, [SHARES[0], SHARES[0] + SHARES[1]])
    counts = np.bincount(split, minlength=len(PARTS))
    if counts.min() == 0:
        found = ", ".join(f"{part} {count}" for part, count in zip(PARTS, counts))
        raise ValueError(
            f"{name}: a part of the data is empty ({found}). Parts are drawn by a hash of each sample, and "
            f"equal samples share one: {len(set(hashes))} of the {len(values)} samples are distinct; give more distinct samples"
        )
    return torch.from_numpy(split.astype(np.int8))


def _fingerprint(values: np.ndarray, labels: Tensor | None) -> str:
    digest = hashlib.blake2b(repr((values.shape, labels is not None)).encode(), digest_size=8)
    digest.update(values.astype("<f4", copy=False).data)
    if labels is not None:
        digest.update(labels.numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()
