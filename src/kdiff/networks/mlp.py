"""A multilayer perceptron for vectors, and for small images read as vectors.

    h₀ = W_z z + W_t features(t) + E[y]          h_{i+1} = h_i' = SiLU(W_i h_i + b_i)          u = W_out h

The layout decides what such a network learns easily, so this page describes it in full. Flattened z, the Fourier features of t
and the class embedding are added once, at the first hidden layer. `depth` hidden layers of `width` units follow, without skip
connections or normalisation, so z reaches the output only through `width` units. The output layer starts at zero, û = 0, which
is the start that the theory of the early dynamics assumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdiff.networks.embedding import embed_condition, label_rows

FREQUENCIES = 16


def time_features(t: Tensor) -> Tensor:
    """t (batch,) → (batch, 33): t itself, and sine and cosine at 16 frequencies from ½ to 32 cycles over [0, 1], in float32."""
    cycles = 0.5 * 64 ** (torch.arange(FREQUENCIES, device=t.device, dtype=torch.float32) / (FREQUENCIES - 1))
    angles = 2 * math.pi * t.float()[:, None] * cycles
    return torch.cat([t.float()[:, None], angles.sin(), angles.cos()], dim=1)


class MLP(nn.Module):
    """z (batch, *shape) → u of the same shape.

    Args:
        shape: the shape of one sample.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` itself means "no class"; 0 for a network without labels.
        width: units per hidden layer.
        depth: the number of hidden layers.
        condition: a module that replaces the table of labels, for conditions of any kind. It is called as condition(y, batch)
            and returns a tensor (batch, width), or an `Embedded`, of whose tokens the mean is added; y is None where no
            condition is given.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int = 0,
        width: int = 256,
        depth: int = 4,
        condition: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width is {width} and depth is {depth}; expected at least 1 of each")
        self.shape, self.num_classes = tuple(shape), num_classes
        dimension = math.prod(self.shape)
        self.input = nn.Linear(dimension, width)
        self.time = nn.Linear(2 * FREQUENCIES + 1, width, bias=False)
        self.condition = condition
        self.label = nn.Embedding(num_classes + 1, width) if num_classes and condition is None else None
        self.hidden = nn.Sequential(*(m for _ in range(depth - 1) for m in (nn.SiLU(), nn.Linear(width, width))), nn.SiLU())
        self.output = nn.Linear(width, dimension)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """u, shaped like z. t: (batch,); y: (batch,) int64; without y, every sample has "no class".

        Raises:
            ValueError: samples or labels have another shape; labels are given to a network without labels; or labels are out
                of range.
        """
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"samples have shape {tuple(z.shape[1:])}; this network was built for {self.shape}")
        h = self.input(z.flatten(1)) + self.time(time_features(t).to(z.dtype))
        if self.label is not None:
            h = h + self.label(label_rows(y, len(z), self.num_classes, True, z.device))
        elif (c := embed_condition(self.condition, y, len(z), h.shape[1])) is not None:
            h = h + c.vector
            if c.tokens is not None:
                h = h + c.tokens.mean(dim=1)
        return self.output(self.hidden(h)).reshape(z.shape)
