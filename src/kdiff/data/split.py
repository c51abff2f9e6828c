"""The three parts of a data set, by a hash of each sample, and the fingerprint of the whole data set.

h = blake2b(the raw bytes of a sample), the first 8 bytes read as a fraction of 2⁶⁴: `train` for h < 0.6, `classifier`
(for the feature classifier of the evaluation) for h < 0.8, `heldout` for the rest. The part of a sample depends on the sample
alone, not on the order, the other samples, the labels or the type on disk. Equal samples share a part, so no held-out sample
has been trained on. The bytes are those of float32, or of float64 in data that float32 cannot hold (`kdiff.data.precision`).
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


def split_and_fingerprint(name: str, values: np.ndarray, labels: Tensor | None) -> tuple[Tensor, str]:
    """The part of every sample as int8 (N,), and 16 hex digits of a hash over the values in order, their shape and the labels.

    `values` (N, *shape) are float32, float64 or uint8; uint8 is hashed as float32, one chunk at a time. Raises ValueError if a
    part would be empty.
    """
    # Hashing releases the interpreter, so the two run in parallel.
    with ThreadPoolExecutor(1) as other:
        fingerprint = other.submit(_fingerprint, values, labels)
        split = _split(name, values)
        return split, fingerprint.result()


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The values as contiguous little-endian float32, or float64 if they are float64, one chunk at a time."""
    size, dtype = rows_per_chunk(values.shape), "<f8" if values.dtype == np.float64 else "<f4"
    return (np.ascontiguousarray(values[start : start + size], dtype=dtype) for start in range(0, len(values), size))


def _split(name: str, values: np.ndarray) -> Tensor:
    hashes = [
        int.from_bytes(hashlib.blake2b(row.data).digest()[:8], "big") / 2**64
        for chunk in shown(_chunks(values), len(values), f"hashing {name}", len, "sample")
        for row in chunk
    ]
    split = np.digitize(hashes, [SHARES[0], SHARES[0] + SHARES[1]])
    counts = np.bincount(split, minlength=len(PARTS))
    if counts.min() == 0:
        found = ", ".join(f"{part} {count}" for part, count in zip(PARTS, counts))
        raise ValueError(
            f"{name}: a part of the data is empty ({found}). A hash of each sample decides its part, and equal samples share a "
            f"part: {len(set(hashes))} of the {len(values)} samples are distinct; give more distinct samples"
        )
    return torch.from_numpy(split.astype(np.int8))


def _fingerprint(values: np.ndarray, labels: Tensor | None) -> str:
    digest = hashlib.blake2b(repr((values.shape, labels is not None)).encode(), digest_size=8)
    for chunk in _chunks(values):
        digest.update(chunk.data)
    if labels is not None:
        digest.update(labels.numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()
