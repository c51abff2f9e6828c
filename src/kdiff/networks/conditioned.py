"""Any network of kdiff with any mixture of conditions by name, called as network(z, t, y=…, params=…, past=…).

    class       a table with one row for each class and one for "no class"
    vector      W₂ SiLU(W₁ c + b₁) + b₂, or a learned vector where the condition is "none"
    tokens      W c + b + positions, or a learned token in place of W c + b where a token is "none"
    field       brought to the grid of the samples, and put beside z as further channels

Classes and vectors add up to one vector of the network's width, which modulates a transformer like the label of a class. Tokens
stand in context in front of the patches; the MLP adds their mean to the vector. A field has one more channel, which is 1 where
its values are known and 0 where they are missing. Of the network's output only the channels of the samples are returned. A
field on samples that are vectors is itself read as a vector.

"None" is NaN, and for a class the number of classes. A condition that is left out of a call is "none" for every sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiff.config.condition_spec import ConditionSpec
from kdiff.networks.embedding import EMBEDDING_STD, Embedded, LabelEmbedding, linear

GRIDS = {1: "linear", 2: "bilinear", 3: "trilinear"}  # how fields on one, two and three axes are interpolated


class VectorEmbedding(nn.Module):
    """A vector (batch, q) → (batch, D), by a small perceptron; a learned vector for rows that hold NaN. It starts small."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size, width), nn.Linear(width, width)
        nn.init.normal_(self.outer.weight, std=EMBEDDING_STD)
        nn.init.zeros_(self.outer.bias)
        self.none = nn.Parameter(EMBEDDING_STD * torch.randn(width))

    def forward(self, values: Tensor | None, batch: int) -> Tensor:
        """(batch, D)."""
        if values is None:
            return self.none.expand(batch, -1)
        values = values.to(self.none.dtype)
        found = self.outer(F.silu(self.inner(values.nan_to_num(nan=0.0))))
        return torch.where(values.isnan().any(1, keepdim=True), self.none, found)


class TokenEmbedding(nn.Module):
    """Tokens (batch, L, q) → (batch, L, D), each with its own learned position; a learned token for those that hold NaN."""

    def __init__(self, length: int, size: int, width: int) -> None:
        super().__init__()
        self.proj = linear(size, width)
        self.none = nn.Parameter(EMBEDDING_STD * torch.randn(width))
        self.positions = nn.Parameter(EMBEDDING_STD * torch.randn(length, width))

    def forward(self, values: Tensor | None, batch: int) -> Tensor:
        """(batch, L, D)."""
        if values is None:
            return (self.none + self.positions).expand(batch, -1, -1)
        values = values.to(self.none.dtype)
        known = ~values.isnan().any(2, keepdim=True)
        return torch.where(known, self.proj(values.nan_to_num(nan=0.0)), self.none) + self.positions


class ConditionEmbedding(nn.Module):
    """Classes, vectors and tokens by name → `Embedded`: their sum (batch, D), and the tokens (batch, L, D) or None.

    Args:
        specs: the conditions; a field is read as a vector.
        width: D.
    """

    def __init__(self, specs: Sequence[ConditionSpec], width: int) -> None:
        super().__init__()
        self.specs, self.width = tuple(specs), width
        self.parts = nn.ModuleDict({f"of_{spec.name}": _part(spec, width) for spec in specs})

    def forward(self, values: Mapping[str, Tensor] | None, batch: int) -> Embedded:
        """The sum and the tokens. A condition without a value is "none" for every sample."""
        values, vectors, tokens = values or {}, list[Tensor](), list[Tensor]()
        for spec in self.specs:
            given = values.get(spec.name)
            if given is not None and spec.kind == "field":
                given = given.flatten(1)
            (tokens if spec.kind == "tokens" else vectors).append(self.parts[f"of_{spec.name}"](given, batch))
        total = sum(vectors[1:], vectors[0]) if vectors else tokens[0].new_zeros(batch, self.width)
        return Embedded(total, torch.cat(tokens, dim=1) if tokens else None)


def _part(spec: ConditionSpec, width: int) -> nn.Module:
    if spec.kind == "class":
        return LabelEmbedding(spec.num_classes, width)
    if spec.kind == "tokens":
        return TokenEmbedding(spec.shape[0], spec.shape[1], width)
    return VectorEmbedding(math.prod(spec.shape), width)


class ConditionedNetwork(nn.Module):
    """A network with conditions by name: z (batch, C, *grid) → u of the same shape.

    Args:
        build: called as build(shape, condition) → the network within, for samples of this shape and with this module in place
            of its table of labels (None for no module).
        shape: the shape of a sample.
        specs: the conditions; the label of a class `y` is one of them.
        width: D, the width of the network's embeddings.

    `notes` says in words what is done to a condition before the network sees it.

    Raises:
        ValueError: a field has other axes than the samples.
    """

    def __init__(
        self,
        build: Callable[[tuple[int, ...], nn.Module | None], nn.Module],
        shape: Sequence[int],
        specs: Sequence[ConditionSpec],
        width: int,
    ) -> None:
        super().__init__()
        self.shape, self.specs = tuple(shape), tuple(specs)
        grid, self.notes = self.shape[1:], list[str]()
        self.fields = tuple(spec for spec in specs if spec.kind == "field" and grid)
        embedded = [spec for spec in specs if spec not in self.fields]
        for spec in self.fields:
            there = spec.shape[1:]
            if len(there) != len(grid) or len(grid) not in GRIDS:
                raise ValueError(
                    f"the condition {spec.name!r} is a field on {_by(there)}, but the samples have the grid {_by(grid)}; "
                    f"expected as many axes, or another kind, as in condition={{'{spec.name}': 'vector'}}"
                )
            if there != grid:
                self.notes.append(f"the field {spec.name} is interpolated from {_by(there)} to the samples' {_by(grid)}")
        for spec in embedded:
            if spec.kind == "field":
                self.notes.append(f"the field {spec.name} is read as a vector of {math.prod(spec.shape)} numbers")
        extra = sum(spec.shape[0] + 1 for spec in self.fields)
        self.embeds = bool(embedded)
        condition = ConditionEmbedding(embedded, width) if embedded else None
        self.network = build((self.shape[0] + extra, *grid), condition)

    @property
    def grid(self) -> object:
        """The rows and columns of patches of the network within, if it has any."""
        return self.network.grid

    @property
    def depth(self) -> object:
        """The number of blocks of the network within."""
        return self.network.depth

    @property
    def checkpointing(self) -> object:
        """Whether the network within keeps only the inputs of its blocks."""
        return self.network.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.network.checkpointing = value  # type: ignore[assignment]

    def forward(self, z: Tensor, t: Tensor, **conditions: Tensor | None) -> Tensor:
        """u, shaped like z. t: (batch,); each condition: (batch, *its shape), or left out for "none".

        Raises:
            ValueError: the network has no condition of this name, or a condition has another shape.
        """
        self._check(conditions, len(z))
        given = {name: value for name, value in conditions.items() if value is not None}
        channels = [z, *(part for spec in self.fields for part in self._channels(spec, given.get(spec.name), z))]
        seen = torch.cat(channels, dim=1) if self.fields else z
        u = self.network(seen, t, given) if self.embeds else self.network(seen, t)
        return u[:, : self.shape[0]] if self.fields else u

    def _check(self, conditions: Mapping[str, Tensor | None], batch: int) -> None:
        known = {spec.name: spec for spec in self.specs}
        for name, value in conditions.items():
            if name not in known:
                raise ValueError(f"the network has no condition {name!r}; its conditions are {', '.join(known)}")
            if value is not None and tuple(value.shape) != (batch, *known[name].shape):
                raise ValueError(
                    f"the condition {name!r} has shape {tuple(value.shape)}; expected {(batch, *known[name].shape)}"
                )

    @staticmethod
    def _channels(spec: ConditionSpec, value: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
        """The values of a field on the grid of z, 0 where they are missing, and the channel that says where they are known."""
        grid = tuple(z.shape[2:])
        if value is None:
            return z.new_zeros(len(z), spec.shape[0], *grid), z.new_zeros(len(z), 1, *grid)
        missing = value.isnan()
        known, value = (~missing).to(z.dtype), value.nan_to_num(nan=0.0).to(z.dtype)
        if tuple(value.shape[2:]) != grid:
            how: dict[str, Any] = {"size": grid, "mode": GRIDS[len(grid)], "align_corners": False}
            value, known = F.interpolate(value, **how), F.interpolate(known, **how)
            value = value / torch.where(known > 0, known, 1.0)
        return value, known.amin(1, keepdim=True)


def _by(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes)) if sizes else "no axes"
