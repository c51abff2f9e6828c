"""The parts of a patch transformer besides its blocks: patches, positions, time and labels.

An image (batch, C, H, W) becomes tokens (batch, rows · columns, D), one per patch, in row-major order. A token becomes a patch
again as (row in patch, column in patch, channel), channel fastest. Signals (batch, C, L) and volumes (batch, C, D, H, W) are
cut up in the same way, along one and three axes. Positions are DiT's fixed sine and cosine table (arXiv 2212.09748), time is a
sinusoid followed by a two-layer perceptron, and labels are a table whose last row means "no class". For any other condition (a
vector, the embedding of a text) the user's module replaces the table: see `embed_condition`.

Every part initialises itself as DiT does. Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10000.0
EMBEDDING_STD = 0.02

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by axes
SIZES = {1: "a length", 2: "a height and a width", 3: "a depth, a height and a width"}

Layer = TypeVar("Layer", nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer that starts with uniform weights by Xavier's rule and with a bias of zero."""
    return _started(nn.Linear(inputs, outputs, bias))


def _convolution(inputs: int, outputs: int, size: tuple[int, ...], bias: bool = True) -> nn.Module:
    """A convolution whose kernel equals its stride: a linear layer on patches, which starts like `linear`."""
    layer: Any = CONVOLUTIONS[len(size)](inputs, outputs, size, size, bias=bias)  # type: ignore[arg-type]
    return _started(layer)


def _started(layer: Layer) -> Layer:
    nn.init.xavier_uniform_(layer.weight.flatten(1))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Tiling(NamedTuple):
    """The sizes of a sample, of a patch and of the grid of patches, each with one number for each axis of the grid."""

    image: tuple[int, ...]
    patch: tuple[int, ...]
    grid: tuple[int, ...]


def tiling(image_size: int | Sequence[int], patch_size: int | Sequence[int]) -> Tiling:
    """How patches tile a sample with one, two or three axes; one number for `image_size` is the side of a square image.

    Raises:
        ValueError: sizes below 1, another number of axes, or patches that do not tile the sample.
    """
    image = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(image) not in CONVOLUTIONS:
        raise ValueError(
            f"image_size is {list(image)}, of {len(image)} axes; expected the sizes of one, two or three axes: [length], "
            "[height, width] or [depth, height, width]; for samples of other shapes take the network MLP"
        )
    patch = (patch_size,) * len(image) if isinstance(patch_size, int) else tuple(patch_size)
    if len(patch) != len(image):
        raise ValueError(
            f"patch_size is {list(patch)} with image_size {by(image)}; expected one number, or {len(image)}, one for each axis"
        )
    if min(*image, *patch) < 1 or any(size % side for size, side in zip(image, patch)):
        shown = by(patch) if len(set(patch)) > 1 else patch[0]
        raise ValueError(
            f"image_size is {by(image)} with patch_size {shown}; expected {SIZES[len(image)]} that patch_size divides"
            + (f"; take {_patches_for(image)}, or resize or pad the samples" if min(image) > 0 else "")
        )
    return Tiling(image, patch, tuple(size // side for size, side in zip(image, patch)))


def by(sizes: Sequence[int]) -> str:
    """Sizes for messages: 16×24."""
    return "×".join(map(str, sizes))


def _patches_for(image: tuple[int, ...]) -> str:
    """What to type for patches that tile a sample of these sizes."""
    whole = math.gcd(*image)
    divisors = [side for side in range(1, whole + 1) if whole % side == 0]
    if len(divisors) > 1:
        return f"patch_size {', '.join(map(str, divisors[:-1]))} or {divisors[-1]}"
    return "patch_size 1" + (", or one number for each axis" if max(image) > 1 and len(image) > 1 else "")


def channels_of(width: int, axes: int, what: str) -> int:
    """The number of channels, an even one, that each axis gets of the `width` channels of a table of positions.

    In one and two dimensions the channels are shared out without a remainder. In three dimensions, widths such as 64 leave a
    remainder, which stays without position.

    Raises:
        ValueError: the width is too small or has a remainder; `what` begins the message.
    """
    share = width // (2 * axes) * 2
    if share < 2 or (axes < 3 and share * axes < width):
        number = {1: "one dimension", 2: "two dimensions", 3: "three dimensions"}[axes]
        raise ValueError(f"{what} in {number} needs {'at least 6' if axes == 3 else f'a multiple of {2 * axes}'}")
    return share


class PatchEmbedding(nn.Module):
    """(batch, C, H, W) → (batch, tokens, D): a convolution whose kernel equals its stride, in one or two steps.

    Args:
        patch_size: pixels on a patch's side, one number for each axis; a single number is the side of a square patch.
        channels: C.
        hidden_size: D.
        bottleneck: if given, a patch is first mapped to this many values and then to D, with nothing in between: a linear map
            of this rank (JiT, arXiv 2511.13720).
    """

    def __init__(
        self, patch_size: int | tuple[int, ...], channels: int, hidden_size: int, bottleneck: int | None = None
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        if bottleneck is None:
            self.proj = _convolution(channels, hidden_size, patch)
        else:
            self.proj1 = _convolution(channels, bottleneck, patch, bias=False)
            self.proj2 = _convolution(bottleneck, hidden_size, (1,) * len(patch))

    def forward(self, image: Tensor) -> Tensor:
        """Tokens in row-major order, contiguous, because a transposed view would slow down every layer after this one."""
        patches = self.proj(image) if self.bottleneck is None else self.proj2(self.proj1(image))
        return patches.flatten(2).transpose(1, 2).contiguous()


def unpatchify(tokens: Tensor, grid: tuple[int, ...], patch_size: tuple[int, ...]) -> Tensor:
    """(batch, rows · columns, p · p · C) → (batch, C, rows · p, columns · p); a token holds (row, column, channel)."""
    axes = len(grid)
    x = tokens.unflatten(2, (*patch_size, -1)).unflatten(1, grid)
    x = x.permute(0, 2 * axes + 1, *(place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)))
    for axis in reversed(range(axes)):
        x = x.flatten(2 + 2 * axis, 3 + 2 * axis)
    return x


def grid_positions(grid: tuple[int, ...]) -> list[Tensor]:
    """The index of every token along each axis, in row-major order: tensors (tokens,), float64, one for each axis."""
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    return [index.flatten().double() for index in axes]


def sine_positions(grid: tuple[int, ...], hidden_size: int) -> Tensor:
    """DiT's position table, (1, tokens, D), float32.

    The channels are shared out over the axes, the last axis first: in two dimensions the first half encodes the column and the
    second half the row. An axis with 2 m channels has [sin, cos] of index · f_j with the frequencies f_j = 10000^(−j/m),
    j = 0 … m − 1. Channels that are left over in three dimensions are zero.
    """
    what = f"hidden_size is {hidden_size}; a sine and cosine table"
    half = channels_of(hidden_size, len(grid), what) // 2
    frequencies = MAX_PERIOD ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = [index[:, None] * frequencies for index in reversed(grid_positions(grid))]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, hidden_size - table.shape[1]))[None].float()


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
    if not torch.compiler.is_compiling():  # a graph cannot read values; `check_labels` is for outside of it
        check_labels(y, num_classes, null_class)
    return y.long()


def check_labels(y: Tensor, num_classes: int, null_class: bool) -> None:
    """Raise ValueError for labels y (batch,) that are out of range, if they are on the CPU."""
    if y.device.type == "cpu" and len(y):
        low, high = (int(value) for value in y.aminmax())
        if low < 0 or high >= num_classes + null_class:
            raise ValueError(
                f"labels range from {low} to {high}; expected 0 to {num_classes - 1}"
                + (f", or {num_classes} for no class" if null_class else "; this network has no 'no class'")
            )


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


class Embedded(NamedTuple):
    """An embedded condition: a vector (batch, D) for each sample and, if it is given, a sequence of tokens (batch, L, D).

    Transformers put the tokens in front of the patches, so that the patches attend to them. Tokens have no place in the grid of
    patches: they are not rotated and get no row of the table of positions, so their module adds any order itself. The MLP adds
    their mean to the vector.
    """

    vector: Tensor
    tokens: Tensor | None = None


def embed_condition(module: nn.Module | None, y: Tensor | None, batch: int, hidden_size: int) -> Embedded | None:
    """The embedded condition of the samples: module(y, batch), or None without a module.

    The module is a `LabelEmbedding`, or the user's module that was given to a network as `condition`. Its arguments are the
    condition y that the network got, and the number of samples. It returns a vector (batch, D), or an `Embedded`. If the caller
    has no condition, y is None, and the module returns the vector for "no condition". It returns the same for the value that
    `KDiff(null={"y": …})` names, which guidance and training put in place of y.

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
    returned = module(y, batch)
    vector, tokens = returned if isinstance(returned, Embedded) else Embedded(returned)
    if vector.shape != (batch, hidden_size):
        raise ValueError(
            f"the condition's {type(module).__name__} returned shape {tuple(vector.shape)}; "
            f"expected ({batch}, {hidden_size}), a vector of the network's width for each sample"
        )
    if tokens is not None and (tokens.ndim != 3 or tokens.shape != (batch, max(tokens.shape[1], 1), hidden_size)):
        raise ValueError(
            f"the condition's {type(module).__name__} returned tokens of shape {tuple(tokens.shape)}; expected ({batch}, L, "
            f"{hidden_size}), at least one token of the network's width for each sample; return tokens=None if there are none"
        )
    return Embedded(vector, tokens)
