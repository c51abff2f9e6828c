"""Guidance: its formulas from separate evaluations, its evaluations counted, and what it does to the spread of a sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiff import KDiff, LearnedK, LinearPath, VariancePreservingPath, draw_noise
from kdiff.networks import MLP
from kdiff.sampling import SOLVERS, find_solver, guided_velocity

Y = torch.tensor([1.0, 2.0, 5.0])


class Field:
    """A velocity that depends on everything, and a record of times and batch sizes."""

    def __init__(self, weight=1.0):
        self.weight = weight
        self.calls = []

    def __call__(self, z, t, y, tag=None):
        self.calls.append((float(t), len(z)))
        return self.weight * torch.sin(z * y.reshape(-1, *[1] * (z.ndim - 1)) + t) + y.reshape(-1, *[1] * (z.ndim - 1))


def parts(z, t=0.4):
    """v and v_null, from evaluations apart."""
    t = torch.tensor(t)
    return Field()(z, t, Y), Field()(z, t, torch.zeros(3))


@pytest.fixture
def z():
    return draw_noise(3, (4, 5, 5))


def guided(field, z, t=0.4, scale=2.5, **options):
    return guided_velocity(field, {"y": Y, "tag": "x"}, {"y": 0.0}, scale, **options)(z, torch.tensor(t))


def test_classifier_free_is_the_extrapolation_on_all_channels_in_one_evaluation(z):
    field = Field()
    v, v_null = parts(z)
    torch.testing.assert_close(guided(field, z), v_null + 2.5 * (v - v_null))
    assert field.calls == [(pytest.approx(0.4), 6)]
    torch.testing.assert_close(guided(field, z, scale=0.0), v_null)


def test_autoguidance_is_the_extrapolation_from_the_weaker_model_with_the_same_conditions(z):
    field, weak = Field(), Field(0.7)
    v, v_weak = Field()(z, torch.tensor(0.4), Y), Field(0.7)(z, torch.tensor(0.4), Y)
    torch.testing.assert_close(guided(field, z, weak=weak), v_weak + 2.5 * (v - v_weak))
    assert [len(calls) for calls in (field.calls, weak.calls)] == [1, 1]
    assert field.calls[0][1] == weak.calls[0][1] == 3
    # It needs no null condition.
    guided_velocity(field, {"y": Y}, None, 2.5, weak=weak)(z, torch.tensor(0.4))


@pytest.mark.parametrize("weak", [None, Field(0.7)], ids=["classifier-free", "auto"])
def test_where_guidance_is_off_there_is_one_evaluation_of_the_usual_size(z, weak):
    v = parts(z)[0]
    for options in ({"scale": 1.0, "rescale": 0.5}, {"interval": (0.5, 1.0)}, {"interval": (0.1, 0.4)}):
        field = Field()
        if weak:
            weak.calls.clear()
        assert torch.equal(guided(field, z, **options, weak=weak), v)
        assert field.calls == [(pytest.approx(0.4), 3)]
        assert not weak or not weak.calls


def test_the_interval_is_open_and_includes_the_start(z):
    for t, low, high, on in [(0.5, 0.5, 1, False), (0.5, 0.25, 0.5, False), (0.5, 0.25, 1, True), (0.0, 0, 1, True)]:
        field = Field()
        guided(field, z, t=t, interval=(low, high))
        assert (field.calls[0][1] == 6) == on


def test_only_the_chosen_channels_are_guided(z):
    v, everywhere = parts(z)[0], guided(Field(), z)
    found = guided(Field(), z, channels=[0, 2])
    torch.testing.assert_close(found[:, [0, 2]], everywhere[:, [0, 2]])
    torch.testing.assert_close(found[:, [1, 3]], v[:, [1, 3]])
    torch.testing.assert_close(guided(Field(), z, channels=range(4)), everywhere)
    vectors = draw_noise(3, (4,))
    torch.testing.assert_close(guided(Field(), vectors, channels=[3])[:, :3], Field()(vectors, torch.tensor(0.4), Y)[:, :3])


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()], ids=repr)
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaling_gives_each_data_prediction_its_unguided_spread(z, path, phi):
    t = torch.tensor(0.4)
    x_hat, x_plain, x_found = (
        path.data(z, v, t) for v in (parts(z)[0], guided(Field(), z), guided(Field(), z, rescale=phi, path=path))
    )
    spread, plain = (x.flatten(1).std(dim=1) for x in (x_hat, x_plain))
    factor = phi * spread / plain + 1 - phi
    torch.testing.assert_close(x_found, factor[:, None, None, None] * x_plain, rtol=1e-4, atol=1e-5)
    assert (plain / spread).max() > 1.2  # there was something to rescale
    if phi == 1:
        torch.testing.assert_close(x_found.flatten(1).std(dim=1), spread, rtol=1e-4, atol=0)


def test_rescaling_leaves_what_has_no_spread_alone():
    for z in (draw_noise(3, (1,)), torch.ones(3, 4)):
        found = guided_velocity(lambda z, t, y: y[:, None] - z, {"y": Y}, {"y": 0.0}, 2.0, rescale=1.0)(z, torch.tensor(0.4))
        assert found.isfinite().all()


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_evaluates_both_branches_together_in_the_interval_alone(name):
    field, z = Field(), draw_noise(3, (2,))
    velocity = guided_velocity(field, {"y": Y}, {"y": 0.0}, 3.0, interval=(0.2, 0.6))
    find_solver(name)(velocity, z, torch.linspace(0, 1, 11))
    assert all(size == (6 if 0.2 < t < 0.6 else 3) for t, size in field.calls if abs(t - 0.2) > 1e-6 < abs(t - 0.6))
    assert {size for _, size in field.calls} == {3, 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"null": None}, "needs to know what 'no condition' is"),
        ({"interval": (0.5, 0.2)}, "guidance_interval is"),
        ({"rescale": 1.5}, "guidance_rescale is 1.5"),
        ({"channels": [4]}, r"guidance_channels are \[4\]; the samples have channels 0 … 3"),
        ({"channels": [-1]}, "guidance_channels are"),
    ],
)
def test_mistakes_are_refused(options, message, z):
    with pytest.raises(ValueError, match=message):
        guided_velocity(Field(), {"y": Y}, **{"null": {"y": 0.0}, **options}, scale=2.0)(z, torch.tensor(0.4))


def model_of(target, width, null=None, path=None):
    model = KDiff(MLP((4,), num_classes=3, width=width, depth=1), target, path, null=null)
    for parameter in model.network.parameters():  # a new network says 0
        nn.init.normal_(parameter, std=0.4)
    return model


def test_a_model_is_guided_by_one_with_another_network_and_target():
    strong, weak = model_of("data", 16).train(), model_of(LearnedK(0.6), 4).train()
    weak.network.hidden = nn.Sequential(nn.Dropout(0.9), weak.network.hidden)
    noise, y = draw_noise(3, (4,)), torch.tensor([0, 1, 2])
    z = noise
    with torch.no_grad():
        weak.eval()
        for t in torch.linspace(0, 1, 6)[:-1]:
            v, v_weak = (model.velocity(z, t, y=y) for model in (strong, weak))
            z = z + (v_weak + 2 * (v - v_weak)) / 5
        weak.train()
    found = strong.sample(noise, y=y, solver="euler", steps=5, guidance=2.0, guidance_model=weak)
    torch.testing.assert_close(found, z)
    assert weak.training
    assert weak.network.hidden[0].training


def test_a_guiding_model_on_another_path_is_refused():
    weak = model_of("data", 4, path=VariancePreservingPath())
    with pytest.raises(ValueError, match=r"guidance_model is on VariancePreservingPath\(\), this model on LinearPath\(\)"):
        model_of("data", 4).sample(draw_noise(2, (4,)), guidance=2.0, guidance_model=weak)


def test_the_last_data_prediction_is_guided_and_rescaled_too():
    model = model_of("data", 16, null={"y": 3})
    noise, y, t = draw_noise(3, (4,)), torch.tensor([0, 1, 2]), torch.tensor(0.5)
    x, x_null = (model.path.data(noise, model.velocity(noise, t, y=labels), t) for labels in (y, torch.full((3,), 3)))
    guided = x_null + 3 * (x - x_null)
    expected = guided * (x.std(dim=1) / guided.std(dim=1))[:, None]
    options = {"guidance": 3.0, "guidance_rescale": 1.0, "last_step": "data", "times": [0.5, 1.0]}
    torch.testing.assert_close(model.sample(noise, y=y, **options), expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_closed_interval_includes_its_start_and_nothing_before(z):
    before = torch.nextafter(torch.tensor(0.1), torch.tensor(0.0)).item()
    for t, low, on in [(0.1, 0.1, True), (before, 0.1, False), (0.0, 0.0, True), (0.6, 0.1, False)]:
        field = Field()
        guided(field, z, t=t, interval=(low, 0.6), closed=True)
        assert (field.calls[0][1] == 6) == on


@pytest.mark.parametrize("scale", [torch.nan, torch.inf])
def test_a_scale_that_is_not_finite_is_refused(z, scale):
    with pytest.raises(ValueError, match=r"guidance is (nan|inf); expected a finite number"):
        guided(Field(), z, scale=scale)
