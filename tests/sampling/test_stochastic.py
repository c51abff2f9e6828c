"""The stochastic sampler: the right marginals, and noise that belongs to the sample."""

from __future__ import annotations

import math

import pytest
import torch

from kdiff import VariancePreservingPath, draw_noise
from kdiff.sampling import EulerMaruyama, euler
from kdiff.sampling.stochastic import DIFFUSIONS


def discrete_moments(flow, diffusion, norm, times):
    """Mean and variance after each step of Euler–Maruyama on the exact flow, where every step is linear in z."""
    mean, variance = flow.path.alpha(times[0]) * flow.mean, flow.spread(times[0]) ** 2
    moments = [(mean, variance)]
    for t, t_next in zip(times[:-1], times[1:]):
        h, alpha = t_next - t, flow.path.alpha(t)
        marginal = flow.spread(t) ** 2
        pull = (flow.path.alpha_dot(t) * alpha * flow.variance + flow.path.sigma_dot(t) * flow.path.sigma(t)) / marginal
        w = norm * diffusion(t, flow.path) if t_next < 1 else 0.0
        factor = 1 + h * (pull - w / (2 * marginal))
        drift = flow.path.alpha_dot(t) * flow.mean
        mean = alpha * flow.mean + h * drift + factor * (mean - alpha * flow.mean)
        variance = factor**2 * variance + w * h
        moments.append((mean, variance))
    return moments


@pytest.mark.parametrize("path", [None, VariancePreservingPath()], ids=repr)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_the_marginals_of_gaussian_data_are_kept(diffusion, path, gaussian):
    """Against the moments of the discrete equation by four standard errors, and these against the flow's own by O(1/steps)."""
    flow, norm, steps = gaussian(path), 1.5, 100
    rows, repeats = 20, 5000
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    expected = discrete_moments(flow, DIFFUSIONS[diffusion], norm, times)

    def check(step, t, z):
        if step not in (0, steps // 2, steps - 1, steps):
            return
        mean, variance = expected[step]
        number = rows * repeats
        assert ((z.mean(dim=(0, 1)) - mean).abs() / (variance / number).sqrt()).max() < 4
        assert ((z.var(dim=(0, 1)) / variance - 1).abs() / math.sqrt(2 / number)).max() < 4
        assert (variance / flow.spread(t) ** 2 - 1).abs().max() < 8 / steps

    solver = EulerMaruyama(diffusion, norm, path=flow.path)
    solver(flow, draw_noise(rows, (repeats, 4), seed=1).double(), times, check)


def test_its_error_in_the_marginal_is_of_first_order(gaussian):
    errors = []
    for steps in (100, 200):
        moments = discrete_moments(gaussian(), DIFFUSIONS["sigma"], 1.0, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        errors.append((moments[-1][1] / gaussian().variance - 1).abs().max())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_without_diffusion_it_is_eulers_method(gaussian):
    z, times = draw_noise(3, (4,)).double(), torch.linspace(0, 1, 8, dtype=torch.float64)
    assert torch.equal(EulerMaruyama(norm=0.0)(gaussian(), z, times), euler(gaussian(), z, times))


def test_paths_differ_between_samples_and_seeds_and_are_repeatable(gaussian):
    z, times = torch.zeros(3, 4, dtype=torch.float64), torch.linspace(0, 1, 8, dtype=torch.float64)
    first, again, other = (EulerMaruyama(seed=seed)(gaussian(), z, times) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().min() > 1e-4
    assert (first[0] - first[1]).abs().min() > 1e-4


def test_a_walk_in_two_parts_is_the_same_walk(gaussian):
    z, times = draw_noise(3, (4,)).double(), torch.linspace(0, 1, 9, dtype=torch.float64)
    solver = EulerMaruyama()
    assert torch.equal(solver(gaussian(), solver(gaussian(), z, times[:4]), times[3:]), solver(gaussian(), z, times))


def test_noise_of_the_walk_is_not_the_noise_it_starts_from():
    """Seeded alike: one step from 0 in v = 0 moves by √(w h) ξ − ½ w h z."""
    z = draw_noise(50, (40,))
    moved = EulerMaruyama("constant")(lambda z, t: torch.zeros_like(z), z, torch.tensor([0.0, 0.5])) - 0.75 * z
    assert moved.std().item() == pytest.approx(math.sqrt(0.5), rel=0.05)
    assert abs(torch.corrcoef(torch.stack([moved.flatten(), z.flatten()]))[0, 1]) < 4 / math.sqrt(z.numel())


def test_mistakes_are_refused(gaussian):
    z = draw_noise(2, (4,)).double()
    with pytest.raises(ValueError, match="from data to noise use a solver of the flow"):
        EulerMaruyama()(gaussian(), z, torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="3 indices were given for 2 samples"):
        EulerMaruyama(indices=range(3))(gaussian(), z, torch.tensor([0.0, 0.5]))


def test_a_function_may_give_the_diffusion(gaussian):
    z, times = draw_noise(2, (4,)).double(), torch.linspace(0, 1, 6, dtype=torch.float64)
    own = EulerMaruyama(lambda t, path: 2 * path.sigma(t))(gaussian(), z, times)
    assert torch.equal(own, EulerMaruyama("sigma", norm=2.0)(gaussian(), z, times))
