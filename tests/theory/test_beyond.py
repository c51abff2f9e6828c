"""A k of every direction or time: minimisers by search, Wiener's target on samples, and the losses at û = 0."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from kdiff import LogitNormal
from kdiff.theory import expected_loss, initial_loss, k_of_time, k_per_direction, optimal_k, wiener

JIT = LogitNormal(-0.8, 0.8)
VARIANCES = np.array([4.0, 1.0, 0.3, 0.01])


def lowest(f):
    """The k in (0, 1) at which f is least."""
    return expit(minimize_scalar(lambda y: f(expit(y)), bounds=(-12, 12), method="bounded", options={"xatol": 1e-10}).x)


# Every direction its own k


@pytest.mark.parametrize("s", [1.0, 2.0])
@pytest.mark.parametrize("tau", [0.0, 0.5, np.inf])
def test_k_of_a_direction_under_the_u_loss_at_any_time(tau, s):
    """The loss k²λ + (1−k)²s² − (kλ − (1−k)s²)²/4V (1 − e^(−4Vτ)), V = (λ + s²)/3, is least at s²/(λ + s²), for uniform t."""
    found = k_per_direction(VARIANCES, noise_scale=s)
    for lam, k in zip(VARIANCES, found, strict=True):
        V = (lam + s**2) / 3

        def loss(k, lam=lam, V=V):
            return k**2 * lam + (1 - k) ** 2 * s**2 - (k * lam - (1 - k) * s**2) ** 2 / (4 * V) * (1 - np.exp(-4 * V * tau))

        assert k == pytest.approx(lowest(loss), abs=1e-6)
        assert k == pytest.approx(s**2 / (lam + s**2), rel=1e-12)


@pytest.mark.parametrize("s", [1.0, 2.0])
def test_k_of_a_direction_under_the_v_loss_at_the_start(s):
    found = k_per_direction(VARIANCES, space="v", noise_scale=s)
    for lam, k in zip(VARIANCES, found, strict=True):
        best = lowest(
            lambda k, lam=lam: quad(lambda t: (k**2 * lam + (1 - k) ** 2 * s**2) / (k * (1 - t) + (1 - k) * t) ** 2, 0, 1)[0]
        )
        assert k == pytest.approx(best, abs=1e-5)
        assert k / (1 - k) == pytest.approx(s / np.sqrt(lam))


def test_k_of_a_direction_under_the_u_loss_is_one_for_laws_of_mean_one_half():
    for tau in (0.7, "convergence"):
        for lam, k in zip(VARIANCES, k_per_direction(VARIANCES), strict=True):
            assert float(optimal_k([lam], at=tau, times=LogitNormal(0.0, 1.3))) == pytest.approx(k, abs=1e-10)
            assert abs(float(optimal_k([lam], at=tau, times=JIT)) - k) > 1e-3


def test_data_get_the_velocity_and_empty_directions_the_data():
    for space in ("u", "v"):
        assert k_per_direction([[1.0], [0.0]], space=space).tolist() == [[0.5], [1.0]]


def test_loss_at_the_start_of_three_kinds_of_target():
    """2 Σ√λ with a k per direction, 2 √(D tr Σ) with the best scalar, and (π/2) Σ√λ for the best linear denoiser."""
    spectrum = np.append(VARIANCES, [0.0, 0.0])
    ks = k_per_direction(spectrum, space="v")[:4]
    each = sum(float(expected_loss(k, [lam], space="v", at="initialisation")) for k, lam in zip(ks, VARIANCES, strict=True))
    assert each == pytest.approx(2 * np.sqrt(VARIANCES).sum(), rel=1e-10)
    scalar = 6 * optimal_k(spectrum, space="v", at="initialisation").loss
    assert scalar == pytest.approx(2 * np.sqrt(6 * spectrum.sum()), rel=1e-10)
    floor = sum(
        quad(lambda t, lam=lam: lam / (lam * t**2 + (1 - t) ** 2), 0, 1, points=[0.9], limit=200)[0] for lam in VARIANCES
    )
    assert floor == pytest.approx(np.pi / 2 * np.sqrt(VARIANCES).sum(), rel=1e-8)
    assert floor < each < scalar


# Wiener's target


@pytest.mark.parametrize("s", [1.0, 1.6])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.93])
def test_wieners_target_is_uncorrelated_with_what_the_network_sees(t, s):
    rng, N = np.random.default_rng(0), 400_000
    x, n = rng.standard_normal((N, 4)) * np.sqrt(VARIANCES), s * rng.standard_normal((N, 4))
    z, v = t * x + (1 - t) * n, x - n
    a, b = wiener(t, VARIANCES, noise_scale=s)
    u = a * x - b * n
    correlation = (u * z).mean(0) / np.sqrt((u**2).mean(0) * (z**2).mean(0))
    assert np.abs(correlation).max() < 5 / N**0.5
    assert (u**2).mean(0) == pytest.approx(VARIANCES / (VARIANCES / s**2 * t**2 + (1 - t) ** 2), rel=5 * (2 / N) ** 0.5)
    # û = 0 is the best linear denoiser, and what it misses of v is u: v = ((α' b + σ' a) z + (α' σ − σ' α) u)/den.
    slope = (v * z).mean(0) / (z**2).mean(0)
    assert b - a == pytest.approx(slope, abs=5 * np.sqrt((u**2).mean(0) / (z**2).mean(0) / N).max())
    assert np.abs(v - (b - a) * z - u).max() < 1e-9


def test_wieners_target_by_algebra():
    t, lam, s = np.linspace(0, 1, 41)[:, None], np.array([9.0, 1.0, 0.2]), 0.7
    a, b = wiener(t, lam, noise_scale=s)
    assert a.shape == b.shape == (41, 3)
    assert a * t * lam == pytest.approx(b * (1 - t) * s**2, abs=1e-12)
    assert t * b + (1 - t) * a == pytest.approx(np.ones((41, 3)))
    assert np.isfinite(a).all()
    variance, ratio = a**2 * lam + b**2 * s**2, lam / s**2
    assert variance == pytest.approx(lam / (ratio * t**2 + (1 - t) ** 2) * np.ones_like(t))
    # s = 1: at most 1 + λ, reached at t = 1/(1 + λ)
    assert (variance <= s**2 * (1 + ratio) * (1 + 1e-12)).all()
    a, b = wiener(1 / (1 + lam), lam)
    assert a**2 * lam + b**2 == pytest.approx(1 + lam)


def test_the_v_loss_is_the_plain_u_loss_with_wieners_target():
    """Any û: conversion to a velocity by the general formula, with den = 1."""
    rng = np.random.default_rng(1)
    t, x, n = rng.random((50, 1)), rng.standard_normal((50, 4)), rng.standard_normal((50, 4))
    a, b = wiener(t, VARIANCES)
    z, u, guess = t * x + (1 - t) * n, a * x - b * n, rng.standard_normal((50, 4))
    den = t * b + (1 - t) * a
    v = ((b - a) * z + guess) / den
    assert v - (x - n) == pytest.approx(guess - u, abs=1e-9)


def test_edms_preconditioning_is_the_scalar_case():
    """c_skip = σ_data²/(σ² + σ_data²) and c_out = σ σ_data/√(σ² + σ_data²) of x̂ = c_skip (x + σ n) + c_out F, Var F = 1."""
    t, lam = np.array([0.05, 0.4, 0.9]), 0.25
    a, b = wiener(t, lam)
    sigma, deviation = (1 - t) / t, np.sqrt(a**2 * lam + b**2)
    # x̂ = σ_path û + b z, with z = t (x + σ n)
    assert b * t == pytest.approx(lam / (sigma**2 + lam))
    assert (1 - t) * deviation == pytest.approx(sigma * np.sqrt(lam) / np.sqrt(sigma**2 + lam))


def test_wieners_target_at_the_ends():
    a, b = wiener([0.0, 1.0], 2.0)
    assert a.tolist() == [1, 0]
    assert b.tolist() == [0, 1]


# One k for every time


@pytest.mark.parametrize("s", [1.0, 0.5])
def test_k_of_time_is_lowest_at_every_t(s):
    t, total, D = np.linspace(0.02, 0.98, 13), VARIANCES.sum(), 4
    found = k_of_time(t, VARIANCES, noise_scale=s)

    def loss(k):
        return (k**2 * total + (1 - k) ** 2 * s**2 * D) / (k * (1 - t) + (1 - k) * t) ** 2

    h = 1e-4
    assert (loss(found) < np.minimum(loss(found - h), loss(found + h))).all()
    slope = (loss(found + h) - loss(found - h)) / (2 * h)
    curvature = (loss(found + h) + loss(found - h) - 2 * loss(found)) / h**2
    assert np.abs(slope / curvature).max() < 1e-5
    # nor is there a lower valley elsewhere
    everywhere = np.stack([loss(k) for k in np.linspace(0.001, 0.999, 400)])
    assert (everywhere >= loss(found) * (1 - 1e-9)).all()
    assert found / (1 - found) == pytest.approx(s**2 * D * (1 - t) / (t * total))


def test_k_of_time_runs_from_one_to_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = k_of_time([[0.0, 0.5, 1.0]], [1.0, 1.0])
    assert found.tolist() == [[1, 0.5, 0]]


def test_loss_at_the_start_over_a_law_of_t():
    spectrum, s, slope, offset = VARIANCES, 1.3, 0.6, -0.4

    def integrand(y):
        t, rest = expit(y), expit(-y)
        k, other = expit(offset - slope * y), expit(slope * y - offset)
        density = np.exp(-(((y + 0.8) / 0.8) ** 2) / 2) / (0.8 * np.sqrt(2 * np.pi))
        return density * (k**2 * spectrum.sum() + other**2 * 4 * s**2) / (k * rest + other * t) ** 2

    found = initial_loss(spectrum, slope, offset, times=JIT, noise_scale=s)
    assert found == pytest.approx(quad(integrand, -11, 10, limit=200)[0] / 4, rel=1e-8)


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_a_slope_of_zero_is_a_constant_k(s):
    for k in (0.2, 0.7):
        constant = expected_loss(k, VARIANCES, space="v", at="initialisation", noise_scale=s)
        assert initial_loss(VARIANCES, 0.0, logit(k), noise_scale=s) == pytest.approx(float(constant), rel=1e-10)


@pytest.mark.parametrize(
    "spectrum", [VARIANCES, [1.0, 0.0], np.append(VARIANCES, np.zeros(60))], ids=["4 of 4", "1 of 2", "4 of 64"]
)
def test_what_a_slope_is_worth(spectrum):
    """Best offset for each slope over the best constant: 1, 0.855, 0.806, 0.789, 0.785 = π/4 for 0, ¼, ½, ¾, 1; uniform t."""
    constant = optimal_k(spectrum, space="v", at="initialisation").loss
    worth = [
        minimize_scalar(lambda w, slope=slope: initial_loss(spectrum, slope, w), bounds=(-8, 8), method="bounded").fun
        / constant
        for slope in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert worth == pytest.approx([1, 0.855, 0.806, 0.789, np.pi / 4], abs=6e-4)


def test_no_other_slope_beats_one():
    D, total = 4, VARIANCES.sum()
    best = initial_loss(VARIANCES, 1.0, np.log(D / total))
    assert best == pytest.approx(np.pi / 2 * np.sqrt(D * total) / D, rel=1e-10)
    for slope, shift in ((0.9, 0.0), (1.1, 0.0), (1.0, 0.1), (1.0, -0.1)):
        assert initial_loss(VARIANCES, slope, np.log(D / total) + shift) > best


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_k_moves_the_velocity_most_at_the_ends(k):
    """∂v̂/∂k = −(x̂ + n̂)/den for a held û, and den is k at 0, 1 − k at 1, ½ at ½ for any k."""
    rng, h = np.random.default_rng(2), 1e-6

    def velocity(k, z, u, t):
        return ((1 - 2 * k) * z + u) / (k * (1 - t) + (1 - k) * t)

    for t in (0.0, 0.3, 0.5, 1.0):
        z, u = rng.standard_normal((2, 5))
        den = k * (1 - t) + (1 - k) * t
        x, n = ((1 - t) * u + (1 - k) * z) / den, (k * z - t * u) / den
        slope = (velocity(k + h, z, u, t) - velocity(k - h, z, u, t)) / (2 * h)
        assert slope == pytest.approx(-(x + n) / den, rel=1e-6, abs=1e-6)
        assert den == pytest.approx({0.0: k, 0.5: 0.5, 1.0: 1 - k}.get(t, den))


# What is refused


@pytest.mark.parametrize(("arguments", "message"), [
    ({"variance": [1.0, -0.5]}, "variances run from -0.5 to 1"),
    ({"variance": float("nan")}, "none negative"),
    ({"variance": float("inf")}, "expected finite ones"),
    ({"variance": 1.0, "noise_scale": 0.0}, "noise_scale is 0.0"),
    ({"variance": 1.0, "noise_scale": float("inf")}, "noise_scale is inf"),
])  # fmt: skip
def test_what_directions_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        k_per_direction(**arguments)
    with pytest.raises(ValueError, match=message):
        wiener(0.5, **arguments)


def test_a_space_that_does_not_exist():
    with pytest.raises(ValueError, match="space is 'x'"):
        k_per_direction(1.0, space="x")


@pytest.mark.parametrize("spectrum", [[], [0.0], [-1.0, 1.0]])
def test_what_times_refuse(spectrum):
    with pytest.raises(ValueError, match="expected"):
        k_of_time(0.5, spectrum)
    with pytest.raises(ValueError, match="expected"):
        initial_loss(spectrum, 0.0, 0.0)
    with pytest.raises(ValueError, match="noise_scale"):
        initial_loss([1.0], 0.0, 0.0, noise_scale=-1.0)


@pytest.mark.parametrize(("slope", "offset"), [(float("nan"), 0.0), (0.0, float("nan")), (float("inf"), 0.0)])
def test_a_line_that_is_none_is_refused(slope, offset):
    with pytest.raises(ValueError, match="finite numbers"):
        initial_loss([1.0], slope, offset)


@pytest.mark.parametrize("t", [-0.1, 1.1, [0.5, float("nan")]])
def test_times_outside_the_unit_interval_are_refused(t) -> None:
    with pytest.raises(ValueError, match=r"expected times in \[0, 1\]"):
        wiener(t, 1.0)
    with pytest.raises(ValueError, match=r"expected times in \[0, 1\]"):
        k_of_time(t, [1.0, 0.0])
