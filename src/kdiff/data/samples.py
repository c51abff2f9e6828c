"""Samples that are normalised when they are read: x = (raw − shift) / scale of the rows of an array on disk.

Images of type uint8 take a quarter of the memory of float32, and an array that is mapped from a file takes none. The parts of
a data set are lists of rows, and only one batch at a time becomes float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import Normalisation
from kdiff.data.progress import shown

CHUNK_BYTES = 2**25  # of float32, when code goes through all samples


class LazySamples(ABC):
    """Samples (N, *shape) on disk, read like a tensor: `len`, `shape`, `ndim`, `min`, `max`, `split`, and `x[rows]`.

    `x[rows]` takes a whole number, a slice, or a tensor of row numbers or of bool (N,). `x[:]` reads all samples, which may not
    fit into memory; `select` takes rows without reading them.

    `stored` is the shape of the whole array on disk; `rows` are the rows of this array that belong to these samples, all by
    default.
    """

    def __init__(self, stored: tuple[int, ...], normalisation: Normalisation, rows: np.ndarray | None) -> None:
        self.stored, self.normalisation, self.rows = stored, normalisation, rows
        self._shift, self._scale = normalisation.shift.numpy(), normalisation.scale.numpy()

    def __len__(self) -> int:
        return self.stored[0] if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a sample)."""
        return (len(self), *self.stored[1:])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.stored)

    @abstractmethod
    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        """These samples, float32 and normalised."""

    @abstractmethod
    def select(self, rows: Tensor) -> LazySamples:
        """These rows (numbers or bool (N,)), not read yet."""

    def ahead(self, rows: Tensor) -> None:  # noqa: B027
        """Begin to read these rows, which are asked for next. Samples that draw random numbers do nothing here."""

    def _chosen(self, rows: Tensor) -> np.ndarray:
        """The rows on disk of these samples (numbers or bool (N,))."""
        chosen = rows.cpu().numpy()
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return numbers if self.rows is None else self.rows[numbers]

    def _normalised(self, x: np.ndarray) -> Tensor:
        """`Normalisation.apply` in place, in memory from NumPy: its large pages make this several times as fast."""
        x -= self._shift
        x /= self._scale
        return torch.from_numpy(x)

    def split(self, size: int) -> Iterator[Tensor]:
        """All samples in order, as tensors of up to `size` of them."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def min(self) -> Tensor:
        """The smallest value."""
        return torch.stack([chunk.min() for chunk in self.chunks()]).min()

    def max(self) -> Tensor:
        """The largest value."""
        return torch.stack([chunk.max() for chunk in self.chunks()]).max()

    def chunks(self) -> Iterator[Tensor]:
        """All samples in order, in chunks that take little memory."""
        return self.split(rows_per_chunk(self.stored))


class ImageSamples(LazySamples):
    """Images (N, C, H, W) of type uint8 in an array, which may be mapped from a file.

    `x[rows]` is bit for bit the same as these rows of a normalised tensor. With `flip`, every image that is read is mirrored
    left to right with probability ½, drawn from torch's global generator.
    """

    def __init__(
        self, raw: np.ndarray, normalisation: Normalisation, rows: np.ndarray | None = None, flip: bool = False
    ) -> None:
        super().__init__(raw.shape, normalisation, rows)
        self.raw, self.flip = raw, flip

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        chosen = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        raw = np.ascontiguousarray(self.raw[chosen if self.rows is None else self.rows[chosen]])
        if self.flip:
            raw = raw.copy()
            images = raw.reshape(-1, *self.raw.shape[1:])
            mirrored = (torch.rand(len(images)) < 0.5).numpy()
            images[mirrored] = images[mirrored][..., ::-1]
        return self._normalised(raw.astype(np.float32))

    def select(self, rows: Tensor, flip: bool = False) -> ImageSamples:
        """These rows (numbers or bool (N,)), not read yet; with `flip`, they are mirrored at random when they are read."""
        return ImageSamples(self.raw, self.normalisation, self._chosen(rows), flip)


Samples = Tensor | LazySamples


def rows_of(samples: Samples, rows: Tensor) -> Samples:
    """These rows (numbers or bool (N,)): of a tensor, or not read yet."""
    return samples[rows] if isinstance(samples, Tensor) else samples.select(rows)


def rows_per_chunk(shape: tuple[int, ...]) -> int:
    """How many samples of shape (N, *shape) a chunk holds, so that it takes little memory."""
    return max(1, CHUNK_BYTES // (4 * max(1, math.prod(shape[1:]))))


def summarise(samples: Samples) -> dict[str, float]:
    """min, max, mean, std over all entries, and total_variance (tr Σ, summed over the entries of a sample).

    Means and variances are those of the population, in float64. `LazySamples` are read one chunk at a time, and the moments are
    merged: n = n₁ + n₂, δ = m₂ − m₁, m = m₁ + δ n₂/n, S = S₁ + S₂ + δ² n₁ n₂/n (Chan, Golub and LeVeque, 1983).
    """
    if isinstance(samples, Tensor):
        flat = samples.double().flatten(1)
        low, high, mean, std = flat.min(), flat.max(), flat.mean(), flat.std(correction=0)
        total = flat.var(dim=0, correction=0).sum()
    else:
        count, means, squares = 0, torch.zeros(()), torch.zeros(())
        extremes = []
        for chunk in shown(samples.chunks(), len(samples), "mean and variance", len, "sample"):
            flat = chunk.flatten(1).double()
            extremes += [flat.min(), flat.max()]
            variance, mean = torch.var_mean(flat, dim=0, correction=0)
            difference, more = mean - means, len(flat)
            squares = squares + variance * more + difference**2 * (count * more / (count + more))
            means = means + difference * (more / (count + more))
            count += more
        low, high = torch.stack(extremes).min(), torch.stack(extremes).max()
        mean, total = means.mean(), squares.sum() / count
        std = (squares.mean() / count + means.var(correction=0)).sqrt()
    return {"min": float(low), "max": float(high), "mean": float(mean), "std": float(std), "total_variance": float(total)}


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are images: one or three channels of at least 4×4 pixels."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4
