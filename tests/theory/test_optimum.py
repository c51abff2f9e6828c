"""The best k of a linear network: closed forms, exact arithmetic, adaptive integration, samples, and joint training.

Nothing here calls the library to check the library: the losses are derived again, in `decimal` for uniform t (moments of
t^j/den² have elementary antiderivatives) and with SciPy's adaptive rule for other laws.
"""

from __future__ import annotations

from decimal import Decimal, getcontext
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from kdiff import LogitNormal, Uniform
from kdiff.sampling.timesteps import Timesteps
from kdiff.theory import expected_loss, modes, optimal_k, rank_limited, whitened

getcontext().prec = 60
JIT = LogitNormal(-0.8, 0.8)
MOMENTS = ["initialisation", 0.4, "convergence"]


class Arcsine(Timesteps):
    """A law symmetric under t → 1 − t: t = sin²(πp/2), dense at both ends."""

    def quantile(self, p):
        return torch.sin(torch.pi / 2 * p) ** 2


def decimal_loss(rest, variance, tau=None, clamp=0.0):
    """ℓ_i at 1 − k = rest for uniform t and s = 1, in 60 digits; τ = None is convergence.

    With y = den = k + b t, b = 1 − 2k:
    ∫ dt/y² = −1/(b y), ∫ t dt/y² = (ln y + k/y)/b², ∫ t² dt/y² = (y − 2k ln y − k²/y)/b³.
    """
    e, lam, c = Decimal(rest), Decimal(variance), Decimal(clamp)
    k = 1 - e
    b = e - k

    def free(t):
        y = k + b * t
        return np.array([-1 / (b * y), (y.ln() + k / y) / b**2, (y - 2 * k * y.ln() - k**2 / y) / b**3])

    def held(t):
        return np.array([t, t**2 / 2, t**3 / 3]) / c**2

    edges = [Decimal(0), Decimal(1)]
    if c and 0 < (c - k) / b < 1:
        edges.insert(1, (c - k) / b)
    w = [Decimal(0)] * 3
    for low, high in pairwise(edges):
        rule = held if c and k + b * (low + high) / 2 < c else free
        w = w + rule(high) - rule(low)
    V = lam * w[2] + w[0] - 2 * w[1] + w[2]
    cross = k * lam * w[1] - e * (w[0] - w[1])
    left = 0 if tau is None else (-4 * V * Decimal(tau)).exp()
    return (k**2 * lam + e**2) * w[0] - cross**2 / V * (1 - left)


def adaptive_loss(k, spectrum, space, at, law, s, clamp):
    """Mean of ℓ_i over dimensions, from E ω u², E ω u z, E ω z² by adaptive integration in the logit of t; units as given."""

    def mean(f):
        def integrand(y):
            t, rest = expit(y), expit(-y)
            density = np.exp(-(((y - law.mean) / law.std) ** 2) / 2) / (law.std * np.sqrt(2 * np.pi))
            omega = max(k * rest + (1 - k) * t, clamp) ** -2 if space == "v" else 1.0
            return f(t, rest) * omega * density

        low, high = law.mean - 13 * law.std, law.mean + 13 * law.std
        kink = [float(logit((k - clamp) / (2 * k - 1)))] if clamp and (k > 1 - clamp or k < clamp) else []
        edges = [low, *sorted([law.mean, *kink]), high]
        return sum(quad(integrand, a, b, epsabs=0, epsrel=1e-11, limit=300)[0] for a, b in pairwise(edges))

    def loss(lam):
        uu = mean(lambda t, rest: k**2 * lam + (1 - k) ** 2 * s**2)
        uz = mean(lambda t, rest: k * t * lam - (1 - k) * rest * s**2)
        zz = mean(lambda t, rest: t**2 * lam + rest**2 * s**2)
        done = {"initialisation": 0.0, "convergence": 1.0}[at] if isinstance(at, str) else -np.expm1(-4 * zz * at)
        return uu - uz**2 / zz * done

    return np.mean([loss(lam) for lam in spectrum])


class Lopsided(Timesteps):
    """t = (1 + 3p²)/4: mean ½, not symmetric."""

    def quantile(self, p):
        return (1 + 3 * p**2) / 4


def random_spectrum(seed, D=6):
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate([rng.exponential(2.0, D - 2), [0.0, 1.0]]))


# The loss


@pytest.mark.parametrize("clamp", [0.0, 0.05])
@pytest.mark.parametrize("tau", [0, 0.3, None])
@pytest.mark.parametrize("rest", [0.7, 0.4, 0.1, 0.02, 1e-4, 1e-8])
def test_v_loss_is_exact_up_to_the_ends(rest, tau, clamp):
    at = {0: "initialisation", None: "convergence"}.get(tau, tau)
    for k, other in ((1 - rest, rest), (rest, 1 - rest)):
        given = Decimal(1) - Decimal(k)
        for variance in (4.0, 1.0, 0.05):
            exact = (decimal_loss(given, variance, tau, clamp) + decimal_loss(given, 0, tau, clamp)) / 2
            found = expected_loss(k, [variance, 0.0], space="v", at=at, clamp=clamp)
            assert found == pytest.approx(float(exact), rel=1e-9), (k, other)


@pytest.mark.parametrize("at", MOMENTS)
@pytest.mark.parametrize(
    ("space", "k", "clamp"), [("u", 0.3, 0.0), ("u", 1.0, 0.0), ("v", 0.8, 0.0), ("v", 0.98, 0.05), ("v", 0.02, 0.05)]
)
def test_loss_under_other_laws_and_noise_scales(space, k, clamp, at):
    spectrum = [3.0, 0.5, 0.0]
    found = expected_loss(k, spectrum, space=space, at=at, times=JIT, noise_scale=1.7, clamp=clamp)
    assert found == pytest.approx(adaptive_loss(k, spectrum, space, at, JIT, 1.7, clamp), rel=1e-8)


@pytest.mark.parametrize(("space", "k", "clamp", "law"), [
    ("u", 0.6, 0.0, Uniform()), ("u", 0.9, 0.0, JIT),
    ("v", 0.3, 0.0, Uniform()), ("v", 0.8, 0.0, JIT), ("v", 0.97, 0.05, Uniform()),
])  # fmt: skip
def test_loss_against_least_squares_on_samples(space, k, clamp, law):
    """A full matrix W fitted to samples in a rotated basis: neither diagonal nor gains are assumed."""
    rng, N, s = np.random.default_rng(3), 200_000, 1.4
    spectrum = np.array([2.5, 1.0, 0.2, 0.0])
    Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    x, n = rng.standard_normal((N, 4)) * np.sqrt(spectrum) @ Q.T, s * rng.standard_normal((N, 4))
    t = law.quantile(torch.from_numpy(rng.random((N, 1)))).numpy()
    z, u = t * x + (1 - t) * n, k * x - (1 - k) * n
    scale = 1 / np.maximum(k * (1 - t) + (1 - k) * t, clamp) if space == "v" else 1.0
    W = np.linalg.lstsq(scale * z, scale * u, rcond=None)[0]
    each = ((scale * (u - z @ W)) ** 2).mean(axis=1)
    arguments = {"space": space, "times": law, "noise_scale": s, "clamp": clamp}
    assert each.mean() == pytest.approx(float(expected_loss(k, spectrum, **arguments)), abs=5 * each.std() / N**0.5)
    if space == "v":  # the weighted loss on u is the loss on v, of a clamped target where the clamp acts
        assert ((scale * u) ** 2).mean() == pytest.approx(
            float(expected_loss(k, spectrum, at="initialisation", **arguments)), rel=0.02
        )


def test_u_loss_per_direction():
    """w = 3(kλ − (1−k))/(2(1+λ)), residual k²λ + (1−k)² − ¾ (k(1+λ) − 1)²/(1+λ) for uniform t."""
    for lam in (0.1, 1.0, 7.0):
        for k in (0.0, 0.35, 1.0):
            w = 3 * (k * lam - (1 - k)) / (2 * (1 + lam))
            assert 2 * w * (lam + 1) / 3 == pytest.approx(k * lam - (1 - k))  # the normal equation w E z² = E u z, E t = ½
            residual = k**2 * lam + (1 - k) ** 2 - 0.75 * (k * (1 + lam) - 1) ** 2 / (1 + lam)
            assert expected_loss(k, [lam]) == pytest.approx(residual, rel=1e-12)


@pytest.mark.parametrize("at", MOMENTS)
@pytest.mark.parametrize("law", [Uniform(), JIT, Arcsine()], ids=repr)
def test_u_loss_is_convex_in_k(law, at):
    assert np.diff(expected_loss(np.linspace(0, 1, 21), random_spectrum(4), at=at, times=law), 2).min() > 0


def test_v_loss_at_the_start_is_r_trace_plus_D_over_r():
    spectrum, s = random_spectrum(5), 0.6
    for k in (0.01, 0.5, 0.83, 0.9999):
        r = k / (1 - k)
        found = expected_loss(k, spectrum, space="v", at="initialisation", noise_scale=s)
        assert found == pytest.approx((r * spectrum.sum() + 6 * s**2 / r) / 6, rel=1e-10)


def test_loss_has_the_shape_of_k():
    ks = np.array([[0.2, 0.5, 0.9]])
    losses = expected_loss(ks, [1.0, 0.0], space="v")
    assert losses.shape == (1, 3)
    assert losses[0, 1] == expected_loss(0.5, [1.0, 0.0], space="v")


# The optimum


@pytest.mark.parametrize("at", MOMENTS)
@pytest.mark.parametrize("law", [None, JIT, Arcsine()], ids=repr)
@pytest.mark.parametrize(("space", "clamp"), [("u", 0.0), ("v", 0.0), ("v", 0.05)])
@pytest.mark.parametrize(("seed", "s"), [(1, 1.0), (2, 0.4)])
def test_optimum_is_the_lowest_point_and_lists_every_valley(seed, s, space, clamp, law, at):
    spectrum, arguments = random_spectrum(seed), {"space": space, "at": at, "times": law, "noise_scale": s, "clamp": clamp}
    best = optimal_k(spectrum, **arguments)

    def loss(y):
        return float(expected_loss(expit(y), spectrum, **arguments))

    assert best.loss == pytest.approx(float(expected_loss(best.k, spectrum, **arguments)), rel=1e-9)
    grid = np.linspace(-12, 12, 60)
    losses = np.array([loss(y) for y in grid])
    assert losses.min() >= best.loss * (1 - 1e-10)
    if 1e-9 < best.k < 1 - 1e-9:
        y = logit(best.k)
        assert minimize_scalar(loss, bounds=(y - 0.3, y + 0.3), method="bounded", options={"xatol": 1e-9}).x == pytest.approx(
            y, abs=1e-4
        )
        assert abs(loss(y + 1e-3) - loss(y - 1e-3)) < 1e-5 * best.loss
    valleys = [best.k, *(k for k, _ in best.others)]
    for i in range(1, len(grid) - 1):
        if losses[i] < min(losses[i - 1], losses[i + 1]) * (1 - 1e-9):
            assert any(grid[i - 1] <= logit(k) <= grid[i + 1] for k in valleys), expit(grid[i])
    assert [value for _, value in best.others] == sorted(value for _, value in best.others)
    assert all(value >= best.loss for _, value in best.others)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("law", [None, LogitNormal(0, 0.7), Arcsine(), Lopsided()], ids=repr)
@pytest.mark.parametrize("at", ["initialisation", "convergence"])
def test_the_rule_of_the_paper_for_any_spectrum_and_law_of_mean_one_half(seed, law, at):
    """Symmetric laws have that mean, and the mean is all that counts."""
    spectrum, s = random_spectrum(seed), 0.8
    rule = 6 * s**2 / (6 * s**2 + spectrum.sum())
    assert float(optimal_k(spectrum, at=at, times=law, noise_scale=s)) == pytest.approx(rule, abs=1e-12)


def test_at_the_start_the_rule_holds_for_any_law():
    spectrum = random_spectrum(8)
    assert float(optimal_k(spectrum, at="initialisation", times=JIT)) == pytest.approx(6 / (6 + spectrum.sum()), abs=1e-12)
    assert abs(float(optimal_k(spectrum, times=JIT)) - 6 / (6 + spectrum.sum())) > 0.1


def test_whitened_data_give_the_rule_in_its_usual_form():
    for D, d in ((2, 1), (100, 10), (768, 20), (5, 5)):
        assert float(optimal_k(whitened(D, d))) == pytest.approx(D / (D + d), abs=1e-12)


def test_the_general_law_by_hand():
    """Σ s²[1 − (1−m) c/V] / Σ [s² + λ − c²/V] with the moments of JiT's law from its quantiles at midpoints."""
    t = JIT.quantile((torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000).numpy()
    m, m1, m2, s = t.mean(), (t**2).mean(), ((1 - t) ** 2).mean(), 1.3
    lam = np.array([3.0, 1.5, 0.3] + 17 * [0.0])
    c, V = lam * m + s**2 * (1 - m), lam * m1 + s**2 * m2
    k = (s**2 * (1 - (1 - m) * c / V)).sum() / (s**2 + lam - c**2 / V).sum()
    assert 0 < k < 1
    assert float(optimal_k(lam, times=JIT, noise_scale=s)) == pytest.approx(k, abs=1e-5)


@pytest.mark.parametrize(
    ("law", "D", "d", "k"), [(JIT, 2, 1, 0), (JIT, 10, 1, 0.46), (JIT, 100, 1, 0.92), (LogitNormal(0.8, 0.8), 2, 1, 1)]
)
def test_an_uneven_law_is_far_from_the_rule(law, D, d, k):
    found = optimal_k(whitened(D, d), times=law)
    assert found.k == pytest.approx(k, abs=0.005)
    if k in (0, 1):  # cut, and the loss really falls up to the end
        assert found.k == k
        losses = expected_loss([k, abs(k - 1e-3)], whitened(D, d), times=law)
        assert losses[0] < losses[1]


@pytest.mark.parametrize("at", MOMENTS)
@pytest.mark.parametrize(("space", "clamp"), [("u", 0.0), ("v", 0.0), ("v", 0.05)])
def test_only_variances_in_units_of_the_noise_matter(space, clamp, at):
    """Data and noise c times larger: the same k, a loss c² times larger, and learning c² times faster."""
    c, spectrum = 3.0, random_spectrum(6)
    one = optimal_k(spectrum, space=space, at=at, clamp=clamp)
    at = at if isinstance(at, str) else at / c**2
    other = optimal_k(c**2 * spectrum, space=space, at=at, clamp=clamp, noise_scale=c)
    assert other.k == pytest.approx(one.k, abs=1e-7)
    assert other.loss == pytest.approx(c**2 * one.loss, rel=1e-9)


@pytest.mark.parametrize("clamp", [0.0, 0.05])
@pytest.mark.parametrize("D", [1, 2, 3, 64])
def test_an_equal_spectrum_has_two_mirrored_optima(D, clamp):
    """With λ = s² everywhere data and noise may change places: k and 1 − k cost the same, and the larger is named."""
    best = optimal_k([1.0] * D, space="v", clamp=clamp)
    assert best.k > 0.5
    ((other, loss),) = best.others
    assert best.k + other == pytest.approx(1, abs=1e-6)
    assert loss == pytest.approx(best.loss, rel=1e-12)


# The numbers of the theory


@pytest.mark.parametrize(
    ("D", "lam", "k", "tolerance"),
    [(2, 1, 0.972, 5e-4), (2, 4, 0.763, 5e-4), (2, 0.25, 0.582, 5e-4), (2, 0.05, 0.785, 5e-4), (10, 1, 0.997, 5e-4)],
)
def test_best_k_of_the_v_loss_at_convergence(D, lam, k, tolerance):
    spectrum = whitened(D, 1, lam)
    found = optimal_k(spectrum, space="v")
    assert found.k == pytest.approx(k, abs=tolerance)
    losses = [
        decimal_loss(1 - Decimal(found.k) + shift, lam) + (D - 1) * decimal_loss(1 - Decimal(found.k) + shift, 0)
        for shift in (Decimal("-1e-6"), 0, Decimal("1e-6"))
    ]
    assert losses[1] < min(losses[0], losses[2])
    assert found.loss == pytest.approx(float(losses[1]) / D, rel=1e-10)


def test_weak_data_have_a_second_worse_minimum_next_to_one():
    best = optimal_k(whitened(2, 1, 0.25), space="v")
    ((k, loss),) = best.others
    assert k == pytest.approx(0.9997, abs=5e-5)
    assert loss > best.loss + 0.04


def test_three_numbers_are_optimal_for_the_same_data():
    spectrum = whitened(2, 1)
    found = [optimal_k(spectrum), optimal_k(spectrum, space="v", at="initialisation"), optimal_k(spectrum, space="v")]
    assert [one.k for one in found] == pytest.approx([0.667, 0.586, 0.972], abs=5e-4)
    assert [one.method for one in found] == ["closed form", "closed form", "quadrature"]


def test_the_moments_of_other_laws_are_quadratures():
    assert optimal_k(whitened(10, 1), times=LogitNormal(-0.8, 0.8)).method == "quadrature"
    assert optimal_k(whitened(10, 1), times=Uniform()).method == "closed form"


def test_before_anything_is_learned_an_end_costs_infinitely_much_on_v():
    """r tr Σ + D/r grows without bound towards both ends; where u itself is 0 there is nothing to pay."""
    start = {"space": "v", "at": "initialisation"}
    near = expected_loss([1e-6, 1 - 1e-6], whitened(4, 2), **start)
    assert near == pytest.approx([1e6, 0.5e6], rel=1e-4)
    assert np.isinf(expected_loss([0, 1], whitened(4, 2), **start)).all()
    assert np.isfinite(expected_loss([0, 1], whitened(4, 2), clamp=0.05, **start)).all()
    assert np.isfinite(expected_loss([0, 1], whitened(4, 2), space="v")).all()
    assert modes(0, 1.0, whitened(4, 2), space="v").loss.tolist() == [[np.inf, 0.0]]


def test_without_a_clamp_the_best_k_of_the_v_loss_leaps_at_the_start():
    """As k → 1 the flow is infinitely fast: a time that is no time serves there, and a clamp forbids it."""
    spectrum, start = whitened(2, 1), 2 - 2**0.5
    assert float(optimal_k(spectrum, space="v", at="initialisation")) == pytest.approx(start, abs=1e-9)
    soon = optimal_k(spectrum, space="v", at=1e-12)
    assert soon.k == pytest.approx(1, abs=1e-9)
    assert soon.others[0][0] == pytest.approx(start, abs=1e-6)
    clamped = [float(optimal_k(spectrum, space="v", at=at, clamp=0.05)) for at in (1e-12, 1e-6, 1e-4)]
    assert clamped == pytest.approx([start] * 3, abs=1e-4)
    early = [modes(1e-15, 1 - rest, spectrum, space="v").gain[0, 0] for rest in (1e-4, 1e-6, 1e-8)]
    assert np.diff(np.log10(early)) == pytest.approx([2, 2], abs=0.01), "the rate grows as 1/(1 − k)"


@pytest.mark.parametrize("numbers", [(8, 2.5), (8, True), (8.0, 2)])
def test_dimensions_are_whole_numbers(numbers):
    with pytest.raises(ValueError, match="expected whole numbers"):
        whitened(*numbers)


@pytest.mark.parametrize(("tau", "k"), [([], 0.5), (1.0, np.array([0.2, 0.3]))])
def test_modes_are_of_times_and_one_k(tau, k):
    with pytest.raises(ValueError, match=r"expected one or more training times|expected a number in"):
        modes(tau, k, whitened(4, 2))


@pytest.mark.parametrize("s", [1.0, 2.5])
def test_best_k_of_the_v_loss_at_the_start(s):
    spectrum = random_spectrum(9)
    found, r = optimal_k(spectrum, space="v", at="initialisation", noise_scale=s), s * np.sqrt(6 / spectrum.sum())
    assert found.k == pytest.approx(r / (1 + r), abs=1e-12)
    assert found.loss == pytest.approx(2 * s * np.sqrt(6 * spectrum.sum()) / 6, rel=1e-12)
    if s == 1:
        assert found.k == pytest.approx(6**0.5 / (6**0.5 + spectrum.sum() ** 0.5), abs=1e-12)


def test_the_clamp_moves_the_minimum_to_one():
    assert optimal_k(whitened(2, 1), space="v", clamp=0.05).k == 1
    assert optimal_k(whitened(2, 1), space="v").k < 0.98
    ends = [
        decimal_loss(Decimal(rest), 1, clamp=0.05) + decimal_loss(Decimal(rest), 0, clamp=0.05)
        for rest in ("1e-20", "0.01", "0.03")
    ]
    assert ends == sorted(ends)


def test_the_v_loss_stays_finite_at_one():
    """1 + λ per parallel direction, 1 − k per perpendicular one."""
    for lam in (0.05, 1, 4):
        assert float(decimal_loss("1e-25", lam)) == pytest.approx(1 + lam, rel=1e-10)
    assert float(decimal_loss("1e-25", 0)) == pytest.approx(1e-25, rel=1e-10)
    assert expected_loss([1 - 1e-13, 1.0], whitened(4, 1, 0.3), space="v") == pytest.approx(1.3 / 4, rel=1e-9)


def test_moving_off_one_gains_on_the_data():
    """1 + λ − ℓ = λ ε (ln(1/ε) − 1 − 1/λ)² to first order in ε = 1 − k, which tends to λ ε ln² ε, slowly."""
    for lam in (0.25, 1, 4):
        ratios = []
        for power in (20, 40, 400):
            eps = Decimal(10) ** -power
            getcontext().prec = 60 + 2 * power
            gain, log = 1 + Decimal(lam) - decimal_loss(eps, lam), power * Decimal(10).ln()
            getcontext().prec = 60
            assert float(gain / (Decimal(lam) * eps * (log - 1 - 1 / Decimal(lam)) ** 2)) == pytest.approx(1, abs=1e-9)
            ratios.append(float(gain / (Decimal(lam) * eps * log**2)))
        assert ratios == sorted(ratios)
        assert ratios[-1] == pytest.approx(1, abs=0.012)


@pytest.mark.parametrize(("D", "lam"), [(2, 0.25), (2, 0.05), (100, 1.0), (300, 4.0)])
def test_where_the_minimum_next_to_one_lies(D, lam):
    """From the gain above against the cost ε of each empty direction: ln(1/ε) = 2 + 1/λ + √(1 + (D − d)/(d λ))."""
    best = optimal_k(whitened(D, 1, lam), space="v")
    near = max([best.k, *(k for k, _ in best.others)])
    assert np.log(1 / (1 - near)) == pytest.approx(2 + 1 / lam + np.sqrt(1 + (D - 1) / lam), abs=0.06)
    assert 0 < near < 1


# What is refused


@pytest.mark.parametrize(("arguments", "message"), [
    ({"space": "w"}, "space is 'w'"),
    ({"at": "start"}, "at is 'start'"),
    ({"at": -0.1}, "at is -0.1"),
    ({"at": float("nan")}, "at is nan"),
    ({"clamp": 0.05}, "no denominator"),
    ({"space": "v", "clamp": 0.5}, r"clamp is 0.5"),
    ({"space": "v", "clamp": -0.01}, r"clamp is -0.01"),
    ({"noise_scale": 0.0}, "noise_scale is 0.0"),
    ({"noise_scale": float("inf")}, "noise_scale is inf"),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimal_k([1.0, 0.0], **arguments)
    with pytest.raises(ValueError, match=message):
        expected_loss(0.5, [1.0, 0.0], **arguments)


@pytest.mark.parametrize(
    "spectrum", [[], [[1.0]], 1.0, [1.0, float("nan")], [1.0, float("inf")], [1.0, -0.1], [0.0, 0.0], [-1.0]]
)
def test_bad_spectra(spectrum):
    with pytest.raises(ValueError, match="expected"):
        optimal_k(spectrum)


def test_eigenvalues_negative_by_rounding_are_zeros():
    assert float(optimal_k([1.0, -1e-12])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("k", [-0.1, 1.1, float("nan"), [0.5, 2.0]])
def test_k_outside_its_range(k):
    with pytest.raises(ValueError, match="k runs from"):
        expected_loss(k, [1.0, 0.0])


@pytest.mark.parametrize("arguments", [{"space": "u"}, {"at": "initialisation"}, {"at": 1.0}, {"times": JIT}, {"clamp": 0.05}])
def test_a_rank_limit_goes_with_nothing_else(arguments):
    with pytest.raises(ValueError, match="with a rank limit, expected"):
        optimal_k(whitened(8, 4), rank=2, **{"space": "v", **arguments})


@pytest.mark.parametrize("rank", [2.5, True, 0, 8])
def test_a_rank_is_a_whole_number_that_leaves_something_out(rank):
    with pytest.raises(ValueError, match=rf"rank is {rank}; expected a whole number from 1 to 7"):
        optimal_k(whitened(8, 4), space="v", rank=rank)


@pytest.mark.parametrize("at", [None, True, "now", -1.0, float("nan")])
def test_a_moment_is_named_or_a_time(at):
    with pytest.raises(ValueError, match=r"at is .*; expected 'initialisation', 'convergence' or a training time"):
        optimal_k(whitened(8, 4), at=at)


def test_a_law_of_t_is_no_name():
    for of_k in (optimal_k, partial(expected_loss, 0.5)):
        with pytest.raises(TypeError, match=r"times is 'uniform'; expected a law of t"):
            of_k(whitened(8, 4), times="uniform")


def test_a_rank_limit_asks_the_theory_of_capacity():
    found = optimal_k(whitened(8, 4, 2.0), space="v", rank=2, times=Uniform(), noise_scale=1.5)
    assert found == rank_limited(whitened(8, 4, 2.0), 2, 1.5)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 4), "d is 4 and D is 3"), ((3, 0), "d is 0"), ((3, 1, 0.0), "variance is 0.0"), ((3, 1, -1.0), "variance is -1")],
)
def test_impossible_whitened_spectra(arguments, message):
    with pytest.raises(ValueError, match=message):
        whitened(*arguments)


def test_whitened_spectrum():
    assert whitened(4, 2, 3.0).tolist() == [3, 3, 0, 0]


def test_a_loss_that_is_flat_to_rounding_has_its_minima_all_the_same() -> None:
    """A spectrum with many weak directions, under the clamp: near k = 1 the loss no longer changes in float64."""
    spectrum = np.concatenate([[1.0, 0.98], np.full(30, 0.034)])
    optimum = optimal_k(spectrum, space="v", clamp=0.05)
    ks = np.linspace(0.001, 0.999, 2001)
    losses = expected_loss(ks, spectrum, space="v", clamp=0.05)
    assert optimum.loss <= losses.min() + 1e-12
    assert optimum.k == pytest.approx(ks[losses.argmin()], abs=1e-3)
    assert len(optimum.others) <= 1
