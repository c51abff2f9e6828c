"""Learning in time: an explicit integration of the gradient flow of a full matrix, and the closed forms of the loss on u."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdiff import LogitNormal, Uniform
from kdiff.theory import expected_loss, k_over_training, modes, optimal_k, whitened

JIT = LogitNormal(-0.8, 0.8)
SPECTRUM = np.array([2.0, 0.5, 0.5, 0.0])


def second_moments(k, spectrum, space, law, s, clamp):
    """E ω zzᵀ, E ω uzᵀ and E ω uuᵀ in a rotated basis, for noise of scale s, on a fine grid of t (midpoints)."""
    y = (np.arange(40_000) + 0.5) / 40_000 * 50 - 25
    t, rest = 1 / (1 + np.exp(-y)), 1 / (1 + np.exp(y))
    if isinstance(law, LogitNormal):
        density = np.exp(-(((y - law.mean) / law.std) ** 2) / 2) / (law.std * np.sqrt(2 * np.pi))
    else:
        density = t * rest
    weight = density * 50 / 40_000
    if space == "v":
        weight = weight / np.maximum(k * rest + (1 - k) * t, clamp) ** 2
    Q = np.linalg.qr(np.random.default_rng(7).standard_normal((len(spectrum), len(spectrum))))[0]
    data, noise = Q * spectrum @ Q.T, s**2 * np.eye(len(spectrum))
    zz = (weight @ t**2) * data + (weight @ rest**2) * noise
    uz = k * (weight @ t) * data - (1 - k) * (weight @ rest) * noise
    uu = weight.sum() * (k**2 * data + (1 - k) ** 2 * noise)
    return Q, zz, uz, uu


def integrate(tau, zz, uz, steps=3000):
    """W(τ) of dW/dτ = −∇E ω‖Wz − u‖² = −2 (W E ωzzᵀ − E ωuzᵀ) from 0, by the classical Runge–Kutta rule."""

    def slope(W):
        return -2 * (W @ zz - uz)

    W, h = np.zeros_like(zz), tau / steps
    for _ in range(steps):
        a = slope(W)
        b = slope(W + h / 2 * a)
        c = slope(W + h / 2 * b)
        W = W + h / 6 * (a + 2 * b + 2 * c + slope(W + h * c))
    return W


CASES = [
    ("u", 0.5, Uniform(), 1.0, 0.0),
    ("u", 0.9, JIT, 1.7, 0.0),
    ("v", 0.8, Uniform(), 1.7, 0.0),
    ("v", 0.3, JIT, 0.6, 0.0),
    ("v", 0.98, Uniform(), 1.3, 0.05),
]


@pytest.mark.parametrize("tau", [0.05, 0.6])
@pytest.mark.parametrize(("space", "k", "law", "s", "clamp"), CASES)
def test_modes_are_the_gradient_flow_of_a_full_matrix(space, k, law, s, clamp, tau):
    Q, zz, uz, uu = second_moments(k, SPECTRUM, space, law, s, clamp)
    W = integrate(tau, zz, uz)
    diagonal = Q.T @ W @ Q
    assert np.abs(diagonal - np.diag(np.diag(diagonal))).max() < 1e-9
    losses = np.diag(Q.T @ (W @ zz @ W.T - W @ uz.T - uz @ W.T + uu) @ Q)

    arguments = {"space": space, "times": law, "noise_scale": s, "clamp": clamp}
    found = modes([0.0, tau], k, SPECTRUM, **arguments)
    assert found.variance == pytest.approx([2.0, 0.5, 0.0])
    assert found.counts.tolist() == [1, 2, 1]
    assert found.gain[1] == pytest.approx(np.diag(diagonal)[[0, 1, 3]], abs=1e-6)
    assert found.loss[1] == pytest.approx(losses[[0, 1, 3]], rel=1e-6)
    assert expected_loss(k, SPECTRUM, at=tau, **arguments) == pytest.approx(losses.mean(), rel=1e-6)
    # The start: no gain, and the loss of û = 0.
    assert found.gain[0].tolist() == [0, 0, 0]
    assert found.loss[0] == pytest.approx(np.diag(Q.T @ uu @ Q)[[0, 1, 3]], rel=1e-6)


@pytest.mark.parametrize(("space", "k", "law", "s", "clamp"), CASES)
def test_flow_ends_at_least_squares(space, k, law, s, clamp):
    Q, zz, uz, uu = second_moments(k, SPECTRUM, space, law, s, clamp)
    W = uz @ np.linalg.inv(zz)
    found = modes([np.inf, 0.2], k, SPECTRUM, space=space, times=law, noise_scale=s, clamp=clamp)
    assert found.gain[0] == pytest.approx(np.diag(Q.T @ W @ Q)[[0, 1, 3]], abs=1e-6)
    assert found.loss[0] == pytest.approx(np.diag(Q.T @ (uu - W @ uz.T) @ Q)[[0, 1, 3]], rel=1e-6)
    assert found.excess[0].tolist() == [0, 0, 0]
    assert found.excess[1] == pytest.approx(found.loss[1] - found.loss[0], rel=1e-12)
    assert (found.excess[1] > -1e-14).all()
    assert found.excess[1].max() > 1e-4


def test_excess_error_of_the_u_loss_falls_at_two_rates():
    """λ = 1: exp(−8τ/3) along the data, exp(−4τ/3) across; any λ: exp(−4(1+λ)τ/3)."""
    taus = np.array([0.0, 0.3, 1.0, 2.5])
    found = modes(taus, 0.7, whitened(6, 2))
    share = found.excess / found.excess[0]
    assert share[:, 0] == pytest.approx(np.exp(-8 * taus / 3), rel=1e-9)
    assert share[:, 1] == pytest.approx(np.exp(-4 * taus / 3), rel=1e-9)
    found = modes(taus, 0.7, [5.0, 0.2])
    assert found.excess / found.excess[0] == pytest.approx(np.exp(-4 / 3 * np.outer(taus, [6.0, 1.2])), rel=1e-9, abs=1e-13)


def test_steps_of_gradient_descent_pass_eta_over_D_each():
    """Descent with rate η on the loss averaged over D dimensions, in a rotated basis."""
    _, zz, uz, _ = second_moments(0.6, SPECTRUM, "u", Uniform(), 1.0, 0.0)
    eta, steps, D = 0.01, 400, len(SPECTRUM)
    W = np.zeros_like(zz)
    for _ in range(steps):
        W -= eta * 2 * (W @ zz - uz) / D
    gains = np.sort(np.linalg.eigvalsh(W))
    expected = modes(steps * eta / D, 0.6, SPECTRUM).gain[0][[0, 1, 1, 2]]
    assert gains == pytest.approx(np.sort(expected), abs=2e-3)


def test_best_k_over_training_for_any_spectrum():
    """Σ B_i / Σ B_i (1 + λ_i), B_i = ¼ + ¾ exp(−4(1 + λ_i)τ/3)."""
    taus = np.array([[0.0, 0.2, 0.82], [2.0, 6.0, 30.0]])
    lam = np.random.default_rng(0).exponential(1.5, 9)
    B = 0.25 + 0.75 * np.exp(-4 / 3 * (1 + lam) * taus[..., None])
    found = k_over_training(taus, lam)
    assert found == pytest.approx(B.sum(-1) / (B @ (1 + lam)), rel=1e-10)
    rule = 9 / (9 + lam.sum())
    assert found[0, 0] == pytest.approx(rule, abs=1e-12)
    assert found[1, 2] == pytest.approx(rule, abs=1e-9)
    assert (found.ravel()[1:5] > rule + 1e-5).all()


def test_best_k_over_training_of_whitened_data():
    """((D−d) B + 2dA) / ((D−d) B + 4dA), A = 1/8 + 3/8 exp(−8τ/3), B = 1/4 + 3/4 exp(−4τ/3); highest, 0.714, at τ = 0.82."""
    taus = np.linspace(0, 3, 301)
    A, B = 1 / 8 + 3 / 8 * np.exp(-8 * taus / 3), 1 / 4 + 3 / 4 * np.exp(-4 * taus / 3)
    for D, d in ((2, 1), (20, 3)):
        closed = ((D - d) * B + 2 * d * A) / ((D - d) * B + 4 * d * A)
        assert k_over_training(taus, whitened(D, d)) == pytest.approx(closed, abs=1e-12)
    found = k_over_training(taus, whitened(2, 1))
    assert taus[found.argmax()] == pytest.approx(0.82, abs=0.011)
    assert found.max() == pytest.approx(0.714, abs=5e-4)


def test_best_k_does_not_move_if_all_variances_are_equal():
    assert k_over_training([0.0, 0.5, 5.0], [0.7] * 5) == pytest.approx(1 / 1.7, abs=1e-12)


def test_best_k_over_training_in_the_datas_own_units():
    """Noise and data c times larger learn c² times faster."""
    taus = np.array([0.1, 0.8, 3.0])
    one, other = k_over_training(taus, SPECTRUM, times=JIT), k_over_training(taus / 9, 9 * SPECTRUM, times=JIT, noise_scale=3.0)
    assert one == pytest.approx(other, abs=1e-10)
    assert np.ptp(one) > 0.01


def test_a_k_trained_along_goes_another_way_to_the_same_end():
    """Gradient flow of the expected u-loss (D/d = 2) in two gains and w_k, against the best k for the network of each time."""
    lam, h = np.array([1.0, 0.0]), 0.02
    gain, w, way = np.zeros(2), 0.0, []
    for _ in range(15_000):
        k = 1 / (1 + np.exp(-w))
        way.append(k)
        # L = Σ λ(k² − kw + w²/3) + (1−k)² + (1−k)w + w²/3, from E t = ½ and E t² = ⅓
        slope = lam * (-k + 2 * gain / 3) + (1 - k) + 2 * gain / 3
        slope_k = (lam * (2 * k - gain) - 2 * (1 - k) - gain).sum()
        gain, w = gain - h * slope, w - h * slope_k * k * (1 - k)
    best = k_over_training(h * np.arange(0, 15_000, 10), whitened(2, 1))
    assert way[-1] == pytest.approx(2 / 3, abs=1e-5)
    assert best[-1] == pytest.approx(2 / 3, abs=1e-5)
    assert max(way) < 0.68
    assert best.max() > 0.71


# Joint training of the network and k on the expected loss, in the eigenbasis


def adam(loss, parameters, steps, lr):
    optimiser = torch.optim.Adam(parameters, lr=lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 - 2 * i / steps))
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        decay.step()


@pytest.mark.parametrize(("law", "d", "k", "rule"), [(Uniform(), 50, 0.6667, True), (JIT, 10, 0.4560, False)])
def test_joint_training_on_u_ends_at_the_optimum(law, d, k, rule):
    p = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t = law.quantile(p)
    m, m1, m2 = t.mean(), t.square().mean(), (1 - t).square().mean()
    lam, counts = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([d, 100.0 - d], dtype=torch.float64)
    w, gain = torch.zeros((), dtype=torch.float64, requires_grad=True), torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def loss():
        a, b = torch.sigmoid(w), torch.sigmoid(-w)
        signal = lam * (a**2 - 2 * a * gain * m + gain**2 * m1)
        return counts @ (signal + b**2 + 2 * b * gain * (1 - m) + gain**2 * m2) / 100

    adam(loss, [w, gain], 1500, 0.02)
    assert torch.sigmoid(w).item() == pytest.approx(k, abs=2e-4)
    assert float(optimal_k(whitened(100, d), times=law)) == pytest.approx(k, abs=1e-4)
    assert (abs(k - 100 / (100 + d)) < 1e-3) is rule


@pytest.mark.parametrize(("lam", "k"), [(1.0, 0.9723), (4.0, 0.7627), (0.25, 0.5823)])
def test_joint_training_on_v_from_one_half(lam, k):
    """D/d = 2 as one direction of each kind; trapezoids in the logit of t, whose error falls as exp(−2π²/step)."""
    y = torch.arange(-20, 20.25, 0.5, dtype=torch.float64)
    t, rest = torch.sigmoid(y), torch.sigmoid(-y)
    weight, variance = 0.5 * t * rest, torch.tensor([[lam], [0.0]], dtype=torch.float64)
    w, gain = (
        torch.zeros((), dtype=torch.float64, requires_grad=True),
        torch.zeros(2, 1, dtype=torch.float64, requires_grad=True),
    )

    def loss():
        a, b = torch.sigmoid(w), torch.sigmoid(-w)
        each = variance * (a - gain * t) ** 2 + (b + gain * rest) ** 2
        return (weight * each / (a * rest + b * t) ** 2).sum()

    adam(loss, [w, gain], 1500, 0.02)
    assert torch.sigmoid(w).item() == pytest.approx(k, abs=1e-3)
    assert loss().item() / 2 == pytest.approx(optimal_k([lam, 0.0], space="v").loss, rel=1e-5)


# Shapes, and what is refused


def test_scalar_times_give_one_row():
    found = modes(0.5, 0.5, SPECTRUM)
    assert found.gain.shape == found.loss.shape == found.excess.shape == (1, 3)
    assert k_over_training(0.5, SPECTRUM).shape == ()
    assert float(k_over_training(0.5, SPECTRUM)) == float(optimal_k(SPECTRUM, at=0.5))


@pytest.mark.parametrize(
    ("tau", "k", "spectrum", "arguments", "message"),
    [
        ([0.5, -1.0], 0.5, SPECTRUM, {}, "tau starts at -1"),
        (float("nan"), 0.5, SPECTRUM, {}, "tau starts at nan"),
        (0.5, 1.2, SPECTRUM, {}, "k is 1.2"),
        (0.5, -0.2, SPECTRUM, {}, "k is -0.2"),
        (0.5, 0.5, [0.0, 0.0], {}, "one positive"),
        (0.5, 0.5, SPECTRUM, {"space": "x"}, "space is 'x'"),
        (0.5, 0.5, SPECTRUM, {"clamp": 0.1}, "no denominator"),
        (0.5, 0.5, SPECTRUM, {"space": "v", "clamp": 0.7}, "clamp is 0.7"),
        (0.5, 0.5, SPECTRUM, {"noise_scale": -1.0}, "noise_scale is -1"),
    ],
)
def test_what_modes_refuses(tau, k, spectrum, arguments, message):
    with pytest.raises(ValueError, match=message):
        modes(tau, k, spectrum, **arguments)


def test_what_the_curve_of_k_refuses():
    with pytest.raises(ValueError, match="training time ≥ 0"):
        k_over_training([0.1, -0.1], SPECTRUM)
