"""Checks of data and labels: samples are finite numbers, one sample per row; labels are whole numbers from 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.label_hints import conversion
from kdiff.data.precision import double_values
from kdiff.data.remarks import remark_on_labels

MIN_SAMPLES = 10
KEEP_BYTES = 2**28  # images of type uint8 that would need more bytes than this as float32 stay uint8


def to_numpy(what: str, array: object) -> np.ndarray:
    """The array or tensor as a NumPy array. bfloat16 and smaller floats become float32, because NumPy lacks them."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        small = array.is_floating_point() and array.dtype not in (torch.float16, torch.float32, torch.float64)
        array = (array.float() if small else array).numpy()
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{what} must be a NumPy array or a torch tensor, found {type(array).__name__}")
    return array


def check_whole(name: str, value: Any, low: int, kind: Any = int | np.integer) -> None:
    """Raise TypeError unless `value` is a whole number of this kind, and ValueError if it is below `low`."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be a whole number, found {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, found {value}")


def check_flip(name: str, flip: bool, shape: tuple[int, ...], gapped: bool = False, fields: Sequence[str] = ()) -> None:
    """Raise ValueError if samples of shape (N, *shape) cannot be mirrored, or not what goes with them."""
    if flip and len(shape) != 4:
        raise ValueError(f"{name}: flip mirrors images (N, C, H, W), found shape {shape}; leave flip out")
    if flip and fields:
        raise ValueError(
            f"{name}: flip mirrors samples, but not the fields {', '.join(fields)} that go with them; leave flip out"
        )
    if flip and gapped:
        raise ValueError(f"{name}: flip mirrors samples, but not which of their values are missing; leave flip out")


def checked_values(
    name: str, raw: object, normalise: str = "none", value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """The samples as contiguous float32 without −0.0, or as float64 if float32 cannot hold them (see `kdiff.data.precision`).

    Large images of type uint8 stay as they are if they are normalised by none or range.

    Raises TypeError if `raw` is not an array or a tensor. Raises ValueError for other types of numbers, a rank below 2, fewer
    than 10 samples, and values that are not finite.
    """
    values = to_numpy(f"{name}: the data", raw)
    if values.dtype.kind not in "iuf":
        hint = "stack the samples into one array of numbers" if values.dtype.kind == "O" else "convert them"
        raise ValueError(
            f"{name}: the data must be integers or floats (uint8, int…, float16/32/64), found {values.dtype}; {hint}"
        )
    if values.ndim < 2 or values[:1].size == 0 < len(values):
        raise ValueError(
            f"{name}: the data must have shape (N, D), (N, C, H, W) or similar, one sample per row, none empty; "
            f"found {values.shape}"
        )
    if len(values) < MIN_SAMPLES:
        raise ValueError(f"{name}: at least {MIN_SAMPLES} samples are needed for the three parts, found {len(values)}")
    if normalise in ("none", "range") and values.dtype == np.uint8 and values.ndim >= 3 and 4 * values.size > KEEP_BYTES:
        # The bytes of a sample must lie together; else reading one sample would touch the whole file.
        together = all(stride <= values.strides[0] for stride in values.strides)
        return values if together else np.ascontiguousarray(values)
    double = double_values(name, values, normalise, value_range)
    with np.errstate(over="ignore"):
        # + 0.0 turns -0.0 into 0.0: equal samples must have equal bytes.
        whole = values.dtype.kind in "iu"
        values = np.array(values, np.float32, order="C") if double is None else double
        if whole:
            return values  # finite, and without -0.0
        values += np.float32(0.0)
    finite = (np.abs(values) <= np.finfo(np.float32).max).reshape(len(values), -1)
    if not finite.all():
        raise ValueError(
            f"{name}: {(~finite).sum()} values in {(~finite.all(1)).sum()} samples are NaN, infinite or beyond float32's "
            f"range, the first in sample {int(np.argmin(finite.all(1)))}; remove or repair those samples"
        )
    return values


def checked_labels(name: str, y: object, num_classes: int | None, count: int) -> tuple[Tensor | None, int]:
    """The labels of `count` samples as int64, and the number of classes; None and 0 without labels.

    Raises TypeError if `y` is not an array or a tensor. Raises ValueError for labels that are not whole numbers, are not one
    per sample, or are out of range.
    """
    if y is None:
        if num_classes:
            raise ValueError(
                f"{name}: num_classes={num_classes} was given without labels; give y too, or leave num_classes out"
            )
        return None, 0
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"{name}: num_classes must be at least 1 for labelled data, found {num_classes}")
    labels = to_numpy(f"{name}: labels", y)
    if labels.dtype.kind not in "iu":
        how = conversion(labels) or "y.astype('int64')"
        what = "one-hot rows" if "argmax" in how else "names" if "unique" in how else "whole numbers"
        raise ValueError(f"{name}: labels must be integers, found {labels.dtype}; convert {what} with {how}")
    if labels.ndim != 1 or len(labels) != count:
        form = conversion(labels) if len(labels) == count else None
        convert = f"; convert them with {form}" if form else ""
        raise ValueError(f"{name}: labels must have shape ({count},), one per sample; found {labels.shape}{convert}")
    low, high = int(labels.min()), int(labels.max())
    if num_classes is None and high >= max(count, 1000):
        # A guess here would build an embedding table with more rows than there are samples.
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
    if num_classes is None:
        remark_on_labels(name, labels.astype(np.int64), allowed)
    return torch.from_numpy(labels.astype(np.int64)), allowed
