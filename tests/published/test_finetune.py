"""Fixed targets to learned ones: the same velocity where the conversion is exact, a change that is said where it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdiff.model import KDiff
from kdiff.networks import MLP, DiT, LightningDiT, UViT
from kdiff.published import as_model, velocity_change, with_learned_k
from kdiff.published.finetune import last_layer
from kdiff.targets import FixedK, GeneralTarget, LearnedK, LearnedKOfTime

SIZES: dict[str, Any] = {"image_size": 8, "patch_size": 4, "channels": 2, "num_classes": 3, "hidden_size": 16, "depth": 2}
VELOCITY: dict[str, Callable[[], nn.Module]] = {
    "sit": lambda: DiT(**SIZES, num_heads=2, learn_sigma=True, drop_sigma=True),
    "lightningdit": lambda: LightningDiT(**SIZES, num_heads=2),
    "plain velocity": lambda: UViT(**SIZES, num_heads=2),
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VELOCITY)
def test_a_velocity_model_starts_with_the_very_same_velocity(name: str, stirred: Any, x: torch.Tensor) -> None:
    network = stirred(VELOCITY[name]())
    model = as_model(name, network) if name != "plain velocity" else KDiff(network, GeneralTarget(1, 1), null={"y": 3})
    tuned = with_learned_k(model)
    assert isinstance(tuned.target, LearnedK)
    assert tuned.target.k == 0.5
    # Halving is exact in binary, and ½ undoes it.
    assert max(velocity_change(model, tuned, x, y=torch.tensor([0, 1, 3])).values()) < 1e-6
    assert tuned.null == model.null


@pytest.mark.parametrize("target", [FixedK(0.8), GeneralTarget(3.0, 1.5), GeneralTarget(-1.0, -1.0)])
def test_any_constant_target_inside_the_line_is_exact(target: Any) -> None:
    network = MLP((5,), width=8, depth=1)
    nn.init.normal_(network.output.weight)
    model = KDiff(network, target)
    tuned = with_learned_k(model)
    a, b = target.coefficients(torch.tensor([0.5]))
    assert tuned.target.k == pytest.approx(a / (a + b))
    assert max(velocity_change(model, tuned, torch.randn(50, 5)).values()) < 1e-5


@pytest.mark.parametrize(("target", "init"), [("data", 0.99), ("noise", 0.01)])
def test_the_ends_start_close_by_and_say_how_close(target: str, init: float) -> None:
    torch.manual_seed(0)
    network = MLP((5,), width=8, depth=1)
    nn.init.normal_(network.output.weight)
    model = KDiff(network, target)
    rough, fine = (
        velocity_change(model, with_learned_k(model, k), torch.randn(200, 5), times=(0.3, 0.5, 0.7))
        for k in (init, 0.5 + (init - 0.5) * 0.998 / 0.98)
    )
    for t in rough:
        assert 0 < fine[t] < 0.15 * rough[t] < 0.15
        # What is left out, (1 − k) of the noise (or k of the data), is the change, over den: of the size of 1 − k.
        assert rough[t] < 0.1


def test_a_velocity_of_zero_has_not_changed() -> None:
    """As a new network's, whose last layer is 0; one that is 0 no more has changed without bound."""
    model = as_model("sit", VELOCITY["sit"]())
    x, y = torch.randn(2, 2, 8, 8), torch.tensor([0, 1])
    tuned = with_learned_k(model)
    assert set(velocity_change(model, tuned, x, y=y).values()) == {0.0}
    nn.init.ones_(tuned.network.final_layer.linear.bias)
    assert set(velocity_change(model, tuned, x, y=y).values()) == {math.inf}


def test_the_change_is_seen_under_the_noise_of_the_model() -> None:
    network = MLP((5,), width=8, depth=1)
    nn.init.normal_(network.output.weight)
    x = torch.randn(50, 5)
    narrow, wide = (
        velocity_change(model, with_learned_k(model, 0.99), x)
        for model in (KDiff(network, "data"), KDiff(network, "data", noise_scale=3.0))
    )
    assert all(narrow[t] != wide[t] for t in narrow)


def test_all_but_the_target_goes_along() -> None:
    model = KDiff(MLP((5,)), "velocity", noise_scale=2.0, cosine_weight=0.5)
    tuned = with_learned_k(model)
    assert (tuned.noise_scale, tuned.cosine_weight) == (2.0, 0.5)
    assert tuned.network is not model.network


def test_the_model_itself_stays_and_k_moves(x: torch.Tensor, stirred: Any) -> None:
    model = as_model("sit", stirred(VELOCITY["sit"]()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = with_learned_k(model, rate=3.0)
    tuned.loss(x, y=torch.tensor([0, 1, 2])).backward()
    assert tuned.target.w.grad.abs() > 0
    assert tuned.target.rate == 3.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_noise_predictor_of_two_signs(stirred: Any) -> None:
    """+n and −n are the same model, and so they are after the conversion."""
    plus = KDiff(MLP((5,), width=8, depth=1), GeneralTarget(0.0, -1.0))
    nn.init.normal_(plus.network.output.weight)
    minus = KDiff(MLP((5,), width=8, depth=1), "noise")
    minus.network.load_state_dict(plus.network.state_dict())
    with torch.no_grad():
        minus.network.output.weight.neg_()
        minus.network.output.bias.neg_()
    z = torch.randn(4, 5)
    velocities = [with_learned_k(model, 0.02).velocity(z, 0.6) for model in (plus, minus)]
    torch.testing.assert_close(*velocities)


class TestRefusals:
    def test_the_ends_need_a_start(self) -> None:
        with pytest.raises(ValueError, match=r"init=0\.99"):
            with_learned_k(KDiff(MLP((5,)), "data"))
        with pytest.raises(ValueError, match=r"\(k = 0\), .*init=0\.01"):
            with_learned_k(KDiff(MLP((5,)), "noise"))

    def test_an_exact_start_takes_no_other(self) -> None:
        with pytest.raises(ValueError, match="leave init out"):
            with_learned_k(KDiff(MLP((5,)), "velocity"), init=0.7)

    @pytest.mark.parametrize(
        "target",
        [LearnedK(), LearnedKOfTime(), GeneralTarget(lambda t: 1 - t, lambda t: t), GeneralTarget(torch.ones(2, 1), 1.0)],
    )
    def test_targets_without_one_k(self, target: Any) -> None:
        with pytest.raises(ValueError, match="expected a fixed one"):
            with_learned_k(KDiff(MLP((5,)), target))

    def test_a_network_from_elsewhere(self) -> None:
        with pytest.raises(ValueError, match="Linear is not known"):
            last_layer(nn.Linear(2, 2))
