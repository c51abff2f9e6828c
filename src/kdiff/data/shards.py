"""Latents in shards: safetensors files that are mapped into memory and read by row as if they were one array.

    shard_00000.safetensors   mean, std, mean_flipped, std_flipped (n, C, h, w); y, split (n,)

The posterior of an image is N(mean, diag(std²)). mean_flipped is the mean of the image mirrored left to right, because an
encoder need not commute with mirroring. All tensors except `mean` and `split` may be absent. A safetensors file is eight bytes
with the length of a header, the header (JSON: type, shape and place of each tensor), and the bytes of the tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import Normalisation
from kdiff.data.samples import LazySamples

TYPES = {"F16": "<f2", "F32": "<f4", "I64": "<i8", "I8": "|i1"}


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, mapped into memory and not read yet.

    Raises ValueError for a file that is cut short, damaged, or has tensors of types that shards do not have; OSError if it
    cannot be opened.
    """
    try:
        raw = np.memmap(path, np.uint8, mode="r")
        (length,) = struct.unpack("<Q", raw[:8].tobytes())
        header = json.loads(raw[8 : 8 + length].tobytes())
        return {
            name: raw[8 + length :][slice(*facts["data_offsets"])].view(TYPES[facts["dtype"]]).reshape(facts["shape"])
            for name, facts in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{path} is cut short or damaged: it cannot be read as safetensors ({error})") from None


class Sharded:
    """Arrays (n, *shape) that are read like one; all have the same length, except that the last may be shorter."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts, self.size = parts, len(parts[0])
        self.shape: tuple[int, ...] = (sum(map(len, parts)), *parts[0].shape[1:])

    def read(self, out: np.ndarray, rows: np.ndarray, at: np.ndarray) -> None:
        """Write the rows with these numbers into out[at], in the type of out; rows and at: (n,), not negative.

        It reads one row at a time from the file, because random rows have few neighbours. Raises IndexError for a missing row.
        """
        shards, places = np.divmod(rows, self.size)
        for place, shard, row in zip(at.tolist(), shards.tolist(), places.tolist()):
            out[place] = self.parts[shard][row]


class LatentSamples(LazySamples):
    """Latents (N, C, h, w) in shards: the means of the posteriors, or, with `augment`, what training reads.

    With `augment` and `flip`, a latent is that of the mirrored image with probability ½. With `augment` and `posterior`, it is
    mean + std · noise. Both are drawn again at every read, from the number of the row and a number from torch's global
    generator, which the training loop seeds for every step. So they do not depend on the place of a row in the batch.
    """

    def __init__(
        self,
        tensors: Mapping[str, Sharded],
        normalisation: Normalisation,
        rows: np.ndarray | None = None,
        flip: bool = False,
        posterior: bool = False,
        augment: bool = False,
    ) -> None:
        super().__init__(tensors["mean"].shape, normalisation, rows)
        self.tensors, self.flip, self.posterior, self.augment = tensors, flip, posterior, augment

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        numbers = self._numbers(rows)
        flat = np.atleast_1d(numbers)
        if self.augment and (self.flip or self.posterior):
            x = self._drawn(flat)
        else:
            x = self._read("mean", flat, np.zeros(len(flat), bool))
        normalised = self._normalised(x)
        return normalised[0] if numbers.ndim == 0 else normalised

    def _read(self, kind: str, numbers: np.ndarray, flipped: np.ndarray) -> np.ndarray:
        """The mean or std of these rows (n,), of the mirrored images where `flipped` (n,) is true."""
        out = np.empty((len(numbers), *self.stored[1:]), np.float32)
        for name, which in ((kind, ~flipped), (f"{kind}_flipped", flipped)):
            if which.any():
                self.tensors[name].read(out, numbers[which], np.flatnonzero(which))
        return out

    def _numbers(self, rows: int | slice | Tensor) -> np.ndarray:
        """The rows on disk: shape (n,), or () for a whole number."""
        count = len(self)
        if isinstance(rows, slice):
            numbers = np.arange(*rows.indices(count))
        else:
            numbers = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
            numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers
            if numbers.size and not (-count <= numbers.min() and numbers.max() < count):
                raise IndexError(f"rows run from {numbers.min()} to {numbers.max()}, but there are {count}")
            numbers = np.where(numbers < 0, numbers + count, numbers)
        return numbers if self.rows is None else np.asarray(self.rows[numbers])

    def _drawn(self, numbers: np.ndarray) -> np.ndarray:
        """The latents that training reads for these rows."""
        seed = int(torch.randint(2**62, ()))
        generators = [np.random.default_rng((seed, number)) for number in numbers.tolist()]
        flipped = np.array([generator.random() < 0.5 for generator in generators], bool) & self.flip
        x = self._read("mean", numbers, flipped)
        if self.posterior:
            noise = np.empty(self.stored[1:], np.float32)
            for latent, deviation, generator in zip(x, self._read("std", numbers, flipped), generators):
                generator.standard_normal(out=noise, dtype=np.float32)
                noise *= deviation
                latent += noise
        return x

    def select(self, rows: Tensor, augment: bool = False) -> LatentSamples:
        """These rows (numbers or bool (N,)), not read yet; with `augment`, as training reads them."""
        return LatentSamples(self.tensors, self.normalisation, self._chosen(rows), self.flip, self.posterior, augment)
