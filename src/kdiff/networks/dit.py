"""DiT (Peebles & Xie, arXiv 2212.09748), SiT (2401.08740), which is the same network, and LightningDiT (2501.01423).

    c = time(t) + label(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

    DiT             LayerNorm without parameters, attention, a perceptron with GELU, adaLN-zero
    LightningDiT    RMSNorm, attention with rotary embedding (and a norm of queries and keys), SwiGLU, adaLN-zero

Each change that LightningDiT makes is a separate option. The official weights of DiT predict the noise, and those of SiT and
LightningDiT the velocity x − n; nothing here depends on the prediction target.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass

from torch import nn

from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.transformer import Attention, FeedForward, FinalLayer, ModulatedBlock, RMSNorm, SwiGLU, bare_layer_norm


@dataclass(eq=False, repr=False)
class DiT(ModulatedTransformer):
    """z (batch, C, H, W), (batch, C, L) or (batch, C, D, H, W) → u of the same shape; called as network(z, t, y).

    DiT, and with drop_sigma SiT.

    `ImageNetwork` documents the arguments from `image_size` to `mlp_ratio`, and `null_class`, `condition` and `checkpointing`.

    Args:
        hidden_size: D, a multiple of num_heads and, for images, of 4.
        learn_sigma: compute 2 C channels instead of C: u, and the channels from which the official DiT makes a variance. DiT
            returns them all, for its own weights and samplers; `KDiff` needs a network that returns C.
        drop_sigma: compute the 2 C channels and return the first C, as the official SiT does.

    Raises:
        ValueError: sizes that do not fit together.
    """

    learn_sigma: bool = False
    drop_sigma: bool = False
    null_class: bool = True
    condition: InitVar[nn.Module | None] = None
    checkpointing: bool = False

    def __post_init__(self, condition: nn.Module | None) -> None:
        super().__post_init__(condition)
        if self.drop_sigma and not self.learn_sigma:
            raise ValueError("drop_sigma without learn_sigma: there is nothing to drop; expected both, or neither")
        made = 2 * self.channels if self.learn_sigma else self.channels
        self.returned = self.channels if self.drop_sigma else made
        width = self.hidden_size
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, Attention(width, self.num_heads), FeedForward(width, self.mlp_ratio), bare_layer_norm)
            for _ in range(self.depth)
        )
        self.final_layer = FinalLayer(width, math.prod(self.patch) * made, bare_layer_norm)
        self.set_tables(head_dim=None)


@dataclass(eq=False, repr=False)
class LightningDiT(ModulatedTransformer):
    """z (batch, C, H, W), (batch, C, L) or (batch, C, D, H, W) → u of the same shape; called as network(z, t, y).

    The options are as published for XL/1.

    `ImageNetwork` documents the arguments from `image_size` to `num_heads`, and `null_class`, `condition` and `checkpointing`.

    Args:
        hidden_size: D, a multiple of num_heads and, for images, of 4.
        num_heads: the number of attention heads; with rope, each has a multiple of 4 channels for images, an even number for
            signals, and an even number of at least 6 for volumes.
        mlp_ratio: the perceptron has D · mlp_ratio units, with swiglu ⅔ of that number.
        rope: rotary embedding of queries and keys, in addition to the table of positions.
        swiglu: SwiGLU in place of a perceptron with GELU.
        rmsnorm: RMSNorm with a scale in place of LayerNorm without parameters.
        qk_norm: a norm of queries and keys: RMSNorm, or without rmsnorm LayerNorm with scale and bias.
        shift: False leaves the shifts out of the modulation of the blocks.
        learn_sigma: compute 2 C channels and return the first C.

    Raises:
        ValueError: sizes that do not fit together.
    """

    rope: bool = True
    swiglu: bool = True
    rmsnorm: bool = True
    qk_norm: bool = False
    shift: bool = True
    learn_sigma: bool = False
    null_class: bool = True
    condition: InitVar[nn.Module | None] = None
    checkpointing: bool = False

    def __post_init__(self, condition: nn.Module | None) -> None:
        super().__post_init__(condition)
        norm = RMSNorm if self.rmsnorm else bare_layer_norm
        norm_of_heads = (RMSNorm if self.rmsnorm else nn.LayerNorm) if self.qk_norm else None
        perceptron = SwiGLU if self.swiglu else FeedForward
        width = self.hidden_size
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                width, Attention(width, self.num_heads, norm_of_heads), perceptron(width, self.mlp_ratio), norm, self.shift
            )
            for _ in range(self.depth)
        )
        self.final_layer = FinalLayer(width, self.patch_entries * (2 if self.learn_sigma else 1), norm)
        self.set_tables(head_dim=width // self.num_heads if self.rope else None)
