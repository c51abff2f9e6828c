"""Properties of the transformer's parts: patches, positions, rotation, norms, adaLN-zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdiff.networks.embedding import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    sine_positions,
    sinusoid,
    tiling,
    unpatchify,
)
from kdiff.networks.transformer import (
    Attention,
    Block,
    FeedForward,
    FinalLayer,
    ModulatedBlock,
    RMSNorm,
    SkipBlock,
    SwiGLU,
    bare_layer_norm,
    for_this_device,
    rotary_table,
    rotate,
)


def test_unpatchify_puts_back_what_patches_are_cut_from():
    image, grid, p = torch.randn(2, 3, 8, 12), (2, 3), 4
    tokens = [
        image[:, :, r * p : (r + 1) * p, c * p : (c + 1) * p].permute(0, 2, 3, 1).flatten(1)
        for r in range(grid[0])
        for c in range(grid[1])
    ]
    assert_close(unpatchify(torch.stack(tokens, dim=1), grid, (p, p)), image, rtol=0, atol=0)


@pytest.mark.parametrize("bottleneck", [None, 5])
def test_patch_embedding_is_one_linear_map_for_all_patches_in_row_major_order(bottleneck):
    embed, p = PatchEmbedding(4, 3, 16, bottleneck), 4
    image = torch.randn(2, 3, 8, 12)
    tokens = embed(image)
    assert tokens.shape == (2, 6, 16)
    assert tokens.is_contiguous()
    for i in range(6):
        r, c = divmod(i, 3)
        patch = image[:, :, r * p : (r + 1) * p, c * p : (c + 1) * p]
        assert_close(embed(patch)[:, 0], tokens[:, i], rtol=1e-5, atol=1e-6)
    assert_close(embed(2 * image), 2 * tokens, rtol=1e-5, atol=1e-6)  # linear, and without a bias at the start
    rank = torch.linalg.matrix_rank(embed(torch.randn(100, 3, 4, 4))[:, 0])
    assert rank == (bottleneck or 16)


@pytest.mark.parametrize(("size", "patch"), [(10, 4), ((8, 10), 4), ((0, 8), 4), (8, 0), (8, -4)])
def test_patches_must_tile_the_image(size, patch):
    with pytest.raises(ValueError, match=r"image_size is .* patch_size"):
        tiling(size, patch)


def test_positions_are_columns_then_rows():
    table = sine_positions((3, 4), 32)[0].unflatten(0, (3, 4))
    assert_close(table[0, :, :16], table[2, :, :16], rtol=0, atol=0)
    assert_close(table[:, 0, 16:], table[:, 3, 16:], rtol=0, atol=0)
    assert_close(table[1, 3, 0], torch.tensor(3.0).sin())  # column 3, frequency 1
    assert_close(table[2, 1, 16 + 8], torch.tensor(2.0).cos())  # row 2, frequency 1
    assert torch.cdist(table.flatten(0, 1), table.flatten(0, 1)).fill_diagonal_(1).min() > 0.5  # all tokens differ


def test_sinusoid_keeps_its_frequencies_in_any_precision():
    t = torch.tensor([0.25, 999.0])
    expected = [[f(x * 10000 ** (-j / 4)) for f in (math.cos, math.sin) for j in range(4)] for x in t.tolist()]
    assert_close(sinusoid(t, 8), torch.tensor(expected), rtol=0, atol=2e-4)
    assert_close(sinusoid(t.double(), 8), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert sinusoid(t.bfloat16()[:1], 8).dtype == torch.float32


def test_time_embedding_follows_the_precision_of_its_layers():
    embed, t = TimeEmbedding(8), torch.tensor([0.3])
    assert embed.bfloat16()(t).dtype == torch.bfloat16
    assert embed.double()(t.double()).dtype == torch.float64


def test_attention_scores_under_rotation_depend_on_relative_position_only():
    rows, columns, h = 5, 6, 16
    table = rotary_table((rows, columns), h)
    q, k = torch.randn(2, h)
    scores = rotate(q.expand(rows * columns, h), table) @ rotate(k.expand(rows * columns, h), table).T
    by_place = scores.reshape(rows, columns, rows, columns)
    assert_close(by_place[:-1, :-1, :-1, :-1], by_place[1:, 1:, 1:, 1:], rtol=1e-4, atol=1e-4)
    assert_close(scores.diagonal(), (q @ k).expand(rows * columns), rtol=1e-4, atol=1e-4)
    assert (by_place[0, 0, 0, 1] - by_place[0, 0, 0, 0]).abs() > 1e-3  # a column's step matters,
    assert (by_place[0, 0, 1, 0] - by_place[0, 0, 0, 1]).abs() > 1e-3  # and is not a row's


def test_rotation_turns_adjacent_pairs_by_row_and_column():
    x, h = torch.randn(3, 4, 8), 8
    pairs = torch.view_as_complex(x.reshape(3, 4, 4, 2))
    row, column = torch.arange(3.0)[:, None, None], torch.arange(4.0)[None, :, None]
    frequencies = torch.tensor([1.0, 0.01])
    angles = torch.cat([(row * frequencies).expand(3, 4, 2), (column * frequencies).expand(3, 4, 2)], dim=2)
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).reshape(12, h)
    table = rotary_table((3, 4), h)
    for form in (table, for_this_device(table)):
        assert_close(rotate(x.reshape(12, h), form), expected)
        half = rotate(x.reshape(12, h).bfloat16(), form)
        assert half.dtype == torch.float32  # the table's: rounded once, by who wants less
    assert for_this_device(table).is_complex()
    assert for_this_device(table.bfloat16()).dtype == torch.bfloat16


def test_rotation_keeps_lengths_and_leaves_the_prefix():
    table, x = rotary_table((3, 4), 8, prefix=2), torch.randn(5, 14, 8)
    turned = rotate(x, table)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert_close(turned[:, :3], x[:, :3], rtol=0, atol=0)  # the prefix, and the patch at (0, 0)
    assert_close(turned[:, 2:], rotate(x[:, 2:], rotary_table((3, 4), 8)), rtol=0, atol=0)
    assert ((turned - x)[:, 3:].abs().amax(dim=-1) > 1e-3).all()


def test_attention_is_softmax_of_scaled_products():
    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    q, k, v = attention.qkv(x).split(12, dim=2)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    assert_close(attention(x), attention.proj(torch.cat(heads, dim=2)))


def test_normed_queries_make_attention_blind_to_their_scale():
    x = torch.randn(2, 5, 16)
    for norm, blind in [(RMSNorm, True), (None, False)]:
        attention = Attention(16, 4, norm)
        before = attention(x)
        with torch.no_grad():
            attention.qkv.weight[:16] *= 10
        assert torch.allclose(attention(x), before, atol=1e-3) is blind


def test_rms_norm():
    norm, x = RMSNorm(64), 5 * torch.randn(3, 64)
    assert_close(norm(x).square().mean(dim=-1), torch.ones(3))
    with torch.no_grad():
        norm.weight.normal_()
    exact = norm(x.bfloat16().double()).bfloat16()
    assert_close(norm(x.bfloat16()), exact, rtol=0.0, atol=0)  # float32 inside, product with the scale included
    assert norm.double()(x.double()).dtype == torch.float64


def test_swiglu_has_two_thirds_of_the_usual_units():
    assert [SwiGLU(d).w3.in_features for d in (64, 768, 1024, 1280)] == [170, 2048, 2730, 3413]
    layer, x = SwiGLU(6, 2.0), torch.randn(4, 6)
    gate, value = layer.w12(x)[:, :8], layer.w12(x)[:, 8:]
    assert_close(layer(x), layer.w3(gate * gate.sigmoid() * value))


def test_the_perceptron_has_gelu_or_its_approximation_by_tanh():
    x = torch.randn(4, 6)
    for approximate, gelu in {
        "none": lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2,
        "tanh": lambda h: h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) / 2,
    }.items():
        layer = FeedForward(6, 2.5, approximate)
        assert layer.fc1.weight.shape == (15, 6)
        assert_close(layer(x), layer.fc2(gelu(layer.fc1(x))), rtol=1e-5, atol=1e-6)


def test_the_bare_norm_has_no_parameters():
    norm, x = bare_layer_norm(64), 5 * torch.randn(3, 64) + 2
    assert not list(norm.parameters())
    normed = norm(x)
    assert_close(normed.mean(dim=-1), torch.zeros(3), rtol=0, atol=1e-6)
    assert_close(normed.var(dim=-1, correction=0), torch.ones(3))


@pytest.mark.parametrize("shift", [True, False])
def test_a_modulated_block_starts_as_the_identity_and_obeys_its_condition(shift):
    block = ModulatedBlock(16, Attention(16, 2, RMSNorm), SwiGLU(16), shift=shift)
    x, c = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert_close(block(x, c), x, rtol=0, atol=0)
    nn.init.normal_(block.adaLN_modulation[1].weight)
    names = [f"{part}{i}" for i in (1, 2) for part in (("shift",) if shift else ()) + ("scale", "gate")]
    m = dict(zip(names, block.adaLN_modulation[1](c * c.sigmoid()).unflatten(1, (-1, 1, 16)).unbind(1)))
    expected = x
    for i, norm, layer in [(1, block.norm1, block.attn), (2, block.norm2, block.mlp)]:
        modulated = norm(expected) * (1 + m[f"scale{i}"]) + m.get(f"shift{i}", 0)
        expected = expected + m[f"gate{i}"] * layer(modulated)
    assert_close(block(x, c), expected, rtol=1e-4, atol=1e-4)


def test_a_plain_block_is_a_modulated_one_with_open_gates():
    plain = Block(16, Attention(16, 2), SwiGLU(16))
    modulated = ModulatedBlock(16, plain.attn, plain.mlp)
    with torch.no_grad():
        modulated.adaLN_modulation[1].bias.unflatten(0, (6, 16))[[2, 5]] = 1
    x = torch.randn(2, 5, 16)
    assert_close(modulated(x, torch.randn(2, 16)), plain(x))


def test_a_skip_block_starts_from_a_linear_map_of_both():
    skip_block = SkipBlock(16, Attention(16, 2), SwiGLU(16))
    plain = Block(16, skip_block.attn, skip_block.mlp)
    x, skip = torch.randn(2, 2, 5, 16)
    of_x, of_skip = skip_block.skip_linear.weight.split(16, dim=1)
    assert_close(skip_block(x, skip), plain(x @ of_x.T + skip @ of_skip.T))


def test_the_final_layer_starts_at_zero_and_shifts_and_scales():
    final, x, c = FinalLayer(16, 3), torch.randn(2, 5, 16), torch.randn(2, 16)
    assert (final(x, c) == 0).all()
    for layer in (final.linear, final.adaLN_modulation[1]):
        nn.init.normal_(layer.weight)
    shift, scale = final.adaLN_modulation[1](c * c.sigmoid()).unflatten(1, (2, 1, 16)).unbind(1)
    assert_close(final(x, c), final.linear(final.norm_final(x) * (1 + scale) + shift), rtol=1e-4, atol=1e-4)


def test_layers_start_as_in_dit():
    """Xavier's uniform law for linear layers and patches, standard deviation 0.02 for time and labels, no biases."""
    for layer, shape in [
        (Attention(64, 2).qkv, (192, 64)),
        (SwiGLU(64).w3, (64, 170)),
        (PatchEmbedding(4, 3, 64).proj, (64, 48)),
        (PatchEmbedding(4, 3, 64, 32).proj1, (32, 48)),
    ]:
        bound = (6 / sum(shape)) ** 0.5
        assert layer.weight.flatten(1).shape == shape
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert_close(layer.weight.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
        assert layer.bias is None or not layer.bias.any()
    time = TimeEmbedding(64).mlp
    for weight in (time[0].weight, time[2].weight, LabelEmbedding(100, 64).embedding_table.weight):
        assert_close(weight.std().item(), 0.02, rtol=0.05, atol=0)
    assert not time[0].bias.any()


def test_labels_look_up_rows_and_none_is_the_last():
    table = LabelEmbedding(3, 8)
    rows = table.embedding_table.weight
    assert_close(table(torch.tensor([2, 0, 3]), 3), rows[[2, 0, 3]], rtol=0, atol=0)
    assert_close(table(None, 2), rows[[3, 3]], rtol=0, atol=0)
    assert_close(table(torch.tensor([1], dtype=torch.uint8), 1), rows[[1]], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 4]), "range from 0 to 4; expected 0 to 2"),
        (torch.tensor([-1, 0]), "range from -1 to 0"),
        (torch.tensor([0]), "expected integers of shape"),
        (torch.tensor([[0], [1]]), "expected integers of shape"),
        (torch.tensor([0.0, 1.0]), "expected integers"),
    ],
)
def test_labels_out_of_the_table_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        LabelEmbedding(3, 8)(y, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(10, 3), "hidden_size is 10 with num_heads 3"),
        (lambda: Attention(10, 0), "num_heads 0"),
        (lambda: rotary_table((2, 2), 6), "6 channels"),
        (lambda: sine_positions((2, 2), 6), "hidden_size is 6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
