"""Beyond one number: what k would be if every direction, or every time, had its own k (derived for this project).

First, a k for every direction. u = K x − (I − K) n, with K diagonal in the data's principal components and λ in units of s².

    loss on u, linear network, any τ, E t = ½:            k_i = 1/(1 + λ_i)
    loss on v, at û = 0, uniform t:                       k_i/(1 − k_i) = 1/√λ_i,   with the loss 2 Σ √λ_i

In the first case each direction is a separate problem with D = 1 in `kdiff.theory.optimum` (3), where C_i g_i cancels. The
second minimises r λ + 1/r over r = k/(1 − k). The best linear denoiser reaches (π/2) Σ √λ_i (`kdiff.theory.capacity`).

Second, a target for every direction and time. With a_i ∝ σ and b_i ∝ α λ_i, u is uncorrelated with z at every t:
E u z = a α λ − b σ = 0. Then û = 0 is the best linear (Wiener) denoiser, and the network learns only what a linear denoiser
cannot know. Scaled to den = α b + σ a = 1,

    a_i = σ/(α² λ_i + σ²),    b_i = α λ_i/(α² λ_i + σ²),    Var u_i = λ_i/(α² λ_i + σ²)

so on the linear path the loss on v is the plain loss on u, and no clamp is needed.

Third, one k for all directions that depends on time. At û = 0 the loss at t is (k² tr Σ + (1 − k)² s² D)/den², least for

    k(t)/(1 − k(t)) = s² D (1 − t)/(t tr Σ),     logit k(t) = w₀ − w₁ logit t with w₁ = 1                                (5)

for any density of t. This is the scalar Wiener form, with k = 1 at t = 0 and k = 0 at t = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from kdiff.sampling.timesteps import Timesteps
from kdiff.theory.optimum import Space, check_space
from kdiff.theory.quadrature import Array, quadrature
from kdiff.theory.terms import check_spectrum


def k_per_direction(variance: ArrayLike, *, space: Space = "u", noise_scale: float = 1.0) -> Array:
    """k_i for directions with these variances, shaped like the variances. A direction without variance has k = 1.

    For "u" the result holds at any time of training if t has mean ½ (uniform t, say), for "v" at initialisation and uniform t.
    Raises ValueError if a variance is negative, the noise scale is not positive, or the space is neither "u" nor "v".
    """
    check_space(space, clamp=0.0)
    ratio = _ratio(variance, noise_scale)
    return 1 / (1 + (ratio if space == "u" else np.sqrt(ratio)))


def wiener(t: ArrayLike, variance: ArrayLike, *, noise_scale: float = 1.0) -> tuple[Array, Array]:
    """a and b on the linear path for which û = 0 is the best linear denoiser and den = 1, broadcast over t and variance.

    Both are finite on [0, 1], except in a direction without variance at t = 1. Raises ValueError if a time is outside [0, 1], a
    variance is negative, or the noise scale is not positive.
    """
    t, ratio = _times(t), _ratio(variance, noise_scale)
    total = t**2 * ratio + (1 - t) ** 2
    return (1 - t) / total, t * ratio / total


def k_of_time(t: ArrayLike, spectrum: ArrayLike, *, noise_scale: float = 1.0) -> Array:
    """The best scalar k(t) of the loss on v at û = 0, formula (5), shaped like t."""
    values, counts = check_spectrum(spectrum, noise_scale)
    with np.errstate(divide="ignore"):
        return expit(np.log(counts.sum() / (values @ counts)) - logit(_times(t)))


def initial_loss(
    spectrum: ArrayLike, slope: float, offset: float, *, times: Timesteps | None = None, noise_scale: float = 1.0
) -> float:
    """The loss on v at û = 0, per dimension, for logit k(t) = offset − slope · logit t. Slope 0 is a constant k, 1 is (5)."""
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
    """Variances in units of the noise's variance."""
    values = np.asarray(variance, dtype=np.float64)
    if not (np.isfinite(noise_scale) and noise_scale > 0):
        raise ValueError(f"noise_scale is {noise_scale}; expected a positive number")
    if not ((values >= 0) & np.isfinite(values)).all():
        raise ValueError(f"variances run from {values.min():g} to {values.max():g}; expected finite ones, none negative")
    return values / noise_scale**2
