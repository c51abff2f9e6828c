"""A data set: normalised samples, labels, and three parts that a hash of each sample fixes (see `kdiff.data.split`).

Everything is checked here once, before any long work starts. Samples are a float32 tensor; raw values that float32 cannot hold
are normalised in float64 first (see `kdiff.data.precision`). Large images of type uint8 stay bytes and are normalised when they
are read (see `kdiff.data.samples`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.checks import check_flip, checked_labels, checked_values, to_numpy
from kdiff.data.condition import Condition, make_conditions
from kdiff.data.directions import Moments, moments
from kdiff.data.kept_splits import hashes_of_images, kept_split
from kdiff.data.manifold import Manifold
from kdiff.data.missing import PRESENT, filled, fit_present, summarise_present, with_gaps
from kdiff.data.normalisation import Normalisation, check_kind
from kdiff.data.remarks import remark_on_entries, remark_on_outliers, remark_on_split
from kdiff.data.samples import ImageSamples, Samples, rows_of, rows_per_chunk, summarise
from kdiff.data.shards import LatentSamples
from kdiff.data.source_samples import SourceSamples
from kdiff.data.split import PARTS, split_and_fingerprint


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of one kind, as `make_dataset` builds them.

    - `x`: float32 (N, *shape), normalised; a tensor, or `LazySamples` that are read by `x[rows]`.
    - `y`: int64 (N,) in 0 … num_classes − 1, or None with num_classes 0.
    - `split`: int8 (N,), the index in `PARTS` of each sample's part.
    - `manifold`: the known geometry of toy data, else None.
    - `fingerprint`: 16 hex digits of a hash over the raw values in order, their shape, the labels and the conditions.
    - `flip`: whether training mirrors images at random.
    - `about`: further facts from the source, for `describe`.
    - `statistics`: those of the training part, if they are known already.
    - `conditions`: what samples are conditioned on besides their label, by name.
    - `mask`: which entries of x are present, bool (N, *shape); None if all are.
    """

    name: str
    x: Samples
    y: Tensor | None
    num_classes: int
    normalisation: Normalisation
    split: Tensor
    manifold: Manifold | None
    fingerprint: str
    flip: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, float] | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    mask: Samples | None = None
    _parts: dict[tuple[str, bool], tuple[Samples, Tensor | None]] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def dimension(self) -> int:
        """The ambient dimension D, the number of entries of one sample."""
        return math.prod(self.shape)

    def part(self, name: str, augment: bool = False) -> tuple[Samples, Tensor | None]:
        """Samples and labels of the part `train`, `classifier` or `heldout`, or of `all`, in order.

        `augment` is for training: images of a data set with `flip` are mirrored at random when they are read, and latents are
        drawn from their posteriors if the data set was loaded with `posterior`. A part is cut out once, and all
        callers share it, so do not write into it.
        Raises ValueError for another name.
        """
        if name not in (*PARTS, "all"):
            raise ValueError(f"a data set has the parts {', '.join(PARTS)}, and all; found {name!r}")
        if (name, augment) not in self._parts:
            self._parts[name, augment] = self._cut(name, augment)
        return self._parts[name, augment]

    def conditions_of(self, name: str) -> dict[str, Samples]:
        """The conditions of a part, normalised, in the order of its samples: "y" for labels, and all others by their names."""
        y, chosen = self.part(name)[1], self._chosen(name)
        labels: dict[str, Samples] = {} if y is None else {"y": y}
        return labels | {key: rows_of(condition.values, chosen) for key, condition in self.conditions.items()}

    def mask_of(self, name: str) -> dict[str, Samples]:
        """The mask of a part by the name "mask", as the loss takes it with the conditions; empty if all entries are present."""
        return {} if self.mask is None else {"mask": rows_of(self.mask, self._chosen(name))}

    def _chosen(self, name: str) -> Tensor:
        """Which samples belong to a part."""
        return torch.ones_like(self.split, dtype=torch.bool) if name == "all" else self.split == PARTS.index(name)

    def _cut(self, name: str, augment: bool) -> tuple[Samples, Tensor | None]:
        chosen = self._chosen(name)
        flip = augment and self.flip
        y = None if self.y is None else self.y[chosen]
        if isinstance(self.x, LatentSamples):
            return self.x.select(chosen, augment), y
        if isinstance(self.x, ImageSamples | SourceSamples):
            return self.x.select(chosen, flip), y
        if not isinstance(self.x, Tensor):
            return self.x.select(chosen), y
        if augment and not flip:
            return self.part(name)[0], y
        x = self.x[chosen]
        assert isinstance(x, Tensor)
        return ImageSamples(x.numpy(), Normalisation.none(), flip=True) if flip else x, y

    def moments(self) -> Moments:
        """Mean, variances and principal directions of the training part."""
        return moments(self.samples())

    def samples(self) -> Samples:
        """The samples of the training part."""
        return self.part("train")[0]

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON.

        min, max, mean, std (over all entries) and total_variance (tr Σ, summed over the D entries) are those of the
        normalised training part. Facts from the source come last: names of classes, files that could not be read, …
        """
        return {
            "name": self.name,
            "num_samples": len(self.x),
            "counts": {part: int((self.split == index).sum()) for index, part in enumerate(PARTS)},
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "normalisation": self.normalisation.describe(),
            "fingerprint": self.fingerprint,
            **(self.statistics or summarise(self.part("train")[0])),
            **({"flip": True} if self.flip else {}),
            **({"conditions": {name: one.describe() for name, one in self.conditions.items()}} if self.conditions else {}),
            **self.about,
        }


def make_dataset(
    name: str,
    raw: np.ndarray | Tensor,
    y: np.ndarray | Tensor | None = None,
    normalise: str = "none",
    value_range: tuple[float, float] | None = None,
    manifold: Manifold | None = None,
    num_classes: int | None = None,
    flip: bool = False,
    about: Mapping[str, Any] | None = None,
    identity: object = None,
    conditions: Mapping[str, Any] | None = None,
    condition_kinds: Mapping[str, str] | None = None,
    groups: np.ndarray | None = None,
    missing: str = "refuse",
    mask: np.ndarray | None = None,
) -> Dataset:
    """Check, split and normalise samples `raw` of shape (N, D), (N, C, H, W), …, with labels `y` of shape (N,).

    `normalise` is none, range (with `value_range`, the two values that become −1 and 1), standard, channels or features. Its
    statistics come from the training part. `num_classes` defaults to the largest label + 1. A `manifold` is given in raw
    values. With `flip`, training mirrors images (N, C, H, W) left to right at random. `about` is added to the description.
    `conditions` are arrays (N, ...) by name, and `condition_kinds` says class, vector, field or tokens where shapes do not
    (see `kdiff.data.condition`). `groups` are whole numbers (N,); samples of one group share a part (as windows of a series).
    `missing` says what happens to NaN, and to entries that `mask` (bool, like raw) does not mark as present
    (`kdiff.data.missing`).

    Images of type uint8 that would exceed 256 MB as float32, and are normalised by none or range, are not copied and may be
    mapped from a file. They are hashed one chunk at a time. If `identity` is given, the hashes of these images, and of all
    samples of more than 64 MiB, are kept in the cache. `identity` is a value whose `repr` differs for different contents of
    `raw`, such as the name, size and modification time of the file.

    Raises TypeError if `raw` or `y` is not an array or a tensor. Raises ValueError for values that are not integers or floats,
    a rank below 2, fewer than 10 samples, entries that are not finite or outside `value_range`, labels that are not whole
    numbers, not one per sample or out of range, `flip` for samples that are not images, and too few different samples to fill
    the three parts. Errors of conditions are those of `make_conditions`.
    """
    check_kind(normalise)
    raw, present = filled(name, to_numpy(f"{name}: the data", raw), mask, missing)
    values = checked_values(name, raw, normalise, value_range)
    labels, num_classes = checked_labels(name, y, num_classes, len(values))
    check_flip(name, flip, values.shape, present is not None)
    x: Samples
    if values.dtype == np.uint8:
        normalisation = Normalisation.fit(normalise, torch.empty(0), value_range)
        _check_range(name, values, value_range)
        x = ImageSamples(values, normalisation)
        split, fingerprint, statistics = hashes_of_images(name, x, labels, identity, groups)
    else:
        if present is None:
            split, fingerprint = kept_split(name, values, labels, identity, groups)
        else:
            split, fingerprint = split_and_fingerprint(name, with_gaps(values, present), labels, groups)
        data, statistics, train = torch.from_numpy(values), None, split == 0
        shown = None if present is None else present[train]
        normalisation = fit_present(normalise, data[train], shown, value_range)
        _check_range(name, values, value_range)
        x = _applied(normalisation, data)
        if not torch.stack(torch.aminmax(x)).isfinite().all():  # NaN is passed on; faster than a look at every entry
            raise ValueError(f"{name}: normalise={normalise!r} gives values beyond float32's range; rescale the data")
        if present is not None and shown is not None:
            x = torch.where(present, x, 0.0)
            normalisation, statistics = normalisation.without(~present.any(0)), summarise_present(x[train], shown)
            about = {**(about or {}), "missing": {"share": 1 - float(present.double().mean())}}
            if missing == "mask_channel":
                conditions = {**(conditions or {}), PRESENT: present.numpy().astype(np.float32)}
        remark_on_entries(name, data, split, normalisation)
        remark_on_outliers(name, x, split, normalise)
    remark_on_split(name, values, split)
    shape = values.shape[1:]
    made, fingerprint = make_conditions(name, conditions or {}, condition_kinds or {}, split, shape, fingerprint, flip)
    return Dataset(
        name=name,
        x=x,
        y=labels,
        num_classes=num_classes,
        normalisation=normalisation,
        split=split,
        manifold=None if manifold is None else replace(manifold, normalisation=normalisation),
        fingerprint=fingerprint,
        flip=flip,
        about=dict(about or {}),
        statistics=statistics,
        conditions=made,
        mask=present,
    )


def _applied(normalisation: Normalisation, raw: Tensor) -> Tensor:
    """The normalised values as float32; raw values of type float64 are converted one chunk at a time."""
    if raw.dtype != torch.float64:
        return normalisation.apply(raw)
    return torch.cat([normalisation.apply(chunk).float() for chunk in raw.split(rows_per_chunk(tuple(raw.shape)))])


def _check_range(name: str, values: np.ndarray, value_range: tuple[float, float] | None) -> None:
    if value_range is None:
        return
    # In the type of the values: 0.1 in the data must not exceed 0.1 in the range.
    kind = np.float64 if values.dtype == np.float64 else np.float32
    low, high = (kind(value) for value in value_range)
    if values.dtype == np.uint8 and low <= 0 and high >= 255:
        return
    if values.min() < low or values.max() > high:
        raise ValueError(
            f"{name}: value_range is ({low}, {high}) but the values run from {values.min()} to {values.max()}; "
            "correct value_range or use normalise='standard'"
        )
