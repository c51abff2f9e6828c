"""The parts of `embedding` and `transformer` make up other published architectures: each composed here, against its numbers.

What these compositions add of their own (a GELU perceptron, U-ViT's skips) is all that those architectures would have to add.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from kdiff.networks.embedding import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    image_and_grid,
    sine_positions,
    sinusoid,
    unpatchify,
)
from kdiff.networks.transformer import Attention, Block, FinalLayer, ModulatedBlock, RMSNorm, SwiGLU, rotary_table


class GELU(nn.Module):
    def __init__(self, hidden_size, mlp_ratio, approximate):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(hidden_size * mlp_ratio))
        self.fc2 = nn.Linear(int(hidden_size * mlp_ratio), hidden_size)
        self.approximate = approximate

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class DiT(nn.Module):
    """DiT, SiT and LightningDiT."""

    def __init__(self, input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio, num_classes, **switches):
        super().__init__()
        on = switches.get
        _, self.grid = image_and_grid(input_size, patch_size)
        self.patch_size = patch_size
        norm = RMSNorm if on("use_rmsnorm") else partial(nn.LayerNorm, eps=1e-6, elementwise_affine=False)
        qk_norm = (RMSNorm if on("use_rmsnorm") else nn.LayerNorm) if on("use_qknorm") else None
        self.x_embedder = PatchEmbedding(patch_size, in_channels, hidden_size)
        self.t_embedder = TimeEmbedding(hidden_size)
        self.y_embedder = LabelEmbedding(num_classes, hidden_size)
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                hidden_size,
                Attention(hidden_size, num_heads, qk_norm),
                SwiGLU(hidden_size, mlp_ratio) if on("use_swiglu") else GELU(hidden_size, mlp_ratio, "tanh"),
                norm,
                shift=not on("wo_shift"),
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels * (2 if on("learn_sigma") else 1), norm)
        self.pos_embed = sine_positions(*self.grid, hidden_size)
        self.rotary = rotary_table(*self.grid, hidden_size // num_heads) if on("use_rope") else None

    def forward(self, z, t, y):
        c = self.t_embedder(t) + self.y_embedder(y, len(z))
        x = self.x_embedder(z) + self.pos_embed
        for block in self.blocks:
            x = block(x, c, self.rotary)
        return unpatchify(self.final_layer(x, c), self.grid, self.patch_size)


class UViT(nn.Module):
    def __init__(
        self,
        img_size,
        patch_size,
        in_chans,
        embed_dim,
        depth,
        num_heads,
        mlp_ratio,
        qkv_bias,
        mlp_time_embed,
        num_classes,
        **on,
    ):
        super().__init__()
        _, self.grid = image_and_grid(img_size, patch_size)
        self.patch_size, self.width = patch_size, embed_dim
        self.patch_embed = PatchEmbedding(patch_size, in_chans, embed_dim)
        inner = 4 * embed_dim
        time = nn.Sequential(nn.Linear(embed_dim, inner), nn.SiLU(), nn.Linear(inner, embed_dim))
        self.time_embed = time if mlp_time_embed else nn.Identity()
        self.label_emb = nn.Embedding(num_classes, embed_dim) if num_classes > 0 else None
        self.extras = 2 if num_classes > 0 else 1
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + self.grid[0] * self.grid[1], embed_dim))

        def block():
            attention = Attention(embed_dim, num_heads, qkv_bias=qkv_bias)
            return Block(embed_dim, attention, GELU(embed_dim, mlp_ratio, "none"), nn.LayerNorm)

        def skip_block():
            module = block()
            module.skip_linear = nn.Linear(2 * embed_dim, embed_dim)
            return module

        self.in_blocks = nn.ModuleList(block() for _ in range(depth // 2))
        self.mid_block = block()
        self.out_blocks = nn.ModuleList(skip_block() for _ in range(depth // 2))
        self.norm = nn.LayerNorm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, patch_size**2 * in_chans)
        self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1) if on["conv"] else nn.Identity()

    def forward(self, z, t, y=None):
        extras = [self.time_embed(sinusoid(t, self.width))[:, None]]
        if self.label_emb is not None:
            extras.insert(0, self.label_emb(y)[:, None])
        x = torch.cat([*extras, self.patch_embed(z)], dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(block.skip_linear(torch.cat([x, skips.pop()], dim=2)))
        tokens = self.decoder_pred(self.norm(x))[:, self.extras :]
        return self.final_layer(unpatchify(tokens, self.grid, self.patch_size))


@pytest.mark.parametrize(
    ("architecture", "name", "tolerance"),
    [
        (DiT, "dit_forward", 5e-5),
        (DiT, "sit_forward", 1e-5),
        (DiT, "lightningdit_forward", 1e-5),
        (DiT, "lightningdit_qknorm_forward", 1e-5),
        (DiT, "lightningdit_plain_forward", 1e-5),
        (UViT, "uvit_forward", 5e-5),
        (UViT, "uvit_uncond_forward", 5e-5),
    ],
)
def test_parts_compose_to_other_architectures(reference, architecture, name, tolerance):
    file = reference(name)
    config, weights = file.read("config"), file.below("weights")
    network = architecture(**{key: value for key, value in config.items() if key != "class_dropout_prob"})
    if architecture is DiT:
        assert_close(network.pos_embed, weights.pop("pos_embed"), rtol=0, atol=1e-6)
    if "feat_rope.freqs_cos" in weights:
        sign = torch.tensor([-1.0, 1.0]).repeat(network.rotary.shape[2] // 2)
        assert_close(network.rotary[0], weights.pop("feat_rope.freqs_cos"), rtol=0, atol=1e-6)
        assert_close(network.rotary[1] * sign, weights.pop("feat_rope.freqs_sin"), rtol=0, atol=1e-6)
    network.load_state_dict(weights)
    inputs = file.below("input")
    with torch.no_grad():
        output = network(*(inputs[name] for name in "zty" if name in inputs))
    # SiT and LightningDiT compute as many channels as DiT and return half of them.
    assert_close(output[:, : file["output"].shape[1]], file["output"], rtol=0, atol=tolerance)
