"""JiT, "just image transformers" (Li & He, arXiv 2511.13720): a plain transformer on large patches of pixels.

    c = time(t) + label(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

The patch embedding passes a bottleneck far narrower than a patch; blocks have RMSNorm, rotary embedding after a norm of
queries and keys, SwiGLU and adaLN-zero. Before block `context_start`, `context_tokens` copies of the label's embedding, each
with a position of its own, are put in front of the patches; they are not rotated, and are dropped before the final layer.

JiT predicts the data (k = 1), but nothing here depends on that.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.networks.embedding import (
    EMBEDDING_STD,
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    image_and_grid,
    sine_positions,
    unpatchify,
)
from kdiff.networks.transformer import Attention, FinalLayer, ModulatedBlock, RMSNorm, SwiGLU, rotary_table

JIT_SIZES: dict[str, dict[str, int]] = {
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12, "bottleneck": 128, "context_tokens": 32, "context_start": 4},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16, "bottleneck": 128, "context_tokens": 32, "context_start": 8},
    "H": {"hidden_size": 1280, "depth": 32, "num_heads": 16, "bottleneck": 256, "context_tokens": 32, "context_start": 10},
}
PUBLISHED_GRID = 16  # patches on a side of the image, at every published size


class JiT(nn.Module):
    """z (batch, C, H, W) → u of the same shape; called as network(z, t, y).

    Args:
        image_size: pixels on a side, or (height, width).
        patch_size: pixels on a patch's side; it divides height and width.
        channels: C.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` stands for "no class"; 0 for a network without
            labels, which then has no context tokens either (they are copies of the label).
        hidden_size: D, a multiple of num_heads.
        depth: blocks.
        num_heads: attention heads of D / num_heads channels, a multiple of 4.
        mlp_ratio: the perceptron has ⅔ of D · mlp_ratio units.
        bottleneck: numbers that a patch is reduced to before it is expanded to D.
        context_tokens: copies of the label in front of the patches; 0 for none.
        context_start: the block (from 0) before which they are put there.

    Raises:
        ValueError: sizes that do not fit together.
    """

    pos_embed: Tensor
    rotary: Tensor

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        channels: int,
        num_classes: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        bottleneck: int = 128,
        context_tokens: int = 32,
        context_start: int = 4,
    ) -> None:
        super().__init__()
        image, self.grid = image_and_grid(image_size, patch_size)
        self.shape, self.patch_size, self.num_classes = (channels, *image), patch_size, num_classes
        sizes = {"channels": channels, "hidden_size": hidden_size, "depth": depth, "bottleneck": bottleneck}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if num_classes < 0 or context_tokens < 0:
            raise ValueError(f"num_classes is {num_classes} and context_tokens {context_tokens}; expected 0 or more")
        self.context_tokens, self.context_start = context_tokens if num_classes else 0, context_start
        if self.context_tokens and not 0 <= context_start < depth:
            raise ValueError(
                f"context_start is {context_start} with depth {depth}; expected 0 to {depth - 1}, "
                "the block before which the context tokens are put in (or context_tokens=0)"
            )
        self.x_embedder = PatchEmbedding(patch_size, channels, hidden_size, bottleneck)
        self.t_embedder = TimeEmbedding(hidden_size)
        self.y_embedder = LabelEmbedding(num_classes, hidden_size) if num_classes else None
        if self.context_tokens:
            self.in_context_posemb = nn.Parameter(EMBEDDING_STD * torch.randn(1, context_tokens, hidden_size))
        self.blocks = nn.ModuleList(
            ModulatedBlock(hidden_size, Attention(hidden_size, num_heads, RMSNorm), SwiGLU(hidden_size, mlp_ratio))
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * channels)
        rotary = rotary_table(*self.grid, hidden_size // num_heads, prefix=self.context_tokens)
        self.register_buffer("pos_embed", sine_positions(*self.grid, hidden_size), persistent=False)
        self.register_buffer("rotary", rotary, persistent=False)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """u, shaped like z. t: (batch,) in [0, 1]; y: (batch,) int64, all "no class" if left out.

        Raises:
            ValueError: samples or times of another shape, labels given to a network without them, or labels out of range.
        """
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"samples have shape {tuple(z.shape[1:])}; this network was built for {self.shape}")
        if t.shape != z.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}; expected ({len(z)},), one time per sample")
        if y is not None and self.y_embedder is None:
            raise ValueError("labels were given to a network built without classes (num_classes=0)")
        c = self.t_embedder(t)
        if self.y_embedder is not None:
            label = self.y_embedder(y, len(z))
            c = c + label
        x = self.x_embedder(z) + self.pos_embed
        rotary = self.rotary[:, self.context_tokens :]
        for i, block in enumerate(self.blocks):
            if self.context_tokens and i == self.context_start:
                x = torch.cat([(label[:, None] + self.in_context_posemb).to(x.dtype), x], dim=1)
                rotary = self.rotary
            x = block(x, c, rotary)
        return unpatchify(self.final_layer(x[:, self.context_tokens :], c), self.grid, self.patch_size)

    @classmethod
    def published(cls, name: str, **overrides: Any) -> JiT:
        """A JiT by its published name, "JiT-B/16": size B, L or H and the patch's side in pixels.

        As published it has 16 × 16 patches of 3 channels (so "JiT-B/16" is for 256 × 256 pixels) and 1000 classes; every
        argument of `JiT` can be given to differ.

        Raises:
            ValueError: an unknown name.
        """
        match = re.fullmatch(r"JiT-([A-Z]+)/(\d+)", name)
        if not match or match[1] not in JIT_SIZES:
            raise ValueError(
                f"no network is called {name!r}; expected 'JiT-SIZE/PATCH', SIZE one of {', '.join(JIT_SIZES)}: 'JiT-B/16'"
            )
        patch_size = int(match[2])
        published = {"image_size": PUBLISHED_GRID * patch_size, "patch_size": patch_size, "channels": 3, "num_classes": 1000}
        return cls(**{**published, **JIT_SIZES[match[1]], **overrides})
