"""Divergences against the Jacobian, likelihoods against densities in closed form, and the way back to noise."""

from __future__ import annotations

import math

import pytest
import torch

from kdiff import KDiff, LearnedK, VariancePreservingPath, draw_noise
from kdiff.networks import MLP
from kdiff.sampling import (
    bits_per_dim,
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
    log_likelihood,
    rk4,
    uniform_times,
)


def smooth(z):
    """Nonlinear, with a Jacobian that is not symmetric."""
    matrix = torch.arange(12.0, dtype=z.dtype).reshape(3, 4).sin()
    return (torch.tanh(z.flatten(1) @ matrix.T) @ torch.cos(matrix)).reshape(z.shape)


@pytest.fixture
def z():
    return draw_noise(5, (2, 2)).double().requires_grad_()


def traces(z):
    return torch.stack([torch.func.jacrev(smooth)(row[None]).reshape(4, 4).trace() for row in z.detach()])


def test_the_exact_divergence_is_the_trace_of_the_jacobian(z):
    torch.testing.assert_close(exact_divergence(smooth(z), z), traces(z))


def test_a_velocity_that_does_not_depend_on_z_has_none(z):
    assert torch.equal(exact_divergence(torch.ones(5, 4), z), torch.zeros(5).double())
    assert torch.equal(hutchinson_divergence(torch.ones(1, 5, 2, 2))(torch.ones(5, 2, 2), z), torch.zeros(5).double())


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinsons_estimate_is_unbiased(law, z):
    """The mean of 4,000 estimates within four standard errors, for each sample; and it does vary."""
    probes = draw_probes(5, (2, 2), 4000, law).double()
    jacobians = torch.stack([torch.func.jacrev(smooth)(row[None]).reshape(4, 4) for row in z.detach()])
    estimates = torch.einsum("pbi,bij,pbj->pb", probes.flatten(2), jacobians, probes.flatten(2))
    error = (estimates.mean(dim=0) - traces(z)) / (estimates.std(dim=0) / math.sqrt(4000))
    assert error.abs().max() < 4
    assert estimates.std(dim=0).min() > 0.01
    few = hutchinson_divergence(probes[:3])(smooth(z), z)
    torch.testing.assert_close(few, estimates[:3].mean(dim=0))


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian(z):
    v = torch.sin(z)
    estimate = hutchinson_divergence(draw_probes(5, (2, 2), 1).double())(v, z)
    torch.testing.assert_close(estimate, torch.cos(z.detach()).flatten(1).sum(dim=1))


def test_probes_have_mean_0_and_variance_1_and_belong_to_the_sample():
    for law in ("rademacher", "gaussian"):
        probes = draw_probes(2000, (20,), 2, law)
        assert probes.shape == (2, 2000, 20)
        assert probes.mean().abs() < 4 / math.sqrt(probes.numel())
        assert probes.square().mean().item() == pytest.approx(1, abs=0.02)
        assert torch.equal(draw_probes([7], (20,), 2, law)[:, 0], probes[:, 7])
    assert set(draw_probes(3, (20,), 1).unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(draw_probes(3, (20,), 1, "gaussian")[0], draw_noise(3, (20,)))
    assert not torch.equal(draw_probes(3, (20,), 1, seed=1), draw_probes(3, (20,), 1))


@pytest.mark.parametrize("target", ["data", 0.6, LearnedK(0.3)], ids=str)
@pytest.mark.parametrize("path", [None, VariancePreservingPath()], ids=repr)
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"solver": "rk4", "steps": 50}, 1e-4),
        ({"solver": "heun", "steps": 100}, 2e-3),
        ({"solver": "ab3", "steps": 100}, 1e-3),
        ({"solver": "dopri5(rtol=1e-7, atol=1e-7)"}, 1e-5),
        ({"solver": "rk4", "steps": 50, "probes": 1}, 1e-4),
    ],
    ids=str,
)
def test_the_likelihood_of_gaussian_data_is_their_log_density(target, path, options, tolerance, gaussian, exact_model):
    """In every direction the flow stretches alone, so that one Rademacher probe is exact too."""
    flow = gaussian(path)
    x = flow.exact(draw_noise(6, (4,)).double(), 0, 1)
    found = exact_model(target, flow).log_likelihood(x, min_denominator=0.0, **options)
    torch.testing.assert_close(found, flow.log_density(x), atol=tolerance, rtol=0)


def test_the_density_of_a_mixture_is_found_where_the_flow_bends():
    """Two Gaussians in one dimension: the density at each x, and so its integral, which is 1."""
    means, width = torch.tensor([-1.5, 0.8], dtype=torch.float64), 0.4

    def velocity(z, t):
        variance = width**2 * t**2 + (1 - t) ** 2
        weights = (-((z - t * means) ** 2) / variance / 2).softmax(dim=1)
        each = means + (width**2 * t - (1 - t)) / variance * (z - t * means)
        return (weights * each).sum(dim=1, keepdim=True)

    x = torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None]
    density = (-((x - means) ** 2) / width**2 / 2).exp().mean(dim=1) / (width * math.sqrt(2 * math.pi))
    found = log_likelihood(velocity, x, uniform_times(200).double().flip(0), rk4)
    torch.testing.assert_close(found, density.log(), atol=1e-4, rtol=0)
    assert torch.trapezoid(found.exp(), dx=0.1).item() == pytest.approx(1, abs=1e-4)


def test_a_networks_likelihood_is_estimated_without_bias_and_by_index():
    model = KDiff(MLP((6,), num_classes=2, width=16, depth=1), 0.6).train()
    for parameter in model.network.parameters():  # a new network says 0
        torch.nn.init.normal_(parameter, std=0.4)
    x, y = draw_noise(4, (6,), seed=2), torch.tensor([0, 1, 1, 0])
    exact = model.log_likelihood(x, y=y, steps=4)
    assert model.training
    assert exact.shape == (4,)
    assert not exact.requires_grad
    estimates = torch.stack([model.log_likelihood(x, y=y, steps=4, probes=2, seed=seed) for seed in range(200)])
    error = (estimates.mean(dim=0) - exact) / (estimates.std(dim=0) / math.sqrt(200))
    assert error.abs().max() < 4
    options = {"steps": 4, "probes": 2, "seed": 3}
    apart = [model.log_likelihood(x[i : i + 1], y=y[i : i + 1], indices=[i], **options) for i in range(4)]
    torch.testing.assert_close(torch.cat(apart), estimates[3], rtol=1e-5, atol=1e-5)
    assert not torch.equal(model.log_likelihood(x, y=1 - y, steps=4), exact)


def test_increasing_times_are_walked_backwards(exact_model):
    x = draw_noise(2, (4,)).double()
    model = exact_model(0.5)
    times = [0.0, 0.2, 0.5, 1.0]
    assert torch.equal(model.log_likelihood(x, times=times), model.log_likelihood(x, times=times[::-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [0.1, 1.0]}, "times from 1 .data. to 0"),
        ({"solver": "sde"}, "from data to noise use a solver of the flow"),
        ({"probes": 0}, "0 probes of law 'rademacher'; expected at least 1"),
        ({"probes": 1, "law": "cauchy"}, "law 'cauchy'"),
    ],
)
def test_mistakes_are_refused(options, message, exact_model):
    with pytest.raises(ValueError, match=message):
        exact_model(0.5).log_likelihood(draw_noise(2, (4,)).double(), **options)


def test_bits_per_dim_of_a_uniform_density_are_those_of_the_bins():
    """256 values in [−1, 1], all as likely: 8 bits each; and one nat is 1/log 2 bits."""
    for dimension in (1, 3072):
        density = torch.full((2,), -dimension * math.log(2))
        torch.testing.assert_close(bits_per_dim(density, dimension, 2 / 256), torch.full((2,), 8.0))
    torch.testing.assert_close(bits_per_dim(torch.tensor(-5.0), 5), torch.tensor(1 / math.log(2)))


# Inversion


@pytest.mark.parametrize("target", ["data", 0.6], ids=str)
@pytest.mark.parametrize("solver", ["heun", "midpoint", "rk4", "ab2", "ab3", "ab4", "dpmpp_2m", "dopri5"])
def test_sampling_undoes_inversion_to_within_the_solvers_error(solver, target, exact_model):
    """And the error falls with the steps as that of a solver of second order or better does."""
    model = exact_model(target)
    x = model.network.flow.exact(draw_noise(5, (4,)).double(), 0, 1)
    errors = []
    for steps in (60, 120):
        noise = model.invert(x, solver=solver, steps=steps, min_denominator=0.0)
        errors.append((model.sample(noise, solver=solver, steps=steps, min_denominator=0.0) - x).abs().max())
        assert (noise - model.network.flow.exact(x, 1, 0)).abs().max() < 0.03
    assert errors[1] < 2e-3
    assert solver == "dopri5" or errors[0] / errors[1] > 2.5


def test_inversion_walks_the_grid_of_sampling_backwards(exact_model):
    model = exact_model(0.5)
    seen = []
    model.invert(draw_noise(2, (4,)).double(), steps=5, times="shifted(0.3)", callback=lambda step, t, z: seen.append(t.item()))
    forward = []
    model.sample(draw_noise(2, (4,)).double(), steps=5, times="shifted(0.3)", callback=lambda s, t, z: forward.append(t.item()))
    assert seen == forward[::-1]
    with pytest.raises(ValueError, match="last_step='data' needs times that end at t = 1"):
        model.invert(draw_noise(2, (4,)).double(), last_step="data")
