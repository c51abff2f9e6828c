"""Adams–Bashforth: the classical weights, and polynomials followed exactly on uneven grids."""

from __future__ import annotations

import pytest
import torch

from kdiff.sampling import AdamsBashforth
from kdiff.sampling.adams import step_weights


@pytest.mark.parametrize(
    "classical", [[3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]], ids=len
)
def test_on_a_uniform_grid_the_weights_are_the_classical_ones(classical):
    h = 0.1
    nodes = [0.5 - j * h for j in range(len(classical))]
    assert step_weights(nodes, 0.5, 0.5 + h) == pytest.approx([h * w for w in classical], rel=1e-12)
    backwards = [0.5 + j * h for j in range(len(classical))]
    assert step_weights(backwards, 0.5, 0.5 - h) == pytest.approx([-h * w for w in classical], rel=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_once_started_polynomials_are_integrated_exactly_on_an_uneven_grid(order, flip):
    """dz/dt = t^m, whose integral is t^(m+1)/(m+1): exact for m < order, and not for m = order."""
    times = torch.tensor([0.0, 0.05, 0.2, 0.3, 0.32, 0.7, 0.9, 1.0], dtype=torch.float64)
    times = times.flip(0)[1:] if flip else times
    for degree in range(order + 1):
        states = []
        AdamsBashforth(order)(
            lambda z, t, degree=degree: (t**degree).expand_as(z),
            torch.zeros(1, dtype=torch.float64),
            times,
            lambda step, t, z, states=states: states.append(z.item()),
        )
        integral = times ** (degree + 1) / (degree + 1)
        error = (torch.tensor(states, dtype=torch.float64).diff() - integral.diff())[order - 1 :].abs().max()
        assert (error < 1e-14) == (degree < order)
