"""Expectations over the law of t, by quadrature that stays exact next to the singular ends of the velocity conversion.

    E f(t) = ∫ f(σ(y)) p(y) dy,    t = σ(y) = 1/(1 + e^(−y))

In the logit y of t the ends lie at infinity, and no singularity of 1/(k (1 − t) + (1 − k) t) is closer to the real axis than
iπ, whatever k is. So Gauss–Legendre panels of bounded width reach machine precision. A panel ends where the integrand has a
kink (a clamp). 1 − t is computed as σ(−y), without cancellation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from kdiff.sampling.timesteps import LogitNormal, Timesteps, Uniform

Array = NDArray[np.float64]
PANEL_NODES, PANEL_WEIGHTS = np.polynomial.legendre.leggauss(16)
# For the uniform law ω(t) t (1 − t) falls off as e^(−|y|) beyond |y| = |logit k|, and the search over k ends at |logit k| = 30.
FARTHEST = 72.0


@dataclass(frozen=True)
class Nodes:
    """Quadrature over a law of t: E f(t) ≈ Σ weight f(t). `rest` is 1 − t. All have shape (nodes,)."""

    t: Array
    rest: Array
    weight: Array

    def mean(self, values: Array) -> Array:
        """E of values given at the nodes, over their last axis."""
        return np.asarray(values @ self.weight)


def check_times(times: Timesteps | None) -> None:
    """TypeError for a value that is not a law of t."""
    if times is not None and not isinstance(times, Timesteps):
        raise TypeError(f"times is {times!r}; expected a law of t such as kdiff.LogitNormal(-0.8, 0.8), or None")


def is_uniform(times: Timesteps | None) -> bool:
    """Whether t is uniform. A subclass of `Uniform` does not count, because it may have another quantile function."""
    return times is None or type(times) is Uniform


def quadrature(times: Timesteps | None = None, kinks: Sequence[float] = ()) -> Nodes:
    """Nodes for a law of t (None: uniform); `kinks` are times in (0, 1) at which the integrand is not smooth.

    Laws other than `Uniform` and `LogitNormal` are integrated through their quantile function, as accurately as it is computed.
    """
    breaks = [float(logit(kink)) for kink in kinks if 0 < kink < 1]
    if type(times) is LogitNormal:
        reach = times.std * (12 + 4 * times.std)
        y, width = _panels(times.mean - reach, times.mean + reach, min(3.0, times.std), breaks)
        density = np.exp(-(((y - times.mean) / times.std) ** 2) / 2) / (times.std * np.sqrt(2 * np.pi))
        return Nodes(expit(y), expit(-y), width * density)
    if times is None or is_uniform(times):
        y, width = _panels(-FARTHEST, FARTHEST, 3.0, breaks)
        return Nodes(expit(y), expit(-y), width * expit(y) * expit(-y))
    # The quantile function maps a uniform p to t. 1 − t is only as precise as t.
    y, width = _panels(-36.0, 36.0, 0.5, [])
    t = times.quantile(torch.from_numpy(expit(y))).double().numpy()
    return Nodes(t, 1 - t, width * expit(y) * expit(-y))


def _panels(low: float, high: float, longest: float, breaks: Sequence[float]) -> tuple[Array, Array]:
    """Nodes and weights for ∫ f(y) dy from low to high, in panels no longer than `longest` that end at the breaks."""
    edges = [low, *sorted(point for point in breaks if low < point < high), high]
    starts: list[Array] = []
    for left, right in zip(edges[:-1], edges[1:]):
        parts = np.linspace(left, right, 1 + max(1, int(np.ceil((right - left) / longest))))
        starts.append(np.stack([parts[:-1], parts[1:]]))
    left, right = np.concatenate(starts, axis=1)
    half = (right - left)[:, None] / 2
    return ((left + right)[:, None] / 2 + half * PANEL_NODES).ravel(), (half * PANEL_WEIGHTS).ravel()
