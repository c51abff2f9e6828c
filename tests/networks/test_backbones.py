"""What holds for every transformer on images: start, conditions, sizes, checkpointing, precision, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdiff.model import KDiff
from kdiff.networks import MLP, DiT, JiT, LightningDiT, UViT
from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.embedding import LabelEmbedding

SMALL = {"image_size": 16, "patch_size": 4, "channels": 3, "num_classes": 10, "hidden_size": 32, "depth": 2, "num_heads": 2}
PLAIN = {"rope": False, "swiglu": False, "rmsnorm": False, "qk_norm": True, "shift": False, "learn_sigma": True}
# Every architecture, with every option of its own on and off.
NETWORKS = {
    "JiT": (JiT, {"bottleneck": 6, "context_tokens": 2, "context_start": 1}),
    "JiT without context": (JiT, {"bottleneck": 6, "context_tokens": 0}),
    "DiT": (DiT, {}),
    "SiT": (DiT, {"learn_sigma": True, "drop_sigma": True}),
    "LightningDiT": (LightningDiT, {}),
    "LightningDiT with a norm of heads": (LightningDiT, {"qk_norm": True}),
    "LightningDiT, plain": (LightningDiT, PLAIN),
    "U-ViT": (UViT, {"time_scale": 999.0}),
    "U-ViT, all options": (UViT, {"time_mlp": True, "qkv_bias": True, "final_conv": False}),
}
MODULATED = [name for name, (kind, _) in NETWORKS.items() if issubclass(kind, ModulatedTransformer)]
all_networks = pytest.mark.parametrize("name", NETWORKS)


def small(name, **changes):
    kind, options = NETWORKS[name]
    return kind(**{**SMALL, **options, **changes})


def inputs(shape=(3, 16, 16), batch=3):
    return torch.randn(batch, *shape), torch.linspace(0.1, 0.9, batch), torch.arange(batch)


class OfVectors(nn.Module):
    """A condition of the user's: vectors of five numbers; all zeros, and no vector, stand for none."""

    def __init__(self, width=32):
        super().__init__()
        self.layer = nn.Linear(5, width)
        self.none = nn.Parameter(torch.randn(width))

    def forward(self, y, batch):
        if y is None:
            return self.none.expand(batch, -1)
        return torch.where((y == 0).all(dim=1, keepdim=True), self.none, self.layer(y))


@all_networks
@pytest.mark.parametrize(("size", "patch", "channels", "classes"), [((8, 24), 4, 1, 0), ((4, 6), 2, 5, 2)])
def test_output_is_shaped_like_the_input(name, size, patch, channels, classes):
    network = small(name, image_size=size, patch_size=patch, channels=channels, num_classes=classes)
    z = torch.randn(2, channels, *size)
    assert network(z, torch.rand(2)).shape == z.shape


@pytest.mark.parametrize("name", MODULATED)
def test_the_output_starts_at_zero_and_the_blocks_as_the_identity(name):
    network = small(name)
    z, t, y = inputs()
    tokens = []
    for module in [*network.blocks, network.final_layer]:
        module.register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    assert (network(z, t, y) == 0).all()
    for x in tokens:
        assert_close(x[:, -16:], tokens[0], rtol=0, atol=0)


@all_networks
def test_a_network_is_made_of_the_shared_parts(name):
    own = {type(m).__module__ for m in small(name).modules() if not type(m).__module__.startswith("torch.nn.")}
    assert own == {type(small(name)).__module__, "kdiff.networks.embedding", "kdiff.networks.transformer"}


@all_networks
@pytest.mark.parametrize("classes", [0, 10])
def test_gradients_reach_every_parameter(name, classes, stirred):
    network = stirred(small(name, num_classes=classes))
    z, t, y = inputs()
    network(z, t, y if classes else None).square().sum().backward()
    # A constant added to all keys leaves the softmax as it is; what moves it is a rotation after the bias.
    blind = {"k_norm.bias"} if name == "LightningDiT, plain" else set()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0 or any(part in key for part in blind), key


@all_networks
def test_output_depends_on_sample_time_and_class_and_no_label_means_no_class(name, stirred):
    network = stirred(small(name))
    z, t, y = inputs()
    u = network(z, t, y)
    for changed in [network(z + 1, t, y), network(z, t.flip(0), y), network(z, t, y + 1)]:
        assert ((changed - u).flatten(1).abs().amax(dim=1)[[0, 2]] > 1e-4).all()
    assert_close(network(z, t), network(z, t, torch.full((3,), 10)), rtol=0, atol=0)


@all_networks
def test_samples_of_a_batch_know_nothing_of_each_other(name, stirred):
    network = stirred(small(name))
    z, t, y = inputs()
    u, order = network(z, t, y), torch.tensor([2, 0, 1])
    assert_close(network(z[order], t[order], y[order]), u[order], rtol=1e-4, atol=1e-5)
    assert_close(network(z[:1], t[:1], y[:1]), u[:1], rtol=1e-4, atol=1e-5)
    assert network(z[:0], t[:0], y[:0]).shape == (0, 3, 16, 16)


@all_networks
def test_every_patch_sees_every_other_and_places_matter(name, stirred):
    network = stirred(small(name))
    z, t, y = inputs()
    u, other = network(z, t, y), z.clone()
    other[..., :4, :4] += 1
    assert (network(other, t, y) - u)[..., 8:, 8:].abs().max() > 1e-4
    swapped = torch.cat([z[..., 4:8], z[..., :4], z[..., 8:]], dim=3)  # two patches of every row change places
    assert (network(swapped, t, y)[..., :4] - u[..., 4:8]).abs().max() > 1e-3


@all_networks
def test_a_condition_of_another_kind_takes_the_table_of_labels_place(name, stirred):
    network = stirred(small(name, num_classes=0, condition=OfVectors()))
    assert not any(isinstance(module, LabelEmbedding) for module in network.modules())
    (z, t, _), y = inputs(), torch.randn(3, 5)
    u = network(z, t, y)
    assert ((network(z, t, y.flip(0)) - u).flatten(1).abs().amax(dim=1)[[0, 2]] > 1e-4).all()
    assert_close(network(z, t), network(z, t, torch.zeros(3, 5)), rtol=0, atol=0)
    u.square().sum().backward()
    assert network.get_submodule("y_embedder.layer").weight.grad.any()


@all_networks
def test_a_users_module_keeps_its_weights(name):
    condition = OfVectors()
    before = condition.layer.weight.clone()
    small(name, condition=condition)
    assert_close(condition.layer.weight, before, rtol=0, atol=0)


@pytest.mark.parametrize("null", [0.0, torch.zeros(5)])
def test_guidance_and_training_put_the_null_where_the_users_module_reads_it(null, stirred):
    condition = OfVectors()
    model = KDiff(stirred(small("DiT", num_classes=0, condition=condition)), "velocity", null={"y": null}, null_rate=0.5)
    seen = []
    condition.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    y = torch.rand(40, 5) + 1
    model.loss(torch.randn(40, 3, 16, 16), y=y)
    dropped = (seen[0] == 0).all(dim=1)
    assert 0 < dropped.sum() < 40
    assert_close(seen[0][~dropped], y[~dropped], rtol=0, atol=0)
    noise = torch.randn(2, 3, 16, 16)
    guided = model.sample(noise, y=y[:2], steps=2, guidance=3.0)
    assert (seen[-2][2:] == 0).all()
    assert (guided - model.sample(noise, y=y[:2], steps=2)).abs().max() > 1e-4


def test_the_mlp_takes_the_same_modules_as_the_transformers():
    network = MLP((5,), 0, width=16, depth=2, condition=OfVectors(16))
    nn.init.normal_(network.output.weight)
    z, t, y = torch.randn(3, 5), torch.rand(3), torch.randn(3, 5)
    assert (network(z, t, y) - network(z, t, y.flip(0)))[[0, 2]].abs().amax(dim=1).min() > 1e-4
    assert_close(network(z, t), network(z, t, torch.zeros(3, 5)), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"OfVectors returned shape \(3, 32\); expected \(3, 16\)"):
        MLP((5,), 0, width=16, depth=2, condition=OfVectors(32))(z, t, y)


@all_networks
def test_checkpointing_gives_the_same_gradients_from_blocks_that_run_twice(name, stirred):
    kept, recomputed = stirred(small(name)), small(name, checkpointing=True)
    recomputed.load_state_dict(kept.state_dict())
    z, t, y = inputs()
    outputs, runs = [], []
    for network in (kept, recomputed):
        blocks = [m for m in network.modules() if hasattr(m, "attn")]
        calls = []
        for block in blocks:
            block.register_forward_pre_hook(lambda module, args, calls=calls: calls.append(module))
        u = network(z, t, y)
        u.square().sum().backward()
        outputs.append(u)
        runs.append(len(calls) / len(blocks))
    assert runs == [1, 2]
    assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    for (key, p), q in zip(kept.named_parameters(), recomputed.parameters()):
        assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", MODULATED)
def test_another_size_is_as_if_built_for_it(name, stirred):
    """Weights fit every size: tables are computed, so that a network for one size, called with another, is the other's."""
    network = stirred(small(name))
    (z, t, y) = inputs((3, 8, 24))
    with torch.inference_mode():
        u = network(z, t, y)
    there = small(name, image_size=(8, 24))
    there.load_state_dict(network.state_dict())
    assert_close(u, there(z, t, y), rtol=0, atol=0)
    assert (network(z, t, y).square().sum()).isfinite()
    network(z, t, y).square().sum().backward()  # with the tables made under inference mode
    assert network.tables((2, 6))[0] is network.tables((2, 6))[0]
    assert network.bfloat16()(z.bfloat16(), t, y).dtype == torch.bfloat16


@all_networks
def test_bfloat16_stays_close_to_float32(name, stirred):
    network = stirred(small(name, hidden_size=64))
    z, t, y = inputs()
    u = network(z, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = network(z, t, y)
    assert (under_autocast - u).norm() < 0.03 * u.norm()
    wholly = network.bfloat16()(z.bfloat16(), t, y)
    assert wholly.dtype == torch.bfloat16
    assert (wholly - u).norm() < 0.06 * u.norm()


@all_networks
def test_float64_is_float64_throughout(name, stirred):
    network = stirred(small(name))
    z, t, y = inputs()
    u = network(z, t, y)
    exact = network.double()(z.double(), t.double(), y)
    assert exact.dtype == torch.float64
    # Times up to 999 in float32 are told apart to 6e-5.
    assert_close(exact, u.double(), rtol=0, atol=1e-4 if name == "U-ViT" else 1e-5)


def test_dit_returns_the_channels_of_sigma_and_sit_drops_them(stirred):
    dit, sit = (stirred(DiT(**SMALL, learn_sigma=True, drop_sigma=drop)) for drop in (False, True))
    sit.load_state_dict(dit.state_dict())
    z, t, y = inputs()
    assert dit(z, t, y).shape == (3, 6, 16, 16)
    assert_close(sit(z, t, y), dit(z, t, y)[:, :3], rtol=0, atol=0)


def test_uvit_takes_last_what_was_kept_first_and_scales_time(stirred):
    network = UViT(**{**SMALL, "depth": 4})
    z, t, y = inputs()
    kept, skips = [], []
    for block in network.in_blocks:
        block.register_forward_hook(lambda module, args, output: kept.append(output))
    for block in network.out_blocks:
        block.register_forward_pre_hook(lambda module, args: skips.append(args[1]))
    u = network(z, t, y)
    assert [skip is x for skip, x in zip(skips, reversed(kept), strict=True)] == [True, True]
    assert kept[0].shape == (3, 2 + 16, 32)
    scaled = UViT(**{**SMALL, "depth": 4}, time_scale=999.0)
    scaled.load_state_dict(network.state_dict())
    assert_close(network(z, 999 * t, y), scaled(z, t, y), rtol=0, atol=0)
    assert (u - scaled(z, t, y)).abs().max() > 1e-4


def test_a_table_without_no_class_has_one_row_less_and_needs_labels():
    for kind in (DiT, LightningDiT, UViT):
        network = kind(**SMALL, null_class=False)
        z, t, y = inputs()
        assert network.y_embedder.embedding_table.weight.shape == (10, 32)
        assert network(z, t, y + 7).shape == z.shape
        with pytest.raises(ValueError, match=r"no labels were given to a network without 'no class'"):
            network(z, t)
        with pytest.raises(ValueError, match=r"labels range from 8 to 10; expected 0 to 9; this network has no 'no class'"):
            network(z, t, y + 8)


@all_networks
@pytest.mark.parametrize(
    ("z", "t", "y", "message"),
    [
        ((2, 1, 16, 16), (2,), None, r"samples have shape \(1, 16, 16\); this network was built for \(3, 16, 16\)"),
        ((2, 3, 16, 10), (2,), None, "samples have shape"),
        ((2, 3, 0, 16), (2,), None, "samples have shape"),
        ((2, 3, 16), (2,), None, "samples have shape"),
        ((2, 3, 16, 16), (1,), None, r"t has shape \(1,\).*one time per sample"),
        ((2, 3, 16, 16), (), None, "one time per sample"),
        ((2, 3, 16, 16), (2,), [0, 11], "labels range from 0 to 11; expected 0 to 9, or 10 for no class"),
        ((2, 3, 16, 16), (2,), [-1, 0], "labels range from -1 to 0"),
        ((2, 3, 16, 16), (2,), [0.0, 1.0], "expected integers"),
        ((2, 3, 16, 16), (2,), [0], "one per sample"),
    ],
)
def test_wrong_inputs_are_refused(name, z, t, y, message):
    with pytest.raises(ValueError, match=message):
        small(name, depth=2)(torch.zeros(z), torch.zeros(t), None if y is None else torch.tensor(y))


def test_a_learned_table_takes_no_other_size():
    with pytest.raises(
        ValueError, match=r"\(3, 8, 24\); .*\(3, 16, 16\) and has one learned place.*build one with that image_size"
    ):
        small("U-ViT")(*inputs((3, 8, 24)))


@all_networks
def test_labels_need_classes_and_conditions_the_right_width(name):
    z, t, y = inputs()
    with pytest.raises(ValueError, match="without classes"):
        small(name, num_classes=0)(z, t, y)
    with pytest.raises(ValueError, match=r"OfVectors returned shape \(3, 31\); expected \(3, 32\)"):
        small(name, condition=OfVectors(31))(z, t, torch.randn(3, 5))


@all_networks
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "image_size is 16×16 with patch_size 5"),
        ({"num_heads": 5}, "num_heads 5"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"depth": 0}, "depth is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        small(name, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("DiT", {"drop_sigma": True}, "drop_sigma without learn_sigma"),
        ("DiT", {"hidden_size": 30}, "hidden_size is 30.*multiple of 4"),
        ("LightningDiT", {"num_heads": 16}, "heads have 2 channels"),
        ("U-ViT", {"depth": 3}, "depth is 3; expected an even number"),
        ("U-ViT", {"hidden_size": 33, "num_heads": 3}, "hidden_size is 33; expected an even number"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        small(name, **changes)
