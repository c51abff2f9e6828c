"""Patch transformers on signals (C, L), images (C, H, W) and volumes (C, D, H, W): one code for one, two and three axes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from kdiff.networks import DiT, JiT, LightningDiT, UViT, published
from kdiff.networks.embedding import PatchEmbedding, channels_of, grid_positions, sine_positions, tiling, unpatchify
from kdiff.networks.transformer import rotary_table, rotate

NETWORKS = {
    "JiT": (JiT, {"bottleneck": 6, "context_tokens": 2, "context_start": 1}),
    "DiT": (DiT, {}),
    "LightningDiT": (LightningDiT, {}),
    "U-ViT": (UViT, {"time_scale": 999.0}),
}
all_networks = pytest.mark.parametrize("name", NETWORKS)
# Sizes, and a patch for all axes or for each.
SAMPLES = [((16,), 4, (4,)), ((8, 12), (2, 4), (4, 3)), ((4, 6, 8), 2, (2, 3, 4)), ((4, 6, 8), (4, 3, 2), (1, 2, 4))]
all_samples = pytest.mark.parametrize(("size", "patch", "grid"), SAMPLES)
GRIDS = [(5,), (3, 4), (2, 3, 4)]


def small(name, size, patch, **changes):
    kind, options = NETWORKS[name]
    sizes = {"channels": 3, "num_classes": 5, "hidden_size": 32, "depth": 2, "num_heads": 2}
    return kind(size, patch, **{**sizes, **options, **changes})


def patches_of(x, patch):
    """Every patch of x, in row-major order of the grid."""
    steps = [range(0, size, side) for size, side in zip(x.shape[2:], patch)]
    for corner in itertools.product(*steps):
        yield x[(slice(None), slice(None), *(slice(low, low + side) for low, side in zip(corner, patch)))]


@all_networks
@all_samples
def test_networks_have_the_axes_of_their_samples(name, size, patch, grid, stirred):
    network = small(name, size, patch)
    assert network.grid == grid
    assert network.shape == (3, *size)
    z, t, y = torch.randn(2, 3, *size), torch.rand(2), torch.tensor([1, 5])
    if name != "U-ViT":
        assert (network(z, t, y) == 0).all()
    network = stirred(network)
    u = network(z, t, y)
    assert u.shape == z.shape
    assert u.flatten(1).abs().amax(dim=1).min() > 1e-3
    other = z.clone()
    other[(slice(None), slice(None), *(slice(0, 1) for _ in size))] += 1  # one entry, at the corner
    assert ((network(other, t, y) - u).abs().amax(dim=(0, 1)) > 1e-6).float().mean() > 0.9


@all_networks
@pytest.mark.parametrize("size", [(16,), (4, 6, 8)])
def test_gradients_reach_every_parameter(name, size, stirred):
    network = stirred(small(name, size, 2))
    network(torch.randn(3, 3, *size), torch.rand(3), torch.arange(3)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", ["JiT", "DiT", "LightningDiT"])
@pytest.mark.parametrize(("built", "called"), [((16,), (40,)), ((4, 6, 8), (6, 2, 4))])
def test_another_size_is_as_if_built_for_it(name, built, called, stirred):
    network, there = stirred(small(name, built, 2)), small(name, called, 2)
    there.load_state_dict(network.state_dict())
    z, t = torch.randn(2, 3, *called), torch.rand(2)
    assert_close(network(z, t), there(z, t), rtol=0, atol=0)
    sizes = {1: "length", 3: "depth, height and width"}[len(built)]
    with pytest.raises(ValueError, match=f"takes 3 channels of any {sizes} that its patch_size 2 divides"):
        network(torch.randn(2, 3, *(size + 1 for size in built)), t)
    with pytest.raises(ValueError, match="samples have shape"):
        network(torch.randn(2, 3, 4, *built[1:], 4), t)
    with pytest.raises(ValueError, match=f"takes no other {sizes}; build one with that image_size"):
        small("U-ViT", built, 2)(z, t)


@all_samples
def test_tokens_are_patches_in_row_major_order(size, patch, grid):
    image, patch, found = tiling(size, patch)
    assert (image, found) == (size, grid)
    x = torch.randn(2, 3, *size)
    pieces = list(patches_of(x, patch))
    channels_last = torch.stack([piece.movedim(1, -1).flatten(1) for piece in pieces], dim=1)
    assert_close(unpatchify(channels_last, grid, patch), x, rtol=0, atol=0)
    for bottleneck in (None, 4):
        embed = PatchEmbedding(patch, 3, 16, bottleneck)
        each = torch.cat([embed(piece) for piece in pieces], dim=1)
        assert_close(embed(x), each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_indices_are_those_of_the_grid(grid):
    expected = torch.tensor(list(itertools.product(*(range(size) for size in grid))), dtype=torch.float64)
    assert_close(torch.stack(grid_positions(grid), dim=1), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("grid", "width"), [((5,), 6), ((3, 4), 8), ((2, 3, 4), 12), ((2, 3, 4), 17)])
def test_positions_are_sines_and_cosines_of_each_index_last_axis_first(grid, width):
    m = width // (2 * len(grid))
    rows = []
    for index in itertools.product(*(range(size) for size in grid)):
        angles = [[i * 10000 ** (-j / m) for j in range(m)] for i in reversed(index)]
        row = [f(a) for axis in angles for f in (math.sin, math.cos) for a in axis]
        rows.append(row + [0.0] * (width - len(row)))
    assert_close(sine_positions(grid, width)[0], torch.tensor(rows))


@pytest.mark.parametrize(("grid", "h"), [((6,), 8), ((3, 4), 16), ((3, 4, 5), 12), ((3, 4, 5), 16)])
def test_scores_under_rotation_depend_on_relative_position_only(grid, h):
    table = rotary_table(grid, h)
    q, k = torch.randn(2, h)
    count = math.prod(grid)
    scores = rotate(q.expand(count, h), table) @ rotate(k.expand(count, h), table).T
    by_place = scores.reshape(*grid, *grid)
    low, high = tuple(slice(None, -1) for _ in grid), tuple(slice(1, None) for _ in grid)
    assert_close(by_place[low + low], by_place[high + high], rtol=1e-4, atol=1e-4)
    assert_close(scores.diagonal(), (q @ k).expand(count), rtol=1e-4, atol=1e-4)
    origin = (0,) * len(grid)
    steps = [by_place[origin + tuple(int(axis == step) for step in range(len(grid)))] for axis in range(len(grid))]
    assert len({round(float(value), 3) for value in [*steps, by_place[origin + origin]]}) == len(grid) + 1  # each axis matters


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (2, 1, 0)])
def test_axes_are_alike_so_that_permuting_them_permutes_their_channels(order):
    axes = len(order)
    grid, share, width = (2, 3, 4)[:axes], 8, 8 * axes
    permuted = tuple(grid[axis] for axis in order)
    to_tokens = torch.arange(math.prod(grid)).reshape(grid).permute(order).flatten()  # token of the permuted grid → token
    table, other = (sine_positions(sizes, width)[0].unflatten(1, (axes, share)).flip(1) for sizes in (grid, permuted))
    assert_close(table[to_tokens][:, list(order)], other, rtol=0, atol=0)
    table, other = (rotary_table(sizes, width).unflatten(2, (axes, share)) for sizes in (grid, permuted))
    assert_close(table[:, to_tokens][:, :, list(order)], other, rtol=0, atol=0)


def test_channels_left_over_in_three_dimensions_have_no_position():
    assert [channels_of(width, 3, "") for width in (6, 12, 64, 17)] == [2, 4, 20, 4]
    table = rotary_table((2, 2, 2), 16)
    assert (table[0, :, 12:] == 1).all()
    assert (table[1, :, 12:] == 0).all()
    assert (table[1, -1, :12] != 0).all()


def test_published_sizes_are_for_signals_and_volumes_too():
    with torch.device("meta"):
        for size, patch in (((512,), 16), ((32, 64, 32), 16)):
            network = published(f"JiT-B/{patch}", size, 2, 0)
            assert network.grid == tuple(n // patch for n in size)
    assert network.rotary.shape == (2, 2 * 4 * 2, 64)


@pytest.mark.parametrize(
    ("size", "patch", "message"),
    [
        ((101,), 4, "image_size is 101 with patch_size 4; expected a length that .*take patch_size 1 or 101, or resize or pad"),
        ((12,), 5, "take patch_size 1, 2, 3, 4, 6 or 12, or resize or pad the samples"),
        ((8, 9), 2, "image_size is 8×9 with patch_size 2.*take patch_size 1, or one number for each axis"),
        ((4, 6, 8), 4, "image_size is 4×6×8 with patch_size 4; expected a depth, a height and a width .*patch_size 1 or 2"),
        ((4, 6), (4, 4), "image_size is 4×6 with patch_size 4;"),
        ((4, 6, 8), (4, 4, 3), "image_size is 4×6×8 with patch_size 4×4×3"),
        ((4, 6, 8), (2, 2), r"patch_size is \[2, 2\] with image_size 4×6×8; expected one number, or 3, one for each axis"),
        ((2, 2, 2, 2), 2, r"image_size is \[2, 2, 2, 2\], of 4 axes; .*network MLP"),
        ((), 2, "of 0 axes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(size, patch, message):
    with pytest.raises(ValueError, match=message):
        tiling(size, patch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rotary_table((4,), 5), "heads have 5 channels; rotary embedding needs an even number"),
        (lambda: rotary_table((2, 2), 6), "6 channels; rotary embedding in two dimensions needs a multiple of 4"),
        (lambda: rotary_table((2, 2, 2), 4), "4 channels; rotary embedding in three dimensions needs at least 6"),
        (lambda: sine_positions((4,), 7), "hidden_size is 7; a sine and cosine table in one dimension needs a multiple of 2"),
        (
            lambda: sine_positions((2, 2, 2), 5),
            "hidden_size is 5; a sine and cosine table in three dimensions needs at least 6",
        ),
    ],
)
def test_widths_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
