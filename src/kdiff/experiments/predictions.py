"""What the linear theory says of k for given data: the same spectrum and the same three numbers wherever they are asked for.

The spectrum is that of E x xᵀ, not of the covariance: a linear network without bias sees no difference between mean and
variance, and at û = 0, where the loss on v is r E‖x‖² + D/r, no network does.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kdiff.components import Spec, build
from kdiff.target import PAPER_CLAMP
from kdiff.theory import Optimum, optimal_k, spectrum
from kdiff.theory.neighbours import Rows, take_rows
from kdiff.theory.times import Array
from kdiff.timesteps import Timesteps
from kdiff.training.build import load_dataset
from kdiff.training.config import TrainConfig

MAX_POINTS = 4096  # samples from which a spectrum is taken, where samples are larger than that


def moments_of(x: Rows) -> Array:
    """Eigenvalues (D,) of E x xᵀ of samples x (N, *shape), of `enough` of them."""
    return spectrum(enough(x), centred=False).clip(min=0.0)


def enough(x: Rows) -> Rows:
    """The samples from which a spectrum is taken: all, or 4,096 drawn at random where D is larger. Files are often sorted."""
    if len(x) <= MAX_POINTS or spectrum_size(x) <= MAX_POINTS:
        return x
    return take_rows(x, np.sort(np.random.default_rng(0).permutation(len(x))[:MAX_POINTS]))


def spectrum_size(x: Rows) -> int:
    """D, the numbers of one sample."""
    size = 1
    for length in x[0:1].shape[1:]:
        size *= length
    return size


@lru_cache
def second_moments(data: str) -> Array:
    """Those of the samples that are trained on."""
    return moments_of(load_dataset(TrainConfig(data=data)).part("train")[0])


def linear_theory(moments: Array, times: Timesteps | None = None, noise_scale: float = 1.0) -> dict[str, Optimum]:
    """The best k under the loss on u (start and end, if t has mean ½), and under that on v at the start and at the end.

    For moments (D,) in the units that are trained on, a law of t, and noise of standard deviation `noise_scale`.
    """
    return {
        "loss on u": optimal_k(moments, times=times, noise_scale=noise_scale),
        "loss on v, start": optimal_k(moments, space="v", at="initialisation", times=times, noise_scale=noise_scale),
        "loss on v, end": optimal_k(moments, space="v", times=times, noise_scale=noise_scale, clamp=PAPER_CLAMP),
    }


def predictions(data: str, timesteps: Spec = "uniform") -> dict[str, float]:
    """The same for the samples of a data set and noise of scale 1, as numbers."""
    return {name: float(k) for name, k in linear_theory(second_moments(data), build("timesteps", timesteps)).items()}
