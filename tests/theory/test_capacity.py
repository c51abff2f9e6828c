"""A network with too little room: all subsets of directions, all exchanges, the predicted numbers, and actual training."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import expit

from kdiff.theory import k_per_direction, rank_limited, whitened

THRESHOLD = (np.pi / 2) ** 2


def cost(r, left_out, captured):
    """Loss at this r, s = 1: r λ + 1/r per direction left out, (π/2)√λ per captured one."""
    return sum(r * lam + 1 / r for lam in left_out) + np.pi / 2 * sum(np.sqrt(captured))


def lowest(left_out, captured):
    """Minimum of `cost` over r by search, as (r, loss); infinite r if no variance is left out."""
    if sum(left_out) == 0:
        return np.inf, np.pi / 2 * sum(np.sqrt(captured))
    found = minimize_scalar(
        lambda y: cost(np.exp(y), left_out, captured), bounds=(-12, 12), method="bounded", options={"xatol": 1e-9}
    )
    return np.exp(found.x), found.fun


def two_kinds(D, d, R, q, lam=1.0):
    """Captured and left-out variances if q data directions are captured."""
    captured = [lam] * q + [0.0] * (R - q)
    return [lam] * (d - q) + [0.0] * (D - d - R + q), captured


def ends(D, d, R):
    return max(0, R - (D - d)), min(d, R)


def arrangement(D, d, R, q, lam=1.0):
    """The library's arrangement with q captured data directions."""
    captured = np.sort(two_kinds(D, d, R, q, lam)[1])
    for one in rank_limited(whitened(D, d, lam), R):
        spectrum = whitened(D, d, lam)
        if np.array_equal(np.sort(np.concatenate([spectrum[: one.strongest], spectrum[D - one.weakest :]])), captured):
            return one
    raise LookupError(f"no arrangement of {D, d, R} captures {q}")


SPECTRA = [
    np.array([2.0, 2.0, 0.5, 0.5, 0.0, 0.0, 0.0]),
    np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
    np.array([4.0, 4.0, 1.0, 0.3, 0.3, 0.3, 0.05]),
    np.array([1e4, 3.0, 1.0, 1.0, 1e-3, 1e-3, 0.0]),
    *(np.round(np.random.default_rng(seed).exponential(1.5, 7), 1) for seed in range(6)),
]


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("lam", [0.3, 1.0, 6.0])
def test_what_a_direction_costs(lam, k):
    """E ω u² = r λ + 1/r; with the best gain at every t, E ω (u² − (E u z)²/E z²) = (π/2)√λ, whatever k; r = k/(1 − k)."""

    def omega(t):
        return (k * (1 - t) + (1 - k) * t) ** -2

    def captured(t):
        uz, zz = k * lam * t - (1 - k) * (1 - t), lam * t**2 + (1 - t) ** 2
        return omega(t) * (k**2 * lam + (1 - k) ** 2 - uz**2 / zz)

    r = k / (1 - k)
    assert quad(lambda t: omega(t) * (k**2 * lam + (1 - k) ** 2), 0, 1)[0] == pytest.approx(r * lam + 1 / r, rel=1e-8)
    assert quad(captured, 0, 1)[0] == pytest.approx(np.pi / 2 * np.sqrt(lam), rel=1e-8)


@pytest.mark.parametrize("rank", range(1, 7))
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_best_arrangement_is_best_of_all_subsets(spectrum, rank):
    s = 1.3
    best = rank_limited(spectrum, rank, s)[0]
    found = []
    for chosen in combinations(range(7), rank):
        left_out = np.delete(spectrum, chosen) / s**2
        found.append(lowest(left_out, spectrum[list(chosen)] / s**2))
    loss = min(other for _, other in found)
    assert best.loss == pytest.approx(loss * s**2 / 7, rel=1e-6)
    # The same loss may be reached by arrangements with different k only where they tie.
    rivals = [r for r, other in found if other < loss * (1 + 1e-6)]
    assert min(abs(best.k - (r / (1 + r) if np.isfinite(r) else 1)) for r in rivals) < 1e-3
    assert best.stable


@pytest.mark.parametrize("rank", range(1, 7))
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_every_arrangement_has_its_own_k_loss_and_stability(spectrum, rank):
    ordered = np.sort(spectrum)[::-1]
    listed = rank_limited(spectrum, rank)
    seen = set()
    for one in listed:
        assert one.strongest + one.weakest == rank
        inside = [*range(one.strongest), *range(7 - one.weakest, 7)]
        captured, left_out = ordered[inside], np.delete(ordered, inside)
        seen.add(tuple(left_out))
        r, loss = lowest(left_out, captured)
        assert one.loss == pytest.approx(loss / 7, rel=1e-7)
        if np.isinf(r):
            assert one.k == 1
            r = 1e9
        else:
            assert one.k == pytest.approx(r / (1 + r), abs=1e-5)
            r = one.k / (1 - one.k)
        here, better = cost(r, left_out, captured), False
        for i, j in product(range(len(captured)), range(len(left_out))):
            inner, outer = captured.copy(), left_out.copy()
            inner[i], outer[j] = left_out[j], captured[i]
            better |= bool(cost(r, outer, inner) < here - 1e-9 * r)
        assert one.stable is not better
    assert (
        len(seen)
        == len(listed)
        == len({tuple(np.delete(ordered, [*range(p), *range(7 - rank + p, 7)])) for p in range(rank + 1)})
    )
    assert [one.loss for one in listed] == sorted(one.loss for one in listed)
    assert list(listed[0].others) == [(one.k, one.loss) for one in listed[1:] if one.stable]


def test_the_noise_scale_is_only_a_unit():
    one, other = rank_limited(SPECTRA[0], 3), rank_limited(9 * SPECTRA[0], 3, noise_scale=3.0)
    assert [a.k for a in one] == pytest.approx([b.k for b in other])
    assert [9 * a.loss for a in one] == pytest.approx([b.loss for b in other])


def test_the_order_of_the_spectrum_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(SPECTRA[2])
    assert rank_limited(shuffled, 3) == rank_limited(SPECTRA[2], 3)


@pytest.mark.parametrize("D", [3, 8, 13])
def test_when_each_end_is_best_and_stable(D):
    """Every d and R: the thresholds (π/2)² and (π/4)², and nothing between the ends is stable."""
    bistable = 0
    for d, rank in product(range(1, D), range(1, D)):
        lo, hi = ends(D, d, rank)
        perpendicular, parallel = arrangement(D, d, rank, lo, 0.7), arrangement(D, d, rank, hi, 0.7)
        listed = rank_limited(whitened(D, d, 0.7), rank)
        assert len(listed) == hi - lo + 1
        assert perpendicular.stable is ((D - rank) / (d - lo) < THRESHOLD)
        assert parallel.stable is (rank >= d or (D - rank) / (d - hi) > THRESHOLD)
        assert not any(one.stable for one in listed if one not in (listed[0], perpendicular, parallel))
        first = np.sqrt(D - rank) < np.pi / 4 * (np.sqrt(d - lo) + np.sqrt(d - hi))
        assert (listed[0].k == perpendicular.k) is bool(first)
        if rank >= d:
            assert not first
        if rank >= d and (D - rank) / (d - lo) < THRESHOLD:
            assert listed[0].k == 1
            assert [k for k, _ in listed[0].others] == [perpendicular.k]
            bistable += 1
        if rank > D - d:
            assert perpendicular.k == pytest.approx(1 / (1 + np.sqrt(0.7)))
        if rank >= max(d, D - d):
            assert perpendicular.stable
            assert parallel.stable
        else:
            assert (D - rank) / (d - lo) >= 1 > (np.pi / 4) ** 2
    assert bistable > 0


@pytest.mark.parametrize(("cell", "lam", "first", "k", "loss"), [
    ((64, 32, 4), 1, "empty", 0.578, 1.369), ((64, 32, 16), 1, "empty", 0.551, 1.225), ((64, 32, 28), 1, "empty", 0.515, 1.061),
    ((64, 48, 8), 1, "empty", 0.519, 1.620), ((64, 60, 16), 1, "empty", 0.500, 1.795),
    ((48, 24, 6), 0.25, "empty", 0.726, 0.661), ((40, 30, 20), 0.25, "empty", 0.667, 0.696),
    ((40, 30, 26), 1, "empty", 0.500, 1.328), ((40, 30, 26), 1, "data", 0.652, 1.395),
    ((64, 32, 32), 1, "empty", 0.500, 1.000), ((64, 32, 32), 1, "data", 1, 0.785),
    ((48, 16, 16), 1, "empty", 0.586, 0.943), ((48, 16, 16), 0.25, "empty", 0.739, 0.471),
    ((48, 16, 16), 1, "data", 1, 0.524), ((48, 16, 16), 0.25, "data", 1, 0.262),
    ((48, 16, 16), 4, "data", 1, 1.047), ((48, 16, 16), 4, "empty", 0.414, 1.886),
    ((64, 24, 8), 1, "data", 0.652, 1.132), ((64, 24, 8), 1, "empty", 0.604, 1.146),
    ((64, 16, 16), 1, "data", 1, 0.393), ((48, 8, 12), 0.5, "data", 1, 0.185), ((48, 24, 12), 1, "empty", 0.551, 1.225),
])  # fmt: skip
def test_predicted_cells(cell, lam, first, k, loss):
    found = arrangement(*cell, ends(*cell)[first == "data"], lam)
    assert found.k == pytest.approx(k, abs=5.1e-4)
    assert found.loss == pytest.approx(loss, abs=5.1e-4)
    assert found.stable


def test_which_predicted_cells_have_one_resting_place():
    """(64, 16, 16), (48, 8, 12) let go of the empty directions; the first rows keep them; the rest may do either."""
    for cell, lam in (((64, 16, 16), 1), ((48, 8, 12), 0.5)):
        assert not arrangement(*cell, ends(*cell)[0], lam).stable
    for cell in ((64, 32, 4), (64, 48, 8), (48, 24, 6), (40, 30, 20)):
        assert not arrangement(*cell, ends(*cell)[1]).stable
        assert rank_limited(whitened(cell[0], cell[1]), cell[2])[0].others == ()
    for cell in ((64, 32, 16), (40, 30, 26), (64, 32, 32), (48, 16, 16), (64, 24, 8)):
        assert len(rank_limited(whitened(cell[0], cell[1]), cell[2])[0].others) == 1


def test_a_mixed_spectrum_takes_strong_then_empty_then_weak():
    spectrum = np.concatenate([np.full(8, 4.0), np.full(8, 0.25), np.zeros(32)])
    (settled,) = [one for one in rank_limited(spectrum, 32) if abs(one.k - 0.739) < 2e-3]
    assert (settled.strongest, settled.weakest) == (8, 24)
    assert settled.k == pytest.approx(0.739, abs=5e-4)
    assert settled.stable


def test_a_direction_comes_before_an_empty_one_beyond_half_pi():
    r = 0.8
    for lam in (0.99 * THRESHOLD / r**2, 1.01 * THRESHOLD / r**2):
        data_first = cost(r, [0.0], [lam]) < cost(r, [lam], [0.0])
        assert bool(data_first) is bool(r * np.sqrt(lam) > np.pi / 2)


def test_a_subspace_that_may_turn_with_time_is_another_theory():
    """The R best directions at every t: 0.593 instead of 0.551 at (48, 24, 12), and no trap at (48, 16, 16)."""
    y = np.linspace(-20, 20, 20_001)
    t, rest = expit(y), expit(-y)
    weight = t * rest * (y[1] - y[0])

    def loss(k, D, d, R):
        omega = weight / (k * rest + (1 - k) * t) ** 2
        data, empty = (k * t - (1 - k) * rest) ** 2 / (t**2 + rest**2), (1 - k) ** 2 * np.ones_like(t)
        gained = np.maximum(min(d, R) * data + max(R - d, 0) * empty, min(D - d, R) * empty + max(R - D + d, 0) * data)
        return omega @ (d * k**2 + D * (1 - k) ** 2 - gained) / D

    found = minimize_scalar(lambda k: loss(k, 48, 24, 12), bounds=(0.2, 0.9), method="bounded", options={"xatol": 1e-7})
    assert found.x == pytest.approx(0.593, abs=6e-4)
    falls = [loss(k, 48, 16, 16) for k in expit(np.linspace(0, 8, 60))]
    assert falls == sorted(falls, reverse=True)


@pytest.mark.parametrize("rank", [0, -1, 7, 8])
def test_impossible_ranks(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}; expected a whole number from 1 to 6"):
        rank_limited(SPECTRA[0], rank)


@pytest.mark.parametrize(("spectrum", "s"), [([], 1.0), ([0.0, 0.0], 1.0), ([1.0, -1.0], 1.0), ([1.0, 0.0], 0.0)])
def test_impossible_spectra(spectrum, s):
    with pytest.raises(ValueError, match="expected"):
        rank_limited(spectrum, 1, s)


# Training


def train(spectrum, R, start=0.5, pace=1.0, fixed=None, seed=0, steps=800):
    """Adam on P (D, R), gains G(t) (R, D) and w_k with the exact expected v-loss; trapezoids in the logit of t.

    Returns:
        k, the loss per dimension, and the share of every direction that the subspace of P captures.
    """
    generator, f64 = torch.Generator().manual_seed(seed), torch.float64
    lam, D, step = torch.tensor(spectrum, dtype=f64), len(spectrum), 0.75
    y = torch.arange(-12, 12 + step / 2, step, dtype=f64)[:, None]
    t, rest = torch.sigmoid(y), torch.sigmoid(-y)
    weight, spread = t * rest / (t * rest).sum(), (t**2 * lam + rest**2).sqrt()
    P = (torch.randn(D, R, generator=generator, dtype=f64) / D**0.5).requires_grad_()
    G = (0.01 * torch.randn(len(y), R, D, generator=generator, dtype=f64)).requires_grad_()
    w = torch.logit(torch.as_tensor(start if fixed is None else fixed, dtype=f64), eps=1e-3).requires_grad_(fixed is None)
    optimiser = torch.optim.Adam([{"params": [P, G], "lr": 0.02}, {"params": [w], "lr": 0.02 * pace}])
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 - 2 * i / steps))
    for _ in range(steps):
        a, b = torch.sigmoid(w), torch.sigmoid(-w)
        W = P @ G
        # E(Wz − u)² = Σ_j W_ij² E z_j² − 2 W_ii E u_i z_i + E u_i², for output i
        each = (W * spread[:, None, :]).square().sum(-1) - 2 * torch.diagonal(W, dim1=1, dim2=2) * (a * t * lam - b * rest)
        loss = (weight / (a * rest + b * t) ** 2 * (each + a**2 * lam + b**2)).sum() / D
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    shares = torch.linalg.qr(P.detach())[0].square().sum(1).numpy()
    return torch.sigmoid(w.detach()).numpy(), loss.item(), shares


@pytest.mark.parametrize(("cell", "lam", "first", "options"), [
    ((16, 8, 4), 1.0, "empty", {}),
    ((16, 8, 2), 0.25, "empty", {}),
    ((16, 12, 10), 1.0, "empty", {}),
    ((16, 12, 2), 1.0, "empty", {"pace": 10.0}),
    ((16, 8, 8), 1.0, "empty", {}),
    ((16, 8, 8), 1.0, "data", {"start": 0.95}),
    ((16, 8, 8), 1.0, "data", {"pace": 10.0}),
    ((16, 4, 4), 1.0, "data", {}),
    ((12, 4, 4), 4.0, "data", {}),
    ((12, 4, 4), 4.0, "empty", {"start": 0.3}),
    ((16, 6, 2), 1.0, "data", {"pace": 10.0}),
    ((16, 6, 2), 1.0, "empty", {"pace": 0.1}),
])  # fmt: skip
def test_training_ends_where_predicted(cell, lam, first, options):
    """⊥ first, escape to k → 1, and pairs that differ only in the start, in λ or in the learning rate of k."""
    D, d, _ = cell
    q = ends(*cell)[first == "data"]
    predicted = arrangement(*cell, q, lam)
    assert predicted.stable
    k, loss, shares = train([lam] * d + [0.0] * (D - d), cell[2], **options)
    assert shares[:d].sum() == pytest.approx(q, abs=0.05)
    if predicted.k == 1:  # a limit, neared as (D − R)/r
        assert k > 0.9
        assert loss == pytest.approx(predicted.loss + (D - cell[2]) * (1 - k) / k / D, abs=2e-3)
    else:
        assert k == pytest.approx(predicted.k, abs=2e-3)
        assert loss == pytest.approx(predicted.loss, abs=2e-3)


def test_training_on_a_mixed_spectrum():
    spectrum = [4.0] * 2 + [0.25] * 2 + [0.0] * 8
    (predicted,) = [one for one in rank_limited(spectrum, 8) if (one.strongest, one.weakest) == (2, 6)]
    k, loss, shares = train(spectrum, 8)
    assert [shares[:2].sum(), shares[2:4].sum(), shares[4:].sum()] == pytest.approx([2, 0, 6], abs=0.05)
    assert k == pytest.approx(predicted.k, abs=3e-3)
    assert loss == pytest.approx(predicted.loss, abs=2e-3)


def test_training_with_a_k_per_direction_leaves_empty_directions_alone():
    """Loss (π/2) Σ√λ over captured plus 2 Σ√λ over other data directions, 0.893 at D/d/R = 4/2/1; learned K nears it."""
    spectrum = [1.0] * 8 + [0.0] * 8
    predicted = (np.pi / 2 * 4 + 2 * 4) / 16
    assert predicted == pytest.approx(0.893, abs=5e-4)
    _, fixed, shares = train(spectrum, 4, fixed=k_per_direction(spectrum, space="v"))
    assert shares[:8].sum() == pytest.approx(4, abs=0.05)
    assert fixed == pytest.approx(predicted, abs=2e-3)
    k, learned, shares = train(spectrum, 4, start=[0.5] * 16)
    assert shares[:8].sum() == pytest.approx(4, abs=0.05)
    assert predicted < learned < predicted + 0.03 < rank_limited(spectrum, 4)[0].loss
    assert k[8:].min() > 0.9
