"""The best k of a linear network û = W z that does not see t, on the linear path z = t x + (1 − t) n.

The data have mean zero and covariance Σ with eigenvalues λ_i, and the noise is n ~ N(0, s² I). (For another mean, Σ stands for
E x xᵀ, which is exact for a network without bias.) The target is u = k x − (1 − k) n. Everything decouples in the eigenbasis of
Σ. With a gain w, direction i costs

    ℓ_i(w) = E_t ω [(k − w t)² λ_i + ((1 − k) + w (1 − t))² s²]                                                          (1)
           = (k² λ_i + (1 − k)² s²) E ω  −  c_i²/V_i  +  V_i (w − w_i)²,        w_i = c_i/V_i
    c_i = k λ_i E ω t − (1 − k) s² E ω (1 − t),     V_i = λ_i E ω t² + s² E ω (1 − t)²

where the weight ω(t) is 1 for a loss on u, and 1/den² with den = k (1 − t) + (1 − k) t for the loss on v. (x and n are
independent, so there is no term E t (1 − t).) Gradient flow dW/dτ = −∇_W L on L = E ω ‖Wz − u‖², from W = 0 with k held fixed,
gives w_i(τ) = w_i (1 − e^(−2 V_i τ)), hence

    ℓ_i(τ) = (k² λ_i + (1 − k)² s²) E ω − (c_i²/V_i) (1 − e_i),    e_i = exp(−4 V_i τ),                                  (2)

with τ = 0 the start (û = 0) and τ = ∞ the best linear network. "The best k" minimises Σ_i ℓ_i.

Loss on u: c_i = k C_i − s² (1 − m) with C_i = λ_i m + s² (1 − m) and m = E t, so (2) is quadratic in k, and

    k* = Σ s² [1 − (1 − m) C_i g_i] / Σ [s² + λ_i − C_i² g_i],      g_i = (1 − e_i)/V_i                                  (3)

cut to [0, 1]. At τ = 0 this is D s²/(D s² + tr Σ): the paper's D/(D + d) (arXiv 2601.21419) for data whitened on a
d-dimensional subspace. For any law of t with mean ½ it is the same at τ = ∞, because E t² − E (1−t)² = 2m − 1 = 0 makes C_i g_i
equal for all i. So the rule depends on the total variance in units of the noise's variance, not on a dimension as such.

Loss on v: at û = 0 and uniform t, E ω = 1/(k (1 − k)), so Σ ℓ_i = r tr Σ + D s²/r with r = k/(1 − k), and r* = s √(D/tr Σ). All
other results for the loss on v need quadrature (`kdiff.theory.quadrature`) and a search over k.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit

from kdiff.sampling.timesteps import Timesteps
from kdiff.theory.capacity import rank_limited
from kdiff.theory.quadrature import Array, Nodes, check_times, is_uniform, quadrature
from kdiff.theory.terms import Optimum, check_spectrum

Space = Literal["u", "v"]
Moment = float | Literal["initialisation", "convergence"]
# k is searched up to 1e-13 from 0 and 1; a minimum beyond is reported as 0 or 1.
FARTHEST_LOGIT = 30.0


def optimal_k(
    spectrum: ArrayLike,
    *,
    space: Space = "u",
    at: Moment = "convergence",
    times: Timesteps | None = None,
    noise_scale: float = 1.0,
    clamp: float = 0.0,
    rank: int | None = None,
) -> Optimum:
    """The k whose linear network has the lowest expected loss. `optimal_k(whitened(D, d))` is the paper's D/(D + d).

    The loss on v without a clamp is infinite at k = 1 and τ = 0, yet just after the start it can be lowest next to k = 1. The
    reason is that V_i of (2) grows without bound as k → 1, so that gradient flow is infinitely fast there (whitened(2, 1): the
    best k is 0.586 at τ = 0 and 1 at τ = 1e-12). Such a k says nothing about training, whose steps are finite. With a clamp the
    best k starts at its value at τ = 0.

    Args:
        spectrum: (D,) eigenvalues of E x xᵀ, the covariance of data of mean 0, in the units of training.
        space: "u", the loss on the network's output (closed form), or "v", the loss on the velocity, with which k-Diff trains.
        at: "initialisation" (û = 0), "convergence", or a training time τ ≥ 0 of gradient flow with k held fixed, on the loss in
            the units of data and noise as given.
        times: law of t in training; None is uniform.
        noise_scale: s of n ~ N(0, s² I).
        clamp: min_denominator of the loss on v: den is no smaller. The target velocity is clamped in the same way.
        rank: if given, the network is another one: it sees t, and its output lies in a fixed subspace of this dimension
            (`kdiff.theory.capacity`). This theory needs the loss on v, uniform t, convergence and no clamp.

    Raises:
        ValueError: an argument has a bad value, or there is no theory for the combination.
        TypeError: times is not a law of t (but its name, for example).
    """
    check_space(space, clamp)
    check_times(times)
    if rank is not None:
        if space != "v" or at != "convergence" or not is_uniform(times) or clamp:
            raise ValueError("with a rank limit, expected space='v', at='convergence', uniform times and no clamp")
        return rank_limited(spectrum, rank, noise_scale)[0]
    values, counts = check_spectrum(spectrum, noise_scale)
    tau = training_time(at) * noise_scale**2
    if space == "u":
        return _closed_form(values, counts, tau, times, noise_scale)
    if tau == 0 and not clamp and is_uniform(times):
        total, D = float(counts @ values), float(counts.sum())
        k = 1 / (1 + np.sqrt(total / D))
        return Optimum(float(k), float(2 * np.sqrt(total / D)) * noise_scale**2, "closed form")
    return _search(values, counts, tau, times, noise_scale, clamp)


def expected_loss(
    k: ArrayLike,
    spectrum: ArrayLike,
    *,
    space: Space = "u",
    at: Moment = "convergence",
    times: Timesteps | None = None,
    noise_scale: float = 1.0,
    clamp: float = 0.0,
) -> Array:
    """Σ_i ℓ_i / D of (2), shaped like k: the mean over dimensions, as a trainer logs it.

    Arguments and errors as for `optimal_k`; ValueError also if k is outside [0, 1]. The loss on v at k = 0 and k = 1 is
    infinite at initialisation, with uniform times and without a clamp.
    """
    check_space(space, clamp)
    check_times(times)
    values, counts = check_spectrum(spectrum, noise_scale)
    tau, ks = training_time(at) * noise_scale**2, np.asarray(k, dtype=np.float64)
    if not ((ks >= 0) & (ks <= 1)).all():
        raise ValueError(f"k runs from {ks.min():g} to {ks.max():g}; expected numbers in [0, 1]")
    losses = [losses_and_gains(float(one), 1 - float(one), values, tau, space, times, clamp)[0] @ counts for one in ks.ravel()]
    return np.reshape(losses, ks.shape) / counts.sum() * noise_scale**2


def check_space(space: Space, clamp: float) -> None:
    """ValueError for a space that is neither "u" nor "v", a clamp outside [0, 0.5), or a clamp for a loss on u."""
    if space not in ("u", "v"):
        raise ValueError(f"space is {space!r}; expected 'u' or 'v'")
    if not 0 <= clamp < 0.5:
        raise ValueError(f"clamp is {clamp}; expected a number in [0, 0.5), the paper's is 0.05")
    if space == "u" and clamp:
        raise ValueError(f"clamp is {clamp}; expected 0 for space='u', which has no denominator to clamp")


def training_time(at: Moment) -> float:
    """τ of a moment: 0 for "initialisation", infinity for "convergence"."""
    tau = {"initialisation": 0.0, "convergence": np.inf}.get(at, at) if isinstance(at, str) else at
    if isinstance(tau, bool) or not isinstance(tau, int | float | np.number) or not tau >= 0:
        raise ValueError(f"at is {at!r}; expected 'initialisation', 'convergence' or a training time ≥ 0")
    return float(tau)


def weighted(k: float, rest: float, space: Space, times: Timesteps | None, clamp: float) -> tuple[Nodes, Array]:
    """Nodes of the law of t, and the weight ω there; `rest` is 1 − k."""
    if space == "u":
        nodes = quadrature(times)
        return nodes, np.ones_like(nodes.t)
    kinks = [(k - clamp) / (k - rest)] if clamp and k != rest else []
    nodes = quadrature(times, kinks)
    return nodes, np.maximum(k * nodes.rest + rest * nodes.t, clamp) ** -2.0


def losses_and_gains(
    k: float, rest: float, values: Array, tau: float, space: Space, times: Timesteps | None, clamp: float
) -> tuple[Array, Array]:
    """Loss (2) and gain w_i(τ) of every direction, each (λ,), for noise of variance 1; `rest` is 1 − k."""
    if space == "v" and tau == 0 and not clamp and is_uniform(times) and 0 in (k, rest):
        # ∫ 1/t² diverges: at k = 0 and k = 1 the initial loss is infinite, except in directions in which u is 0.
        return np.where(k * values + rest > 0, np.inf, 0.0), np.zeros_like(values)
    nodes, weight = weighted(k, rest, space, times, clamp)
    total, along, across = nodes.mean(weight), nodes.mean(weight * nodes.t), nodes.mean(weight * nodes.rest)
    V = values * nodes.mean(weight * nodes.t**2) + nodes.mean(weight * nodes.rest**2)
    gain = (k * values * along - rest * across) / V * -np.expm1(-2 * V * tau)
    # (1) instead of (2): for k → 1 the terms of (2) are large and nearly equal, while a sum of squares keeps its digits. With
    # μ the mean of t under ω, E ω (a − w t)² = E ω · (a − w μ)² + w² E ω (t − μ)², so no direction needs the nodes again.
    # t − μ is computed from t or from 1 − t, whichever has more digits.
    mean, mean_rest = along / total, across / total
    deviation = np.where(nodes.t < 0.5, nodes.t - mean, mean_rest - nodes.rest)
    variance = nodes.mean(weight * deviation**2)
    signal = total * (k - gain * mean) ** 2 + gain**2 * variance
    noise = total * (rest + gain * mean_rest) ** 2 + gain**2 * variance
    return values * signal + noise, gain


def _closed_form(values: Array, counts: Array, tau: float, times: Timesteps | None, noise_scale: float) -> Optimum:
    """Formula (3), for noise of variance 1."""
    nodes = quadrature(times)
    m = float(nodes.mean(nodes.t))
    V = values * nodes.mean(nodes.t**2) + nodes.mean(nodes.rest**2)
    C, g = values * m + (1 - m), -np.expm1(-4 * V * tau) / V
    k = float(np.clip(counts @ (1 - (1 - m) * C * g) / (counts @ (1 + values - C**2 * g)), 0, 1))
    loss = counts @ (k**2 * values + (1 - k) ** 2 - (k * C - (1 - m)) ** 2 * g)
    # The formula needs two moments of t, which are known in closed form only for the uniform law.
    return Optimum(k, float(loss / counts.sum()) * noise_scale**2, "closed form" if is_uniform(times) else "quadrature")


def _search(values: Array, counts: Array, tau: float, times: Timesteps | None, noise_scale: float, clamp: float) -> Optimum:
    """All minima of the loss on v over logit k: a scan, then Brent's method in each valley."""

    def loss(y: float) -> float:
        each, _ = losses_and_gains(float(expit(y)), float(expit(-y)), values, tau, "v", times, clamp)
        return float(each @ counts / counts.sum()) * noise_scale**2

    grid = np.linspace(-FARTHEST_LOGIT, FARTHEST_LOGIT, 241)
    scanned = np.array([loss(y) for y in grid])
    # Where the loss is flat up to rounding, as near k = 1 with a clamp, a plateau counts as one minimum.
    level = np.round(scanned / scanned.min(), 12)
    found, last = list[tuple[float, float]](), len(grid) - 1
    for plateau in np.split(np.arange(len(grid)), np.flatnonzero(np.diff(level)) + 1):
        first, end = int(plateau[0]), int(plateau[-1])
        if (first > 0 and level[first - 1] < level[first]) or (end < last and level[end + 1] < level[end]):
            continue
        if first == 0 or end == last:
            found.append((0.0 if first == 0 else 1.0, float(scanned[0 if first == 0 else last])))
            continue
        bounds = (grid[first - 1], grid[end + 1])
        valley = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        found.append((float(expit(valley.x)), float(valley.fun)))
    # If the data are white like the noise, k and 1 − k tie. Rounding must not choose between them: the k closer to 1 is first.
    best = min(value for _, value in found)
    (k, lowest), *others = sorted(found, key=lambda minimum: (float(np.round(minimum[1] / best, 12)), -minimum[0]))
    return Optimum(k, lowest, "quadrature", others)
