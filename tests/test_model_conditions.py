"""Several conditions: how often the loss hides each, and guidance that leads away from some of them only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff
from kdiff.sampling import guided_velocity

NAN = float("nan")


class Recording(nn.Module):
    """Keeps the conditions of every call; its output depends on each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(3)), list[dict[str, Tensor]]()

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None, params: Tensor | None = None) -> Tensor:
        self.calls.append({name: value for name, value in (("y", y), ("params", params)) if value is not None})
        shift = torch.zeros(len(z)) if y is None else torch.where(y == 10, 0.0, 1.0 + y)
        shift = shift if params is None else shift + torch.where(params.isnan().any(1), 7.0, params.nan_to_num().sum(1))
        return self.weight * z + shift[:, None]


def hidden(model: KDiff, batch: int = 4000) -> tuple[Tensor, Tensor]:
    """Which samples of a batch had no class, and which had no parameters."""
    torch.manual_seed(0)
    model.train().loss(torch.randn(batch, 3), y=torch.zeros(batch, dtype=torch.int64), params=torch.zeros(batch, 2))
    (call,) = model.network.calls  # type: ignore[misc, union-attr]
    nans = call["params"].isnan()
    assert torch.equal(nans.any(1), nans.all(1))
    return call["y"] == 10, nans.all(1)


def model_of(rate: Any, **options: Any) -> KDiff:
    return KDiff(Recording(), "velocity", null={"y": 10, "params": NAN}, null_rate=rate, **options)


def within(found: Tensor, rate: float) -> bool:
    """Five standard deviations of a binomial."""
    return abs(found.float().mean().item() - rate) < 5 * (rate * (1 - rate) / len(found)) ** 0.5


def test_one_rate_hides_all_conditions_of_a_sample_together() -> None:
    y, params = hidden(model_of(0.3))
    assert torch.equal(y, params)
    assert within(y, 0.3)


def test_rates_by_name_hide_each_condition_independently() -> None:
    y, params = hidden(model_of({"y": 0.1, "params": 0.4}))
    assert within(y, 0.1)
    assert within(params, 0.4)
    assert within(y & params, 0.04)
    y, params = hidden(model_of({"params": 0.5}))
    assert not y.any()
    assert within(params, 0.5)
    y, params = hidden(model_of({"y": 0.0, "params": 1.0}))
    assert not y.any()
    assert params.all()


def test_one_rate_draws_what_it_always_drew() -> None:
    """Of a model with one rate, all draws are: noise, then one uniform number for each sample."""
    model, x = model_of(0.3).train(), torch.randn(50, 3)
    torch.manual_seed(4)
    model.loss(x, torch.rand(50), y=torch.zeros(50, dtype=torch.int64))
    torch.manual_seed(4)
    torch.rand(50), torch.randn_like(x)
    assert torch.equal(model.network.calls[0]["y"] == 10, torch.rand(50) < 0.3)  # type: ignore[union-attr, index]


def test_nothing_is_hidden_in_evaluation() -> None:
    model = model_of({"y": 1.0, "params": 1.0}).eval()
    model.loss(torch.randn(4, 3), y=torch.zeros(4, dtype=torch.int64), params=torch.zeros(4, 2))
    assert not model.network.calls[0]["params"].isnan().any()  # type: ignore[union-attr, index]


@pytest.mark.parametrize("rate", [{"y": 1.5}, {"force": 0.1}, {"y": -0.1}, 2.0])
def test_wrong_rates_are_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"null_rate is .*; expected a probability, and a null"):
        model_of(rate)


@pytest.mark.parametrize("only", [["y"], ["params"], ["y", "params"], None])
def test_guidance_on_some_conditions_is_the_formula_written_out(only: list[str] | None) -> None:
    model, w = model_of(0.1).eval(), 2.5
    z, t = torch.randn(4, 3), torch.tensor(0.4)
    given = {"y": torch.tensor([0, 1, 2, 3]), "params": torch.randn(4, 2)}
    without = {"y": torch.full((4,), 10), "params": torch.full((4, 2), NAN)}
    reference = model.velocity(z, t, **{name: (without if only is None or name in only else given)[name] for name in given})
    v = model.velocity(z, t, **given)
    guided = guided_velocity(model.velocity, given, model.null, w, only=only)(z, t)
    torch.testing.assert_close(guided, reference + w * (v - reference))
    drawn = model.sample(z, solver="euler", times=[0.0, 1.0], last_step="euler", guidance=w, guide_on=only, **given)
    by_hand = guided_velocity(model.velocity, given, model.null, w, only=only)(z, torch.tensor(0.0))
    torch.testing.assert_close(drawn, z + by_hand)


def test_guide_on_is_refused_where_it_means_nothing() -> None:
    model, given = model_of(0.1), {"y": torch.zeros(2, dtype=torch.int64)}
    z = torch.randn(2, 3)
    for only in ([], ["params"], ["force"]):
        with pytest.raises(ValueError, match=r"guide_on is .*; expected some of the conditions that are given .*: y"):
            model.sample(z, guidance=2.0, guide_on=only, **given)
    with pytest.raises(ValueError, match="leads away from a weaker model, which gets all conditions; leave guide_on out"):
        model.sample(z, guidance=2.0, guide_on=["y"], guidance_model=model_of(0.1), **given)


def test_a_weaker_model_gets_all_conditions() -> None:
    model, weak = model_of(0.1), model_of(0.1)
    given = {"y": torch.zeros(2, dtype=torch.int64), "params": torch.randn(2, 2)}
    model.sample(torch.randn(2, 3), steps=2, guidance=2.0, guidance_model=weak, **given)
    for call in weak.network.calls:  # type: ignore[union-attr]
        assert torch.equal(call["y"], given["y"])
        assert torch.equal(call["params"], given["params"])
