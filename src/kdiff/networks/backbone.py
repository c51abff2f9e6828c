"""What the transformers on patches share: checks of sizes, labels or another condition, checkpointing, tables for any size.

    c = time(t) + condition(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

`ModulatedTransformer.forward` computes these lines (DiT, arXiv 2212.09748, and the networks derived from it). An architecture
chooses its parts from `embedding` and `transformer`.

Samples are images (C, H, W), signals (C, L) or volumes (C, D, H, W); a network has as many axes as its `image_size`.
The tables of positions and rotations are computed for the size that a network was built for, and again for any other size that
it is called with. Nothing is stretched: a larger image has more indices, and neighbouring patches keep their distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdiff.networks.embedding import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    by,
    embed_condition,
    sine_positions,
    tiling,
    unpatchify,
)
from kdiff.networks.transformer import FinalLayer, for_this_device, rotary_table, unrotated_in_front

Grid = tuple[int, ...]
OF_ANY_SIZE = {1: "length", 2: "height and width", 3: "depth, height and width"}


@dataclass(eq=False, repr=False)
class ImageNetwork(nn.Module):
    """The base class of networks on patches of images (batch, C, H, W), signals (batch, C, L) and volumes (batch, C, D, H, W).

    A network is called as network(z, t, y).

    It is a dataclass, so every network inherits the arguments from `image_size` to `mlp_ratio`. A network adds its own options,
    and those of the last three arguments below that it supports.

    Args:
        image_size: pixels on a side of a square image, or the size along each axis: (height, width), (length,) or (depth,
            height, width); for latents, the entries.
        patch_size: pixels on a side of a patch, or one number for each axis; each must divide the size along its axis.
        channels: C.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` itself means "no class"; 0 for a network without labels.
        hidden_size: D, the width of a token; a multiple of num_heads.
        depth: the number of blocks.
        num_heads: the number of attention heads.
        mlp_ratio: the perceptron of a block has D · mlp_ratio units.
        null_class: False for a table of labels that has no row for "no class".
        condition: a module that replaces the table of labels, for conditions of any kind. It is called as condition(y, batch)
            and returns a tensor (batch, D), or an `Embedded` with tokens (batch, L, D), which are put in front of the patches;
            y is None where no condition is given.
        checkpointing: keep only the inputs of the blocks for the backward pass, and compute the rest again. The gradients are
            the same; it needs less memory and about a third more time.

    Raises:
        ValueError: sizes that do not fit together.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    channels: int
    num_classes: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0

    # These have no type, so they are no arguments here. A network that supports them lists them among its own arguments.
    null_class = True
    checkpointing = False
    takes_other_sizes = True  # whether samples may have another size than the network was built for
    random = False  # whether the forward pass of training draws random numbers (dropout)

    def __post_init__(self) -> None:
        super().__init__()
        image, self.patch, self.grid = tiling(self.image_size, self.patch_size)
        for name, size in {"channels": self.channels, "hidden_size": self.hidden_size, "depth": self.depth}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; expected 0 or more")
        self.shape = (self.channels, *image)
        self.patch_entries = math.prod(self.patch) * self.channels  # the numbers that a token stands for

    def label_module(self, condition: nn.Module | None) -> nn.Module | None:
        """The module that embeds the condition: the user's module, a table of labels, or None."""
        if condition is not None:
            return condition
        return LabelEmbedding(self.num_classes, self.hidden_size, self.null_class) if self.num_classes else None

    def checked_grid(self, z: Tensor, t: Tensor) -> Grid:
        """The number of patches in z along each axis: rows and columns of an image.

        Raises:
            ValueError: the shape of the samples or of the times is not one that this network takes.
        """
        found, built = tuple(z.shape[1:]), tuple(self.shape)
        if found != built:
            like = len(found) == len(built) and found[0] == built[0]
            tiled = like and all(size > 0 and size % side == 0 for size, side in zip(found[1:], self.patch))
            if not (tiled and self.takes_other_sizes):
                raise ValueError(f"samples have shape {found}; this network was built for {built}{self._other_sizes()}")
        if t.shape != z.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}; expected ({len(z)},), one time per sample")
        return tuple(size // side for size, side in zip(found[1:], self.patch))

    def _other_sizes(self) -> str:
        sizes = OF_ANY_SIZE[len(self.grid)]
        if self.takes_other_sizes:
            patch = by(self.patch) if len(set(self.patch)) > 1 else self.patch[0]
            return f", and takes {self.shape[0]} channels of any {sizes} that its patch_size {patch} divides"
        return (
            f" and has one learned place for each patch, so it takes no other {sizes}; build one with that image_size, "
            "or resize the samples"
        )

    def run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """block(*inputs); under `checkpointing`, nothing that happens inside the block is kept."""
        if self.checkpointing and torch.is_grad_enabled():
            # A block that draws no random numbers needs no random state restored, and none fetched from a device.
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=self.random)
        return block(*inputs)


class ModulatedTransformer(ImageNetwork):
    """The base class of transformers whose blocks are modulated by time and condition (adaLN-zero).

    The arguments are those of `ImageNetwork`. A subclass adds `blocks` and `final_layer`, and calls `set_tables`.
    """

    def __post_init__(self, condition: nn.Module | None = None, bottleneck: int | None = None) -> None:
        super().__post_init__()
        self.x_embedder = PatchEmbedding(self.patch, self.channels, self.hidden_size, bottleneck)
        self.t_embedder = TimeEmbedding(self.hidden_size)
        self.y_embedder = self.label_module(condition)
        self.returned = self.channels  # the number of leading channels of the final layer that are u
        self.blocks: nn.ModuleList
        self.final_layer: FinalLayer
        self.pos_embed: Tensor
        self.rotary: Tensor | None

    def set_tables(self, head_dim: int | None, prefix: int = 0) -> None:
        """Compute the tables for the image size that this network is built for; no rotations if `head_dim` is None."""
        self._head_dim, self._prefix = head_dim, prefix
        positions, rotary = _tables(self.grid, self.hidden_size, head_dim, prefix)
        self.register_buffer("pos_embed", positions, persistent=False)
        self.register_buffer("rotary", rotary, persistent=False)

    def tables(self, grid: Grid) -> tuple[Tensor, Tensor | None]:
        """Positions (1, tokens, D) and rotations (2, prefix + tokens, h) for this grid of patches."""
        if grid == self.grid:
            return self.pos_embed, self.rotary
        return _kept_tables(grid, self.hidden_size, self._head_dim, self._prefix, self.pos_embed.device, self.pos_embed.dtype)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """u, shaped like z unless a network says otherwise.

        Args:
            z: (batch, C, H, W) for images, of the size that the network was built for, or another that the patch divides.
            t: (batch,); it goes to the sinusoid unchanged, so it must be the time that the weights were trained with. JiT, SiT
                and LightningDiT take 0 for noise and 1 for data, as kdiff does. The official weights of DiT take the steps
                0 … 999, where 999 is noise.
            y: (batch,) int64, or what the module given as `condition` takes. Without y, every sample has "no class".

        Raises:
            ValueError: samples, times, labels or the vector of the condition have another shape; labels are given to a network
                without labels; or labels are out of range.
        """
        grid = self.checked_grid(z, t)
        c = self.t_embedder(t)
        label, tokens = embed_condition(self.y_embedder, y, len(z), self.hidden_size) or (None, None)
        if label is not None:
            c = c + label
        positions, rotary = self.tables(grid)
        rotary = rotary if rotary is None else for_this_device(rotary)
        x = self.x_embedder(z) + positions
        if tokens is not None:
            x = torch.cat([tokens.to(x.dtype), x], dim=1)
            rotary = rotary if rotary is None else unrotated_in_front(rotary, tokens.shape[1])
        x = self.through(x, c, label, rotary)
        if tokens is not None:
            x = x[:, tokens.shape[1] :]
        return unpatchify(self.final_layer(x, c), grid, self.patch)[:, : self.returned]

    def through(self, x: Tensor, c: Tensor, label: Tensor | None, rotary: Tensor | None) -> Tensor:
        """Pass x (batch, tokens, D) through all blocks; c (batch, D) modulates them. The condition's tokens come first in x."""
        for block in self.blocks:
            x = self.run(block, x, c, rotary)
        return x


def _tables(grid: Grid, hidden_size: int, head_dim: int | None, prefix: int) -> tuple[Tensor, Tensor | None]:
    return sine_positions(grid, hidden_size), rotary_table(grid, head_dim, prefix=prefix) if head_dim else None


@lru_cache(maxsize=64)
def _kept_tables(
    grid: Grid, hidden_size: int, head_dim: int | None, prefix: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """The tables for a size that a call brings; ordinary tensors even in inference mode, because training may use them next."""
    with torch.inference_mode(False):
        positions, rotary = _tables(grid, hidden_size, head_dim, prefix)
        return positions.to(device, dtype), rotary if rotary is None else rotary.to(device, dtype)
