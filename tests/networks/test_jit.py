"""JiT: shapes, start, conditions, context tokens, precision, refusals; and official state dicts by key."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdiff.networks.jit import JIT_SIZES, JiT
from kdiff.networks.official import from_official

CONFIG = {
    "input_size": 16,
    "patch_size": 4,
    "in_channels": 3,
    "num_classes": 10,
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "bottleneck_dim": 6,
    "in_context_len": 2,
    "in_context_start": 1,
}


def small(image_size=16, patch_size=4, channels=3, num_classes=10, **changes):
    settings = {"hidden_size": 32, "depth": 3, "num_heads": 2, "bottleneck": 6, "context_tokens": 2, "context_start": 1}
    return JiT(image_size, patch_size, channels, num_classes, **{**settings, **changes})


def stirred(network):
    """What starts at zero hides the rest: draw it."""
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
    return network


def inputs(shape=(3, 16, 16), batch=3):
    return torch.randn(batch, *shape), torch.linspace(0.1, 0.9, batch), torch.arange(batch)


@pytest.mark.parametrize(
    ("size", "patch", "channels", "classes"), [(16, 4, 3, 10), ((8, 24), 4, 1, 0), ((4, 6), 2, 5, 2), (2, 2, 1, 0)]
)
def test_output_is_shaped_like_the_input_and_starts_at_zero(size, patch, channels, classes):
    network = small(size, patch, channels, classes)
    z = torch.randn(2, *network.shape)
    u = network(z, torch.rand(2))
    assert u.shape == z.shape
    assert (u == 0).all()
    assert stirred(network)(z, torch.rand(2)).abs().min() > 0


@pytest.mark.parametrize("classes", [0, 10])
def test_gradients_reach_every_parameter(classes):
    network = stirred(small(num_classes=classes))
    z, t, y = inputs()
    network(z, t, y if classes else None).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_at_the_start_gradients_reach_the_last_layer_only_and_then_the_gates():
    network = small()
    z, t, y = inputs()
    (network(z, t, y) - z).square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"final_layer.linear.weight", "final_layer.linear.bias"}


def test_output_depends_on_sample_time_and_class_and_no_label_means_no_class():
    network = stirred(small())
    z, t, y = inputs()
    u = network(z, t, y)
    for changed in [network(z + 1, t, y), network(z, t.flip(0), y), network(z, t, y + 1)]:
        assert ((changed - u).flatten(1).abs().amax(dim=1)[[0, 2]] > 1e-3).all()
    assert_close(network(z, t), network(z, t, torch.full((3,), 10)), rtol=0, atol=0)
    assert_close(network(z[:1], t[:1], y[:1]), u[:1], rtol=1e-4, atol=1e-5)  # samples of a batch know nothing of each other


def test_the_label_reaches_the_blocks_beside_the_context_tokens():
    network = stirred(small(context_tokens=0))
    z, t, y = inputs()
    assert (network(z, t, y) - network(z, t, y + 1)).abs().max() > 1e-4


@pytest.mark.parametrize("tokens", [0, 2])
def test_positions_enter_by_the_table_and_by_rotation_in_every_block(tokens):
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
        assert_close(turned, rotary[:, tokens - prefix :], rtol=0, atol=0)
        assert (turned[0, :prefix] == 1).all()
        assert (turned[1, :prefix] == 0).all()
    network.rotary = torch.stack([torch.ones_like(rotary[0]), torch.zeros_like(rotary[1])])
    assert (network(z, t, y) - u).abs().max() > 1e-4


def test_context_tokens_are_the_label_with_places_of_their_own_in_front_and_leave_before_the_end():
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


def test_every_patch_sees_every_other_and_places_matter():
    network = stirred(small((8, 12)))
    z, t = torch.randn(1, 3, 8, 12), torch.tensor([0.5])
    u = network(z, t)
    other = z.clone()
    other[..., :4, :4] += 1
    assert (network(other, t) - u)[..., 4:, 8:].abs().max() > 1e-4
    swapped = torch.cat([z[..., 4:8], z[..., :4], z[..., 8:]], dim=3)  # two patches of every row change places
    assert (network(swapped, t)[..., :4] - u[..., 4:8]).abs().max() > 1e-3


def test_context_tokens_carry_the_label_through_the_blocks_after_their_start():
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


def test_bfloat16_stays_close_to_float32():
    network = stirred(small(hidden_size=64))
    z, t, y = inputs()
    u = network(z, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = network(z, t, y)
    assert under_autocast.dtype == torch.bfloat16
    assert (under_autocast - u).norm() < 0.03 * u.norm()
    wholly = network.bfloat16()(z.bfloat16(), t, y)
    assert wholly.dtype == torch.bfloat16
    assert (wholly - u).norm() < 0.06 * u.norm()


def test_float64_is_float64_throughout():
    network = stirred(small())
    z, t, y = inputs()
    u = network(z, t, y)
    exact = network.double()(z.double(), t.double(), y)
    assert exact.dtype == torch.float64
    assert_close(exact, u.double(), rtol=0, atol=1e-5)


def test_published_sizes_by_name():
    with torch.device("meta"):
        networks = {name: JiT.published(name) for name in ("JiT-B/16", "JiT-L/32", "JiT-H/16")}
    parameters = {name: sum(p.numel() for p in network.parameters()) / 1e6 for name, network in networks.items()}
    # Millions, as the paper's table of sizes has them.
    assert {name: round(number) for name, number in parameters.items()} == {"JiT-B/16": 131, "JiT-L/32": 462, "JiT-H/16": 953}
    assert networks["JiT-L/32"].shape == (3, 512, 512)
    assert len(networks["JiT-H/16"].blocks) == JIT_SIZES["H"]["depth"] == 32
    changed = JiT.published("JiT-B/4", image_size=(16, 8), num_classes=0, depth=2, hidden_size=24, num_heads=2)
    assert changed(torch.randn(1, 3, 16, 8), torch.rand(1)).shape == (1, 3, 16, 8)


@pytest.mark.parametrize("name", ["JiT-B", "JiT-S/2", "DiT-B/2", "JiT-B/x", "JiT-B/16/2"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="expected 'JiT-SIZE/PATCH'"):
        JiT.published(name)


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
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("z", "t", "y", "message"),
    [
        (torch.zeros(2, 1, 16, 16), torch.zeros(2), None, "samples have shape"),
        (torch.zeros(2, 3, 16, 12), torch.zeros(2), None, "samples have shape"),
        (torch.zeros(2, 3, 16), torch.zeros(2), None, "samples have shape"),
        (torch.zeros(2, 3, 16, 16), torch.zeros(1), None, "one time per sample"),
        (torch.zeros(2, 3, 16, 16), torch.tensor(0.5), None, "one time per sample"),
        (torch.zeros(2, 3, 16, 16), torch.zeros(2), torch.tensor([0, 11]), "labels range from 0 to 11"),
    ],
)
def test_wrong_inputs_are_refused(z, t, y, message):
    with pytest.raises(ValueError, match=message):
        small()(z, t, y)


def test_labels_need_classes():
    with pytest.raises(ValueError, match="without classes"):
        small(num_classes=0)(*inputs())


def official_weights():
    """A state dict as the official implementation would write it."""
    network = stirred(small())
    return network, {**network.state_dict(), "pos_embed": network.pos_embed}


@pytest.mark.parametrize("prefix", ["", "net."])
def test_official_state_dicts_load(prefix):
    network, weights = official_weights()
    loaded = from_official("jit", {prefix + key: value for key, value in weights.items()}, **CONFIG)
    z, t, y = inputs()
    assert_close(loaded(z, t, y), network(z, t, y), rtol=0, atol=0)
    assert all(p.data_ptr() != weights[name].data_ptr() for name, p in loaded.named_parameters())


def test_official_keys_that_do_not_fit_are_all_listed():
    _, weights = official_weights()
    weights["blocks.7.norm1.weight"] = weights.pop("blocks.1.norm1.weight")
    weights["blocks.0.attn.proj.bias"] = torch.zeros(3)
    del weights["t_embedder.mlp.2.bias"]
    with pytest.raises(ValueError, match="does not fit") as error:
        from_official("jit", weights, **CONFIG)
    assert str(error.value).splitlines()[1:] == [
        "  missing: t_embedder.mlp.2.bias (32,)",
        "  missing: blocks.1.norm1.weight (32,)",
        "  left over: blocks.7.norm1.weight (32,)",
        "  misshapen: blocks.0.attn.proj.bias is (3,), expected (32,)",
    ]


def test_official_position_tables_are_compared():
    _, weights = official_weights()
    with pytest.raises(ValueError, match="pos_embed differs from the fixed table"):
        from_official("jit", {**weights, "pos_embed": weights["pos_embed"].flip(1)}, **CONFIG)
    with pytest.raises(ValueError, match="missing: pos_embed"):
        from_official("jit", {key: value for key, value in weights.items() if key != "pos_embed"}, **CONFIG)
    from_official("jit", {**weights, "pos_embed": weights["pos_embed"].bfloat16()}, **CONFIG)


@pytest.mark.parametrize(
    ("architecture", "state_dict", "config", "error", "message"),
    [
        ("jet", {}, CONFIG, ValueError, "no architecture is called 'jet'"),
        ("jit", {}, {**CONFIG, "bottleneck": 6}, ValueError, "missing or unknown: bottleneck; jit takes input_size"),
        ("jit", {}, {"input_size": 16}, ValueError, "missing or unknown: bottleneck_dim, depth"),
        ("jit", {"model": {}, "epoch": 3}, CONFIG, TypeError, "no tensors under model, epoch"),
    ],
)
def test_official_arguments_are_checked(architecture, state_dict, config, error, message):
    with pytest.raises(error, match=message):
        from_official(architecture, state_dict, **config)
