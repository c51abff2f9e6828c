"""U-ViT (Bao et al., arXiv 2209.12152): time, label and patches are all tokens, and skips join early blocks to late ones.

    x = [label(y), time(t), patches(z)] + positions
    x ← block_i(x)        i < d/2,  kept
    x ← block(x)
    x ← block_i(W_i [x, last kept])        d/2 times, the one kept last first
    u = convolution(patches⁻¹(linear(norm(x))))

Blocks are plain: LayerNorm, attention and a perceptron with GELU, without modulation. The positions are learned, one for each
token, so such a network has one image size. The token of the time is its sinusoid, D wide.

The official weights predict the noise, with times that run from data to noise; nothing here depends on either.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass

import torch
from torch import Tensor, nn

from kdiff.networks.backbone import ImageNetwork
from kdiff.networks.embedding import CONVOLUTIONS, EMBEDDING_STD, PatchEmbedding, embed_condition, sinusoid, unpatchify
from kdiff.networks.transformer import Attention, Block, FeedForward, SkipBlock


@dataclass(eq=False, repr=False)
class UViT(ImageNetwork):
    """z (batch, C, H, W), (batch, C, L) or (batch, C, D, H, W) → u of the same shape; called as network(z, t, y).

    `ImageNetwork` documents the arguments from `image_size` to `mlp_ratio`, and `null_class`, `condition` and `checkpointing`.
    The vector that `condition` returns becomes a token, and its tokens, if there are any, are put in front of all others.

    Args:
        image_size: as for `ImageNetwork`; this network takes no other size.
        hidden_size: D, even, a multiple of num_heads.
        depth: d, even; there are d + 1 blocks.
        qkv_bias: whether the layer to queries, keys and values has a bias.
        time_mlp: pass the sinusoid of the time through a perceptron of 4 D units.
        final_conv: a 3 × 3 convolution at the end.
        time_scale: t is multiplied by this number. The official networks are given 999 t or a step from 1 to 1000, so 1 is
            right for their weights and their times; for times in [0, 1] take 999, as the published sizes here do.

    Raises:
        ValueError: sizes that do not fit together.
    """

    qkv_bias: bool = False
    time_mlp: bool = False
    final_conv: bool = True
    time_scale: float = 1.0
    null_class: bool = True
    condition: InitVar[nn.Module | None] = None
    checkpointing: bool = False

    takes_other_sizes = False

    def __post_init__(self, condition: nn.Module | None) -> None:
        super().__post_init__()
        depth, width = self.depth, self.hidden_size
        if depth % 2:
            raise ValueError(f"depth is {depth}; expected an even number, half of them before the middle block and half after")
        if width % 2:
            raise ValueError(f"hidden_size is {width}; expected an even number, half of the channels of the time are cosines")

        def block(kind: type[Block]) -> Block:
            attention = Attention(width, self.num_heads, qkv_bias=self.qkv_bias)
            return kind(width, attention, FeedForward(width, self.mlp_ratio, "none"), nn.LayerNorm)

        self.patch_embed = PatchEmbedding(self.patch, self.channels, width)
        time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.time_embed = time if self.time_mlp else nn.Identity()
        self.y_embedder = self.label_module(condition)
        self.extras = 1 if self.y_embedder is None else 2  # tokens in front of the patches
        self.pos_embed = nn.Parameter(torch.empty(1, self.extras + math.prod(self.grid), width))
        self.in_blocks = nn.ModuleList(block(Block) for _ in range(depth // 2))
        self.mid_block = block(Block)
        self.out_blocks = nn.ModuleList(block(SkipBlock) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, self.patch_entries)
        convolution = CONVOLUTIONS[len(self.grid)]
        self.final_layer = convolution(self.channels, self.channels, 3, padding=1) if self.final_conv else nn.Identity()
        self._draw(condition)

    def _draw(self, condition: nn.Module | None) -> None:
        """Draw linear layers and positions with a standard deviation of 0.02, as vision transformers do."""
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
            t: (batch,); time_scale · t goes to the sinusoid unchanged. With official weights and time_scale 1, t is the time of
                the official U-ViT: 999 t′ with t′ in (0, 1], or a step 1 … 1000, large for noise.
            y: (batch,) int64, or what the module given as `condition` takes. Without y, every sample has "no class".

        Raises:
            ValueError: as for `ModulatedTransformer.forward`, and for samples of another size.
        """
        grid = self.checked_grid(z, t)
        label, tokens = embed_condition(self.y_embedder, y, len(z), self.hidden_size) or (None, None)
        time = self.time_embed(sinusoid(t, self.hidden_size, self.time_scale).to(self.pos_embed.dtype))
        extras = [time] if label is None else [label, time]
        x = torch.cat([*(token[:, None] for token in extras), self.patch_embed(z)], dim=1) + self.pos_embed
        in_front = self.extras
        if tokens is not None:
            x, in_front = torch.cat([tokens.to(x.dtype), x], dim=1), in_front + tokens.shape[1]
        kept = []
        for block in self.in_blocks:
            x = self.run(block, x)
            kept.append(x)
        x = self.run(self.mid_block, x)
        for block in self.out_blocks:
            x = self.run(block, x, kept.pop())
        patches = self.decoder_pred(self.norm(x)[:, in_front:])
        return self.final_layer(unpatchify(patches, grid, self.patch))
