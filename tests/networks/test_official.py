"""Official state dicts by key, in and out: prefixes, checkpoints, files; what does not fit is named."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from kdiff.networks import DiT, JiT, LightningDiT, UViT, from_official, to_official
from kdiff.networks.official import ARCHITECTURES

SIZES = {"patch_size": 4, "num_classes": 10, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0}
DIT = {**SIZES, "input_size": 16, "in_channels": 3, "class_dropout_prob": 0.1, "learn_sigma": True}
SWITCHES = ("use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm", "wo_shift")
UVIT = {
    **{name: SIZES[name] for name in ("patch_size", "depth", "num_heads", "mlp_ratio")},
    **{"img_size": 16, "in_chans": 3, "embed_dim": 32, "num_classes": 11, "qkv_bias": False, "mlp_time_embed": False},
}
JIT = {**SIZES, "input_size": 16, "in_channels": 3, "bottleneck_dim": 6, "in_context_len": 2, "in_context_start": 1}
OURS = (16, 4, 3, 10, 32, 2, 2)  # the same sizes, as arguments of ours
# A network of ours, and the official arguments of the same one.
SAME = {
    "jit": (lambda: JiT(*OURS, bottleneck=6, context_tokens=2, context_start=1), JIT),
    "dit": (lambda: DiT(*OURS, learn_sigma=True), DIT),
    "sit": (lambda: DiT(*OURS, learn_sigma=True, drop_sigma=True), DIT),
    "lightningdit": (
        lambda: LightningDiT(*OURS, qk_norm=True),
        {**DIT, "learn_sigma": False, **dict(zip(SWITCHES, (True, True, True, True, False)))},
    ),
    "uvit": (lambda: UViT(*OURS), UVIT),
}
# The same without sigma, without "no class", and with every other switch the other way.
OTHERWISE = {
    "dit": (lambda: DiT(*OURS, null_class=False), {**DIT, "learn_sigma": False, "class_dropout_prob": 0}),
    "sit": (lambda: DiT(*OURS), {**DIT, "learn_sigma": False}),
    "lightningdit": (
        lambda: LightningDiT(*OURS, rope=False, swiglu=False, rmsnorm=False, shift=False, learn_sigma=True, null_class=False),
        {**DIT, "class_dropout_prob": 0.0, "use_checkpoint": True, **dict(zip(SWITCHES, (False, False, False, False, True)))},
    ),
    "uvit": (
        lambda: UViT(*OURS, null_class=False, qkv_bias=True, time_mlp=True, final_conv=False),
        {**UVIT, "num_classes": 10, "null_class": False, "qkv_bias": True, "mlp_time_embed": True, "conv": False, "skip": True},
    ),
}
architectures = pytest.mark.parametrize("architecture", SAME)


@pytest.fixture
def pair(stirred):
    """A network of an architecture, its official state dict, and its official arguments."""

    def make(architecture, table=SAME):
        network, config = table[architecture]
        network = stirred(network())
        return network, to_official(architecture, network), config

    return make


def inputs():
    return torch.randn(3, 3, 16, 16), torch.linspace(0.1, 0.9, 3), torch.arange(3)


@pytest.mark.parametrize(("architecture", "table"), [(a, table) for table in (SAME, OTHERWISE) for a in table])
def test_out_and_in_again_gives_the_same_network(pair, architecture, table):
    network, weights, config = pair(architecture, table)
    loaded = from_official(architecture, weights, **config)
    assert type(loaded) is type(network)
    z, t, y = inputs()
    assert_close(loaded(z, t, y), network(z, t, y), rtol=0, atol=0)
    again = to_official(architecture, loaded)
    assert list(again) == list(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert all(p.data_ptr() != q.data_ptr() for p, q in zip(loaded.parameters(), network.parameters()))


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("jit", {"attn_drop": 0.0, "proj_drop": 0.0}),
        ("uvit", {"qk_scale": None, "norm_layer": nn.LayerNorm}),
        ("uvit", {"qk_scale": 16**-0.5}),
        ("uvit", {"depth": 3}),
    ],
)
def test_official_arguments_that_change_nothing_here_are_taken(pair, architecture, more):
    """An official configuration can be handed over whole. Half of U-ViT's depth, rounded down, lies on either side."""
    network, weights, config = pair(architecture)
    z, t, y = inputs()
    assert_close(from_official(architecture, weights, **{**config, **more})(z, t, y), network(z, t, y), rtol=0, atol=0)


@pytest.mark.parametrize("rate", ["proj_drop", "attn_drop"])
def test_dropout_comes_along(pair, rate):
    _, _, config = pair("jit")
    deep = {**config, "depth": 4}
    network = JiT(16, 4, 3, 10, 32, 4, 2, bottleneck=6, context_tokens=2, context_start=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loaded = from_official("jit", to_official("jit", network), **{**deep, rate: 0.2})
    assert loaded.random
    z, t, y = inputs()
    assert (loaded(z, t, y) - loaded(z, t, y)).abs().max() > 1e-4
    assert_close(loaded.eval()(z, t, y), network(z, t, y), rtol=0, atol=0)


# Official arguments that may be left out, with another value of each than the official default.
OPTIONAL = {
    "jit": {"mlp_ratio": 3.0},
    "dit": {"mlp_ratio": 3.0, "class_dropout_prob": 0.0, "learn_sigma": False},
    "sit": {"mlp_ratio": 3.0, "class_dropout_prob": 0.0, "learn_sigma": False},
    "lightningdit": {
        **{"mlp_ratio": 3.0, "class_dropout_prob": 0.0, "learn_sigma": True},
        **{"use_qknorm": True, "use_swiglu": True, "use_rmsnorm": True, "wo_shift": True},
    },
    "uvit": {"mlp_ratio": 3.0, "qkv_bias": True, "mlp_time_embed": True, "conv": False},
}


@pytest.mark.parametrize(
    ("architecture", "name", "more"),
    [
        (architecture, name, more)
        for architecture, names in OPTIONAL.items()
        for name in names
        for more in ([{"use_rope": False}, {"use_rope": True}] if architecture == "lightningdit" else [{}])
    ],
)
def test_a_wrong_default_fits_no_weights(architecture, name, more, stirred):
    """What is left out is as official; weights that were made otherwise are refused, never loaded."""
    usual = {**{"jit": JIT, "uvit": UVIT}.get(architecture, DIT), **more}
    config = {key: value for key, value in usual.items() if key not in OPTIONAL[architecture]}
    official = ARCHITECTURES[architecture]

    def weights(**otherwise):
        settings = {}
        for key, value in {**official.defaults, **config, **otherwise}.items():
            ours = official.arguments[key]
            settings |= {ours: value} if isinstance(ours, str) else ours(value)
        return to_official(architecture, stirred(official.network(**settings)))

    from_official(architecture, weights(), **config)
    with pytest.raises(ValueError, match="does not fit"):
        from_official(architecture, weights(**{name: OPTIONAL[architecture][name]}), **config)


def test_fixed_tables_go_out_with_the_weights_under_official_names(pair):
    weights = {architecture: pair(architecture)[1] for architecture in SAME}
    assert [a for a, w in weights.items() if "pos_embed" in w] == list(SAME)
    assert weights["lightningdit"]["feat_rope.freqs_cos"].shape == (16, 16)
    cosines, sines = (weights["lightningdit"][f"feat_rope.freqs_{name}"] for name in ("cos", "sin"))
    assert_close(cosines**2 + sines**2, torch.ones(16, 16))
    assert sines.max() > 0.8  # and no sign of ours
    assert (sines[:, ::2] == sines[:, 1::2]).all()
    assert weights["uvit"]["label_emb.weight"].shape == (11, 32)
    assert not any(key.startswith("y_embedder") for key in weights["uvit"])


@architectures
@pytest.mark.parametrize("prefix", ["net.", "module.", "module._orig_mod.net."])
def test_prefixes_of_wrappers_are_removed(pair, architecture, prefix):
    network, weights, config = pair(architecture)
    loaded = from_official(architecture, {prefix + key: value for key, value in weights.items()}, **config)
    z, t, y = inputs()
    assert_close(loaded(z, t, y), network(z, t, y), rtol=0, atol=0)


def test_a_checkpoint_gives_its_moving_average_or_what_is_asked_for(pair):
    network, weights, config = pair("dit")
    ema = {key: value if key == "pos_embed" else value + 1 for key, value in weights.items()}
    other = {key: value if key == "pos_embed" else value + 2 for key, value in weights.items()}
    state = {"step": 3, "param_groups": [{"lr": 0.1}]}

    def bias(checkpoint, entry=None):
        loaded = from_official("dit", checkpoint, entry=entry, **config)
        return round((loaded.final_layer.linear.bias - network.final_layer.linear.bias).mean().item())

    assert bias({"model": weights, "ema": ema, "opt": state, "epoch": 3}) == 1
    assert bias({"model": weights, "model_ema2": other, "model_ema1": OrderedDict(ema)}) == 1
    assert bias({"model": weights, "model_ema2": other, "model_ema1": ema}, "model_ema2") == 2
    assert bias({"model": weights, "ema": ema}, "model") == 0
    assert bias({"opt": state, "state_dict": {f"module.{key}": value for key, value in weights.items()}}) == 0
    assert bias({"weights": other, "epoch": 1}) == 2
    for ambiguous in [{"a": weights, "b": ema}, {"ema": ema, "model_ema": other}, {"model": weights, "state_dict": ema}]:
        with pytest.raises(ValueError, match=f"the checkpoint holds {', '.join(ambiguous)}; name one of them"):
            from_official("dit", ambiguous, **config)
    with pytest.raises(ValueError, match="no state dict is called 'opt'; found ema, model"):
        from_official("dit", {"ema": ema, "model": weights, "opt": state}, entry="opt", **config)


def ema_pytorch(raw, average):
    """As ema-pytorch's EMA.state_dict() names it."""
    counters = {"initted": torch.tensor(True), "step": torch.tensor(3)}
    online, ema = (
        {f"{name}.{key}": value for key, value in state.items()}
        for name, state in (("online_model", raw), ("ema_model", average))
    )
    return {**counters, **online, **ema}


def test_averages_of_other_libraries_are_found_under_their_prefixes(pair):
    """torch's AveragedModel, ema-pytorch, Lightning, and these within a checkpoint: the average if there is one."""
    network, weights, config = pair("dit")
    ema = {key: value if key == "pos_embed" else value + 1 for key, value in weights.items()}
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in ema.items()}}
    lightning = {f"model.dit.{key}": value for key, value in weights.items()}
    extras = {"vae.conv.weight": torch.ones(2), "loss.weight": torch.ones(1)}

    def bias(checkpoint, entry=None):
        loaded = from_official("dit", checkpoint, entry=entry, **config)
        return round((loaded.final_layer.linear.bias - network.final_layer.linear.bias).mean().item())

    assert bias(averaged) == 1
    assert bias({f"module.{key}": value for key, value in averaged.items()}) == 1
    assert bias(ema_pytorch(weights, ema)) == 1
    assert bias(ema_pytorch(weights, ema), "online_model") == 0
    assert bias({key: value for key, value in ema_pytorch(weights, ema).items() if "online" not in key}) == 1
    assert bias({"step": 9, "model": weights, "ema": {**ema_pytorch(weights, ema), "step": 3}, "version": "2"}) == 1
    assert (
        bias({"epoch": 1, "state_dict": {**lightning, **extras}, "optimizer_states": [], "hyper_parameters": {"lr": 1.0}}) == 0
    )
    assert bias({"state_dict": {**lightning, **extras, **{f"ema.{key}": value for key, value in averaged.items()}}}) == 1
    assert bias({"state_dict": {**lightning, **extras}, "averaging_state": {"n_averaged": torch.tensor(3)}}) == 0
    assert bias({"ema": {"module": ema, "updates": 3}, "model": weights}) == 1
    copies = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in weights.items()}
    with pytest.raises(ValueError, match="more than once, under student and teacher; name one, as in entry='student'"):
        bias(copies)
    assert bias(copies, "teacher") == 0
    with pytest.raises(ValueError, match=r"1 left over \(more \(2,\)\)"):
        bias({f"net.{key}": value for key, value in {**weights, "more": torch.ones(2)}.items()})


def test_an_average_without_names_is_not_passed_over_in_silence(pair):
    """diffusers' EMAModel and torch_ema keep a list of tensors."""
    _, weights, config = pair("dit")
    ema = {"decay": 0.999, "optimization_step": 3, "shadow_params": list(weights.values())}
    for checkpoint in (ema, {"ema": ema, "epoch": 3}):
        with pytest.raises(ValueError, match=r"a list without names \(shadow_params\).*Type ema.copy_to"):
            from_official("dit", checkpoint, **config)
    with pytest.warns(UserWarning, match=r"\(under ema\) has no names and is not used; the weights under model are"):
        from_official("dit", {"ema": ema, "model": weights}, **config)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_files_are_read(pair, tmp_path, suffix):
    network, weights, config = pair("sit")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        args = Namespace(model="SiT", lr=1e-4, sizes=[1, 2], path=None)
        torch.save({"ema": weights, "model": {}, "args": args, "opt": {"state": {0: {"step": torch.tensor(1.0)}}}}, path)
    (z, t, y), allowed = inputs(), set(torch.serialization.get_safe_globals())
    for source in (path, str(path)):
        assert_close(from_official("sit", source, **config)(z, t, y), network(z, t, y), rtol=0, atol=0)
    assert set(torch.serialization.get_safe_globals()) == allowed  # what was allowed for this file is so for no other


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_file_that_would_run_code_is_refused_before_it_does(pair, tmp_path):
    path, mark = tmp_path / "weights.pt", tmp_path / "ran"
    allowed = set(torch.serialization.get_safe_globals())
    torch.save({"ema": pair("dit")[1], "extra": Trap(mark)}, path)
    with pytest.raises(ValueError, match=r"weights.pt cannot be read as weights .*which may run code.*pass its state dict"):
        from_official("dit", path, **DIT)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert mark.exists()
    assert set(torch.serialization.get_safe_globals()) == allowed


class Command:
    def __reduce__(self):
        return os.system, ("false",)


def test_nobody_is_told_how_to_run_what_is_in_a_file(pair, tmp_path):
    torch.save({"ema": pair("dit")[1], "extra": Command()}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"cannot be read as weights \(it holds a posix\.system\)") as refused:
        from_official("dit", tmp_path / "weights.pt", **DIT)
    assert "weights_only" not in str(refused.value)


def test_what_is_beside_the_weights_is_named_where_it_is_refused(pair, tmp_path):
    """And not how to read it all the same, which is what torch says first."""
    torch.save({"ema": pair("dit")[1], "best_loss": np.float64(0.5)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"cannot be read as weights \(it holds a numpy\.[a-z_.]*scalar\)") as refused:
        from_official("dit", tmp_path / "weights.pt", **DIT)
    assert "\x1b" not in str(refused.value)


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        from_official("dit", tmp_path / "none.pt", **DIT)
    for name in ("bad.pt", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ValueError, match="cannot be read as weights"):
            from_official("dit", tmp_path / name, **DIT)
    with pytest.raises(ValueError, match=r"expected a name that ends in .safetensors, .pth, .pt, .ckpt"):
        from_official("dit", tmp_path / "weights.npz", **DIT)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(TypeError, match="the weights are of type list"):
        from_official("dit", tmp_path / "list.pt", **DIT)


def test_keys_that_do_not_fit_are_named_in_one_line(pair):
    _, weights, config = pair("jit")
    weights["blocks.7.norm1.weight"] = weights.pop("blocks.1.norm1.weight")
    weights["blocks.0.attn.proj.bias"] = torch.zeros(3)
    del weights["t_embedder.mlp.2.bias"]
    with pytest.raises(ValueError, match="does not fit") as error:
        from_official("jit", weights, **config)
    assert str(error.value) == (
        "the state dict of 42 tensors does not fit this configuration, a JiT of 43: 2 missing (t_embedder.mlp.2.bias (32,), "
        "blocks.1.norm1.weight (32,)); 1 left over (blocks.7.norm1.weight (32,)); 1 misshapen (blocks.0.attn.proj.bias is "
        "(3,), expected (32,))"
    )


def test_weights_of_another_size_are_summed_up(pair):
    _, weights, config = pair("dit")
    with pytest.raises(
        ValueError, match=r": \d\d misshapen \(.*, …\); the network has another size: its depth, widths"
    ) as error:
        from_official("dit", weights, **{**config, "hidden_size": 64})
    assert "\n" not in str(error.value)


def test_tensors_that_hold_no_weights_are_named(pair):
    _, weights, config = pair("dit")
    quantised = {**weights, "x_embedder.proj.bias": torch.zeros(32, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"1 no weights \(x_embedder.proj.bias is of torch.int8, expected floating-point"):
        from_official("dit", quantised, **config)
    with pytest.raises(ValueError, match=r": 32 without values \(x_embedder.* is on the meta device"):
        from_official("dit", {key: value.to("meta") for key, value in weights.items()}, **config)


def test_keys_are_named_as_the_original_names_them(pair):
    _, weights, config = pair("uvit")
    with pytest.raises(ValueError, match=r"misshapen \(label_emb.weight is \(11, 32\), expected \(12, 32\)"):
        from_official("uvit", weights, **{**config, "num_classes": 12})
    with pytest.raises(ValueError, match=r"left over \(label_emb.weight \(11, 32\)"):
        from_official("uvit", weights, **{**config, "num_classes": -1})
    _, weights, config = pair("lightningdit")
    with pytest.raises(ValueError, match=r"missing \(feat_rope.freqs_sin \(16, 16\)"):
        from_official("lightningdit", {k: v for k, v in weights.items() if k != "feat_rope.freqs_sin"}, **config)


@pytest.mark.parametrize(
    ("architecture", "table"), [("jit", "pos_embed"), ("dit", "pos_embed"), ("lightningdit", "feat_rope.freqs_sin")]
)
def test_fixed_tables_are_compared(pair, architecture, table):
    _, weights, config = pair(architecture)
    with pytest.raises(ValueError, match=f"{table} differs from the fixed table"):
        from_official(architecture, {**weights, table: weights[table].flip(-1, -2)}, **config)
    from_official(architecture, {**weights, table: weights[table].bfloat16()}, **config)


def test_halves_are_widened(pair):
    network, weights, config = pair("dit")
    loaded = from_official("dit", {key: value.bfloat16() for key, value in weights.items()}, **config)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert_close(loaded.final_layer.linear.weight, network.final_layer.linear.weight, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("architecture", "weights", "config", "error", "message"),
    [
        ("jet", {}, JIT, ValueError, "no architecture is called 'jet'; expected one of jit, dit, sit, lightningdit, uvit"),
        ("jit", {}, {**JIT, "bottleneck": 6}, ValueError, "^unknown: bottleneck; jit takes input_size"),
        ("jit", {}, {"input_size": 16}, ValueError, "^missing: patch_size, in_channels, .*, in_context_start; jit takes"),
        ("dit", {}, {"sigma": 1, "patch": 2}, ValueError, "^missing: input_size, .*, num_heads; unknown: sigma, patch; dit"),
        ("jit", {"model": {}, "epoch": 3}, JIT, TypeError, "no tensors under model, epoch"),
        ("jit", {}, JIT, TypeError, "no tensors under any key"),
        ("jit", 3, JIT, TypeError, "the weights are of type int"),
        ("jit", {0: torch.zeros(1)}, JIT, TypeError, "no tensors under any key; expected a state dict"),
        ("uvit", {"a": torch.zeros(1)}, {**UVIT, "skip": False}, ValueError, "skip is False"),
        (
            "uvit",
            {"a": torch.zeros(1)},
            {**UVIT, "num_classes": 1},
            ValueError,
            "num_classes is 1, .* expected null_class=False",
        ),
        ("uvit", {"a": torch.zeros(1)}, {**UVIT, "qk_scale": 0.1}, ValueError, "qk_scale is 0.1; expected None, or .* 0.25"),
        ("uvit", {"a": torch.zeros(1)}, {**UVIT, "norm_layer": nn.BatchNorm1d}, ValueError, "norm_layer is .*BatchNorm1d"),
    ],
)
def test_arguments_are_checked(architecture, weights, config, error, message):
    with pytest.raises(error, match=message):
        from_official(architecture, weights, **config)


@pytest.mark.parametrize(
    ("architecture", "network", "message"),
    [
        ("jet", SAME["jit"][0], "no architecture is called 'jet'"),
        ("dit", SAME["sit"][0], "'dit' does not describe this DiT"),
        ("sit", SAME["dit"][0], "'sit' does not describe this DiT"),
        ("dit", SAME["lightningdit"][0], "'dit' does not describe this LightningDiT"),
        ("uvit", lambda: nn.Linear(1, 1), "'uvit' does not describe this Linear"),
        ("dit", lambda: DiT(16, 4, 3, 0, 32, 2, 2), "has no classes"),
        ("jit", lambda: JiT(*OURS, context_start=1, condition=nn.Linear(5, 32)), "a Linear for its condition"),
        ("uvit", lambda: UViT(*OURS, condition=nn.Linear(5, 32)), "a Linear for its condition"),
    ],
)
def test_networks_that_the_original_does_not_know_are_refused(architecture, network, message):
    with pytest.raises(ValueError, match=message):
        to_official(architecture, network())


def test_uvit_without_labels_has_none_officially_too(stirred):
    network = stirred(UViT(16, 4, 3, 0, 32, 2, 2))
    weights = to_official("uvit", network)
    loaded = from_official("uvit", weights, **{**UVIT, "num_classes": -1})
    z, t, _ = inputs()
    assert_close(loaded(z, t), network(z, t), rtol=0, atol=0)


@pytest.mark.parametrize(("null_class", "classes"), [(True, 10), (False, 11)])
def test_official_uvit_counts_no_class_as_a_class(pair, null_class, classes):
    _, weights, config = pair("uvit")
    loaded = from_official("uvit", weights, **config, null_class=null_class)
    z, t, _ = inputs()
    assert loaded.num_classes == classes
    last = loaded(z, t, torch.full((3,), 10))
    if null_class:
        assert_close(loaded(z, t), last, rtol=0, atol=0)
    else:
        with pytest.raises(ValueError, match="no labels were given"):
            loaded(z, t)
