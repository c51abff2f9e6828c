"""JiT, "just image transformers" (Li & He, arXiv 2511.13720): a plain transformer on large patches of pixels.

    c = time(t) + label(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

The patch embedding passes a bottleneck far narrower than a patch; blocks have RMSNorm, rotary embedding after a norm of
queries and keys, SwiGLU and adaLN-zero. Before block `context_start`, `context_tokens` copies of the label's embedding, each
with a position of its own, are put in front of the patches; they are not rotated, and are dropped before the final layer.

JiT predicts the data (k = 1), but nothing here depends on that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.embedding import EMBEDDING_STD
from kdiff.networks.transformer import Attention, FinalLayer, ModulatedBlock, RMSNorm, SwiGLU


class JiT(ModulatedTransformer):
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
        condition: a module in place of the table of labels, for conditions of any kind: called as condition(y, batch), it
            returns (batch, D); y is None where there is none. The context tokens are copies of what it returns.
        checkpointing: compute the blocks again in the backward pass, for less memory.
        dropout: rate, in training, of what attention returns and of the perceptron's units, in the middle half of the blocks;
            the published JiT-H was trained with 0.2, the others with none.
        attention_dropout: rate, in training, of attention's weights in the same blocks; none was published with any.

    Raises:
        ValueError: sizes that do not fit together.
    """

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
        condition: nn.Module | None = None,
        checkpointing: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        if bottleneck < 1:
            raise ValueError(f"bottleneck is {bottleneck}; expected at least 1")
        for name, rate in {"dropout": dropout, "attention_dropout": attention_dropout}.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}; expected a rate in [0, 1)")
        super().__init__(
            image_size,
            patch_size,
            channels,
            num_classes,
            hidden_size,
            depth,
            bottleneck=bottleneck,
            condition=condition,
            checkpointing=checkpointing,
        )
        if context_tokens < 0:
            raise ValueError(f"context_tokens is {context_tokens}; expected 0 or more")
        self.context_tokens, self.context_start = context_tokens if self.y_embedder is not None else 0, context_start
        if self.context_tokens and not 0 <= context_start < depth:
            raise ValueError(
                f"context_start is {context_start} with depth {depth}; expected 0 to {depth - 1}, "
                "the block before which the context tokens are put in (or context_tokens=0)"
            )
        if self.context_tokens:
            self.in_context_posemb = nn.Parameter(EMBEDDING_STD * torch.randn(1, context_tokens, hidden_size))
        self.random = max(dropout, attention_dropout) > 0
        none, middle = (0.0, 0.0), range(depth // 4, depth // 4 * 3)
        rates = [(dropout, attention_dropout) if i in middle else none for i in range(depth)]
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                hidden_size,
                Attention(hidden_size, num_heads, RMSNorm, dropout=rate, attention_dropout=of_weights),
                SwiGLU(hidden_size, mlp_ratio, rate),
            )
            for rate, of_weights in rates
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * channels)
        self.set_tables(hidden_size // num_heads, prefix=self.context_tokens)

    def through(self, x: Tensor, c: Tensor, label: Tensor | None, rotary: Tensor | None) -> Tensor:
        """x through all blocks, the context tokens with it from their start on; they are not rotated, and not returned."""
        assert rotary is not None
        turned = rotary[:, self.context_tokens :]
        for i, block in enumerate(self.blocks):
            if label is not None and self.context_tokens and i == self.context_start:
                x = torch.cat([(label[:, None] + self.in_context_posemb).to(x.dtype), x], dim=1)
                turned = rotary
            x = self.run(block, x, c, turned)
        return x[:, self.context_tokens :]
