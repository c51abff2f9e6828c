"""The axes of a TIFF file, by their letters: which one counts the samples, and how the others are ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHANNEL, PLANE = "CS", "YX"


@dataclass(frozen=True)
class Layout:
    """How the axes of a series become those of samples.

    - `sample`: the axis of the samples, or None if the whole series is one sample.
    - `order`: the other axes in the order of a sample: channels, depth, rows, columns.
    - `single`: whether an axis of one channel is added.
    """

    sample: int | None
    order: tuple[int, ...]
    single: bool

    def apply(self, values: np.ndarray) -> np.ndarray:
        """A view of values in the order of the file as (N, *shape), or as (*shape) without an axis of samples."""
        first = () if self.sample is None else (self.sample,)
        values = values.transpose(*first, *self.order)
        return np.expand_dims(values, len(first)) if self.single else values


def layout_of(path: Path, axes: str, shape: Sequence[int], sample_axis: str | int | None) -> tuple[Layout, list[str]]:
    """How the axes are used, and what of this is a guess."""
    found = f"{path}: the axes are {axes!r} of shape {tuple(shape)}"
    free = [i for i, letter in enumerate(axes) if letter not in CHANNEL + PLANE and shape[i] > 1]
    remarks = []
    if isinstance(sample_axis, str):
        places = [i for i, letter in enumerate(axes) if letter == sample_axis.upper()]
        if len(places) != 1:
            raise ValueError(f"{found}; sample_axis={sample_axis!r} names {len(places)} of them, so give a letter, or a number")
        sample = places[0]
    elif sample_axis is not None:
        if not -len(axes) <= sample_axis < len(axes):
            raise ValueError(f"{found}; sample_axis={sample_axis} is none of them, so give 0 … {len(axes) - 1}, or a letter")
        sample = sample_axis % len(axes)
    elif len(free) > 1:
        choices = ", or ".join(f"sample_axis={axes[i]!r}" if axes.count(axes[i]) == 1 else f"sample_axis={i}" for i in free)
        raise ValueError(f"{found}, and the samples may lie along any of {len(free)} axes; give {choices}")
    elif not free:
        raise ValueError(
            f"{found}: it is one image, and a data set has many; name a folder of images, or give sample_axis=LETTER"
        )
    else:
        sample = free[0]
        if axes[sample] == "Z":
            remarks.append(
                f"{path}: each page along Z is a sample; if the file is one volume, put it into a folder of volumes, and "
                "name the folder"
            )
    if axes[sample] in PLANE:
        raise ValueError(f"{found}; the axis {axes[sample]} is inside an image, so the samples must lie along another one")
    return order_of(path, axes, shape, sample, remarks), remarks


def order_of(path: Path, axes: str, shape: Sequence[int], sample: int | None, remarks: list[str]) -> Layout:
    """The layout, once it is known which axis counts the samples; `remarks` gets what is assumed."""
    rest = [i for i, letter in enumerate(axes) if i != sample and letter not in PLANE]
    depth = [i for i in rest if axes[i] == "Z"]
    channels = [i for i in rest if axes[i] != "Z"]
    if len(channels) > 1 or len(depth) > 1:
        raise ValueError(
            f"{path}: the axes are {axes!r} of shape {tuple(shape)}; a sample has rows, columns, at most one depth Z and one "
            "axis of channels, so save the file with fewer axes"
        )
    if channels and axes[channels[0]] not in CHANNEL:
        remarks.append(f"{path}: the axis {axes[channels[0]]} of {shape[channels[0]]} is taken as channels")
    return Layout(sample, (*channels, *depth, axes.index("Y"), axes.index("X")), not channels)
