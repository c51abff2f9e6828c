"""Beyond one number: what k would be if every direction, or every time, had its own (derived for this project).

Every direction its own, u = K x − (I − K) n with K diagonal in the data's principal components, λ in units of s²:

    loss on u, linear network, any τ, E t = ½:            k_i = 1/(1 + λ_i)
    loss on v, at û = 0, uniform t:                       k_i/(1 − k_i) = 1/√λ_i,   the loss then 2 Σ √λ_i

the first because each direction is a problem of its own with D = 1 in `kdiff.theory.linear` (3), where C_i g_i drops out; the
second from r λ + 1/r. The best linear denoiser reaches (π/2) Σ √λ_i (`kdiff.theory.capacity`).

With time too, a_i ∝ σ and b_i ∝ α λ_i makes u uncorrelated with z at every t, E u z = a α λ − b σ = 0: û = 0 is then the best
linear (Wiener) denoiser, and the network learns only what that cannot know. Scaled to den = α b + σ a = 1,

    a_i = σ/(α² λ_i + σ²),    b_i = α λ_i/(α² λ_i + σ²),    Var u_i = λ_i/(α² λ_i + σ²)

so that on the linear path the loss on v is the plain loss on u, and no clamp is needed.

One k for all directions, but of time: at û = 0 the loss at t is (k² tr Σ + (1 − k)² s² D)/den², least for

    k(t)/(1 − k(t)) = s² D (1 − t)/(t tr Σ),     logit k(t) = w₀ − w₁ logit t with w₁ = 1                                (5)

for any density of t: the scalar Wiener form, 1 at t = 0 and 0 at t = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from kdiff.theory.linear import Space, check_space, check_spectrum
from kdiff.theory.times import Array, quadrature
from kdiff.timesteps import Timesteps


def k_per_direction(variance: ArrayLike, *, space: Space = "u", noise_scale: float = 1.0) -> Array:
    """k_i for directions of these variances, shaped like them; an empty direction has k = 1.

    "u" holds at any time of training if t has mean ½ (uniform, say), "v" at initialisation for uniform t.

    Raises:
        ValueError: a negative variance, a noise scale that is not positive, or another space than "u" and "v".
    """
    check_space(space, clamp=0.0)
    ratio = _ratio(variance, noise_scale)
    return 1 / (1 + (ratio if space == "u" else np.sqrt(ratio)))


def wiener(t: ArrayLike, variance: ArrayLike, *, noise_scale: float = 1.0) -> tuple[Array, Array]:
    """a and b on the linear path for which û = 0 is the best linear denoiser and den = 1, broadcast over t and variance.

    Both are finite on [0, 1], but for a direction without variance at t = 1.

    Raises:
        ValueError: a time outside [0, 1], a negative variance, or a noise scale that is not positive.
    """
    t, ratio = _times(t), _ratio(variance, noise_scale)
    total = t**2 * ratio + (1 - t) ** 2
    return (1 - t) / total, t * ratio / total


def k_of_time(t: ArrayLike, spectrum: ArrayLike, *, noise_scale: float = 1.0) -> Array:
    """(5): the best scalar k(t) of the loss on v at û = 0, shaped like t."""
    values, counts = check_spectrum(spectrum, noise_scale)
    with np.errstate(divide="ignore"):
        return expit(np.log(counts.sum() / (values @ counts)) - logit(_times(t)))


def initial_loss(
    spectrum: ArrayLike, slope: float, offset: float, *, times: Timesteps | None = None, noise_scale: float = 1.0
) -> float:
    """Loss on v at û = 0, per dimension, of logit k(t) = offset − slope · logit t: slope 0 is a constant k, 1 is (5)."""
    values, counts = check_spectrum(spectrum, noise_scale)
    if not (np.isfinite(slope) and np.isfinite(offset)):
        raise ValueError(f"slope and offset are {slope} and {offset}; expected finite numbers")
    nodes = quadrature(times)
    y = offset - slope * np.log(nodes.t / nodes.rest)
    k, rest = expit(y), expit(-y)
    total, D = float(values @ counts), counts.sum()
    den = k * nodes.rest + rest * nodes.t
    return float(nodes.mean((k**2 * total + rest**2 * D) / den**2)) / D * noise_scale**2


def _times(t: ArrayLike) -> Array:
    times = np.asarray(t, dtype=np.float64)
    if not ((times >= 0) & (times <= 1)).all():
        raise ValueError(f"t runs from {times.min():g} to {times.max():g}; expected times in [0, 1]")
    return times


def _ratio(variance: ArrayLike, noise_scale: float) -> Array:
    """Variances in units of the noise's."""
    values = np.asarray(variance, dtype=np.float64)
    if not (np.isfinite(noise_scale) and noise_scale > 0):
        raise ValueError(f"noise_scale is {noise_scale}; expected a positive number")
    if not ((values >= 0) & np.isfinite(values)).all():
        raise ValueError(f"variances run from {values.min():g} to {values.max():g}; expected finite ones, none negative")
    return values / noise_scale**2
