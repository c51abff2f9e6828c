"""How a linear network û = W z learns, mode by mode, while k is held fixed (`kdiff.theory.optimum` has the derivation).

Gradient flow dW/dτ = −∇_W L on L = E ω ‖Wz − u‖² from W = 0 decouples in the eigenbasis of the data's covariance:

    w_i(τ) = w_i (1 − e^(−2 V_i τ)),      ℓ_i(τ) = ℓ_i(∞) + (c_i²/V_i) e^(−4 V_i τ)

For a loss on u with uniform t, V_i = (λ_i + s²)/3. So with s = 1, directions along the data (λ = 1) lose their excess error as
exp(−8τ/3), and empty ones as exp(−4τ/3). Since weak directions are slower, the k whose network is best at τ is

    k*(τ) = Σ B_i / Σ B_i (1 + λ_i),     B_i = ¼ + ¾ e^(−4 (1 + λ_i) τ/3)          (s = 1)

It starts and ends at D/(D + tr Σ) and is larger in between, unless all λ_i are equal. τ belongs to gradient flow of the loss
summed over dimensions; a step of gradient descent with rate η on the loss averaged over D dimensions advances τ by η/D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kdiff.sampling.timesteps import Timesteps
from kdiff.theory.optimum import Space, check_space, losses_and_gains, optimal_k
from kdiff.theory.quadrature import Array
from kdiff.theory.terms import check_spectrum


@dataclass(frozen=True)
class Modes:
    """A linear network at times τ (rows), for each distinct variance of the data (columns).

    Attributes:
        variance: (modes,) the λ_i.
        counts: (modes,) how many directions have this variance.
        gain: (times, modes) w_i(τ).
        loss: (times, modes) ℓ_i(τ), per direction.
        excess: (times, modes) ℓ_i(τ) − ℓ_i(∞).
    """

    variance: Array
    counts: Array
    gain: Array
    loss: Array
    excess: Array


def modes(
    tau: ArrayLike,
    k: float,
    spectrum: ArrayLike,
    *,
    space: Space = "u",
    times: Timesteps | None = None,
    noise_scale: float = 1.0,
    clamp: float = 0.0,
) -> Modes:
    """Gains and losses of every mode at training times τ ≥ 0 (infinity allowed); the other arguments are those of `optimal_k`.

    For data whitened on a subspace the first column is the parallel mode and the second the perpendicular one. Raises
    ValueError if a τ is negative, k is outside [0, 1], or `optimal_k` refuses an argument.
    """
    check_space(space, clamp)
    taus = np.atleast_1d(np.asarray(tau, dtype=np.float64))
    if not taus.size or not (taus >= 0).all():
        found = f"starts at {taus.min():g}" if taus.size else "is empty"
        raise ValueError(f"tau {found}; expected one or more training times ≥ 0")
    if np.ndim(k) or not 0 <= k <= 1:
        raise ValueError(f"k is {k}; expected a number in [0, 1]")
    values, counts = check_spectrum(spectrum, noise_scale)
    # `losses_and_gains` works in units of the noise's variance, so τ is converted too.
    unit = noise_scale**2
    at = [losses_and_gains(k, 1 - k, values, float(one) * unit, space, times, clamp) for one in taus]
    end, _ = losses_and_gains(k, 1 - k, values, np.inf, space, times, clamp)
    losses, gains = np.stack([loss for loss, _ in at]) * unit, np.stack([gain for _, gain in at])
    return Modes(values * unit, counts, gains, losses, losses - end * unit)


def k_over_training(tau: ArrayLike, spectrum: ArrayLike, *, times: Timesteps | None = None, noise_scale: float = 1.0) -> Array:
    """k*(τ) for a loss on u, shaped like τ: the best k at each time, with its own network (not a k that is trained along)."""
    taus = np.asarray(tau, dtype=np.float64)
    found = [float(optimal_k(spectrum, at=float(one), times=times, noise_scale=noise_scale)) for one in taus.ravel()]
    return np.reshape(found, taus.shape)
