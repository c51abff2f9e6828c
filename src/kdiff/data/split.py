"""The three parts of a data set, by a hash of each sample, and the fingerprint of the whole data set.

h = blake2b(the raw bytes of a sample), the first 8 bytes read as a fraction of 2⁶⁴: `train` for h < 0.6, `classifier`
(for the feature classifier of the evaluation) for h < 0.8, `heldout` for the rest. The part of a sample depends on the sample
alone, not on the order, the other samples, the labels or the type on disk. Equal samples share a part, so no held-out sample
has been trained on. The bytes are those of float32, or of float64 in data that float32 cannot hold (`kdiff.data.precision`).
Overlapping windows of time are almost equal without being equal. So their groups are divided, not the samples (`split_groups`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from kdiff.data.progress import shown
from kdiff.data.samples import rows_per_chunk

PARTS = ("train", "classifier", "heldout")
SHARES = (0.6, 0.2, 0.2)


def split_and_fingerprint(
    name: str, values: np.ndarray, labels: Tensor | None, groups: np.ndarray | None = None
) -> tuple[Tensor, str]:
    """The part of every sample as int8 (N,), and 16 hex digits of a hash over the values in order, their shape and the labels.

    `values` (N, *shape) are float32, float64 or uint8; uint8 is hashed as float32, one chunk at a time. `groups` (N,)
    are those of `split_groups`, if the samples have groups. Raises ValueError if a part would be empty.
    """
    # Hashing releases the interpreter, so the two run in parallel.
    with ThreadPoolExecutor(1) as other:
        fingerprint = other.submit(_fingerprint, values, labels)
        split = _split(name, values) if groups is None else split_groups(name, groups)
        return split, fingerprint.result()


def split_groups(name: str, groups: np.ndarray) -> Tensor:
    """The part of every sample as int8 (N,), where samples of one group (a whole number) share a part.

    The groups are put in the order of a hash of their numbers, and cut where the shares of samples come closest to `SHARES`.
    Raises ValueError if a part would be empty, as with fewer than 5 groups of one size.
    """
    numbers, which, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order = sorted(
        range(len(numbers)), key=lambda i: hashlib.blake2b(int(numbers[i]).to_bytes(8, "little", signed=True)).digest()
    )
    middles = (np.cumsum(counts[order]) - counts[order] / 2) / counts.sum()
    parts = np.empty(len(numbers), np.int8)
    parts[order] = np.digitize(middles, [SHARES[0], SHARES[0] + SHARES[1]])
    if len(set(parts)) < len(PARTS):
        raise ValueError(
            f"{name}: {len(numbers)} groups of samples, the largest with {counts.max()} of {counts.sum()} samples, cannot be "
            f"divided into {', '.join(PARTS)}; expected 5 groups of like size or more; give more series, or more blocks of time"
        )
    return torch.from_numpy(parts[which.reshape(-1)])


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The values as contiguous little-endian float32, or float64 if they are float64, one chunk at a time."""
    size, dtype = rows_per_chunk(values.shape), "<f8" if values.dtype == np.float64 else "<f4"
    return (np.ascontiguousarray(values[start : start + size], dtype=dtype) for start in range(0, len(values), size))


def _split(name: str, values: np.ndarray) -> Tensor:
    chunks = shown(_chunks(values), len(values), f"hashing {name}", len, "sample")
    return parts_of(name, [hash_of(row) for chunk in chunks for row in chunk])


def hash_of(row: np.ndarray) -> float:
    """The hash of the bytes of one sample, as a fraction in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(row.data).digest()[:8], "big") / 2**64


def parts_of(name: str, hashes: list[float]) -> Tensor:
    """The part of each sample from its hash, int8 (N,). Raises ValueError if a part would be empty."""
    split = np.digitize(hashes, [SHARES[0], SHARES[0] + SHARES[1]])
    counts = np.bincount(split, minlength=len(PARTS))
    if counts.min() == 0:
        found = ", ".join(f"{part} {count}" for part, count in zip(PARTS, counts))
        raise ValueError(
            f"{name}: a part of the data is empty ({found}). A hash of each sample decides its part, and equal samples share a "
            f"part: {len(set(hashes))} of the {len(hashes)} samples are distinct; give more distinct samples"
        )
    return torch.from_numpy(split.astype(np.int8))


def _fingerprint(values: np.ndarray, labels: Tensor | None) -> str:
    digest = Fingerprint(values.shape, labels)
    for chunk in _chunks(values):
        digest.update(chunk)
    return digest.hexdigest()


class Fingerprint:
    """The fingerprint of samples that come in chunks, as contiguous little-endian float32 or float64."""

    def __init__(self, shape: tuple[int, ...], labels: Tensor | None) -> None:
        self.labels = labels
        self.digest = hashlib.blake2b(repr((tuple(shape), labels is not None)).encode(), digest_size=8)

    def update(self, chunk: np.ndarray) -> None:
        """Add the next samples."""
        self.digest.update(chunk.data)

    def hexdigest(self) -> str:
        """16 hex digits, once all samples were added."""
        if self.labels is not None:
            self.digest.update(self.labels.numpy().astype("<i8", copy=False).data)
        return self.digest.hexdigest()
