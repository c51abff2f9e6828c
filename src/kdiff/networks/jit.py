"""JiT, "just image transformers" (Li & He, arXiv 2511.13720): a plain transformer on large patches of pixels.

    c = time(t) + label(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

The patch embedding passes through a bottleneck that is far narrower than a patch. Blocks have RMSNorm, rotary embedding after a
norm of queries and keys, SwiGLU and adaLN-zero. Before block `context_start`, `context_tokens` copies of the label's embedding
are put in front of the patches, each with its own position. These copies are not rotated, and are dropped before the final
layer.

JiT predicts the data (k = 1), but nothing here depends on the prediction target.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

import torch
from torch import Tensor, nn

from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.embedding import EMBEDDING_STD
from kdiff.networks.transformer import Attention, FinalLayer, ModulatedBlock, RMSNorm, SwiGLU


@dataclass(eq=False, repr=False)
class JiT(ModulatedTransformer):
    """z (batch, C, H, W), (batch, C, L) or (batch, C, D, H, W) → u of the same shape; called as network(z, t, y).

    `ImageNetwork` documents the arguments from `image_size` to `depth`, and `condition` and `checkpointing`. The context tokens
    are copies of the label's embedding or of what `condition` returns; a network without both has no context tokens.

    Args:
        num_heads: the number of attention heads, of h = D / num_heads channels each. h is a multiple of 4 for images, even for
            signals, and even and at least 6 for volumes.
        mlp_ratio: the perceptron has ⅔ of D · mlp_ratio units.
        bottleneck: the number of values that a patch is reduced to before it is expanded to D.
        context_tokens: the number of copies in front of the patches; 0 for none.
        context_start: the block (counted from 0) before which they are put there.
        dropout: the rate at which training drops entries of what attention returns and units of the perceptron, in the middle
            half of the blocks. The published JiT-H was trained with 0.2, the other sizes without dropout.
        attention_dropout: the rate at which training drops attention weights in the same blocks; every published size has 0.

    Raises:
        ValueError: sizes that do not fit together.
    """

    bottleneck: int = 128
    context_tokens: int = 32
    context_start: int = 4
    condition: InitVar[nn.Module | None] = None
    checkpointing: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self, condition: nn.Module | None) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"bottleneck is {self.bottleneck}; expected at least 1")
        for name, rate in {"dropout": self.dropout, "attention_dropout": self.attention_dropout}.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}; expected a rate in [0, 1)")
        super().__post_init__(condition, self.bottleneck)
        if self.context_tokens < 0:
            raise ValueError(f"context_tokens is {self.context_tokens}; expected 0 or more")
        if self.y_embedder is None:
            self.context_tokens = 0
        width, depth = self.hidden_size, self.depth
        if self.context_tokens and not 0 <= self.context_start < depth:
            raise ValueError(
                f"context_start is {self.context_start} with depth {depth}; expected 0 to {depth - 1}, "
                "the block before which the context tokens are put in (or context_tokens=0)"
            )
        if self.context_tokens:
            self.in_context_posemb = nn.Parameter(EMBEDDING_STD * torch.randn(1, self.context_tokens, width))
        self.random = max(self.dropout, self.attention_dropout) > 0
        middle = range(depth // 4, depth // 4 * 3)
        rates = [(self.dropout, self.attention_dropout) if i in middle else (0.0, 0.0) for i in range(depth)]
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                width,
                Attention(width, self.num_heads, RMSNorm, dropout=rate, attention_dropout=of_weights),
                SwiGLU(width, self.mlp_ratio, rate),
            )
            for rate, of_weights in rates
        )
        self.final_layer = FinalLayer(width, self.patch_entries)
        self.set_tables(width // self.num_heads, prefix=self.context_tokens)

    def through(self, x: Tensor, c: Tensor, label: Tensor | None, rotary: Tensor | None) -> Tensor:
        """Pass x through all blocks, from `context_start` on with the context tokens, which are not rotated or returned."""
        assert rotary is not None
        turned = rotary[:, self.context_tokens :]
        for i, block in enumerate(self.blocks):
            if label is not None and self.context_tokens and i == self.context_start:
                x = torch.cat([(label[:, None] + self.in_context_posemb).to(x.dtype), x], dim=1)
                turned = rotary
            x = self.run(block, x, c, turned)
        return x[:, self.context_tokens :]
