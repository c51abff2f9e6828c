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
    state = module.state_dict().items()
    return {name: value.detach().clone() for name, value in state if value.is_floating_point()}


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


class Changing(nn.Module):
    """Counts what it has seen in a buffer that it assigns anew, as vector quantisers and normalised networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
        self.register_buffer("size", torch.zeros(2))
        self.register_buffer("later", None)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("count", torch.tensor(0))


def in_place(m: Changing, i: int) -> None:
    m.size.add_(i)


def assigned_buffer(m: Changing, i: int) -> None:
    m.size = 0.9 * m.size + i
    m.scratch, m.count = m.scratch + 1, m.count + 1


def assigned_parameter(m: Changing, i: int) -> None:
    m.layer.weight = nn.Parameter(m.layer.weight.detach() + i)


def swapped_data(m: Changing, i: int) -> None:
    m.layer.weight.data = m.layer.weight.data + i


def another_submodule(m: Changing, i: int) -> None:
    m.other = nn.Linear(2, 2)


def another_network(m: Changing, i: int) -> None:
    """Deeper down, in a container."""
    m.other = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    m.other[1].weight.data.fill_(i)


def tied(m: Changing, i: int) -> None:
    m.other.weight = m.layer.weight if i < 5 else nn.Parameter(torch.full((2, 2), float(i)))
    m.layer.weight.data.add_(i)


def loaded(m: Changing, i: int) -> None:
    m.load_state_dict({name: value + i for name, value in m.state_dict().items()}, assign=True, strict=False)


@pytest.mark.parametrize(
    "change",
    [in_place, assigned_buffer, assigned_parameter, swapped_data, another_submodule, another_network, tied, loaded],
)
@pytest.mark.parametrize("hooked", [False, True])
def test_the_average_follows_the_state_however_it_changes(change, hooked):
    module = Changing()
    if hooked:  # whose entries only `state_dict` itself can tell
        module.register_state_dict_post_hook(lambda module, state, prefix, meta: state.update(extra=module.size * 2))
    change(module, 0)
    ema = EMA(module, [0.5, 0.0])
    expected = floating(module)
    assert ("extra" in expected, "scratch" in expected, "count" in expected) == (hooked, False, False)
    for step in range(10):
        drift(module)
        change(module, step)
        ema.update(step)
        d = min(0.5, (1 + step) / (10 + step))
        expected = {name: d * expected[name] + (1 - d) * value for name, value in floating(module).items()}
        for name, value in floating(module).items():
            torch.testing.assert_close(ema.averages[0.0][name], value)
            torch.testing.assert_close(ema.averages[0.5][name], expected[name])
    assert ema.averages[0.5].keys() == expected.keys()


@pytest.mark.parametrize("late", ["buffer", "empty buffer", "parameter", "submodule", "shape", "lazy"])
def test_an_entry_that_appears_later_starts_from_its_value_then(late):
    module = Changing()
    if late == "lazy":
        module.other = nn.LazyLinear(2)
    ema = EMA(module, [0.5])
    ema.update(100)
    name = {"empty buffer": "later", "submodule": "third.weight", "shape": "size", "lazy": "other.weight"}.get(late, "new")
    if late == "buffer":
        module.register_buffer("new", torch.ones(3))
    elif late == "empty buffer":
        module.later = torch.ones(3)
    elif late == "parameter":
        module.register_parameter("new", nn.Parameter(torch.ones(3)))
    elif late == "submodule":
        module.third = nn.Linear(2, 2)
    elif late == "shape":
        module.size = torch.ones(5)
    else:
        module.other(torch.zeros(1, 2))
    start = module.state_dict()[name].clone()
    ema.update(101)
    assert torch.equal(ema.averages[0.5][name], start)
    module.state_dict()[name].add_(1)
    ema.update(102)
    torch.testing.assert_close(ema.averages[0.5][name], start + 0.5)
    assert ema.averages[0.5].keys() == floating(module).keys()
    del module.layer
    ema.update(103)
    assert ema.averages[0.5].keys() == floating(module).keys()


@pytest.mark.parametrize(
    ("dtype", "exact"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
        (torch.complex128, torch.complex128),
    ],
)
def test_every_type_is_averaged_in_float32_or_better(dtype, exact):
    module = nn.Module()
    module.register_buffer("value", torch.ones(3).to(dtype))
    module.register_buffer("plain", torch.ones(3))
    ema = EMA(module, [0.999])
    module.value = (2 * torch.ones(3)).to(dtype)
    ema.update(10**9)
    assert ema.averages[0.999]["value"].dtype == exact
    torch.testing.assert_close(ema.averages[0.999]["value"], torch.full((3,), 1.001, dtype=exact))
    assert torch.equal(ema.averages[0.999]["plain"], torch.ones(3))
    if dtype.is_complex:
        module.value = module.value * 1j
        ema.update(10**9)
        torch.testing.assert_close(ema.averages[0.999]["value"].imag.float(), torch.full((3,), 0.002))


def test_a_module_that_changes_its_type_keeps_its_averages():
    module = nn.Linear(2, 2).bfloat16()
    ema = EMA(module, [0.5])
    held = ema.averages[0.5]["weight"].clone()
    module.double()
    ema.update(100)
    assert ema.averages[0.5]["weight"].dtype == torch.float64
    torch.testing.assert_close(ema.averages[0.5]["weight"].float(), held)


def test_state_that_is_no_tensor_is_left_out():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"version": 3}

    module = Extra(2, 2)
    ema = EMA(module, [0.5])
    ema.update(0)
    assert ema.averages[0.5].keys() == {"weight", "bias"}
