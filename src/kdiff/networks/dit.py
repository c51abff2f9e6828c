"""DiT (Peebles & Xie, arXiv 2212.09748), SiT (2401.08740), which is the same network, and LightningDiT (2501.01423).

    c = time(t) + label(y)        x = patches(z) + positions        x ← block_i(x, c)        u = patches⁻¹(final(x, c))

    DiT             LayerNorm without parameters, attention, a perceptron with GELU, adaLN-zero
    LightningDiT    RMSNorm, attention with rotary embedding (and a norm of queries and keys), SwiGLU, adaLN-zero

each of LightningDiT's changes is an option of its own. DiT's official weights predict the noise, SiT's and LightningDiT's the
velocity x − n; nothing here depends on that.
"""

from __future__ import annotations

from torch import nn

from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.transformer import Attention, FeedForward, FinalLayer, ModulatedBlock, RMSNorm, SwiGLU, bare_layer_norm


class DiT(ModulatedTransformer):
    """z (batch, C, H, W) → u of the same shape; called as network(z, t, y). DiT, and with drop_sigma SiT.

    Args:
        image_size: pixels (of a latent) on a side, or (height, width).
        patch_size: pixels on a patch's side; it divides height and width.
        channels: C.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` stands for "no class"; 0 for a network without labels.
        hidden_size: D, a multiple of num_heads and of 4.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: the perceptron has D · mlp_ratio units.
        learn_sigma: 2 C channels in place of C, u and what official DiT makes a variance of. DiT returns them all, which is
            for its own weights and samplers: `KDiff` takes C.
        drop_sigma: compute them and return the first C, as official SiT does.
        null_class: False for a table of labels without "no class".
        condition: a module in place of the table of labels, for conditions of any kind: called as condition(y, batch), it
            returns (batch, D); y is None where there is none.
        checkpointing: compute the blocks again in the backward pass, for less memory.

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
        learn_sigma: bool = False,
        drop_sigma: bool = False,
        null_class: bool = True,
        condition: nn.Module | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            image_size,
            patch_size,
            channels,
            num_classes,
            hidden_size,
            depth,
            null_class=null_class,
            condition=condition,
            checkpointing=checkpointing,
        )
        if drop_sigma and not learn_sigma:
            raise ValueError("drop_sigma without learn_sigma: there is nothing to drop; expected both, or neither")
        self.learn_sigma, self.drop_sigma = learn_sigma, drop_sigma
        made = 2 * channels if learn_sigma else channels
        self.returned = channels if drop_sigma else made
        self.blocks = nn.ModuleList(
            ModulatedBlock(hidden_size, Attention(hidden_size, num_heads), FeedForward(hidden_size, mlp_ratio), bare_layer_norm)
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * made, bare_layer_norm)
        self.set_tables(head_dim=None)


class LightningDiT(ModulatedTransformer):
    """z (batch, C, H, W) → u of the same shape; called as network(z, t, y). Options as published for XL/1.

    Args:
        image_size: pixels (of a latent) on a side, or (height, width).
        patch_size: pixels on a patch's side; it divides height and width.
        channels: C.
        num_classes: labels are 0 … num_classes − 1, and `num_classes` stands for "no class"; 0 for a network without labels.
        hidden_size: D, a multiple of num_heads and of 4.
        depth: blocks.
        num_heads: attention heads of D / num_heads channels, with rope a multiple of 4.
        mlp_ratio: the perceptron has D · mlp_ratio units, with swiglu ⅔ of that.
        rope: rotary embedding of queries and keys, beside the table of positions.
        swiglu: SwiGLU in place of a perceptron with GELU.
        rmsnorm: RMSNorm with a scale in place of LayerNorm without parameters.
        qk_norm: a norm of queries and keys: RMSNorm, or without rmsnorm LayerNorm with scale and bias.
        shift: False leaves the shifts out of the blocks' modulation.
        learn_sigma: compute 2 C channels and return the first C.
        null_class: False for a table of labels without "no class".
        condition: a module in place of the table of labels, for conditions of any kind: called as condition(y, batch), it
            returns (batch, D); y is None where there is none.
        checkpointing: compute the blocks again in the backward pass, for less memory.

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
        rope: bool = True,
        swiglu: bool = True,
        rmsnorm: bool = True,
        qk_norm: bool = False,
        shift: bool = True,
        learn_sigma: bool = False,
        null_class: bool = True,
        condition: nn.Module | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            image_size,
            patch_size,
            channels,
            num_classes,
            hidden_size,
            depth,
            null_class=null_class,
            condition=condition,
            checkpointing=checkpointing,
        )
        norm = RMSNorm if rmsnorm else bare_layer_norm
        norm_of_heads = (RMSNorm if rmsnorm else nn.LayerNorm) if qk_norm else None
        perceptron = SwiGLU if swiglu else FeedForward
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                hidden_size, Attention(hidden_size, num_heads, norm_of_heads), perceptron(hidden_size, mlp_ratio), norm, shift
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * channels * (2 if learn_sigma else 1), norm)
        self.set_tables(head_dim=hidden_size // num_heads if rope else None)
