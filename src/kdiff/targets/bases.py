"""Orthonormal bases c = Bᵀ x of samples, in which a target or a correction may have one number for each direction.

    principal    the principal components of whole samples (D ≤ 4096)
    patch        the principal components of patches that do not overlap, all channels together; the same for every patch
    dct          the cosines M_kj = √(2/N) cos(π k (2j + 1)/(2N)), with M_0j = √(1/N), for every axis but the channels; any size
    channels     the entries themselves, with one number for each channel; for vectors, for each entry
    random       a random basis, drawn from a seed (D ≤ 4096): a control

The variance of the data along a direction is λ_i = (Bᵀ Σ B)_ii, with the covariance Σ of the data. Directions that share one
number, such as the same component of all patches, have the mean of their variances. `patch` with size 1 has the principal
components of the channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import chain

import torch
from torch import Tensor

from kdiff.path import full_precision
from kdiff.targets.float32 import Float32Module
from kdiff.targets.scatter import MAX_DENSE, MakeMoments, MakeSamples, components, scatter

MAX_PATCH = 8  # the largest default side of a patch


class Basis(Float32Module, ABC):
    """An orthonormal basis of samples of one shape: turn_back(turn(x)) = x, and turn keeps lengths.

    Both run in float32 or better, also under autocast. All that is made from data or a seed is kept in buffers, which are saved
    with the weights.

    Attributes:
        shape: the shape of a sample.
        coordinate_shape: the shape of the coordinates of a sample.
        coefficient_shape: the shape of one number for each direction; it broadcasts against (batch, *coordinate_shape).
    """

    kind: str
    coordinate_shape: tuple[int, ...]
    coefficient_shape: tuple[int, ...]

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(int(side) for side in shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"samples have the shape {self.shape}; expected at least one axis, none of them empty")
        self.dimension = math.prod(self.shape)

    @full_precision
    def turn(self, x: Tensor) -> Tensor:
        """The coordinates (batch, *coordinate_shape) of samples x (batch, *shape)."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"samples have the shape {tuple(x.shape[1:])}; this basis is for samples of shape {self.shape}")
        return self._turn(x)

    @full_precision
    def turn_back(self, c: Tensor) -> Tensor:
        """The samples (batch, *shape) with these coordinates (batch, *coordinate_shape)."""
        return self._turn_back(c)

    @abstractmethod
    def _turn(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _turn_back(self, c: Tensor) -> Tensor: ...

    @torch.no_grad()
    def variances(self, moments: MakeMoments = None, samples: MakeSamples = None) -> Tensor:
        """The variances λ of the data along the directions: float64 on the CPU, of shape `coefficient_shape`.

        `samples` is used if it is given; of many samples, evenly spaced ones (20,000 up to D = 4096, 2,048 beyond). Raises
        ValueError if neither is given, or if the samples have another shape, are not finite or fewer than 2.
        """
        total = torch.zeros(self.coordinate_shape, dtype=torch.float64)
        for weight, rows in scatter(self.shape, moments, samples):
            total += weight * self.turn(rows).square().sum(0)
        # Sum over the axes along which directions share a number, and divide by how many they are.
        padded = (1,) * (len(self.coordinate_shape) - len(self.coefficient_shape)) + self.coefficient_shape
        shared = total.sum_to_size(padded) / (self.dimension / math.prod(padded))
        return shared.reshape(self.coefficient_shape).clamp_min(0)

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"shape={self.shape}"


class _DenseBasis(Basis):
    """A basis that is one matrix `directions` (D, D), whose columns are the directions."""

    directions: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        if self.dimension > MAX_DENSE:
            raise ValueError(
                f"a {self.kind} basis is kept for up to {MAX_DENSE} dimensions, but these samples have {self.dimension}; "
                "expected patch, dct or channels"
            )
        self.coordinate_shape = self.coefficient_shape = (self.dimension,)

    def _turn(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.directions.to(x)

    def _turn_back(self, c: Tensor) -> Tensor:
        return (c @ self.directions.to(c).T).reshape(-1, *self.shape)


class PrincipalBasis(_DenseBasis):
    """The principal components of whole samples, in falling order of their variance; the identity without `moments`."""

    kind = "principal"

    def __init__(self, shape: tuple[int, ...], moments: MakeMoments = None) -> None:
        super().__init__(shape)
        directions = torch.eye(self.dimension) if moments is None else moments().directions
        # Loading makes a matrix contiguous. Another layout would round otherwise, so that a resumed run would differ.
        self.register_buffer("directions", directions.float().contiguous())


class RandomBasis(_DenseBasis):
    """A random basis, the Q of a Gaussian matrix drawn from `seed`."""

    kind = "random"

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__(shape)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(self.dimension, self.dimension, generator=generator, dtype=torch.float64, device="cpu")
        self.register_buffer("directions", torch.linalg.qr(drawn).Q.float().contiguous())


class PatchBasis(Basis):
    """The principal components of patches, in falling order of their variance; the identity without moments and samples.

    The patches do not overlap. A patch holds all channels, size entries along every other axis, and has P entries; a vector has
    one channel. The coordinates are (patches, P), and a number for each component has the shape (P,). The covariance is the
    mean of those of all patches.
    """

    kind = "patch"
    directions: Tensor

    def __init__(
        self, shape: tuple[int, ...], size: int | None = None, moments: MakeMoments = None, samples: MakeSamples = None
    ) -> None:
        super().__init__(shape)
        channels, *sides = self.shape if len(self.shape) > 1 else (1, *self.shape)
        size = default_patch(self.shape) if size is None else size
        if size < 1 or any(side % size for side in sides):
            raise ValueError(f"size is {size}; expected a number that divides {' and '.join(map(str, sides))}")
        self.size, entries = size, channels * size ** len(sides)
        if entries > MAX_DENSE:
            raise ValueError(f"a patch of size {size} has {entries} entries; expected at most {MAX_DENSE}, from a smaller size")
        self.split = (channels, *chain.from_iterable((side // size, size) for side in sides))
        places, within = range(2, 2 * len(sides) + 1, 2), range(3, 2 * len(sides) + 2, 2)
        self.order = (0, *places, 1, *within)
        self.back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        self.coordinate_shape, self.coefficient_shape = (self.dimension // entries, entries), (entries,)
        self.register_buffer("directions", torch.eye(entries))
        if moments is not None or samples is not None:
            covariance = torch.zeros(entries, entries, dtype=torch.float64)
            for weight, rows in scatter(self.shape, moments, samples):
                patches = self._patches(rows).flatten(0, 1)
                covariance += weight * (patches.T @ patches)
            self.directions = components(covariance).float().contiguous()

    def _patches(self, x: Tensor) -> Tensor:
        """(batch, patches, P)."""
        return x.reshape(-1, *self.split).permute(self.order).reshape(-1, *self.coordinate_shape)

    def _turn(self, x: Tensor) -> Tensor:
        return self._patches(x) @ self.directions.to(x)

    def _turn_back(self, c: Tensor) -> Tensor:
        patches = c @ self.directions.to(c).T
        ordered = [(1, *self.split)[axis] for axis in self.order[1:]]
        return patches.reshape(-1, *ordered).permute(self.back).reshape(-1, *self.shape)

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"shape={self.shape}, size={self.size}"


class CosineBasis(Basis):
    """The orthonormal cosine transform (DCT-II) along every axis but the channels; of vectors, along their one axis.

    The coordinates have the shape of the samples. Every frequency of every channel has its own number.
    """

    kind = "dct"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.coordinate_shape = self.coefficient_shape = self.shape
        self.first = min(len(self.shape) - 1, 1) + 1  # the first axis, of samples with a batch, that is transformed
        for side in set(self.shape[self.first - 1 :]):
            self.register_buffer(f"cosines_{side}", cosines(side))

    def _turn(self, x: Tensor) -> Tensor:
        for axis in range(self.first, x.ndim):
            matrix = self.get_buffer(f"cosines_{x.shape[axis]}").to(x)
            x = x @ matrix.T if axis == x.ndim - 1 else (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        return x

    def _turn_back(self, c: Tensor) -> Tensor:
        for axis in range(self.first, c.ndim):
            matrix = self.get_buffer(f"cosines_{c.shape[axis]}").to(c)
            c = c @ matrix if axis == c.ndim - 1 else (c.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return c


class ChannelBasis(Basis):
    """The samples' own coordinates, with one number for each channel (C, 1, …), or for each entry of a vector."""

    kind = "channels"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.coordinate_shape = self.shape
        self.coefficient_shape = (self.shape[0], *[1] * (len(self.shape) - 1))

    def _turn(self, x: Tensor) -> Tensor:
        return x

    def _turn_back(self, c: Tensor) -> Tensor:
        return c


def cosines(size: int) -> Tensor:
    """The matrix (size, size) of the orthonormal cosine transform, one frequency a row, rounded from float64."""
    k, j = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi * k * (2 * j + 1) / (2 * size)) * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix.float()


def default_patch(shape: tuple[int, ...]) -> int:
    """The largest side up to 8 that divides every axis but the channels."""
    sides = shape[1:] or shape
    return max(size for size in range(1, MAX_PATCH + 1) if not any(side % size for side in sides))


KINDS = ("principal", "patch", "dct", "channels", "random")


def make_basis(
    kind: str,
    shape: tuple[int, ...],
    *,
    size: int | None = None,
    seed: int = 0,
    moments: MakeMoments = None,
    samples: MakeSamples = None,
) -> Basis:
    """The basis of this kind for samples of this shape.

    Args:
        kind: principal, patch, dct, channels or random.
        shape: the shape of a sample.
        size: the side of a patch; the largest up to 8 that fits by default. Only for "patch".
        seed: the seed of a random basis.
        moments: a function that returns `kdiff.data.Moments` of the data, up to D = 4096; needed by "principal".
        samples: a function that returns the training samples (N, *shape). "patch" needs one of the two; it prefers samples.
            Without both, as when a saved model is built, principal and patch start as the identity, and loading fills them.

    Raises:
        ValueError: the kind is unknown, the basis cannot have this shape or size, or "principal" is given samples alone.
    """
    if kind not in KINDS:
        raise ValueError(f"basis is {kind!r}; expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if size is not None and kind != "patch":
        raise ValueError(f"size is {size}, the side of a patch, but basis is {kind!r}; expected basis='patch' with it")
    if kind == "principal":
        if moments is None and samples is not None:
            raise ValueError("a principal basis was given samples alone; expected moments, as in moments=dataset.moments")
        return PrincipalBasis(shape, moments)
    if kind == "patch":
        return PatchBasis(shape, size, moments, samples)
    return RandomBasis(shape, seed) if kind == "random" else (CosineBasis if kind == "dct" else ChannelBasis)(shape)
