"""What goes into an image transformer besides its blocks: patches, positions, time and labels.

An image (batch, C, H, W) becomes tokens (batch, rows · columns, D), one per patch, in row-major order; a token becomes a
patch again as (row in patch, column in patch, channel), channel fastest. Positions are DiT's fixed sine and cosine table
(arXiv 2212.09748), time is a sinusoid followed by a two-layer perceptron, labels are a table with a last row for "no class".
Any other condition (a vector, a text's embedding) has a module of the user's in the table's place: `embed_condition`.

Every part initialises itself as DiT does, so that a network made of them starts right. Attribute names are those of the
published checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10000.0
EMBEDDING_STD = 0.02


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer that starts at Xavier's uniform weights and no bias."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _convolution(inputs: int, outputs: int, size: int, bias: bool = True) -> nn.Conv2d:
    """A convolution whose kernel is its stride, which is a linear layer on patches and starts like one."""
    layer = nn.Conv2d(inputs, outputs, size, size, bias=bias)
    nn.init.xavier_uniform_(layer.weight.view(outputs, -1))
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
            f"image_size is {height}×{width} with patch_size {patch_size}; expected a height and a width that the patch "
            "divides: choose another patch_size, or resize or pad the images"
        )
    return (height, width), (height // patch_size, width // patch_size)


class PatchEmbedding(nn.Module):
    """(batch, C, H, W) → (batch, tokens, D): a convolution whose kernel is its stride, in one or two steps.

    Args:
        patch_size: pixels on a patch's side.
        channels: C.
        hidden_size: D.
        bottleneck: if given, the patch goes to so many numbers first, and from these to D, with nothing in between: a
            linear map of that rank (JiT, arXiv 2511.13720).
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
        """Tokens in row-major order, laid out contiguously: every layer after this one would pay for a transposed view."""
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

    The first half of the channels encodes the column and the second the row, each as [sin, cos] of index · f_j at the
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

    The frequencies are made anew at each call: as a buffer they would be rounded by `.bfloat16()` on the network, and
    networks that count time to 1000 would read another t.
    """
    t = t if t.dtype == torch.float64 else t.float()
    index = torch.arange(width // 2, device=t.device, dtype=t.dtype)
    angles = (scale * t)[:, None] * torch.exp(index * (-math.log(MAX_PERIOD) / (width // 2)))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """t (batch,) → (batch, D): W₂ SiLU(W₁ sinusoid(t)). t is used as it comes; JiT and its kin take it in [0, 1]."""

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
    """The rows (batch,) int64 of a table that the labels y stand for; row `num_classes`, "no class", for all if y is None.

    Raises:
        ValueError: y of another shape or type; no y, and no row for "no class"; or, on the CPU, labels out of the table
            (elsewhere the device's own check must do: reading y would stall the device at every call).
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
    """y (batch,) → (batch, D): row y of a table of num_classes + 1 rows, of which the last stands for "no class".

    Args:
        num_classes: labels are 0 … num_classes − 1.
        hidden_size: D.
        null_class: False leaves the last row out.
    """

    def __init__(self, num_classes: int, hidden_size: int, null_class: bool = True) -> None:
        super().__init__()
        self.num_classes, self.null_class = num_classes, null_class
        self.embedding_table = nn.Embedding(num_classes + null_class, hidden_size)
        nn.init.normal_(self.embedding_table.weight, std=EMBEDDING_STD)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        """(batch, D); no class for all if y is None. Raises what `label_rows` raises."""
        device = self.embedding_table.weight.device
        return self.embedding_table(label_rows(y, batch, self.num_classes, self.null_class, device))


def embed_condition(module: nn.Module | None, y: Tensor | None, batch: int, hidden_size: int) -> Tensor | None:
    """What a network knows of its samples' condition: module(y, batch), of shape (batch, D), or None without a module.

    The module is a `LabelEmbedding`, or the user's own, given to a network as `condition`. It is called with the condition y as
    the network got it, and the number of samples. y is None where the caller has no condition: the module then returns what
    stands for "none", as it does for the value that `KDiff(null={"y": …})` names, and which guidance and training put in.

    Raises:
        ValueError: a condition for a network without one, or a module that returns another shape.
    """
    if module is None:
        if y is not None:
            raise ValueError(
                "labels were given to a network built without classes (num_classes=0) and without another condition's module"
            )
        return None
    embedded = module(y, batch)
    if embedded.shape != (batch, hidden_size):
        raise ValueError(
            f"the condition's {type(module).__name__} returned shape {tuple(embedded.shape)}; "
            f"expected ({batch}, {hidden_size}), a vector of the network's width for each sample"
        )
    return embedded
