"""Quadrature over the law of t: closed forms, SciPy's adaptive rule, clamps with their kink, and laws that a user writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit

from kdiff import LogitNormal, Uniform
from kdiff.sampling.timesteps import Timesteps
from kdiff.theory.quadrature import is_uniform, quadrature

LAWS = [Uniform(), LogitNormal(-0.8, 0.8), LogitNormal(0.0, 1.0), LogitNormal(1.2, 0.1), LogitNormal(-0.5, 2.5)]


class Squared(Timesteps):
    """t = p²: density 1/(2√t)."""

    def quantile(self, p):
        return p**2


class Reversed(Uniform):
    """A subclass of `Uniform` that is not uniform: t = 1 − p²."""

    def quantile(self, p):
        return 1 - p**2


class OwnLogitNormal(LogitNormal):
    """The law of `LogitNormal` shifted by 1: a subclass must be asked, not guessed."""

    def quantile(self, p):
        return torch.sigmoid(1 + self.mean + self.std * torch.special.ndtri(p))


def adaptive(f, law, kinks=()):
    """E f(t, 1 − t) by SciPy, in the logit of t."""

    def integrand(y):
        t, rest = expit(y), expit(-y)
        if isinstance(law, LogitNormal):
            density = np.exp(-(((y - law.mean) / law.std) ** 2) / 2) / (law.std * np.sqrt(2 * np.pi))
        else:
            density = t * rest
        return f(t, rest) * density

    centre, reach = (law.mean, 12 * law.std + 4 * law.std**2) if isinstance(law, LogitNormal) else (0.0, 60.0)
    low, high = centre - reach, centre + reach
    points = [low, *sorted(np.log(kink / (1 - kink)) for kink in kinks), centre, high]
    edges = np.unique(np.concatenate([points, np.linspace(low, high, 25)]))
    return sum(quad(integrand, a, b, epsabs=0, epsrel=1e-12, limit=200)[0] for a, b in zip(edges[:-1], edges[1:]))


def test_uniform_moments_are_exact():
    nodes = quadrature(Uniform())
    for power in range(6):
        assert nodes.mean(nodes.t**power) == pytest.approx(1 / (power + 1), rel=1e-13)
        assert nodes.mean(nodes.rest**power) == pytest.approx(1 / (power + 1), rel=1e-13)
    assert nodes.mean(nodes.t * nodes.rest) == pytest.approx(1 / 6, rel=1e-13)
    assert nodes.mean(np.stack([nodes.t, nodes.t**2])) == pytest.approx([1 / 2, 1 / 3])


@pytest.mark.parametrize("law", [None, *LAWS], ids=repr)
def test_nodes_are_a_law_of_t_that_knows_how_near_to_one_it_is(law):
    nodes = quadrature(law)
    assert (nodes.weight >= 0).all()
    assert nodes.weight.sum() == pytest.approx(1, abs=1e-13)
    assert np.abs(nodes.t + nodes.rest - 1).max() < 1e-15
    # Both ends are resolved alike; 1 − t computed from t would stop at 1e-16.
    assert (nodes.rest > 0).all()
    if law is None:
        assert nodes.rest.min() < 1e-30
        assert nodes.rest.min() == pytest.approx(nodes.t.min(), rel=1e-12)


@pytest.mark.parametrize("rest", [0.5, 0.1, 1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_singular_weight_integrates_to_one_over_k_times_one_minus_k(rest, mirrored):
    k, rest = (rest, 1 - rest) if mirrored else (1 - rest, rest)
    nodes = quadrature()
    den = k * nodes.rest + rest * nodes.t
    assert nodes.mean(den**-2.0) == pytest.approx(1 / (k * rest), rel=1e-12)
    # ∫ 1/den = ln(k/(1 − k))/(2k − 1)
    assert nodes.mean(1 / den) == pytest.approx(np.log(k / rest) / (k - rest) if k != rest else 2, rel=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_it_agrees_with_adaptive_integration(law):
    nodes = quadrature(law)
    for f in (
        lambda t, rest: t,
        lambda t, rest: rest**2,
        lambda t, rest: np.sin(7 * t),
        lambda t, rest: 1 / (0.8 * rest + 0.2 * t) ** 2,
        lambda t, rest: t / (0.999 * rest + 0.001 * t) ** 2,
    ):
        assert nodes.mean(f(nodes.t, nodes.rest)) == pytest.approx(adaptive(f, law), rel=1e-8)


def test_logit_normal_follows_its_quantiles():
    """E t by the law's own quantile function, at midpoints: a second definition of the law."""
    law = LogitNormal(-0.8, 0.8)
    p = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    nodes = quadrature(law)
    assert nodes.mean(nodes.t) == pytest.approx(law.quantile(p).mean().item(), abs=1e-7)


@pytest.mark.parametrize("k", [0.96, 0.99, 1 - 1e-9, 1.0, 0.03, 0.0])
def test_clamped_weight_against_its_closed_form(k):
    """∫ 1/max(den, c)²: (1/c − 1/k)/(2k − 1) where den > c and (1 − t_c)/c² after the kink, for k > 1 − c; mirrored below c."""
    c, large = 0.05, max(k, 1 - k)
    kink = (k - c) / (2 * k - 1)
    share = (c - 1 + large) / (2 * large - 1)
    closed = (1 / c - 1 / large) / (2 * large - 1) + share / c**2

    def error(kinks):
        nodes = quadrature(None, kinks)
        return abs(nodes.mean(np.maximum(k * nodes.rest + (1 - k) * nodes.t, c) ** -2.0) / closed - 1)

    assert error([kink]) < 1e-12
    assert error([]) > 1e-7


def test_clamped_weight_under_a_logit_normal_law():
    law, k, c = LogitNormal(1.0, 1.5), 0.98, 0.05
    kink = (k - c) / (2 * k - 1)

    def f(t, rest):
        return t**2 / np.maximum(k * rest + (1 - k) * t, c) ** 2

    nodes = quadrature(law, [kink])
    assert nodes.mean(f(nodes.t, nodes.rest)) == pytest.approx(adaptive(f, law, [kink]), rel=1e-10)


def test_kinks_outside_the_open_interval_change_nothing():
    assert np.array_equal(quadrature(None, [-0.2, 0.0, 1.0, 1.3]).t, quadrature().t)


def test_a_law_of_the_users_own():
    """t = p²: E tⁿ = 1/(2n + 1), and E 1/(1 + t) = ∫ dp/(1 + p²) = π/4."""
    nodes = quadrature(Squared())
    for power in range(5):
        assert nodes.mean(nodes.t**power) == pytest.approx(1 / (2 * power + 1), abs=1e-13)
    assert nodes.mean(1 / (1 + nodes.t)) == pytest.approx(np.pi / 4, abs=1e-13)


def test_a_subclass_with_a_quantile_function_of_its_own_is_asked_for_it():
    nodes = quadrature(Reversed())
    assert nodes.mean(nodes.t) == pytest.approx(2 / 3, abs=1e-13)
    nodes, shifted = quadrature(OwnLogitNormal(-0.8, 0.8)), quadrature(LogitNormal(0.2, 0.8))
    for power in (1, 2):
        assert nodes.mean(nodes.t**power) == pytest.approx(shifted.mean(shifted.t**power), abs=1e-9)


def test_what_counts_as_uniform():
    assert is_uniform(None)
    assert is_uniform(Uniform(stratified=True))
    assert not is_uniform(Reversed())
    assert not is_uniform(LogitNormal())


def test_stratifying_does_not_change_the_law():
    plain, stratified = quadrature(LogitNormal(-0.8, 0.8)), quadrature(LogitNormal(-0.8, 0.8, stratified=True))
    assert np.array_equal(plain.weight, stratified.weight)
