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


def test_a_flow_that_cannot_be_followed_is_told():
    def velocity(z, t):
        return torch.full_like(z, torch.nan) if t > 0.5 else z

    with pytest.raises(RuntimeError, match="make rtol and atol larger, or use a fixed grid"):
        Dopri5()(velocity, torch.ones(1, 2), torch.tensor([0.0, 1.0]))
