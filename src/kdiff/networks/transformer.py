"""Blocks of diffusion transformers: norms, rotary attention, perceptrons, adaLN-zero, skips.

    x ← x + g₁ · attention((1 + s₁) · norm(x) + b₁)        x ← x + g₂ · mlp((1 + s₂) · norm(x) + b₂)

with (b₁, s₁, g₁, b₂, s₂, g₂) = W SiLU(c), where c is the condition of a sample (time and label). W is zero at the start, so a
block starts as the identity (adaLN-zero, arXiv 2212.09748). The norms, the norms of queries and keys, and the perceptron are
arguments of a block; an architecture is a choice of them. A plain block has no s, b and g. A block at the end of a skip (U-ViT,
arXiv 2209.12152) starts with x ← W [x, skip]. Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiff.networks.embedding import MAX_PERIOD, channels_of, grid_positions, linear

Norm = Callable[[int], nn.Module]  # makes a norm over a last dimension of this width


class RMSNorm(nn.Module):
    """w · x / sqrt(mean(x²) + 10⁻⁶) over the last dimension (arXiv 1910.07467), computed in float32 or better."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The result has the shape and the type of x."""
        wide = x.float() if x.itemsize < 4 else x
        return F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), self.eps).to(x.dtype)


def bare_layer_norm(size: int) -> nn.LayerNorm:
    """(x − mean) / sqrt(variance + 10⁻⁶) over the last dimension, without parameters, because the modulation has them (DiT)."""
    return nn.LayerNorm(size, eps=1e-6, elementwise_affine=False)


def rotary_table(grid: tuple[int, ...], head_dim: int, prefix: int = 0) -> Tensor:
    """Cosines and signed sines of rotary embedding (arXiv 2104.09864) on a grid of one to three axes: (2, prefix + tokens, h).

    The channels of a head are shared out over the axes: in two dimensions the first half is rotated by the row and the second
    half by the column. Of the m channels of an axis, each adjacent pair (2j, 2j + 1) is rotated by the angle index ·
    10000^(−2j/m). Channels that are left over in three dimensions are not rotated. The first `prefix` tokens have no place in
    the grid and are not rotated. The sines have the sign with which `rotate` uses them: −, + in each pair.
    """
    if head_dim % 2:
        raise ValueError(f"heads have {head_dim} channels; rotary embedding needs an even number")
    pairs = channels_of(head_dim, len(grid), f"heads have {head_dim} channels; rotary embedding") // 2
    frequencies = MAX_PERIOD ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = torch.cat([index[:, None] * frequencies for index in grid_positions(grid)], dim=1)
    angles = F.pad(angles, (0, head_dim // 2 - angles.shape[1], prefix, 0)).repeat_interleave(2, dim=1)
    sign = torch.tensor([-1.0, 1.0]).repeat(head_dim // 2)
    return torch.stack([angles.cos(), angles.sin() * sign]).float()


def for_this_device(table: Tensor) -> Tensor:
    """The table of `rotary_table` in the form that is fastest here; on a CPU cos + i sin, (1, prefix + rows · columns, h/2).

    Complex numbers pass through memory once, which is faster on a CPU. They have no bfloat16 form, and compile poorly.
    """
    if table.device.type != "cpu" or table.itemsize < 4 or torch.compiler.is_compiling():
        return table
    return torch.complex(table[0, :, ::2], table[1, :, 1::2])[None]


def unrotated_in_front(table: Tensor, count: int) -> Tensor:
    """The table, real or complex, with `count` more tokens in front that are not rotated (cosine 1, sine 0)."""
    front = table.new_zeros(len(table), count, table.shape[2])
    front[0] = 1
    return torch.cat([front, table], dim=1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate each adjacent pair (a, b) of x (…, tokens, h) to (a cos − b sin, b cos + a sin), in the table's precision.

    `table` comes from `rotary_table` or from `for_this_device`. If it is complex, the pair becomes (a + i b)(cos + i sin).
    """
    if table.is_complex():
        pairs = torch.view_as_complex(x.to(table.real.dtype).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table[0]).flatten(-2)
    cosine, sine = table
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cosine, swapped, sine)


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ/√h) v, with queries, keys and values from one linear layer.

    Args:
        hidden_size: D, a multiple of num_heads.
        num_heads: the number of heads, of h = D / num_heads channels each.
        qk_norm: a norm of queries and keys over h; by default there is none.
        qkv_bias: whether the layer to queries, keys and values has a bias.
        dropout: the rate at which entries of the result are dropped in training.
        attention_dropout: the rate at which entries of the softmax are dropped in training.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        qk_norm: Norm | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(
                f"hidden_size is {hidden_size} with num_heads {num_heads}; expected a num_heads that divides hidden_size"
            )
        head_dim = hidden_size // num_heads
        self.num_heads = num_heads
        self.qkv = linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.q_norm = qk_norm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = qk_norm(head_dim) if qk_norm else nn.Identity()
        self.proj = linear(hidden_size, hidden_size)
        self.dropout, self.attention_dropout = dropout, attention_dropout

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """x: (batch, tokens, D); rotary: the table of these tokens for `rotate`, which follows the norms."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            # The table is float32: q and k in half precision are rotated in float32 and rounded once.
            q, k = rotate(q, rotary).to(v.dtype), rotate(k, rotary).to(v.dtype)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attention_dropout if self.training else 0.0)
        x = self.proj(x.transpose(1, 2).flatten(2))
        return dropped(x, self.dropout, self.training)


def dropped(x: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout (Srivastava et al., 2014); x itself if the rate is 0 or outside training."""
    return F.dropout(x, rate) if rate and training else x


class SwiGLU(nn.Module):
    """W₃ (SiLU(W₁ x) · W₂ x) (arXiv 2002.05202), W₁ and W₂ in one layer; ⅔ of D · mlp_ratio units, rounded down.

    Two thirds, because three matrices of that size have as many parameters as the usual two of full size.
    """

    def __init__(self, hidden_size: int, mlp_ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        inner = int(hidden_size * mlp_ratio) * 2 // 3
        self.w12 = linear(hidden_size, 2 * inner)
        self.w3 = linear(inner, hidden_size)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Shaped like x; training drops units inside."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(dropped(F.silu(gate) * value, self.dropout, self.training))


class FeedForward(nn.Module):
    """W₂ GELU(W₁ x), with D · mlp_ratio units inside.

    `approximate` is "tanh" for the approximation of GELU by tanh (DiT), or "none" for the exact GELU (U-ViT).
    """

    def __init__(self, hidden_size: int, mlp_ratio: float = 4.0, approximate: Literal["none", "tanh"] = "tanh") -> None:
        super().__init__()
        inner = int(hidden_size * mlp_ratio)
        self.fc1 = linear(hidden_size, inner)
        self.fc2 = linear(inner, hidden_size)
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Shaped like x."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


def adaln(hidden_size: int, chunks: int) -> nn.Sequential:
    """c (batch, D) → (batch, chunks · D): W SiLU(c), zero at the start."""
    layer = nn.Linear(hidden_size, chunks * hidden_size)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.SiLU(), layer)


def modulate(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """(1 + scale) · x + shift. x: (batch, tokens, D); scale, shift: (batch, 1, D)."""
    return x * (1 + scale) if shift is None else torch.addcmul(shift, x, 1 + scale)


class Block(nn.Module):
    """A pre-norm transformer block: x ← x + attention(norm(x)), x ← x + mlp(norm(x)).

    `attention` has the width D, `mlp` maps (…, D) to (…, D), and `norm` makes the two norms of the block.
    """

    def __init__(self, hidden_size: int, attention: Attention, mlp: nn.Module, norm: Norm = RMSNorm) -> None:
        super().__init__()
        self.norm1 = norm(hidden_size)
        self.attn = attention
        self.norm2 = norm(hidden_size)
        self.mlp = mlp

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """x: (batch, tokens, D), returned in that shape."""
        x = x + self.attn(self.norm1(x), rotary)
        return x + self.mlp(self.norm2(x))


class SkipBlock(Block):
    """A block that starts with x ← W [x, skip], where skip is the output of an earlier block; arguments as for `Block`."""

    def __init__(self, hidden_size: int, attention: Attention, mlp: nn.Module, norm: Norm = RMSNorm) -> None:
        super().__init__(hidden_size, attention, mlp, norm)
        self.skip_linear = linear(2 * hidden_size, hidden_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """x and skip: (batch, tokens, D), returned in that shape."""
        return super().forward(self.skip_linear(torch.cat([x, skip], dim=2)))


class ModulatedBlock(Block):
    """A block with adaLN-zero: the formula at the top of this page. Arguments as for `Block`.

    With shift=False the block has no b₁ and b₂, and the modulation has four parts.
    """

    def __init__(
        self, hidden_size: int, attention: Attention, mlp: nn.Module, norm: Norm = RMSNorm, shift: bool = True
    ) -> None:
        super().__init__(hidden_size, attention, mlp, norm)
        self.shift = shift
        self.adaLN_modulation = adaln(hidden_size, 6 if shift else 4)

    def forward(self, x: Tensor, c: Tensor, rotary: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """x: (batch, tokens, D); c: (batch, D); rotary: the table of these tokens for `rotate`. Shaped like x."""
        parts = self.adaLN_modulation(c)[:, None].chunk(6 if self.shift else 4, dim=2)
        if self.shift:
            shift1, scale1, gate1, shift2, scale2, gate2 = parts
        else:
            (scale1, gate1, scale2, gate2), shift1, shift2 = parts, None, None
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), scale1, shift1), rotary))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), scale2, shift2)))


class FinalLayer(nn.Module):
    """Tokens (batch, tokens, D) → (batch, tokens, outputs): a norm, shift and scale from c, a linear layer that starts at 0."""

    def __init__(self, hidden_size: int, outputs: int, norm: Norm = RMSNorm) -> None:
        super().__init__()
        self.norm_final = norm(hidden_size)
        self.adaLN_modulation = adaln(hidden_size, 2)
        self.linear = nn.Linear(hidden_size, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x: (batch, tokens, D); c: (batch, D)."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(modulate(self.norm_final(x), scale, shift))
