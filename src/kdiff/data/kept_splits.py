"""Split and fingerprint of large data, which are computed once and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.samples import ImageSamples, summarise
from kdiff.data.split import SHARES, split_and_fingerprint
from kdiff.files import cache

KEPT_BYTES = 2**26  # of larger data with an identity, split and fingerprint are kept in the cache


def hashes_of_images(
    name: str, x: ImageSamples, labels: Tensor | None, identity: object, groups: np.ndarray | None
) -> tuple[Tensor, str, Mapping[str, float]]:
    """Split, fingerprint, and statistics of the training part, from the cache or computed now."""

    def work() -> dict[str, Any]:
        split, fingerprint = split_and_fingerprint(name, x.raw, labels, groups)
        return {"split": as_digits(split), "fingerprint": fingerprint, "statistics": summarise(x.select(split == 0))}

    facts = identity, SHARES, digest_of(labels), x.shape, x.normalisation.describe(), *_of_groups(groups)
    kept = work() if identity is None else cache.json_of(cache.entry("hashes", *facts).with_suffix(".json"), work)
    return from_digits(kept["split"]), kept["fingerprint"], kept["statistics"]


def kept_split(
    name: str, values: np.ndarray, labels: Tensor | None, identity: object, groups: np.ndarray | None
) -> tuple[Tensor, str]:
    """Split and fingerprint; those of large data with an identity come from the cache, or are computed now and kept there."""
    if identity is None or values.nbytes <= KEPT_BYTES:
        return split_and_fingerprint(name, values, labels, groups)

    def work() -> dict[str, str]:
        split, fingerprint = split_and_fingerprint(name, values, labels, groups)
        return {"split": as_digits(split), "fingerprint": fingerprint}

    facts = identity, SHARES, digest_of(labels), values.shape, str(values.dtype), *_of_groups(groups)
    kept = cache.json_of(cache.entry("splits", *facts).with_suffix(".json"), work)
    return from_digits(kept["split"]), kept["fingerprint"]


def digest_of(labels: Tensor | None) -> str | None:
    """A hash of whole numbers (N,); None for None."""
    return None if labels is None else hashlib.blake2b(labels.numpy().tobytes()).hexdigest()


def _of_groups(groups: np.ndarray | None) -> tuple[str, ...]:
    return () if groups is None else (digest_of(torch.from_numpy(np.asarray(groups, np.int64))) or "",)


def as_digits(split: Tensor) -> str:
    """The parts of all samples as text, a digit for each."""
    return "".join(map(str, split.tolist()))


def from_digits(digits: str) -> Tensor:
    """The parts that `as_digits` wrote, int8 (N,)."""
    return torch.from_numpy(np.frombuffer(digits.encode(), np.int8) - np.int8(ord("0")))
