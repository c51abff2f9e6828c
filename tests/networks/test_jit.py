"""JiT: shapes, start, conditions, context tokens, refusals. What it shares with the other transformers is in test_backbones."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from kdiff.networks import JiT
from kdiff.networks.transformer import Attention, for_this_device


def small(image_size=16, patch_size=4, channels=3, num_classes=10, **changes):
    settings = {"hidden_size": 32, "depth": 3, "num_heads": 2, "bottleneck": 6, "context_tokens": 2, "context_start": 1}
    return JiT(image_size, patch_size, channels, num_classes, **{**settings, **changes})


def inputs(shape=(3, 16, 16), batch=3):
    return torch.randn(batch, *shape), torch.linspace(0.1, 0.9, batch), torch.arange(batch)


@pytest.mark.parametrize(
    ("size", "patch", "channels", "classes"), [(16, 4, 3, 10), ((8, 24), 4, 1, 0), ((4, 6), 2, 5, 2), (2, 2, 1, 0)]
)
def test_output_is_shaped_like_the_input_and_starts_at_zero(size, patch, channels, classes, stirred):
    network = small(size, patch, channels, classes)
    z = torch.randn(2, *network.shape)
    u = network(z, torch.rand(2))
    assert u.shape == z.shape
    assert (u == 0).all()
    assert stirred(network)(z, torch.rand(2)).abs().min() > 0


def test_at_the_start_gradients_reach_the_last_layer_only_and_then_the_gates():
    network = small()
    z, t, y = inputs()
    (network(z, t, y) - z).square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"final_layer.linear.weight", "final_layer.linear.bias"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_of_the_middle_blocks_in_training(checkpointing, stirred):
    """Of 9 blocks the third to the sixth: depth // 4 up to three times that. Checkpointing draws the same again."""
    network = stirred(small(depth=9, dropout=0.5, attention_dropout=0.3, checkpointing=checkpointing))
    rates = [(block.attn.dropout, block.mlp.dropout, block.attn.attention_dropout) for block in network.blocks]
    assert rates == [(0.5, 0.5, 0.3) if 2 <= i < 6 else (0, 0, 0) for i in range(9)]
    z, t, y = inputs()
    plain = small(depth=9)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(z, t, y), plain(z, t, y), rtol=0, atol=0)
    network.train()
    drawn = [network(z, t, y) for _ in range(2)]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    direction = torch.randn_like(z)

    def along(step):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return (network(z + step, t, y) * direction).sum()

    z = z.double().requires_grad_()
    network.double()
    t = t.double()
    (gradient,) = torch.autograd.grad(along(0.0), z)
    small_step = 1e-6 * torch.randn_like(z)
    expected = (along(small_step) - along(-small_step)) / 2
    assert_close((gradient * small_step).sum(), expected, rtol=1e-5, atol=1e-12)
    for rate in (-0.1, 1.0):
        for name in ("dropout", "attention_dropout"):
            with pytest.raises(ValueError, match=f"^{name} is .* expected a rate"):
                small(**{name: rate})


def test_attention_dropout_is_of_the_weights():
    """Kept ones are scaled up, so that the mean over draws is what is said without; dropped ones are of single tokens."""
    attention = Attention(8, 2, attention_dropout=0.5)
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        drawn, plain = attention.train()(x.expand(20000, -1, -1)), attention.eval()(x)
    spread = drawn.std(0)
    assert spread.min() > 0
    assert ((drawn.mean(0) - plain[0]).abs() < 5 * spread / 20000**0.5).all()


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_dropout_acts_behind_attention_and_within_the_perceptron(part, stirred):
    network = stirred(small(depth=4, dropout=0.5)).train()
    for block in network.blocks:
        getattr(block, {"attn": "mlp", "mlp": "attn"}[part]).dropout = 0.0
    z, t, y = inputs()
    assert (network(z, t, y) - network(z, t, y)).abs().max() > 1e-3


def test_the_label_reaches_the_blocks_beside_the_context_tokens(stirred):
    network = stirred(small(context_tokens=0))
    z, t, y = inputs()
    assert (network(z, t, y) - network(z, t, y + 1)).abs().max() > 1e-4


@pytest.mark.parametrize("tokens", [0, 2])
def test_positions_enter_by_the_table_and_by_rotation_in_every_block(tokens, stirred):
    """Rotations are applied to all tokens of a block but the context's: with all of them at angle 0, the output is another."""
    network = stirred(small(context_tokens=tokens))
    z, t, y = inputs()
    u, table, rotary = network(z, t, y), network.pos_embed, network.rotary
    network.pos_embed = torch.zeros_like(table)
    assert (network(z, t, y) - u).abs().max() > 1e-3
    network.pos_embed = table
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append((args[0], args[2])))
    network(z, t, y)
    for i, (x, turned) in enumerate(seen):
        prefix = tokens if i >= network.context_start else 0
        assert x.shape[1] == turned.shape[1] == prefix + 16
        assert_close(turned, for_this_device(rotary)[:, tokens - prefix :], rtol=0, atol=0)
        assert (turned[0, :prefix] == 1).all()
    network.rotary = torch.stack([torch.ones_like(rotary[0]), torch.zeros_like(rotary[1])])
    assert (network(z, t, y) - u).abs().max() > 1e-4


def test_context_tokens_are_the_label_with_places_of_their_own_in_front_and_leave_before_the_end(stirred):
    network = stirred(small())
    z, t, y = inputs()
    seen = []
    for module in [*network.blocks, network.final_layer]:
        module.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    network(z, t, y)
    (_, before), (entering, _), (_, after), (final, _) = seen
    label = network.y_embedder(y, len(y))[:, None]
    assert_close(entering, torch.cat([label + network.in_context_posemb, before], dim=1), rtol=0, atol=0)
    assert_close(final, after[:, 2:], rtol=0, atol=0)


def test_every_patch_sees_every_other_and_places_matter(stirred):
    network = stirred(small((8, 12)))
    z, t = torch.randn(1, 3, 8, 12), torch.tensor([0.5])
    u = network(z, t)
    other = z.clone()
    other[..., :4, :4] += 1
    assert (network(other, t) - u)[..., 4:, 8:].abs().max() > 1e-4
    swapped = torch.cat([z[..., 4:8], z[..., :4], z[..., 8:]], dim=3)  # two patches of every row change places
    assert (network(swapped, t)[..., :4] - u[..., 4:8]).abs().max() > 1e-3


def test_context_tokens_carry_the_label_through_the_blocks_after_their_start(stirred):
    """With the label kept out of c, the label reaches the output through the context tokens alone, or not at all."""
    z, t, y = inputs()
    for tokens, lengths in [(2, [16, 18, 18]), (0, [16, 16, 16])]:
        network = stirred(small(context_tokens=tokens))
        seen = []

        def without_label(module, args, seen=seen):
            x, _, *rest = args
            seen.append(x.shape[1])
            return (x, torch.ones(x.shape[0], x.shape[2]), *rest)

        for module in [*network.blocks, network.final_layer]:
            module.register_forward_pre_hook(without_label)
        difference = (network(z, t, y) - network(z, t, y + 1)).abs().max()
        assert seen == 2 * [*lengths, 16]
        assert (difference > 1e-4) == bool(tokens)


def test_without_classes_there_are_no_labels_and_no_context_tokens():
    network = small(num_classes=0, context_start=99)
    assert not any("in_context" in key or "y_embedder" in key for key in network.state_dict())
    assert network.context_tokens == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "image_size is 16×16 with patch_size 5"),
        ({"num_heads": 5}, "num_heads 5"),
        ({"num_heads": 16}, "heads have 2 channels"),
        ({"context_start": 3}, "context_start is 3 with depth 3"),
        ({"depth": 0}, "depth is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"bottleneck": 0}, "bottleneck is 0"),
        ({"context_tokens": -1}, "context_tokens is -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
