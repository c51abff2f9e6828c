"""The network that is chosen for data: its kind, its patch, its work, its budget."""

from __future__ import annotations

import math
import re

import pytest
import torch

from kdiff.config.parts import Part
from kdiff.config.training import TrainConfig
from kdiff.networks.choice import BUDGET, Choice, budget_seconds, candidates, choose, patch_for
from kdiff.run.build import build, build_model
from kdiff.training.cost import flop_counter

DRAWS = 4000 * 128


def chosen(shape, budget=BUDGET, draws=DRAWS, **options) -> Choice:
    return choose(Part("auto", options), shape, draws, budget)


def counted(choice: Choice, shape) -> int:
    """The FLOPs of a sample, forward and backward, by PyTorch's counter."""
    size = {"shape": shape, "channels": shape[0], "image_size": shape[1:]}
    network = build("network", choice.network, num_classes=0, **size)
    z = torch.randn(2, *shape)
    with flop_counter() as counter:
        (network(z, torch.rand(2)) - z).square().sum().backward()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("shape", "patch", "tokens"),
    [
        ((1, 28, 28), 4, 49),
        ((3, 32, 32), 4, 64),
        ((2, 24, 24), 3, 64),
        ((3, 64, 64), 8, 64),
        ((1, 128), 2, 64),
        ((12, 1000), 20, 50),
        ((1, 16, 16, 16), 4, 64),
        ((2, 24, 48), 6, 32),  # square patches rather than 64 tokens of 3 × 6
    ],
)
def test_images_fields_signals_and_volumes_get_a_transformer(shape, patch, tokens):
    choice = chosen(shape)
    assert choice.network.name == "JiT"
    assert choice.network.options["patch_size"] == patch
    assert f"cut into {tokens} tokens" in choice.why
    with torch.device("meta"):
        model = build_model(TrainConfig(), "velocity", shape, 3)
    assert model.network.shape == shape
    assert math.prod(model.network.grid) == tokens


def test_a_short_trial_gets_the_network_of_a_training_of_128_000_samples():
    assert chosen((3, 256, 256), draws=20 * 4) == chosen((3, 256, 256), draws=128_000)
    assert chosen((3, 256, 256), draws=128_000).network.options["hidden_size"] < 1024


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((64,), "vectors of 64 numbers"),
        ((1, 8, 8), "64 places, fewer than 128"),
        ((3, 11, 11), "121 places, fewer than 128"),
        ((1, 101), "101 places, fewer than 128"),
        ((28, 28), r"grey images or signals of 28 channels; save grey images as \(N, 1, H, W\)"),
        ((1, 1009), "no nearly square patch cuts samples of 1009 into 4 to 256 tokens; for a patch transformer, pad or crop"),
        ((1, 23, 29), "no nearly square patch cuts samples of 23×29"),
        ((1, 4, 4, 4, 4), "4 axes besides their channels"),
    ],
)
def test_vectors_small_images_and_what_no_patch_cuts_get_an_mlp(shape, why):
    choice = chosen(shape)
    assert choice.network == Part("MLP")
    assert re.search(why, choice.why)


def test_the_network_grows_with_the_budget_and_keeps_to_it():
    shape = (3, 64, 64)
    ladder = candidates(Part("auto"), shape)
    flops = [each.flops for each in ladder]
    assert flops == sorted(flops)
    for each in ladder:
        assert chosen(shape, each.flops * DRAWS) == each
        assert chosen(shape, each.flops * DRAWS * 1.01) == each
    assert chosen(shape, ladder[3].flops * DRAWS * 0.99) == ladder[2]
    assert chosen(shape, 1.0) == ladder[0]  # the smallest of all, if none fits
    assert chosen(shape, 1e30) == ladder[-1]
    assert chosen(shape, draws=DRAWS // 4).flops > chosen(shape).flops  # fewer samples, a larger network
    assert chosen(shape).flops * DRAWS <= BUDGET


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 128), (2, 8, 8, 8), (16,)])
def test_flops_are_those_that_pytorch_counts(shape):
    for choice in candidates(Part("auto"), shape)[:3]:
        assert counted(choice, shape) == pytest.approx(choice.flops, rel=0.05)


def test_other_options_go_to_the_network_and_may_decide_for_it():
    assert chosen((3, 32, 32), width=512, depth=2).network == Part("MLP", {"width": 512, "depth": 2})
    small = chosen((1, 8, 8), patch_size=2).network
    assert (small.name, small.options["patch_size"]) == ("JiT", 2)
    options = {"hidden_size": 48, "num_heads": 4, "patch_size": [8, 4], "budget": "30m"}
    wide = choose(Part("auto", options), (3, 32, 32), DRAWS).network.options
    assert [wide[name] for name in ("hidden_size", "num_heads", "patch_size")] == [48, 4, [8, 4]]
    assert "budget" not in wide
    assert chosen((5,), depth=2).network == Part("MLP", {"depth": 2})
    assert chosen((28, 28), patch_size=4).network.name == "JiT"
    with torch.device("meta"):
        build_model(TrainConfig(network=Part("auto", {"patch_size": 2})), "velocity", (1, 8, 8), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": "abc"}, "patch_size of the network is 'abc'; expected a whole number or a list"),
        ({"patch_size": 5}, "image_size is 32×32 with patch_size 5; .*take patch_size 1, 2, 4, 8, 16 or 32"),
        ({"hidden_size": "wide"}, "hidden_size of the network is 'wide'; expected a whole number"),
        ({"width": None}, "width of the network is empty"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        chosen((3, 32, 32), **options)


@pytest.mark.parametrize(
    ("grid", "tokens", "patch"),
    [((28, 28), 64, (4, 4)), ((28, 28), 256, (2, 2)), ((101,), 64, (1,)), ((1009,), 64, None), ((6, 9), 64, (1, 1))],
)
def test_patches_divide_the_grid(grid, tokens, patch):
    assert patch_for(grid, tokens) == patch


def test_patches_of_any_grid_divide_it_into_a_number_of_tokens_within_bounds():
    for grid in [(n, m) for n in range(2, 60, 7) for m in range(2, 60, 5)]:
        patch = patch_for(grid, 64)
        sides = [[side for side in range(1, size + 1) if size % side == 0] for size in grid]
        square = [(a, b) for a in sides[0] for b in sides[1] if max(a, b) <= 4 * min(a, b)]
        if patch is None:
            assert not any(4 <= grid[0] // a * (grid[1] // b) <= 256 for a, b in square)
        else:
            assert patch in square
            assert all(size % side == 0 for size, side in zip(grid, patch))
            assert 4 <= math.prod(size // side for size, side in zip(grid, patch)) <= 256


def test_a_budget_is_a_time():
    def budget(text):
        return budget_seconds(Part("auto", {"budget": text}))

    assert [budget(text) for text in ("90s", "30m", "1.5h", "1 d")] == [90, 1800, 5400, 86400]
    assert budget_seconds(Part("auto")) is None
    for wrong in ("30", 30, "0m", "m", "1h30m", "-1h"):
        with pytest.raises(ValueError, match=r"budget is .*; expected a time such as 90s, 30m, 2h or 1d"):
            budget(wrong)
