"""The best k of a linear network û = W z that does not see t, on the linear path z = t x + (1 − t) n.

For data of covariance Σ (mean zero; else read E x xᵀ, which is exact for a network without bias) with eigenvalues λ_i, and
noise n ~ N(0, s² I), everything decouples in the eigenbasis of Σ. With the target u = k x − (1 − k) n, a gain w and a
weight ω(t), 1 for a loss on u and 1/den², den = k (1 − t) + (1 − k) t, for the loss on v, direction i costs

    ℓ_i(w) = E_t ω [(k − w t)² λ_i + ((1 − k) + w (1 − t))² s²]                                                          (1)
           = (k² λ_i + (1 − k)² s²) E ω  −  c_i²/V_i  +  V_i (w − w_i)²,        w_i = c_i/V_i
    c_i = k λ_i E ω t − (1 − k) s² E ω (1 − t),     V_i = λ_i E ω t² + s² E ω (1 − t)²

(x and n are independent, so there is no E t (1 − t).) Gradient flow dW/dτ = −∇_W L on L = E ω ‖Wz − u‖², from W = 0 with k
held fixed, gives w_i(τ) = w_i (1 − e^(−2 V_i τ)), hence

    ℓ_i(τ) = (k² λ_i + (1 − k)² s²) E ω − (c_i²/V_i) (1 − e_i),    e_i = exp(−4 V_i τ),                                  (2)

with τ = 0 the start (û = 0) and τ = ∞ the best linear network. "The best k" minimises Σ_i ℓ_i.

Loss on u: c_i = k C_i − s² (1 − m) with C_i = λ_i m + s² (1 − m) and m = E t, so (2) is quadratic in k, and

    k* = Σ s² [1 − (1 − m) C_i g_i] / Σ [s² + λ_i − C_i² g_i],      g_i = (1 − e_i)/V_i                                  (3)

cut to [0, 1]. At τ = 0, and for any law of t of mean ½ also at τ = ∞ (E t² − E (1−t)² = 2m − 1, so C_i g_i is the same for
all i), this is D s²/(D s² + tr Σ): the paper's D/(D + d) (arXiv 2601.21419) for data whitened on a
d-dimensional subspace. So the rule sees the total variance in units of the noise's, not a dimension as such.

Loss on v: at û = 0 and uniform t, E ω = 1/(k (1 − k)), so Σ ℓ_i = r tr Σ + D s²/r with r = k/(1 − k), and r* = s √(D/tr Σ).
All else about the loss on v is quadrature (`kdiff.theory.times`) and a search over k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit

from kdiff.theory.times import Array, Nodes, check_times, is_uniform, quadrature
from kdiff.timesteps import Timesteps

Space = Literal["u", "v"]
Moment = float | Literal["initialisation", "convergence"]
# k is looked for up to 1e-13 from 0 and 1; a minimum beyond is reported as 0 or 1.
FARTHEST_LOGIT = 30.0


@dataclass(frozen=True)
class Optimum:
    """A best k and how it was found; `float(optimum)` is k.

    Attributes:
        k: in [0, 1]; 0 and 1 may be limits that no finite w_k reaches.
        loss: expected loss there, per dimension (as a trainer logs it).
        method: "closed form", or "quadrature" (one-dimensional, to about 1e-8).
        others: further local minima (k, loss), best first: descent may end in them.
    """

    k: float
    loss: float
    method: Literal["closed form", "quadrature"]
    others: Sequence[tuple[float, float]] = field(default=())

    def __float__(self) -> float:
        return self.k


def whitened(D: int, d: int, variance: float = 1.0) -> Array:
    """The spectrum (D,) of data with this variance in d directions and none in the other D − d.

    Raises:
        ValueError: unless d and D are whole numbers, 1 ≤ d ≤ D, and the variance is positive.
    """
    whole = all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in (D, d))
    if not whole or not 1 <= d <= D:
        raise ValueError(f"d is {d} and D is {D}; expected whole numbers, 1 ≤ d ≤ D")
    if not variance > 0:
        raise ValueError(f"variance is {variance}; expected a positive number")
    return np.concatenate([np.full(d, float(variance)), np.zeros(D - d)])


def check_spectrum(spectrum: ArrayLike, noise_scale: float = 1.0) -> tuple[Array, Array]:
    """Distinct eigenvalues in units of the noise's variance, descending, and how often each occurs.

    Raises:
        ValueError: not a list of finite numbers ≥ 0, one of them positive, or a noise scale that is not positive.
    """
    values = np.asarray(spectrum, dtype=np.float64)
    if not (np.isfinite(noise_scale) and noise_scale > 0):
        raise ValueError(f"noise_scale is {noise_scale}; expected a positive number")
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"the spectrum has shape {values.shape}; expected (D,) finite eigenvalues, as from whitened(D, d)")
    # Eigenvalues computed from data may be negative by rounding, and by no more.
    if values.min() < -1e-9 * max(values.max(), 0.0) or values.max() <= 0:
        raise ValueError(f"eigenvalues run from {values.min():g} to {values.max():g}; expected none negative and one positive")
    distinct, counts = np.unique(values.clip(min=0.0), return_counts=True)
    return distinct[::-1] / noise_scale**2, counts[::-1].astype(np.float64)


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
    """The k whose linear network has the lowest expected loss.

    `optimal_k(whitened(D, d))` is the paper's D/(D + d).

    Just after the start the loss on v without a clamp can be lowest next to k = 1, infinite as it is there at τ = 0: V_i of (2)
    grows without bound as k → 1, and this flow is infinitely fast there (whitened(2, 1): 0.586 at τ = 0, 1 at τ = 1e-12). Such
    a k says nothing of training, whose steps are finite; with a clamp the best k begins at its value at τ = 0.

    Args:
        spectrum: (D,) eigenvalues of E x xᵀ, the covariance of data of mean 0, in the units that are trained on.
        space: "u", loss on the network's output (closed form), or "v", on the velocity, which k-Diff trains with.
        at: "initialisation" (û = 0), "convergence", or a training time τ ≥ 0 of gradient flow with k held fixed, on the
            loss in the units of data and noise as given.
        times: law of t in training; None is uniform.
        noise_scale: s of n ~ N(0, s² I).
        clamp: min_denominator of the loss on v: den is no smaller (the target velocity is clamped with it).
        rank: instead of all this, a network that sees t and whose output lies in a fixed subspace of this dimension
            (`kdiff.theory.capacity`): loss on v, uniform t, at convergence, without a clamp.

    Raises:
        ValueError: bad values, or a combination that nobody has a theory of.
        TypeError: times that are no law of t, such as its name.
    """
    check_space(space, clamp)
    check_times(times)
    if rank is not None:
        if space != "v" or at != "convergence" or not is_uniform(times) or clamp:
            raise ValueError("with a rank limit there is a theory for space='v', at='convergence', uniform times and no clamp")
        from kdiff.theory.capacity import rank_limited

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

    Arguments as for `optimal_k`, with the same errors, and one for a k outside [0, 1]. Infinite for the loss on v at k = 0 and
    1 at initialisation, under uniform times and without a clamp.
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
    """Refuses a space that is neither "u" nor "v", a clamp outside [0, 0.5), and one for a loss on u."""
    if space not in ("u", "v"):
        raise ValueError(f"space is {space!r}; expected 'u' or 'v'")
    if not 0 <= clamp < 0.5:
        raise ValueError(f"clamp is {clamp}; expected a number in [0, 0.5), the paper's is 0.05")
    if space == "u" and clamp:
        raise ValueError("a loss on u has no denominator to clamp: clamp belongs to space='v'")


def training_time(at: Moment) -> float:
    """τ of a moment: 0 for "initialisation", infinity for "convergence"."""
    tau = {"initialisation": 0.0, "convergence": np.inf}.get(at, at) if isinstance(at, str) else at
    if isinstance(tau, bool) or not isinstance(tau, int | float | np.number) or not tau >= 0:
        raise ValueError(f"at is {at!r}; expected 'initialisation', 'convergence' or a training time ≥ 0")
    return float(tau)


def weighted(k: float, rest: float, space: Space, times: Timesteps | None, clamp: float) -> tuple[Nodes, Array]:
    """Nodes of the law of t and the weight ω at them; `rest` is 1 − k."""
    if space == "u":
        nodes = quadrature(times)
        return nodes, np.ones_like(nodes.t)
    kinks = [(k - clamp) / (k - rest)] if clamp and k != rest else []
    nodes = quadrature(times, kinks)
    return nodes, np.maximum(k * nodes.rest + rest * nodes.t, clamp) ** -2.0


def losses_and_gains(
    k: float, rest: float, values: Array, tau: float, space: Space, times: Timesteps | None, clamp: float
) -> tuple[Array, Array]:
    """Loss (2) and gain w_i(τ) of every direction, for noise of variance 1; `rest` is 1 − k. (λ,) each."""
    if space == "v" and tau == 0 and not clamp and is_uniform(times) and 0 in (k, rest):
        # ∫ 1/t² diverges: before anything is learned an end costs infinitely much, but for directions in which u is 0.
        return np.where(k * values + rest > 0, np.inf, 0.0), np.zeros_like(values)
    nodes, weight = weighted(k, rest, space, times, clamp)
    total, along, across = nodes.mean(weight), nodes.mean(weight * nodes.t), nodes.mean(weight * nodes.rest)
    V = values * nodes.mean(weight * nodes.t**2) + nodes.mean(weight * nodes.rest**2)
    gain = (k * values * along - rest * across) / V * -np.expm1(-2 * V * tau)
    # (1) rather than (2): a sum of squares keeps its digits where k → 1 makes the terms of (2) large and nearly equal. Each
    # square is that of its mean under ω and a variance, E ω (a − w t)² = E ω · (a − w μ)² + w² E ω (t − μ)², so that no
    # direction needs the nodes again; t − μ is taken where it has more digits.
    mean, mean_rest = along / total, across / total
    deviation = np.where(nodes.t < 0.5, nodes.t - mean, mean_rest - nodes.rest)
    variance = nodes.mean(weight * deviation**2)
    signal = total * (k - gain * mean) ** 2 + gain**2 * variance
    noise = total * (rest + gain * mean_rest) ** 2 + gain**2 * variance
    return values * signal + noise, gain


def _closed_form(values: Array, counts: Array, tau: float, times: Timesteps | None, noise_scale: float) -> Optimum:
    """(3), for noise of variance 1."""
    nodes = quadrature(times)
    m = float(nodes.mean(nodes.t))
    V = values * nodes.mean(nodes.t**2) + nodes.mean(nodes.rest**2)
    C, g = values * m + (1 - m), -np.expm1(-4 * V * tau) / V
    k = float(np.clip(counts @ (1 - (1 - m) * C * g) / (counts @ (1 + values - C**2 * g)), 0, 1))
    loss = counts @ (k**2 * values + (1 - k) ** 2 - (k * C - (1 - m)) ** 2 * g)
    # The formula needs two moments of t, which only the uniform law gives in closed form.
    return Optimum(k, float(loss / counts.sum()) * noise_scale**2, "closed form" if is_uniform(times) else "quadrature")


def _search(values: Array, counts: Array, tau: float, times: Timesteps | None, noise_scale: float, clamp: float) -> Optimum:
    """All minima of the loss on v over logit k: a scan, then Brent's method in each valley."""

    def loss(y: float) -> float:
        each, _ = losses_and_gains(float(expit(y)), float(expit(-y)), values, tau, "v", times, clamp)
        return float(each @ counts / counts.sum()) * noise_scale**2

    grid = np.linspace(-FARTHEST_LOGIT, FARTHEST_LOGIT, 241)
    scanned = np.array([loss(y) for y in grid])
    # Where the loss is flat to rounding, as near k = 1 under a clamp, a plateau is one minimum and not many.
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
    # White data are the noise's mirror image: k and 1 − k tie, and rounding is not to choose. Named first is the one near data.
    best = min(value for _, value in found)
    (k, lowest), *others = sorted(found, key=lambda minimum: (float(np.round(minimum[1] / best, 12)), -minimum[0]))
    return Optimum(k, lowest, "quadrature", others)
