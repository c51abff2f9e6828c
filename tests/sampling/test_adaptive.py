"""dopri5: within its tolerance, inside [0, 1] and off t = 1, and what it says when it cannot."""

from __future__ import annotations

import sys

import pytest
import torch

from kdiff import draw_noise
from kdiff.sampling import Dopri5, find_solver

GRIDS = [[0.0, 1.0], [0.0, 0.4, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.5, 0.1], [0.0, 0.9995, 1.0], [0.9995, 1.0]]


@pytest.mark.parametrize("times", GRIDS, ids=str)
@pytest.mark.parametrize("watched", [False, True])
def test_the_error_is_within_the_tolerance_on_any_grid(times, watched, gaussian):
    flow = gaussian()
    z = flow.exact(draw_noise(5, (4,)).double(), 0, times[0])
    callback = (lambda step, t, z: None) if watched else None
    for tolerance, last in ((1e-4, 1e-3), (1e-8, 1e-5)):
        flow.calls.clear()
        grid = torch.tensor(times, dtype=torch.float64)
        found = Dopri5(tolerance, tolerance, last)(flow, z, grid, callback)
        # Errors of steps add up, and the stretch next to t = 1 leaves last²/2 |dv/dt|, with |dv/dt| up to 100 here (λ = 0.01).
        assert (found - flow.exact(z, times[0], times[-1])).abs().max() < 20 * tolerance + 100 * last**2
        low, high = min(times), max(times)
        assert low <= min(flow.calls) + 1e-300
        assert max(flow.calls) <= high
        assert max(flow.calls) < 1


def test_easy_stretches_take_long_steps(gaussian):
    flow, z = gaussian(), draw_noise(2, (4,)).double()
    evaluations = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        flow.calls.clear()
        Dopri5(tolerance, tolerance)(flow, z, torch.tensor([0.0, 1.0]))
        evaluations.append(len(flow.calls))
    assert evaluations == sorted(evaluations)
    assert evaluations[0] < 40
    assert evaluations[-1] > 100


def test_points_between_cost_nothing(gaussian):
    counts = []
    for steps in (1, 100):
        flow = gaussian()
        Dopri5()(flow, draw_noise(2, (4,)).double(), torch.linspace(0, 1, steps + 1), lambda step, t, z: None)
        counts.append(len(flow.calls))
    assert counts[0] == counts[1]


def test_last_step_data_is_short_too(exact_model):
    model = exact_model("data")
    noise = draw_noise(3, (4,)).double()
    exact = model.network.flow.exact(noise, 0, 1)
    errors = [
        (model.sample(noise, solver=solver, steps=5, last_step="data", min_denominator=0.0) - exact).abs().max()
        for solver in ("dopri5", "euler")
    ]
    assert errors[0] < 1e-3 < errors[1]


def test_without_torchdiffeq_the_command_to_install_it_is_named(monkeypatch, gaussian):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ValueError, match=r"pip install 'kdiff\[ode\]'"):
        find_solver("dopri5")(gaussian(), draw_noise(1, (4,)).double(), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.0]], ids=str)
def test_a_velocity_that_is_not_finite_is_told_with_its_time(times):
    def velocity(z, t):
        broken = torch.full_like(z, torch.nan) if (t > 0.5) == (times[0] == 0) else z
        return torch.cat([broken[:1], z[1:]])

    told = r"gave up at t = 0\.\d+ after \d+ evaluations: the velocity of 1 of 3 samples at t = 0\.\d+ is not a finite number"
    with pytest.raises(RuntimeError, match=told):
        Dopri5()(velocity, torch.ones(3, 2), torch.tensor(times))


def test_a_stiff_flow_is_stopped_with_the_facts():
    """−λ(z − cos 40t) with λ = 10⁵: each step must be shorter than about 3/λ, so a thousand steps lead nowhere."""
    calls = []

    def velocity(z, t):
        calls.append(float(t))
        return -1e5 * (z - torch.cos(40 * t))

    told = r"stopped at t = 0\.0\d+, on its way from 0 to 0\.999, after 100 steps \(600 evaluations .*\): the velocity is stiff"
    with pytest.raises(RuntimeError, match=told + r".* dopri5\(max_steps=1000\)"):
        find_solver("dopri5(max_steps=100)")(velocity, torch.ones(2, 3), torch.tensor([0.0, 1.0]))
    assert len(calls) == 600
    with pytest.raises(ValueError, match="max_steps of at least 1"):
        Dopri5(max_steps=0)


def test_where_no_step_is_short_enough_the_tolerance_is_named():
    """1/|t − ½|³ has no finite integral over ½, and overflows nowhere on the way there in float64."""

    def velocity(z, t):
        return torch.ones_like(z) / (t - 0.5).abs() ** 1.5

    with pytest.raises(RuntimeError, match=r"dopri5 (gave up|stopped) at t = 0\.(5|49999)"):
        Dopri5()(velocity, torch.ones(1, 2).double(), torch.tensor([0.0, 1.0]).double())
