"""U-ViT (Bao et al., arXiv 2209.12152): time, label and patches are all tokens, and early blocks reach late ones by skips.

    x = [label(y), time(t), patches(z)] + positions
    x ← block_i(x)        i < d/2,  kept
    x ← block(x)
    x ← block_i(W_i [x, last kept])        d/2 times, the one kept last first
    u = convolution(patches⁻¹(linear(norm(x))))

Blocks are plain: LayerNorm, attention, a perceptron with GELU; nothing modulates them. The positions are learned, one for each
token, so that such a network has one size of image. The time's token is its sinusoid, D wide.

The official weights predict the noise, with times that run from data to noise; nothing here depends on that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdiff.networks.backbone import ImageNetwork
from kdiff.networks.embedding import EMBEDDING_STD, PatchEmbedding, embed_condition, sinusoid, unpatchify
from kdiff.networks.transformer import Attention, Block, FeedForward, SkipBlock


class UViT(ImageNetwork):
    """z (batch, C, H, W) → u of the same shape; called as network(z, t, y).

    Args:
        image_size: pixels on a side, or (height, width); it takes no other.
        patch_size: pixels on a patch's side; it divides height and width.
        channels: C.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` stands for "no class"; 0 for a network without labels.
        hidden_size: D, even, a multiple of num_heads.
        depth: d, even; there are d + 1 blocks.
        num_heads: attention heads.
        mlp_ratio: the perceptron has D · mlp_ratio units.
        qkv_bias: whether the layer to queries, keys and values has a bias.
        time_mlp: pass the time's sinusoid through a perceptron of 4 D units.
        final_conv: a 3 × 3 convolution at the end.
        time_scale: t is multiplied by it. The official networks are handed 999 t or a step from 1 to 1000, so that 1 is for
            their weights and their times; for times in [0, 1] take 999, as the published sizes here do.
        null_class: False for a table of labels without "no class".
        condition: a module in place of the table of labels, for conditions of any kind: called as condition(y, batch), it
            returns (batch, D), which is a token; y is None where there is none.
        checkpointing: compute the blocks again in the backward pass, for less memory.

    Raises:
        ValueError: sizes that do not fit together.
    """

    takes_other_sizes = False

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
        qkv_bias: bool = False,
        time_mlp: bool = False,
        final_conv: bool = True,
        time_scale: float = 1.0,
        null_class: bool = True,
        condition: nn.Module | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(image_size, patch_size, channels, num_classes, hidden_size, depth, checkpointing)
        if depth % 2:
            raise ValueError(f"depth is {depth}; expected an even number, half of them before the middle block and half after")
        if hidden_size % 2:
            raise ValueError(f"hidden_size is {hidden_size}; expected an even number, half of the time's channels cosines")
        self.time_scale = time_scale

        def block(kind: type[Block]) -> Block:
            attention = Attention(hidden_size, num_heads, qkv_bias=qkv_bias)
            return kind(hidden_size, attention, FeedForward(hidden_size, mlp_ratio, "none"), nn.LayerNorm)

        self.patch_embed = PatchEmbedding(patch_size, channels, hidden_size)
        inner = 4 * hidden_size
        time = nn.Sequential(nn.Linear(hidden_size, inner), nn.SiLU(), nn.Linear(inner, hidden_size))
        self.time_embed = time if time_mlp else nn.Identity()
        self.y_embedder = self.label_module(condition, null_class)
        self.extras = 1 if self.y_embedder is None else 2  # tokens in front of the patches
        self.pos_embed = nn.Parameter(torch.empty(1, self.extras + self.grid[0] * self.grid[1], hidden_size))
        self.in_blocks = nn.ModuleList(block(Block) for _ in range(depth // 2))
        self.mid_block = block(Block)
        self.out_blocks = nn.ModuleList(block(SkipBlock) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(hidden_size)
        self.decoder_pred = nn.Linear(hidden_size, patch_size**2 * channels)
        self.final_layer = nn.Conv2d(channels, channels, 3, padding=1) if final_conv else nn.Identity()
        self._draw(condition)

    def _draw(self, condition: nn.Module | None) -> None:
        """Start as vision transformers do: linear layers and positions at a standard deviation of 0.02."""
        nn.init.trunc_normal_(self.pos_embed, std=EMBEDDING_STD)
        users = set() if condition is None else set(condition.modules())
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in users:
                nn.init.trunc_normal_(module.weight, std=EMBEDDING_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """u, shaped like z.

        Args:
            z: (batch, C, H, W), of the size that the network was built for.
            t: (batch,); time_scale · t goes to the sinusoid as it comes. With official weights and time_scale 1 that is
                official U-ViT's own: 999 t′ with t′ in (0, 1], or a step 1 … 1000, large for noise.
            y: (batch,) int64, or what the module given as `condition` takes; "no class" for all if left out.

        Raises:
            ValueError: samples, times, labels or the condition's vector of another shape, labels given to a network without
                them, or labels out of range.
        """
        grid = self.checked_grid(z, t)
        label = embed_condition(self.y_embedder, y, len(z), self.hidden_size)
        time = self.time_embed(sinusoid(t, self.hidden_size, self.time_scale).to(self.pos_embed.dtype))
        extras = [time] if label is None else [label, time]
        x = torch.cat([*(token[:, None] for token in extras), self.patch_embed(z)], dim=1) + self.pos_embed
        kept = []
        for block in self.in_blocks:
            x = self.run(block, x)
            kept.append(x)
        x = self.run(self.mid_block, x)
        for block in self.out_blocks:
            x = self.run(block, x, kept.pop())
        tokens = self.decoder_pred(self.norm(x)[:, self.extras :])
        return self.final_layer(unpatchify(tokens, grid, self.patch_size))
