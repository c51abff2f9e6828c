"""Paths: their ends, their derivatives, and that (z, v) gives back (x, n)."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from kdiff import (
    GeneralTarget,
    KDiff,
    LearnedK,
    LinearPath,
    Uniform,
    VariancePreservingPath,
    path,
    to_data,
    to_noise,
    to_velocity,
)
from kdiff.config.training import LoopConfig
from kdiff.path import _CHECKED, broadcast_time, checked_time, raise_wrong_times
from kdiff.published import KDiffLoss, as_model, velocity_change
from kdiff.sampling import Dopri5, euler
from kdiff.targets import LearnedKOfTime
from kdiff.training.loop import fit

PATHS = [LinearPath(), VariancePreservingPath()]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_ends_are_noise_and_data(path):
    x, n = torch.randn(2, 3, 5)
    assert torch.equal(path.interpolate(x, n, 0.0)[0], n)
    assert torch.equal(path.interpolate(x, n, 1.0)[0], x)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_velocity_is_the_derivative(path):
    x, n = torch.randn(2, 4, 3, dtype=torch.float64)
    t, h = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64), 1e-6
    _, v = path.interpolate(x, n, t)
    numeric = (path.interpolate(x, n, t + h)[0] - path.interpolate(x, n, t - h)[0]) / (2 * h)
    torch.testing.assert_close(v, numeric, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 4, 4)])
def test_data_and_noise_come_back(path, shape):
    x, n = torch.randn(2, *shape, dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    z, v = path.interpolate(x, n, t)
    torch.testing.assert_close(path.data(z, v, t), x)
    torch.testing.assert_close(path.noise(z, v, t), n)


def test_variance_is_preserved():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    path = VariancePreservingPath()
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))
    assert path.sigma(torch.tensor(1.0)) == 0


def test_half_precision_data_is_interpolated_in_float32():
    x, n, t = torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16(), torch.rand(2)
    z, v = LinearPath().interpolate(x, n, t)
    assert z.dtype == v.dtype == torch.float32
    torch.testing.assert_close(z, t[:, None] * x.float() + (1 - t[:, None]) * n.float(), atol=0, rtol=0)


def test_time_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"t has shape \(3,\); expected a number, \(2,\)"):
        broadcast_time(torch.rand(3), torch.rand(2, 4, 4))


# Times outside [0, 1]


class Echo(torch.nn.Module):
    """u = z."""

    def forward(self, z, t):
        return z


X, N = torch.randn(2, 3, 4)
ECHO = KDiff(Echo())
NOISE_PREDICTOR = as_model("dit", torch.nn.Identity())
OF_TIME = LearnedKOfTime()
DOORS = {
    **{f"path.{name}": getattr(LinearPath(), name) for name in ("mix", "interpolate", "data", "noise")},
    **{f"target.{name}": getattr(LearnedK(), name) for name in ("encode", "to_velocity", "to_data", "to_noise")},
    **{f"kdiff.{f.__name__}": partial(f, k=0.3) for f in (to_velocity, to_data, to_noise)},
    "target.loss_velocity": LearnedK(clamp_target=False).loss_velocity,
    "target.loss": lambda x, n, t: LearnedK().loss(x, x, n, t),
    "target.velocity_error": lambda x, n, t: OF_TIME.velocity_error(x, x, n, t),
    "target.output_error": lambda x, n, t: LearnedK().output_error(x, x, n, t),
    "target.k_at": lambda x, n, t: OF_TIME.k_at(torch.as_tensor(t)),
    "target.coefficients": lambda x, n, t: OF_TIME.coefficients(torch.as_tensor(t)),
    "GeneralTarget.coefficients": lambda x, n, t: GeneralTarget(lambda t: t, 1.0).coefficients(torch.as_tensor(t)),
    "model.predict": lambda x, n, t: KDiff(Echo()).predict(x, t),
    "model.velocity": lambda x, n, t: KDiff(Echo()).velocity(x, t),
    "model.loss": lambda x, n, t: KDiff(Echo()).loss(x, t, n),
    "model.terms": lambda x, n, t: KDiff(Echo(), cosine_weight=1.0).terms(x, t, n),
    "ByItsClock": lambda x, n, t: NOISE_PREDICTOR.network._time(torch.as_tensor(t)),
    "KDiffLoss": lambda x, n, t: KDiffLoss()(x, x, n, torch.as_tensor(t)),
    "KDiffLoss.model_output": lambda x, n, t: KDiffLoss().model_output(x, n, t),
    "euler": lambda x, n, t: euler(lambda z, t: z, x, torch.stack([torch.zeros(()), torch.as_tensor(t).max()])),
    "dopri5": lambda x, n, t: Dopri5()(lambda z, t: z, x, torch.stack([torch.zeros(()), torch.as_tensor(t).max()])),
    "velocity_change": lambda x, n, t: [*velocity_change(ECHO, ECHO, x, [float(torch.as_tensor(t).max())]).values()],
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "wrong", [1000.0, 1.001, torch.tensor([0.1, 0.2, 7.0]), torch.tensor(1.0000004), float("nan"), torch.inf]
)
def test_a_time_outside_0_to_1_is_refused_wherever_a_time_is_taken(door, wrong):
    with pytest.raises(ValueError, match=r"(t|times|sigmas) = .*; expected .* in \[0, 1\]"):
        DOORS[door](X, N, wrong)


@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"euler", "dopri5", "velocity_change"}))
def test_a_negative_time_is_refused_too(door):
    for wrong in (-0.001, torch.tensor([0.5, -2.0, 1.0])):
        with pytest.raises(ValueError, match=r"= -"):
            DOORS[door](X, N, wrong)


@pytest.mark.parametrize("door", DOORS)
def test_a_time_one_rounding_beyond_the_end_is_the_end(door):
    """Such as 1 − (−2⁻²³), or a grid that adds up float32 steps."""
    beyond = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    for there, at in ((beyond, torch.tensor(1.0)), (beyond.item(), 1.0), (beyond.expand(3), torch.ones(3))):
        torch.testing.assert_close(*(DOORS[door](X, N, t) for t in (there, at)), rtol=0, atol=0, equal_nan=True)
    assert checked_time(-(2.0**-23)) == 0
    assert torch.equal(checked_time(torch.tensor([-(2.0**-23), 0.5])), torch.tensor([0.0, 0.5]))
    with pytest.raises(ValueError, match=r"t = 1\.00000024; expected"):
        checked_time(torch.nextafter(beyond, torch.tensor(2.0)))


def test_right_times_are_passed_on_unchanged_and_checked_once(monkeypatch):
    checks, equal = [], torch.equal
    monkeypatch.setattr(torch, "equal", lambda *pair: checks.append(pair) or equal(*pair))
    t = torch.tensor([0.0, 0.4, 1.0], requires_grad=True)
    checked = checked_time(t)
    assert torch.equal(checked, t)
    assert checked_time(checked) is checked
    assert not hasattr(t, "lies_in_unit_interval")  # the caller may change it
    checked.sum().backward()
    assert t.grad.tolist() == [1.0, 1.0, 1.0]
    for use in (
        lambda: KDiff(Echo(), cosine_weight=1.0).loss(X),
        lambda: KDiff(Echo()).velocity(X, t),
    ):
        checks.clear()
        use()
        assert len(checks) == 1


def test_a_law_of_times_of_ones_own_is_checked():
    class Late(Uniform):
        def quantile(self, p):
            return 1000 * p

    with pytest.raises(ValueError, match=r"t = \d.* … \d+\.\d+; expected times in \[0, 1\] \(0 is noise, 1 is data\)"):
        KDiff(Echo(), timesteps=Late()).loss(X)


@pytest.fixture
def on_a_device(monkeypatch):
    """The CPU's tensors are treated as those of a device: none may be read before `raise_wrong_times`."""
    monkeypatch.setattr(path, "waits", lambda t: True)
    monkeypatch.setattr(torch.Tensor, "item", lambda t: pytest.fail("waits for the device"))
    yield
    path._SEEN.clear()


@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"euler", "dopri5", "velocity_change"}))
def test_on_a_device_wrong_times_are_told_later_and_once(door, on_a_device, monkeypatch):
    for t in (torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.5, 3.0, 1.0]), torch.tensor([-0.25, 0.5, 0.5])):
        DOORS[door](X, N, t)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"= -0\.25 … 3; expected"):
        raise_wrong_times()
    raise_wrong_times()


def test_on_a_device_right_times_and_roundings_pass_and_nan_does_not(on_a_device, monkeypatch):
    beyond = torch.tensor([0.0, 1 + 2.0**-23])
    assert torch.equal(checked_time(beyond), torch.tensor([0.0, 1.0]))
    monkeypatch.undo()
    raise_wrong_times()
    monkeypatch.setattr(path, "waits", lambda t: True)
    for t in ([0.5, torch.nan], [0.1, 0.2]):
        checked_time(torch.tensor(t))
    with pytest.raises(ValueError, match="t = nan"):
        raise_wrong_times()


def test_sampling_and_the_training_loop_tell_what_a_device_has_seen(monkeypatch, make_objective, samples):
    model = KDiff(Echo(), "velocity")

    def strays(velocity, z, times, callback=None):
        return velocity(z, torch.tensor(1.5))

    class Late(Uniform):
        def quantile(self, p):
            return 2 + p

    objective = make_objective()
    objective.module.timesteps = Late()
    monkeypatch.setattr(path, "waits", lambda t: t.ndim == 0 or len(t) == 20)
    with pytest.raises(ValueError, match=r"t = 1\.5"):
        model.sample(X, solver=strays, last_step="euler")
    with pytest.raises(ValueError, match=r"t = 2\.\d+ … (2\.\d+|3)"):
        fit(objective, *samples, LoopConfig(steps=3, batch_size=20, log_every=3))
    assert len(objective.module.network.calls) == 3  # at the line of metrics, and not before


def test_times_without_values_are_left_alone():
    """While a function is mapped by vmap or built without memory, a time has no value to look at."""
    mapped = torch.vmap(lambda x, n, t: LinearPath().mix(x, n, t))(X, N, torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(mapped, LinearPath().mix(X, N, torch.tensor([0.1, 0.5, 0.9])))
    LinearPath().mix(X.to("meta"), N.to("meta"), torch.rand(3, device="meta"))
    raise_wrong_times()
    assert LinearPath().mix(X[:0], N[:0], torch.rand(0)).shape == (0, 4)


# Shapes


@pytest.mark.parametrize("door", [door for door in DOORS if "coefficients" not in door and "model.pr" not in door][:15])
@pytest.mark.parametrize("shape", [(3, 1), (1, 4), (4,), (1,)])
def test_samples_of_another_shape_are_not_broadcast(door, shape):
    if door not in ("target.k_at", "ByItsClock"):
        with pytest.raises(ValueError, match="shape"):
            DOORS[door](X, torch.randn(shape), 0.5)


@pytest.mark.parametrize("shape", [(4,), (3, 4, 1), (5, 1, 1), (1, 3), (3, 1, 1, 1)])
def test_a_time_never_makes_the_samples_more(shape):
    with pytest.raises(ValueError, match=r"t has shape"):
        LinearPath().mix(torch.randn(3, 2, 2), torch.randn(3, 2, 2), torch.rand(shape))


@pytest.mark.parametrize("wrong", [[0.5] * 8, np.full(8, 0.5), "0.5", None], ids=["list", "array", "text", "nothing"])
def test_a_time_that_is_neither_a_number_nor_a_tensor_is_refused(wrong):
    with pytest.raises(TypeError, match=r"t is a \w+; expected a number or a tensor: times in \[0, 1\]"):
        checked_time(wrong)


@pytest.mark.parametrize("right", [1, True, np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_every_kind_of_number_is_a_time(right):
    assert checked_time(right) == right


def test_checked_times_are_forgotten_with_their_tensors():
    t = checked_time(torch.rand(4))
    assert checked_time(t) is t
    assert checked_time(copy.deepcopy(t)) is not t
    before = len(_CHECKED)
    del t
    assert len(_CHECKED) == before - 1
