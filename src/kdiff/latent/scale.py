"""The numbers with which the authors of an autoencoder scale its latents z for training.

    (z − shift_factor) · scaling_factor
    (z − latents_mean) · scaling_factor / latents_std      if there are these two, as for Playground v2.5, Qwen-Image and Wan

`latents_mean` and `latents_std` hold a number for each channel. `kdiff.latent.kinds` says where the numbers of a class stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def describe_scale(numbers: Mapping[str, Any], channels: int, source: str) -> dict[str, Any]:
    """`scaling` (None if it is not known) and `shift`; and, if there are these numbers, `mean` and `std`.

    Args:
        numbers: scaling_factor, shift_factor, latents_mean and latents_std.
        channels: the number of channels of the latents.
        source: the name of the autoencoder in messages.

    Raises:
        ValueError: a number is not finite or not positive, or the numbers do not fit each other.
    """
    scaling, shift = numbers["scaling_factor"], numbers["shift_factor"]
    mean, std = numbers["latents_mean"], numbers["latents_std"]
    if scaling is not None and not _positive(scaling):
        raise ValueError(f"the autoencoder {source} has the scaling_factor {scaling!r}; expected a positive number")
    if shift is not None and not _is_number(shift):
        raise ValueError(f"the autoencoder {source} has the shift_factor {shift!r}; expected a number")
    facts = {"scaling": None if scaling is None else float(scaling), "shift": float(shift or 0.0)}
    if mean is None and std is None:
        return facts
    if not (_all(_is_number, mean) and _all(_positive, std) and len(mean) == len(std) == channels):
        raise ValueError(
            f"the autoencoder {source} has latents_mean={mean!r} and latents_std={std!r}; expected {channels} numbers each, "
            "one for each channel of its latents, and those of latents_std positive"
        )
    if shift:
        raise ValueError(
            f"the autoencoder {source} has the shift_factor {shift} and latents_mean; expected one of the two, because no rule "
            "uses both. Set the other to null in its config.json"
        )
    return {**facts, "mean": [*map(float, mean)], "std": [*map(float, std)]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _all(kind: Any, values: Any) -> bool:
    return isinstance(values, list | tuple) and all(map(kind, values))
