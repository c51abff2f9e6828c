"""Rows of a source as samples: read from disk when they are asked for, or ahead of that in a thread, and normalised then."""

from __future__ import annotations

import os
from abc import abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.gapped import Gapped
from kdiff.data.normalisation import Normalisation
from kdiff.data.opened import Source
from kdiff.data.samples import LazySamples


class RowSamples(LazySamples):
    """Samples that are read by rows in the order of the file; the rows of the next batch can be read in a thread meanwhile."""

    def __init__(self, stored: tuple[int, ...], normalisation: Normalisation, rows: np.ndarray | None) -> None:
        super().__init__(stored, normalisation, rows)
        self._pending: tuple[bytes, Future[np.ndarray]] | None = None
        self._thread: tuple[int, ThreadPoolExecutor] | None = None

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        numbers = self._numbers(rows)
        flat = np.atleast_1d(numbers)
        pending, self._pending = self._pending, None
        x = self._made(pending[1].result() if pending and pending[0] == flat.tobytes() else self._read(flat))
        return x[0] if numbers.ndim == 0 else x

    def ahead(self, rows: Tensor) -> None:
        """Begin to read these rows in a thread."""
        flat = np.atleast_1d(self._numbers(rows))
        if self._thread is None or self._thread[0] != os.getpid():  # a thread does not survive a fork
            self._thread = os.getpid(), ThreadPoolExecutor(1, "kdiff-reader")
        self._pending = flat.tobytes(), self._thread[1].submit(self._read, flat)

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
        return np.asarray(numbers if self.rows is None else self.rows[numbers], np.int64)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """The rows in the order that is asked for; they are read in the order of the file."""
        order = np.argsort(numbers, kind="stable")
        return self._of(numbers[order], order)

    @abstractmethod
    def _of(self, numbers: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The rows with these sorted numbers; row i goes to place `order[i]`."""

    @abstractmethod
    def _made(self, values: np.ndarray) -> Tensor:
        """What these values become."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pending": None, "_thread": None}


class SourceSamples(RowSamples):
    """Samples of a source, float32 and normalised when they are read; `x[rows]` is the same as in memory.

    `gapped` is given for samples with missing entries, which are 0. With `flip`, every sample that is read is mirrored left to
    right with probability ½, drawn from torch's global generator.
    """

    def __init__(
        self,
        source: Source,
        normalisation: Normalisation,
        rows: np.ndarray | None = None,
        gapped: Gapped | None = None,
        flip: bool = False,
    ) -> None:
        super().__init__(source.shape, normalisation, rows)
        self.source, self.gapped, self.flip = source, gapped, flip

    def select(self, rows: Tensor, flip: bool = False) -> SourceSamples:
        """These rows (numbers or bool (N,)), not read yet; with `flip`, they are mirrored at random when they are read."""
        return SourceSamples(self.source, self.normalisation, self._chosen(rows), self.gapped, flip)

    def _of(self, numbers: np.ndarray, order: np.ndarray) -> np.ndarray:
        raw, present = (self.source.read(numbers), None) if self.gapped is None else self.gapped.read(numbers)
        values = np.empty(raw.shape, np.float64 if self.normalisation.double else np.float32)
        values[order] = raw if present is None else np.where(present, raw, np.nan)
        values += 0.0
        return values

    def _made(self, values: np.ndarray) -> Tensor:
        x = self._normalised(values).float()
        if self.gapped is not None:
            x.nan_to_num_(0.0)
        if self.flip:
            mirrored = torch.rand(len(x)) < 0.5
            x[mirrored] = x[mirrored].flip(-1)
        return x


class PresentSamples(RowSamples):
    """Which entries of samples are present, bool (N, *shape)."""

    def __init__(self, gapped: Gapped, rows: np.ndarray | None = None) -> None:
        super().__init__(gapped.source.shape, Normalisation.none(), rows)
        self.gapped = gapped

    def select(self, rows: Tensor) -> PresentSamples:
        """These rows (numbers or bool (N,)), not read yet."""
        return PresentSamples(self.gapped, self._chosen(rows))

    def _of(self, numbers: np.ndarray, order: np.ndarray) -> np.ndarray:
        found = self.gapped.read(numbers)[1]
        values = np.empty_like(found)
        values[order] = found
        return values

    def _made(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values)
