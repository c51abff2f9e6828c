"""What a reader of a file format gives to the rest of kdiff: arrays that are read by rows, and what each of them is for.

A `Source` is one array (N, *shape) on disk. It knows its shape and type before anything is read, reads any rows, and says
which rows are stored together. `Opened` has the source of the samples, and those of labels, conditions and the mask, with the
facts of the file. Each format of `kdiff.data.formats` is one function that returns an `Opened`. Nothing else in kdiff knows a
format.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CHUNK_BYTES = 2**25  # of raw values, when code goes through all rows


class Source(ABC):
    """An array (N, *shape) that is read by rows.

    - `name`: how messages call it, such as "sim.h5: fields".
    - `shape`: (N, *shape of a sample).
    - `dtype`: the type of the rows that `read` returns, in the byte order of the machine.
    - `block`: how many rows are stored together, such as those of a chunk; reading one of them costs as much as reading all.
    - `decoded`: whether rows are image files, which take long to decode.
    - `identity`: a value whose `repr` differs for different contents (path, size, time of the last change, options); None if
      nothing is known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block: int = 1
    decoded: bool = False
    identity: object = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, (n, *shape), in a new array. rows: int64 (n,), in any order, also repeated, 0 ≤ row < N."""

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows in order, in chunks of whole blocks that take little memory."""
        row = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        size = max(1, CHUNK_BYTES // row // self.block) * self.block
        for start in range(0, len(self), size):
            yield self.read(np.arange(start, min(start + size, len(self))))


def everything(source: Source) -> np.ndarray:
    """All rows of a source, in memory."""
    parts = list(source.chunks())
    return np.concatenate(parts) if parts else np.empty(source.shape, source.dtype)


class Array(Source):
    """An array in memory, or one that NumPy has mapped from a file."""

    def __init__(self, name: str, values: np.ndarray, identity: object = None) -> None:
        self.name, self.values, self.identity = name, values, identity
        self.shape, self.dtype = tuple(values.shape), values.dtype.newbyteorder("=")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, copied."""
        return np.asarray(self.values[rows], dtype=self.dtype)


@dataclass
class Opened:
    """The sources of a data set, and the facts of its file.

    - `x`: the samples.
    - `y`: integer labels (N,), or None. Names of classes, if the file has them, are in `classes`, by label.
    - `conditions`: further conditions by name, (N, ...) each. `kinds` has the kind of a condition where its shape and type do
      not say it (`kdiff.config.condition_spec`).
    - `mask`: which entries are present, bool (N, *shape), or None if only NaN and the fill values of the format, which `x`
      returns as NaN, are missing.
    - `groups`: a whole number for each sample, (N,), or None. Samples of one number share a part (`kdiff.data.windows`).
    - `value_range`: the two values that mean black and white, for images.
    - `about`: further facts for the description of the data (units, names of channels, coordinates, …).
    - `remarks`: what was left out, cast or assumed: one line each, with what to type.
    """

    x: Source
    y: Source | None = None
    classes: list[str] | None = None
    conditions: Mapping[str, Source] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    mask: Source | None = None
    value_range: tuple[float, float] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    groups: Source | None = None
