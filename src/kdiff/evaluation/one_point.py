"""The one-point distribution of fields: that of the values of a channel, whichever sample and grid point they come from.

    quantiles         q(p) with P(value ≤ q) = p, at `LEVELS`
    distance          ∫₀¹ |Q_a(p) − Q_b(p)| dp / σ_b, the 1-Wasserstein distance in units of the standard deviation of b

A shift of all values by s standard deviations has the distance s. The distribution knows nothing of how values are arranged:
fields whose pixels are shuffled have the distance 0. The spectrum (`kdiff.evaluation.spectrum`) sees that.

Values that are not numbers (NaN) are missing and are left out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

LEVELS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
VALUES = 2**20  # of a channel; from more, this many are drawn at random, with a fixed seed
BINS = 60


def channel_values(x: Tensor, limit: int = VALUES) -> list[np.ndarray]:
    """The values of each channel of x (N, C, *grid), or of each column of x (N, D), as float64 without the missing ones.

    From more than `limit` values of a channel, this many are drawn.
    Raises ValueError for a channel without a value.
    """
    found = []
    for channel in range(x.shape[1]):
        values = x[:, channel].detach().cpu().flatten()
        if len(values) > limit:
            generator = torch.Generator().manual_seed(0)
            values = values[torch.randint(len(values), (limit,), generator=generator)]
        values = values[~values.isnan()].double()
        if not len(values):
            raise ValueError(f"channel {channel} has no value that is not missing")
        found.append(values.numpy())
    return found


def one_point_distance(a: Tensor, b: Tensor) -> list[float]:
    """The distance of the values of each channel of a (N, C, *grid) from those of b, in units of the deviation of b.

    A channel that is constant in b has the distance 0 if it has the same value in a, else infinity.
    Raises ValueError if the numbers of channels differ, or if a channel has no values.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the samples have {a.shape[1]} and {b.shape[1]} channels; expected as many")
    return [wasserstein(ours, theirs) for ours, theirs in zip(channel_values(a), channel_values(b))]


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """The 1-Wasserstein distance of values a and b in units of the standard deviation of b."""
    deviation, distance = float(b.std()), float(wasserstein_distance(a, b))
    return distance / deviation if deviation > 0 else (math.inf if distance else 0.0)


def quantiles(x: Tensor) -> list[list[float]]:
    """The quantiles at `LEVELS` of each channel."""
    return [np.quantile(values, LEVELS).tolist() for values in channel_values(x)]


def histograms(sets: dict[str, Tensor], bins: int = BINS) -> list[dict[str, list[float]]]:
    """For each channel: the edges of equal bins over the values of all sets, and the density of each set in them."""
    values = {name: channel_values(x) for name, x in sets.items()}
    found = []
    for channel in range(len(next(iter(values.values())))):
        here = {name: channels[channel] for name, channels in values.items()}
        low, high = min(each.min() for each in here.values()), max(each.max() for each in here.values())
        edges = np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])
        densities = {name: np.histogram(each, edges, density=True)[0].tolist() for name, each in here.items()}
        found.append({"edges": edges.tolist(), **densities})
    return found
