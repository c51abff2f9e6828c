"""What the transformers on images share: sizes checked, labels or another condition, checkpointed blocks, tables for any size.

    c = time(t) + condition(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

is `ModulatedTransformer.forward` (DiT, arXiv 2212.09748, and its kin). An architecture picks the parts, of `embedding` and
`transformer`, in its constructor.

The tables of positions and rotations are computed, for the size of image that a network was built for, and again for another
that it is called with. Nothing is stretched: a larger image has further indices, with the same distance from patch to patch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdiff.networks.embedding import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    embed_condition,
    image_and_grid,
    sine_positions,
    unpatchify,
)
from kdiff.networks.transformer import FinalLayer, for_this_device, rotary_table

Grid = tuple[int, int]


class ImageNetwork(nn.Module):
    """A network on patches of images (batch, C, H, W), called as network(z, t, y); a base class.

    Args:
        image_size: pixels on a side, or (height, width).
        patch_size: pixels on a patch's side; it divides height and width.
        channels: C.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` stands for "no class"; 0 for a network without labels.
        hidden_size: D.
        depth: blocks.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again: the same gradients from
            less memory, for about a third more time.

    Raises:
        ValueError: sizes that do not fit together.
    """

    takes_other_sizes = True  # whether an image may have another height and width than the network was built for
    random = False  # whether something is drawn in the forward pass of training: dropout

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        channels: int,
        num_classes: int,
        hidden_size: int,
        depth: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        image, self.grid = image_and_grid(image_size, patch_size)
        for name, size in {"channels": channels, "hidden_size": hidden_size, "depth": depth}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}; expected 0 or more")
        self.shape, self.patch_size, self.num_classes = (channels, *image), patch_size, num_classes
        self.hidden_size, self.depth, self.checkpointing = hidden_size, depth, checkpointing

    def label_module(self, condition: nn.Module | None, null_class: bool = True) -> nn.Module | None:
        """The condition's module: the user's, a table of labels, or none."""
        if condition is not None:
            return condition
        return LabelEmbedding(self.num_classes, self.hidden_size, null_class) if self.num_classes else None

    def checked_grid(self, z: Tensor, t: Tensor) -> Grid:
        """Rows and columns of patches in z.

        Raises:
            ValueError: samples or times of a shape that this network cannot take.
        """
        found, built = tuple(z.shape[1:]), tuple(self.shape)
        if found != built:
            height, width = found[-2:] if len(found) == 3 else (0, 0)
            tiled = min(height, width) > 0 and height % self.patch_size == 0 and width % self.patch_size == 0
            if not (tiled and found[0] == built[0] and self.takes_other_sizes):
                raise ValueError(f"samples have shape {found}; this network was built for {built}{self._other_sizes()}")
        if t.shape != z.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}; expected ({len(z)},), one time per sample")
        return z.shape[2] // self.patch_size, z.shape[3] // self.patch_size

    def _other_sizes(self) -> str:
        if self.takes_other_sizes:
            return f", and takes {self.shape[0]} channels of any height and width that its patch_size {self.patch_size} divides"
        return (
            ", one learned place for each of its patches, and takes no other height and width: build one with that image_size, "
            "or resize the images"
        )

    def run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """block(*inputs), under `checkpointing` without keeping what happens inside."""
        if self.checkpointing and torch.is_grad_enabled():
            # Where nothing in a block is random there is no state to bring back, and none to fetch from a device.
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=self.random)
        return block(*inputs)


class ModulatedTransformer(ImageNetwork):
    """A transformer whose blocks time and condition modulate (adaLN-zero); a base class.

    A subclass adds `blocks`, `final_layer` and, by `set_tables`, its tables.

    Args:
        image_size: as for `ImageNetwork`, and so are the next four and `checkpointing`.
        patch_size: pixels on a patch's side.
        channels: C.
        num_classes: labels.
        hidden_size: D.
        depth: blocks.
        bottleneck: numbers between a patch and D; none if left out.
        null_class: False for a table of labels without "no class".
        condition: called as condition(y, batch), returns (batch, D): in place of the table of labels.
        checkpointing: whether blocks are computed again in the backward pass.
    """

    pos_embed: Tensor
    rotary: Tensor | None

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        channels: int,
        num_classes: int,
        hidden_size: int,
        depth: int,
        bottleneck: int | None = None,
        null_class: bool = True,
        condition: nn.Module | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(image_size, patch_size, channels, num_classes, hidden_size, depth, checkpointing)
        self.x_embedder = PatchEmbedding(patch_size, channels, hidden_size, bottleneck)
        self.t_embedder = TimeEmbedding(hidden_size)
        self.y_embedder = self.label_module(condition, null_class)
        self.returned = channels  # of the channels that the final layer makes, the first so many are u
        self.blocks: nn.ModuleList
        self.final_layer: FinalLayer

    def set_tables(self, head_dim: int | None, prefix: int = 0) -> None:
        """Tables for the size of image that this network is built for; rotations of heads of `head_dim`, or none."""
        self._head_dim, self._prefix = head_dim, prefix
        positions, rotary = _tables(self.grid, self.hidden_size, head_dim, prefix)
        self.register_buffer("pos_embed", positions, persistent=False)
        self.register_buffer("rotary", rotary, persistent=False)

    def tables(self, grid: Grid) -> tuple[Tensor, Tensor | None]:
        """Positions (1, tokens, D) and rotations (2, prefix + tokens, h) for so many rows and columns of patches."""
        if grid == self.grid:
            return self.pos_embed, self.rotary
        return _kept_tables(grid, self.hidden_size, self._head_dim, self._prefix, self.pos_embed.device, self.pos_embed.dtype)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """u, shaped like z unless a network says otherwise.

        Args:
            z: (batch, C, H, W), of the size that the network was built for or another that the patch divides.
            t: (batch,), handed to the sinusoid as it comes: the times of the weights at hand (JiT, SiT and LightningDiT take
                0 noise … 1 data, which is kdiff's way too; DiT's official weights the steps 0 … 999, 999 noise).
            y: (batch,) int64, or what the module given as `condition` takes; "no class" for all if left out.

        Raises:
            ValueError: samples, times, labels or the condition's vector of another shape, labels given to a network without
                them, or labels out of range.
        """
        grid = self.checked_grid(z, t)
        c = self.t_embedder(t)
        label = embed_condition(self.y_embedder, y, len(z), self.hidden_size)
        if label is not None:
            c = c + label
        positions, rotary = self.tables(grid)
        rotary = rotary if rotary is None else for_this_device(rotary)
        x = self.through(self.x_embedder(z) + positions, c, label, rotary)
        return unpatchify(self.final_layer(x, c), grid, self.patch_size)[:, : self.returned]

    def through(self, x: Tensor, c: Tensor, label: Tensor | None, rotary: Tensor | None) -> Tensor:
        """x (batch, tokens, D) through all blocks, under c (batch, D)."""
        for block in self.blocks:
            x = self.run(block, x, c, rotary)
        return x


def _tables(grid: Grid, hidden_size: int, head_dim: int | None, prefix: int) -> tuple[Tensor, Tensor | None]:
    return sine_positions(*grid, hidden_size), rotary_table(*grid, head_dim, prefix=prefix) if head_dim else None


@lru_cache(maxsize=64)
def _kept_tables(
    grid: Grid, hidden_size: int, head_dim: int | None, prefix: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Tables for a size that comes up at a call; ordinary tensors even in inference mode, for training may use them next."""
    with torch.inference_mode(False):
        positions, rotary = _tables(grid, hidden_size, head_dim, prefix)
        return positions.to(device, dtype), rotary if rotary is None else rotary.to(device, dtype)
