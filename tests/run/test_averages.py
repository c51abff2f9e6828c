"""Averages of weights against the recursion written out, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiff import KDiff, LearnedK
from kdiff.networks import MLP
from kdiff.run.averages import EMA


def drift(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def floating(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items() if value.is_floating_point()}


def test_the_recursion_with_its_warm_up():
    decays = [0.0, 0.5, 0.999]
    model = KDiff(MLP((3,), width=4, depth=2), LearnedK(0.7))
    ema = EMA(model, decays)
    expected = {decay: {name: value.double() for name, value in floating(model).items()} for decay in decays}
    for step in range(30):
        drift(model)
        ema.update(step)
        for decay in decays:
            d = min(decay, (1 + step) / (10 + step))
            for name, value in floating(model).items():
                expected[decay][name] = d * expected[decay][name] + (1 - d) * value.double()
    for decay in decays:
        assert ema.averages[decay].keys() == expected[decay].keys()
        assert "target.w" in expected[decay]
        for name, value in expected[decay].items():
            assert ema.averages[decay][name].dtype == torch.float32
            torch.testing.assert_close(ema.averages[decay][name].double(), value, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(ema.averages[0.0][name], value) for name, value in floating(model).items())


def test_constant_weights_stay_as_they_are_and_the_start_is_forgotten():
    module = nn.Linear(3, 2)
    ema = EMA(module, [0.9999])
    with torch.no_grad():
        module.weight.fill_(5.0)
    for step in range(1000):
        ema.update(step)
    # Without the warm-up, exp(-0.1) of the start would remain; with it, Π (1 + s)/(10 + s) = 9! · 1000!/1009! ≈ 4e-22.
    torch.testing.assert_close(ema.averages[0.9999]["weight"], torch.full((2, 3), 5.0), rtol=1e-5, atol=0)
    assert torch.equal(ema.averages[0.9999]["bias"], module.bias)


def test_the_average_of_a_bfloat16_module_is_float32_and_moves_by_less_than_bfloat16_could():
    module = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = EMA(module, [0.999])
    with torch.no_grad():
        module.weight.fill_(1.0625)
    ema.update(10**9)
    average = ema.averages[0.999]["weight"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((1, 2), 1 + 0.0625 * 0.001), rtol=1e-7, atol=1e-7)


def test_floating_buffers_are_averaged_and_integers_are_not():
    norm = nn.BatchNorm1d(2)
    ema = EMA(norm, [0.5])
    assert set(ema.averages[0.5]) == {"weight", "bias", "running_mean", "running_var"}
    norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ema.update(100)
    torch.testing.assert_close(ema.averages[0.5]["running_mean"], norm.running_mean / 2)


def test_averages_are_copies_and_load_puts_them_back():
    module = nn.Linear(2, 2)
    ema = EMA(module, [0.9])
    start = {name: value.clone() for name, value in ema.averages[0.9].items()}
    drift(module)
    assert all(torch.equal(ema.averages[0.9][name], start[name]) for name in start)
    ema.update(0)
    assert not torch.equal(ema.averages[0.9]["weight"], start["weight"])
    ema.load(0.9, start)
    assert all(torch.equal(ema.averages[0.9][name], start[name]) for name in start)
    ema.update(0)
    assert not torch.equal(ema.averages[0.9]["weight"], start["weight"]), "load must copy, not alias"
    with pytest.raises(KeyError):
        ema.load(0.9, {"weight": start["weight"]})
