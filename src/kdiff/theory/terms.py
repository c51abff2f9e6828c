"""Two terms of all the theories: the spectrum of data, and a best k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from kdiff.theory.quadrature import Array


@dataclass(frozen=True)
class Optimum:
    """A best k and how it was found; `float(optimum)` is k.

    Attributes:
        k: in [0, 1]; 0 and 1 may be limits that no finite w_k reaches.
        loss: the expected loss at this k, per dimension (as a trainer logs it).
        method: "closed form", or "quadrature" (one-dimensional, to about 1e-8).
        others: further local minima (k, loss), best first; descent may end in them.
    """

    k: float
    loss: float
    method: Literal["closed form", "quadrature"]
    others: Sequence[tuple[float, float]] = field(default=())

    def __float__(self) -> float:
        return self.k


def whitened(D: int, d: int, variance: float = 1.0) -> Array:
    """The spectrum (D,) of data with this variance in d directions and none in the other D − d.

    Raises ValueError unless d and D are whole numbers, 1 ≤ d ≤ D, and the variance is positive.
    """
    whole = all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in (D, d))
    if not whole or not 1 <= d <= D:
        raise ValueError(f"d is {d} and D is {D}; expected whole numbers, 1 ≤ d ≤ D")
    if not variance > 0:
        raise ValueError(f"variance is {variance}; expected a positive number")
    return np.concatenate([np.full(d, float(variance)), np.zeros(D - d)])


def check_spectrum(spectrum: ArrayLike, noise_scale: float = 1.0) -> tuple[Array, Array]:
    """The distinct eigenvalues of a spectrum in units of the noise's variance, descending, and how often each occurs.

    Raises ValueError unless it is a list of finite numbers ≥ 0, one of them positive, and the noise scale is positive.
    """
    values = np.asarray(spectrum, dtype=np.float64)
    if not (np.isfinite(noise_scale) and noise_scale > 0):
        raise ValueError(f"noise_scale is {noise_scale}; expected a positive number")
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"the spectrum has shape {values.shape}; expected (D,) finite eigenvalues, as from whitened(D, d)")
    # Eigenvalues computed from data may be slightly negative because of rounding.
    if values.min() < -1e-9 * max(values.max(), 0.0) or values.max() <= 0:
        raise ValueError(f"eigenvalues run from {values.min():g} to {values.max():g}; expected none negative and one positive")
    distinct, counts = np.unique(values.clip(min=0.0), return_counts=True)
    return distinct[::-1] / noise_scale**2, counts[::-1].astype(np.float64)
