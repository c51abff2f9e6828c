"""KDiff: what it draws, what it gives to the network, and how it samples."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdiff import FixedK, GeneralTarget, KDiff, LearnedK, LinearPath, LogitNormal, VariancePreservingPath, draw_noise
from kdiff.networks import MLP


class Zero(nn.Module):
    """A perfect data predictor for a direction in which the data has no extent."""

    def forward(self, z, t):
        return torch.zeros_like(z)


class Recorder(nn.Module):
    """u = scale · z + class, and a record of every call."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.calls = []

    def forward(self, z, t, y=None):
        self.calls.append((z.shape[0], t.clone(), None if y is None else y.clone()))
        return self.scale * z + (0 if y is None else y.to(z.dtype).reshape(-1, *[1] * (z.ndim - 1)))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 5, 5)])
@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()], ids=repr)
def test_loss_is_the_targets_loss_of_the_network_at_z(shape, path):
    model = KDiff(Recorder(), LearnedK(init=0.7), path)
    x, n, t = torch.randn(shape), torch.randn(shape), torch.rand(4)
    z, _ = path.interpolate(x, n, t)
    torch.testing.assert_close(model.loss(x, t, n), model.target.loss(0.5 * z, x, n, t, path))
    assert torch.equal(model.network.calls[0][1], t)


def test_loss_draws_time_and_noise_from_the_global_seed_and_trains_network_and_k():
    model = KDiff(Recorder(), timesteps=LogitNormal(-0.8, 0.8))
    x = torch.randn(16, 3)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.loss(x))
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    assert model.network.scale.grad is not None
    assert model.target.w.grad is not None


def test_conditions_are_dropped_at_the_null_rate():
    model = KDiff(Recorder(), "velocity", null={"y": 10}, null_rate=0.25)
    y = torch.arange(10).repeat(1000)
    model.loss(torch.randn(10_000, 2), y=y)
    seen = model.network.calls[0][2]
    dropped = seen == 10
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(seen[~dropped], y[~dropped])


def test_a_network_of_another_shape_is_refused():
    model = KDiff(nn.Sequential(), "velocity")
    model.network.forward = lambda z, t: z[:, :1]
    with pytest.raises(ValueError, match=r"returned \(2, 1\) for an input of \(2, 3\)"):
        model.loss(torch.randn(2, 3))


def test_parameter_groups_spare_k_and_hold_every_parameter_once():
    model = KDiff(MLP((6,), num_classes=3, width=8, depth=2), LearnedK())
    groups = {group["name"]: group for group in model.parameter_groups(1e-3, weight_decay=0.1)}
    assert groups["network"]["weight_decay"] == 0.1
    assert groups["network, undecayed"]["weight_decay"] == groups["target"]["weight_decay"] == 0
    assert groups["target"]["params"] == [model.target.w]
    listed = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert "target" not in {group["name"] for group in KDiff(MLP((6,)), "data").parameter_groups(1e-3)}


def test_sampling_leaves_the_papers_residue_and_the_clean_last_step_none():
    """A perfect network at k = 1 in an empty direction: the clamp leaves noise of 0.017 after 50 Heun steps (theory.md §2)."""
    noise = draw_noise(4000, (2,))
    model = KDiff(Zero(), "data")
    left = {
        name: model.sample(noise, **options).std().item() / noise.std().item()
        for name, options in {
            "paper": {"sampler": "paper"},
            "euler": {"sampler": "paper", "solver": "euler"},
            "euler 20": {"sampler": "paper", "steps": 20, "solver": "euler"},
            "default": {},
            "data": {"sampler": "paper", "last_step": "data"},
            "unclamped": {"sampler": "paper", "min_denominator": 0.0},
        }.items()
    }
    assert left["paper"] == pytest.approx(0.017, abs=5e-4)
    assert left["euler"] == pytest.approx(0.014, abs=5e-4)
    assert left["euler 20"] < 1e-6
    assert max(left["default"], left["data"], left["unclamped"]) < 1e-7


@pytest.mark.parametrize("target", ["noise", "velocity", "data", 0.8, GeneralTarget(1, 1), GeneralTarget(0, -1)], ids=str)
@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()], ids=repr)
def test_every_target_samples_alike_with_an_exact_network(target, path):
    """One point as the data: û = a x₀ − b n̂ is exact, and every target ends at x₀."""
    point = torch.tensor([0.3, -1.2])

    class Exact(nn.Module):
        def forward(self, z, t):
            alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
            n = torch.where(sigma > 0, (z - alpha * point) / sigma.clamp(min=1e-12), 0.0)
            return model.target.encode(point.expand_as(z), n, t)

    model = KDiff(Exact(), target, path)
    x = model.sample(draw_noise(5, (2,)), last_step="data", steps=40)
    torch.testing.assert_close(x, point.expand(5, 2), atol=2e-5, rtol=0)


def test_sampling_restores_the_mode_and_reports_its_steps():
    model = KDiff(Recorder(), "velocity").train()
    seen = []
    noise = draw_noise(2, (3,))
    result = model.sample(noise, sampler="paper", steps=4, callback=lambda step, t, z: seen.append((step, float(t), z.clone())))
    assert model.training
    assert [(step, t) for step, t, _ in seen] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert torch.equal(seen[0][2], noise)
    assert torch.equal(seen[-1][2], result)
    assert not result.requires_grad
    assert len(model.network.calls) == 7  # Heun twice but for the last step


def test_sampling_goes_both_ways_and_inverts():
    model = KDiff(Recorder(), "velocity")
    noise = draw_noise(3, (2,))
    there = model.sample(noise, steps=200)
    back = model.sample(there, times=torch.linspace(1, 0, 201))
    torch.testing.assert_close(back, noise, atol=1e-3, rtol=0)


def test_guidance_doubles_the_batch_only_inside_its_open_interval():
    model = KDiff(Recorder(), "velocity", null={"y": 7})
    y = torch.tensor([1, 2, 3])
    model.sample(
        draw_noise(3, (2,)), y=y, solver="euler", times=[0, 0.25, 0.5, 0.75, 1], guidance=2, guidance_interval=(0.25, 0.75)
    )
    assert [batch for batch, _, _ in model.network.calls] == [3, 3, 6, 3]
    assert model.network.calls[2][2].tolist() == [1, 2, 3, 7, 7, 7]


def test_guidance_is_the_extrapolation_of_two_separate_evaluations_on_all_channels():
    model = KDiff(Recorder(), "velocity", null={"y": 7})
    noise, y = draw_noise(3, (4, 2, 2)), torch.tensor([1, 2, 3])
    z = noise
    for i in range(5):
        t = torch.tensor(i / 5)
        v, v_null = model.velocity(z, t, y=y), model.velocity(z, t, y=torch.full_like(y, 7))
        z = z + (v_null + 1.7 * (v - v_null)) / 5
    torch.testing.assert_close(model.sample(noise, y=y, solver="euler", steps=5, guidance=1.7), z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0}, "needs to know what 'no condition' is"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval is"),
        ({"steps": 0}, "steps is 0"),
        ({"solver": "rk45"}, "no solver is called 'rk45'.* Known: euler, heun"),
        ({"times": [0.0, 0.5, 0.5, 1.0]}, "strictly monotonic"),
        ({"times": [0.0, 2.0]}, r"times = 0 … 2; expected times in \[0, 1\]"),
        ({"times": [0.0, 0.5], "last_step": "data"}, "needs times that end at t = 1"),
        ({"last_step": "clean"}, "expected 'data' .the data prediction. or 'euler'"),
    ],
)
def test_sampling_mistakes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KDiff(Recorder(), FixedK(0.5)).sample(draw_noise(2, (3,)), **options)


@pytest.mark.parametrize("target", ["data", "learned"])
def test_a_half_precision_network_is_given_half_precision_and_the_rest_stays_float32(target):
    network = MLP((4,), num_classes=3, width=16, depth=2)
    nn.init.normal_(network.output.weight, std=0.1)
    exact, half = KDiff(network, target, null={"y": 3}), KDiff(copy.deepcopy(network).bfloat16(), target, null={"y": 3})
    x, n, t, y = torch.randn(32, 4), torch.randn(32, 4), torch.rand(32), torch.randint(3, (32,))
    loss = half.loss(x, t, n, y=y)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact.loss(x, t, n, y=y), rtol=0.02, atol=0)
    sampled = half.sample(n, y=y, steps=5, guidance=2.0)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled, exact.sample(n, y=y, steps=5, guidance=2.0), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "t", [0.3, torch.tensor(0.3), torch.full((3,), 0.3), torch.full((3, 1, 1, 1), 0.3, dtype=torch.float64)]
)
def test_time_comes_to_the_network_as_one_float32_per_sample(t):
    model = KDiff(Recorder(), "velocity")
    z = torch.randn(3, 2, 4, 4)
    model.velocity(z, t)
    seen = model.network.calls[0][1]
    assert seen.shape == (3,)
    assert seen.dtype == torch.float32
    model.loss(z, t if isinstance(t, torch.Tensor) else torch.tensor(t), z)


def test_conditions_are_kept_in_evaluation_mode():
    model = KDiff(Recorder(), "velocity", null={"y": 10}, null_rate=1.0).eval()
    model.loss(torch.randn(4, 2), y=torch.arange(4))
    assert model.network.calls[0][2].tolist() == [0, 1, 2, 3]


def test_sampling_leaves_a_frozen_part_frozen():
    model = KDiff(MLP((3,), width=8, depth=2), "data").train()
    model.network.hidden.eval()
    model.sample(draw_noise(2, (3,)), steps=2)
    assert model.training
    assert model.network.training
    assert not model.network.hidden.training


def test_a_path_by_its_name():
    assert isinstance(KDiff(torch.nn.Identity(), path="variance_preserving").path, VariancePreservingPath)
    assert isinstance(KDiff(torch.nn.Identity()).path, LinearPath)
    with pytest.raises(ValueError, match=r"no path is called 'linaer' \(did you mean 'linear'\?\)"):
        KDiff(torch.nn.Identity(), path="linaer")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise": (8, 1)}, r"the shapes are x \(8, 4\), noise \(8, 1\); expected one shape"),
        ({"noise": (4,)}, r"noise \(4,\); expected"),
        ({"noise": (1, 4)}, r"noise \(1, 4\); expected"),
        ({"t": (4,)}, r"t has shape \(4,\)"),
        ({"t": (1, 8)}, r"t has shape \(1, 8\)"),
        ({"t": (8, 4)}, r"t has shape \(8, 4\)"),
        ({"y": (1,)}, r"y has shape \(1,\); expected a tensor with one entry for each of the 8 samples"),
        ({"y": (4,)}, r"y has shape \(4,\)"),
        ({"y": ()}, r"y has shape \(\)"),
    ],
)
@pytest.mark.parametrize("null_rate", [0.0, 0.5])
def test_the_loss_broadcasts_nothing(given, message, null_rate):
    model = KDiff(Recorder(), null={"y": 7}, null_rate=null_rate)
    with pytest.raises(ValueError, match=message):
        model.loss(torch.randn(8, 4), **{name: torch.rand(shape) for name, shape in given.items()})


def test_a_condition_with_a_null_is_a_tensor_because_a_list_could_not_be_dropped():
    model = KDiff(Recorder(), null={"y": 7}, null_rate=0.5)
    with pytest.raises(ValueError, match="y is a list; expected a tensor"):
        model.loss(torch.randn(2, 4), y=[1, 2])
    model.loss(torch.randn(2, 4), y=None)  # no condition
    with pytest.raises(ValueError, match="needs to know what 'no condition' is"):
        model.sample(torch.randn(2, 4), y=None, guidance=2.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", ["linear", "variance_preserving"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_loss_takes_noise_and_times_in_double_precision(weight, path, dtype):
    """They become as wide as x, which the network can take."""
    model = KDiff(MLP((3,), width=8, depth=1), "data", path, cosine_weight=weight).to(dtype)
    x, n, t = torch.randn(4, 3, dtype=dtype), torch.randn(4, 3, dtype=dtype), torch.rand(4)
    expected = model.loss(x, t, n)
    assert torch.equal(model.loss(x, t, n.double()), expected)
    wide = model.loss(x, t.double(), n)
    assert wide.dtype == expected.dtype
    torch.testing.assert_close(wide, expected)
    assert torch.equal(model.loss(x, t.double()[:, None], n.double()), wide)
    for wrong in (x[:2].double(), x[:, :1].double()):
        with pytest.raises(ValueError, match="expected one shape"):
            model.loss(x, t, wrong)


def test_noise_keeps_more_precision_than_half_precision_data():
    model = KDiff(MLP((3,), width=8, depth=1), "data")
    x, n, t = torch.randn(4, 3).bfloat16(), torch.randn(4, 3), torch.rand(4)
    expected = model.loss(x.float(), t, n)
    assert torch.equal(model.loss(x, t, n), expected)
    assert torch.equal(model.loss(x, t, n.double()), expected)
