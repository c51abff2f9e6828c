"""The parts of an image transformer besides its blocks: patches, positions, time and labels.

An image (batch, C, H, W) becomes tokens (batch, rows · columns, D), one per patch, in row-major order. A token becomes a patch
again as (row in patch, column in patch, channel), channel fastest. Positions are DiT's fixed sine and cosine table (arXiv
2212.09748), time is a sinusoid followed by a two-layer perceptron, and labels are a table whose last row means "no class". For
any other condition (a vector, the embedding of a text) the user's module replaces the table: see `embed_condition`.

Every part initialises itself as DiT does. Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

MAX_PERIOD = 10000.0
EMBEDDING_STD = 0.02

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer that starts with uniform weights by Xavier's rule and with a bias of zero."""
    return _started(nn.Linear(inputs, outputs, bias))


def _convolution(inputs: int, outputs: int, size: int, bias: bool = True) -> nn.Conv2d:
    """A convolution whose kernel equals its stride: a linear layer on patches, which starts like `linear`."""
    return _started(nn.Conv2d(inputs, outputs, size, size, bias=bias))


def _started(layer: Layer) -> Layer:
    nn.init.xavier_uniform_(layer.weight.flatten(1))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def image_and_grid(image_size: int | tuple[int, int], patch_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) in pixels, and (rows, columns) in patches.

    Raises:
        ValueError: sizes below 1, or patches that do not tile the image.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width, patch_size) < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"image_size is {height}×{width} with patch_size {patch_size}; expected a height and a width that are "
            "multiples of patch_size; choose another patch_size, or resize or pad the images"
        )
    return (height, width), (height // patch_size, width // patch_size)


class PatchEmbedding(nn.Module):
    """(batch, C, H, W) → (batch, tokens, D): a convolution whose kernel equals its stride, in one or two steps.

    Args:
        patch_size: pixels on a patch's side.
        channels: C.
        hidden_size: D.
        bottleneck: if given, a patch is first mapped to this many values and then to D, with nothing in between: a linear map
            of this rank (JiT, arXiv 2511.13720).
    """

    def __init__(self, patch_size: int, channels: int, hidden_size: int, bottleneck: int | None = None) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck is None:
            self.proj = _convolution(channels, hidden_size, patch_size)
        else:
            self.proj1 = _convolution(channels, bottleneck, patch_size, bias=False)
            self.proj2 = _convolution(bottleneck, hidden_size, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens in row-major order, contiguous, because a transposed view would slow down every layer after this one."""
        patches = self.proj(image) if self.bottleneck is None else self.proj2(self.proj1(image))
        return patches.flatten(2).transpose(1, 2).contiguous()


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(batch, rows · columns, p · p · C) → (batch, C, rows · p, columns · p); a token holds (row, column, channel)."""
    patches = tokens.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, grid)
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def grid_positions(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column index of every token, in row-major order: two of (rows · columns,), float64."""
    index = torch.arange(rows * columns)
    return (index // columns).double(), (index % columns).double()


def sine_positions(rows: int, columns: int, hidden_size: int) -> Tensor:
    """DiT's position table, (1, rows · columns, D), float32.

    The first half of the channels encodes the column and the second half the row, each as [sin, cos] of index · f_j with the
    frequencies f_j = 10000^(−j/(D/4)), j = 0 … D/4 − 1.
    """
    if hidden_size % 4:
        raise ValueError(f"hidden_size is {hidden_size}; a sine and cosine table in two dimensions needs a multiple of 4")
    quarter = hidden_size // 4
    frequencies = MAX_PERIOD ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = (index[:, None] * frequencies for index in grid_positions(rows, columns))
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)[None].float()


def sinusoid(t: Tensor, width: int, scale: float = 1.0) -> Tensor:
    """t (batch,) → (batch, width): [cos(s t f_j), sin(s t f_j)], f_j = 10000^(−j/(width/2)), s the scale, in float32 or better.

    The frequencies are computed at each call. In a buffer, `.bfloat16()` on the network would round them, and networks that
    count time to 1000 would read another t.
    """
    t = t if t.dtype == torch.float64 else t.float()
    index = torch.arange(width // 2, device=t.device, dtype=t.dtype)
    angles = (scale * t)[:, None] * torch.exp(index * (-math.log(MAX_PERIOD) / (width // 2)))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """t (batch,) → (batch, D): W₂ SiLU(W₁ sinusoid(t)). t is used unchanged; JiT and similar networks take it in [0, 1]."""

    def __init__(self, hidden_size: int, width: int = 256) -> None:
        super().__init__()
        self.width = width
        layers = nn.Linear(width, hidden_size), nn.Linear(hidden_size, hidden_size)
        for layer in layers:
            nn.init.normal_(layer.weight, std=EMBEDDING_STD)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(layers[0], nn.SiLU(), layers[1])

    def forward(self, t: Tensor) -> Tensor:
        """(batch, D)."""
        return self.mlp(sinusoid(t, self.width).to(next(self.mlp.parameters()).dtype))


def label_rows(y: Tensor | None, batch: int, num_classes: int, null_class: bool, device: torch.device) -> Tensor:
    """The rows (batch,) int64 of a table for the labels y; without y, row `num_classes` ("no class") for every sample.

    Raises:
        ValueError: y has another shape or type; y is None and the table has no row for "no class"; or, on the CPU, labels are
            out of range. On other devices only the device's own check applies, because reading y would stall the device.
    """
    if y is None:
        if not null_class:
            raise ValueError(
                f"no labels were given to a network without 'no class'; expected y, integers 0 to {num_classes - 1}"
            )
        return torch.full((batch,), num_classes, device=device)
    if y.shape != (batch,) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y is {y.dtype} of shape {tuple(y.shape)}; expected integers of shape ({batch},), one per sample")
    if y.device.type == "cpu" and batch:
        low, high = (int(value) for value in y.aminmax())
        if low < 0 or high >= num_classes + null_class:
            raise ValueError(
                f"labels range from {low} to {high}; expected 0 to {num_classes - 1}"
                + (f", or {num_classes} for no class" if null_class else "; this network has no 'no class'")
            )
    return y.long()


class LabelEmbedding(nn.Module):
    """y (batch,) → (batch, D): row y of a table of num_classes + 1 rows.

    The last row means "no class"; with null_class=False the table does not have it.
    """

    def __init__(self, num_classes: int, hidden_size: int, null_class: bool = True) -> None:
        super().__init__()
        self.num_classes, self.null_class = num_classes, null_class
        self.embedding_table = nn.Embedding(num_classes + null_class, hidden_size)
        nn.init.normal_(self.embedding_table.weight, std=EMBEDDING_STD)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        """(batch, D); "no class" for every sample if y is None. Raises what `label_rows` raises."""
        device = self.embedding_table.weight.device
        return self.embedding_table(label_rows(y, batch, self.num_classes, self.null_class, device))


def embed_condition(module: nn.Module | None, y: Tensor | None, batch: int, hidden_size: int) -> Tensor | None:
    """The embedded condition of the samples: module(y, batch), of shape (batch, D), or None without a module.

    The module is a `LabelEmbedding`, or the user's module that was given to a network as `condition`. Its arguments are the
    condition y that the network got, and the number of samples. If the caller has no condition, y is None, and the module
    returns the vector for "no condition". It returns the same for the value that `KDiff(null={"y": …})` names, which guidance
    and training put in place of y.

    Raises:
        ValueError: y is given to a network without a condition, or the module returns another shape.
    """
    if module is None:
        if y is not None:
            raise ValueError(
                "labels were given to a network built without classes (num_classes=0) and without a module for its condition; "
                "leave y out, or build the network with num_classes or condition"
            )
        return None
    embedded = module(y, batch)
    if embedded.shape != (batch, hidden_size):
        raise ValueError(
            f"the condition's {type(module).__name__} returned shape {tuple(embedded.shape)}; "
            f"expected ({batch}, {hidden_size}), a vector of the network's width for each sample"
        )
    return embedded
