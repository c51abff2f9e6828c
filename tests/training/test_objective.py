"""What an objective reports, and the configuration's refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdiff import FixedK, GeneralTarget, KDiff, LearnedK
from kdiff.config.plain import as_dict, from_dict
from kdiff.config.training import LoopConfig, TrainConfig
from kdiff.networks import MLP
from kdiff.targets import LearnedKOfTime, LearnedPair
from kdiff.training.objective import ClassificationObjective, DiffusionObjective
from kdiff.training.optimiser import learning_rate_factor


@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_splits_along_and_across_the_directions(autocast):
    """Against projections in float64; bfloat16, for whose product of matrices autocast asks, would be off by 1e-3."""
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    error = torch.randn(64, 3, 2, 2)
    model = KDiff(MLP((3, 2, 2)))
    model.terms = lambda x, t: (error, None)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, parts = DiffusionObjective(model, basis[:, :5].float())(error, None)
    flat = error.flatten(1).double()
    along, across = ((flat @ basis[:, part]).square().sum().item() / flat.numel() for part in (slice(5), slice(5, 12)))
    assert loss.dtype == torch.float32
    assert parts["loss_along"].item() == pytest.approx(along, rel=1e-5)
    assert parts["loss_across"].item() == pytest.approx(across, rel=1e-5)
    assert sum(part.item() for part in parts.values()) == pytest.approx(loss.item(), rel=1e-6)


def test_without_directions_there_is_only_the_loss():
    x = torch.randn(8, 3)
    objective = DiffusionObjective(KDiff(MLP((3,)), "data"))
    torch.manual_seed(5)
    loss, parts = objective(x, None)
    torch.manual_seed(5)
    assert torch.equal(loss, objective.module.loss(x))
    assert parts == {}


def test_k_and_its_gradient_are_reported():
    objective = DiffusionObjective(KDiff(MLP((3,)), LearnedK(0.75)))
    assert objective.state() == {"k": pytest.approx(0.75)}
    assert objective.gradients() == {}
    objective(torch.randn(8, 3), None)[0].backward()
    assert objective.gradients() == {"w_gradient": objective.module.target.w.grad}
    assert DiffusionObjective(KDiff(MLP((3,)), FixedK(0.25))).state() == {"k": 0.25}
    fixed = DiffusionObjective(KDiff(MLP((3,)), GeneralTarget(1, 1)))
    fixed(torch.randn(8, 3), None)[0].backward()
    assert fixed.state() == fixed.gradients() == {}


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (LearnedPair(), ["w0_gradient", "w1_gradient"]),
        (LearnedKOfTime("polynomial"), ["w0_gradient", "w1_gradient", "w2_gradient"]),
        (LearnedKOfTime("table"), ["w_gradient(0)", "w_gradient(1)"]),
    ],
)
def test_gradients_of_several_numbers(target, names):
    objective = DiffusionObjective(KDiff(MLP((3,)), target))
    objective(torch.randn(64, 3), None)[0].backward()
    found, gradient = objective.gradients(), target.w.grad.tolist()
    expected = gradient if len(names) == len(gradient) else [gradient[0], gradient[-1]]
    assert [*found] == names
    assert [value.item() for value in found.values()] == expected
    target.w.grad.zero_()
    assert [value.item() for value in found.values()] == expected, "they are copies"


def test_directions_are_no_part_of_what_is_saved():
    model = KDiff(MLP((3,)))
    objective = DiffusionObjective(model, torch.eye(3)[:, :1])
    assert "directions" not in objective.state_dict()
    assert "directions" in dict(objective.named_buffers()), "it must move with the objective to its device"


def test_classification_is_cross_entropy_and_accuracy():
    objective = ClassificationObjective(nn.Identity())
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [5.0, 5.0 + math.log(4.0)]])
    loss, parts = objective(logits, torch.tensor([0, 1, 0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2) + math.log(5)) / 3)
    assert parts["accuracy"].item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="labelled data"):
        objective(logits, None)


def test_the_learning_rate_warms_up_linearly_and_then_stays():
    config = LoopConfig(steps=100, warmup=10)
    assert [learning_rate_factor(config, step) for step in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert {learning_rate_factor(config, step) for step in range(10, 100)} == {1.0}
    assert learning_rate_factor(LoopConfig(warmup=0), 0) == 1.0


def test_the_cosine_falls_from_1_after_the_warm_up_to_0_at_the_end():
    config = LoopConfig(steps=110, warmup=10, schedule="cosine")
    factors = [learning_rate_factor(config, step) for step in range(111)]
    assert factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[35] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factors[110] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b > -1e-12 for a, b in zip(factors[10:], factors[11:]))
    # Warm-up to the very end, and beyond it, divides by nothing.
    for warmup in (5, 50):
        assert [learning_rate_factor(LoopConfig(steps=5, warmup=warmup, schedule="cosine"), s) for s in range(5)] == [
            pytest.approx((s + 1) / warmup) for s in range(5)
        ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; expected constant or cosine"),
        ({"precision": "float16"}, "precision is 'float16'; expected no, bf16, fp16 or auto"),
        ({"accumulate": 0}, "accumulate is 0; expected at least 1"),
        ({"accumulate": 3}, "batch_size is 128 and accumulate is 3; expected a batch_size that divides .* such as 129"),
        ({"batch_size": 2, "accumulate": 8}, "such as 8"),
        ({"keep": -1}, "keep is -1"),
        ({"sample_every": -1}, "sample_every is -1"),
        ({"ema": []}, "ema is"),
        ({"ema": [1.0]}, "ema is"),
        ({"ema": [0.9, 0.9]}, "ema is"),
        ({"betas": [0.9]}, "betas is"),
        ({"step": 3}, "unknown fields step; expected some of: .*batch_size.*target"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainConfig, values)


def test_a_configuration_survives_being_plain_data():
    config = TrainConfig(steps=3, network={"name": "MLP", "width": 8}, target=0.9, ema=[0.5, 0.9])
    assert from_dict(TrainConfig, as_dict(config)) == config
