"""Sources made of other sources: variables stacked as channels, several files, chosen rows, and slabs of a stored array.

Stacked        (N, *grid), (N, c, *grid), …    →   (N, channels, *grid)
Concatenated   (N₁, *shape), (N₂, *shape), …   →   (N₁ + N₂ + …, *shape)
Picked         (N, *shape) and row numbers     →   (len(row numbers), *shape)
Stored         an array on disk, whose axis of samples may be any one, or two that are counted together
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdiff.data.opened import Source


class Stored(Source):
    """An array on disk that is read in slabs, with the axes of the samples first.

    `full` is the shape on disk, and `chunks` that of a chunk, or None. `axes` are one or two axes of it. With two of
    sizes R and T, row r·T + t is entry r of the first and t of the second. With `reverse`, the other axes are reversed.
    Rows of one chunk, and neighbours, are read together. Complex numbers become two channels, real and imaginary part.
    """

    def __init__(
        self,
        name: str,
        full: Sequence[int],
        dtype: np.dtype[Any],
        chunks: Sequence[int] | None,
        axes: Sequence[int],
        reverse: bool = False,
        identity: object = None,
    ) -> None:
        self.name, self.full, self.axes, self.identity = name, tuple(full), tuple(axes), identity
        rest = [axis for axis in range(len(full)) if axis not in self.axes]
        self._rest = rest[::-1] if reverse else rest
        self._complex = dtype.kind == "c"
        self._sizes = tuple(self.full[axis] for axis in self.axes)
        self._chunks = tuple(1 if chunks is None else max(1, chunks[axis]) for axis in self.axes)
        parts = (2,) if self._complex else ()
        self.shape = (math.prod(self._sizes), *parts, *(self.full[axis] for axis in self._rest))
        plain = np.dtype(f"f{dtype.itemsize // 2}") if self._complex else dtype
        self.dtype = plain.newbyteorder("=")
        self.block = self._block()

    def _block(self) -> int:
        """Rows that lie together in a chunk; 1 if the chunks do not divide the rows of two axes evenly."""
        if len(self.axes) == 1:
            return max(1, min(self._chunks[0], len(self)))
        (outer, inner), length = self._chunks, self._sizes[1]
        if inner >= length:
            return outer * length
        return inner if length % inner == 0 else 1

    @abstractmethod
    def slab(self, selection: tuple[slice, ...]) -> np.ndarray:
        """A part of the array on disk, by one slice of step 1 for each axis."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows. A chunk is read once, and rows that are asked for twice are read once."""
        wanted, back = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for first, last, outer, inner in self._runs(wanted):
            selection = [slice(None)] * len(self.full)
            selection[self.axes[-1]] = slice(int(inner[0]), int(inner[-1]) + 1)
            if len(self.axes) == 2:
                selection[self.axes[0]] = slice(int(outer), int(outer) + 1)
            values = np.transpose(np.asarray(self.slab(tuple(selection))), (*self.axes, *self._rest))
            values = (values[0] if len(self.axes) == 2 else values)[inner - inner[0]]
            found[first:last] = np.stack((values.real, values.imag), 1) if self._complex else values
        return found[back]

    def _runs(self, wanted: np.ndarray) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """The rows in order, cut where a gap of more than a chunk follows or the first of two axes changes."""
        if not len(wanted):
            return
        outer, inner = np.divmod(wanted, self._sizes[-1]) if len(self.axes) == 2 else (np.zeros_like(wanted), wanted)
        size = self._chunks[-1]
        apart = (np.diff(inner) > 1) & (inner[1:] // size != inner[:-1] // size)
        cuts = [0, *(np.flatnonzero(apart | (np.diff(outer) > 0)) + 1), len(wanted)]
        for first, last in zip(cuts, cuts[1:]):
            yield int(first), int(last), int(outer[first]), inner[first:last]


class Stacked(Source):
    """Several variables as the channels of one sample.

    Their samples have the same grid; (N, c, *grid) gives c channels and (N, *grid) one, where the highest rank among the
    variables says which. Variables that all have the same shape become one channel each, unless `channels` says that their
    first axis counts channels already. The type is the smallest that holds all of them.
    Raises ValueError for other numbers of samples or other grids.
    """

    def __init__(self, name: str, sources: Sequence[Source], channels: bool = False, identity: object = None) -> None:
        shapes = ", ".join(f"{one.name} {one.shape}" for one in sources)
        if len({len(one) for one in sources}) != 1:
            raise ValueError(f"{name}: stacked variables need the same number of samples; found {shapes}")
        ranks = {len(one.shape) for one in sources}
        self._wide = max(ranks) if len(ranks) > 1 or channels else max(ranks) + 1
        grids = {one.shape[2:] if len(one.shape) == self._wide else one.shape[1:] for one in sources}
        if len(grids) != 1 or min(ranks) < self._wide - 1:
            raise ValueError(f"{name}: variables are stacked as channels, so their grids must be the same; found {shapes}")
        self.name, self.sources, self.identity = name, list(sources), identity
        self.counts = [one.shape[1] if len(one.shape) == self._wide else 1 for one in sources]
        self.shape = (len(sources[0]), sum(self.counts), *grids.pop())
        self.dtype = np.result_type(*(one.dtype for one in sources))
        self.block = math.lcm(*(one.block for one in sources))
        if self.block > 64 * max(one.block for one in sources):
            self.block = max(one.block for one in sources)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, with the channels in the order of the variables."""
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        first = 0
        for source, count in zip(self.sources, self.counts):
            found = source.read(rows)
            values[:, first : first + count] = found if found.ndim == self._wide else found[:, None]
            first += count
        return values


class Concatenated(Source):
    """The rows of several sources, one source after another. Raises ValueError if their shapes or types differ."""

    def __init__(self, name: str, sources: Sequence[Source], identity: object = None) -> None:
        first = sources[0]
        for other in sources[1:]:
            if other.shape[1:] != first.shape[1:] or other.dtype != first.dtype:
                raise ValueError(
                    f"{name}: {other.name} has samples of shape {other.shape[1:]} and type {other.dtype}, and {first.name} of "
                    f"shape {first.shape[1:]} and type {first.dtype}; expected the same in all files"
                )
        self.name, self.sources, self.dtype = name, list(sources), first.dtype
        self.starts = np.cumsum([0, *(len(one) for one in sources)])
        self.shape = (int(self.starts[-1]), *first.shape[1:])
        blocks = {one.block for one in sources}
        whole = len(blocks) == 1 and all(len(one) % one.block == 0 for one in sources[:-1])
        self.block = blocks.pop() if whole else 1
        self.identity = identity if identity is not None else tuple(one.identity for one in sources)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows; each source is asked once."""
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(which):
            mine = which == number
            values[mine] = self.sources[number].read(np.asarray(rows)[mine] - self.starts[number])
        return values


class Picked(Source):
    """Rows of another source, by their numbers: row i is row number `numbers[i]` of the source."""

    def __init__(self, name: str, source: Source, numbers: np.ndarray) -> None:
        self.name, self.source, self.numbers = name, source, np.asarray(numbers, np.int64)
        self.shape, self.dtype = (len(self.numbers), *source.shape[1:]), source.dtype
        self.identity = source.identity

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows of the other source."""
        return self.source.read(self.numbers[rows])
