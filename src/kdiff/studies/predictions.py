"""The k of the linear theory for given data; the estimate and the claims use the same spectrum and the same three numbers.

The spectrum is that of E x xᵀ, not of the covariance: a linear network without bias cannot distinguish mean from variance. At
û = 0, where the loss on v is r E‖x‖² + D/r, no network can.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from kdiff.config.parts import Spec
from kdiff.config.training import TrainConfig
from kdiff.run.build import build, load_dataset
from kdiff.sampling.timesteps import Timesteps
from kdiff.targets import PAPER_CLAMP
from kdiff.theory import Optimum, optimal_k, spectrum
from kdiff.theory.nearest import Rows, take_rows
from kdiff.theory.quadrature import Array

MAX_POINTS = 4096  # a spectrum is computed from no more samples than this, if D is larger too


def moments_of(x: Rows) -> Array:
    """Eigenvalues (D,) of E x xᵀ of samples x (N, *shape), computed from `enough` of them."""
    return spectrum(enough(x), centred=False).clip(min=0.0)


def enough(x: Rows) -> Rows:
    """The samples for a spectrum: all, or 4,096 drawn at random (files are often sorted) if N and D are larger."""
    if len(x) <= MAX_POINTS or spectrum_size(x) <= MAX_POINTS:
        return x
    return take_rows(x, np.sort(np.random.default_rng(0).permutation(len(x))[:MAX_POINTS]))


def spectrum_size(x: Rows) -> int:
    """D, the number of values in one sample."""
    return math.prod(x[0:1].shape[1:])


@lru_cache
def second_moments(data: str) -> Array:
    """`moments_of` the training samples of a data set."""
    return moments_of(load_dataset(TrainConfig(data=data)).part("train")[0])


def linear_theory(moments: Array, times: Timesteps | None = None, noise_scale: float = 1.0) -> dict[str, Optimum]:
    """The best k for the loss on u (the same at start and end of training, if t has mean ½), and for the loss on v at both.

    `moments` (D,) are in normalised units, `times` is the distribution of t, and `noise_scale` the noise's standard deviation.
    """
    return {
        "loss on u": optimal_k(moments, times=times, noise_scale=noise_scale),
        "loss on v, start": optimal_k(moments, space="v", at="initialisation", times=times, noise_scale=noise_scale),
        "loss on v, end": optimal_k(moments, space="v", times=times, noise_scale=noise_scale, clamp=PAPER_CLAMP),
    }


def predictions(data: str, timesteps: Spec = "uniform") -> dict[str, float]:
    """`linear_theory` as numbers, for the training samples of a data set and noise of scale 1."""
    return {name: float(k) for name, k in linear_theory(second_moments(data), build("timesteps", timesteps)).items()}
