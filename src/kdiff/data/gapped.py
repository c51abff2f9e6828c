"""Samples on disk with missing values: entries that are NaN, or that a mask marks. A batch and its mask are read together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdiff.data.opened import Source

KEPT, KEPT_BYTES = 2, 2**27  # how many batches of up to this size are kept: the present one and the next


class Gapped:
    """Rows of samples, and which of their entries are present. `mask` has the shape of the samples; 0 is missing.

    Raises ValueError for a mask of another shape.
    """

    def __init__(self, source: Source, mask: Source | None = None) -> None:
        if mask is not None and mask.shape != source.shape:
            raise ValueError(f"{source.name}: the mask has shape {mask.shape}; expected that of the samples, {source.shape}")
        self.source, self.mask = source, mask
        self._last: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self._process, self._lock = os.getpid(), threading.Lock()

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """These rows, and which of their entries are present. The arrays may be shared, so do not write into them."""
        key = rows.tobytes()
        if self._process != os.getpid():  # a thread of the process before the fork may hold the lock
            self._process, self._lock, self._last = os.getpid(), threading.Lock(), {}
        with self._lock:
            if key not in self._last:
                raw = self.source.read(rows)
                found = raw, self._present(raw, rows)
                if raw.nbytes > KEPT_BYTES:
                    return found
                self._last[key] = found
                while len(self._last) > KEPT:
                    self._last.pop(next(iter(self._last)))
            return self._last[key]

    def _present(self, raw: np.ndarray, rows: np.ndarray) -> np.ndarray:
        present = ~np.isnan(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, bool)
        if self.mask is not None:
            present &= self.mask.read(rows).astype(bool)
        return present

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """All rows in order, in chunks, with which entries are present; None if all of a chunk are."""
        start = 0
        for raw in self.source.chunks():
            if self.mask is None and raw.dtype.kind != "f":
                yield raw, None
            else:
                present = self._present(raw, np.arange(start, start + len(raw)))
                yield raw, None if present.all() else present
            start += len(raw)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}, "_process": -1, "_lock": None}


class Presence(Source):
    """Which entries are present, as numbers 1 and 0."""

    dtype = np.dtype(np.float32)

    def __init__(self, gapped: Gapped) -> None:
        source, mask = gapped.source, gapped.mask
        self.gapped, self.name, self.shape, self.block = gapped, f"{source.name}: present", source.shape, source.block
        known = source.identity is not None and (mask is None or mask.identity is not None)
        self.identity = ("present", source.identity, None if mask is None else mask.identity) if known else None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, in a new array."""
        return self.gapped.read(np.asarray(rows, np.int64))[1].astype(np.float32)
