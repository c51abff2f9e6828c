"""Fréchet distance between two sets of features, each described by its mean and covariance.

    d(A, B) = |mu_A - mu_B|^2 + tr A + tr B - 2 tr (A B)^(1/2)

is the squared 2-Wasserstein distance between the Gaussians N(mu_A, A) and N(mu_B, B) (Dowson & Landau, 1982); on
Inception features it is the FID (Heusel et al., 2017). `A B` is not symmetric, and a general matrix square root of it
turns complex when a covariance is singular. It has the same eigenvalues as the symmetric `A^(1/2) B A^(1/2)`, which are
real and not negative, so the last term is the sum of their square roots.
"""

from __future__ import annotations

import statistics as numbers
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What the Fréchet distance needs of a set of features: float64, on the CPU.

    Attributes:
        mean: (F,).
        covariance: (F, F), unbiased (divided by count - 1).
        count: how many samples it was computed from. A distance means little without it: see `grouped_frechet`.
    """

    mean: Tensor
    covariance: Tensor
    count: int


def statistics(features: Tensor) -> FeatureStatistics:
    """Mean and unbiased covariance (divided by N - 1) of `features` (N, F), in float64 on the CPU.

    Raises:
        ValueError: features that are not (N, F), fewer than 2 samples, or values that are not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features must have shape (samples, features), got {tuple(features.shape)}; use x.flatten(1)")
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(features)}")
    # The CPU: not every accelerator has float64, and a figure should not depend on where it was computed.
    features = features.detach().cpu().double()
    broken = int((~features.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(f"{broken} of {len(features)} samples have features that are not finite (NaN or infinite)")
    mean = features.mean(dim=0)
    centred = features - mean
    return FeatureStatistics(mean, centred.T @ centred / (len(features) - 1), len(features))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance of `a` and `b`, in squared units of the features (not its square root, as is usual for FID).

    Symmetric, 0 for equal statistics, defined for singular covariances. Rounding is about 1e-8 of the largest variance
    for each direction in which a covariance is singular.

    Raises:
        TypeError: something other than `FeatureStatistics`, as features that did not pass through `statistics`.
        ValueError: different numbers of features.
    """
    for value in (a, b):
        if not isinstance(value, FeatureStatistics):
            raise TypeError(f"expected FeatureStatistics, got {type(value).__name__}; use statistics(features)")
    return _distance(_root(a.covariance), a, b)


def grouped_frechet(features: Tensor, reference: FeatureStatistics, group_size: int) -> tuple[float, float, int]:
    """Fréchet distances to `reference` of disjoint groups of `group_size` samples: their (mean, std, number of groups).

    The Fréchet distance of N samples is biased upward: it falls towards its limit about as `limit + c / N`, with a `c`
    that depends on the distribution and the features. So a set of samples may only be compared with a floor (held-out
    data against `reference`) or with another set at the same N. A large set of samples against a small held-out set is
    made comparable by cutting it into groups as large as the held-out set. The std (N - 1; NaN for a single group) is
    the spread of one group's distance; the std of the mean is smaller by sqrt(groups).

    Groups are consecutive samples; what is left over at the end is dropped. Samples that are sorted, by class for
    example, must be shuffled first.

    Args:
        features: (N, F).
        reference: statistics of the data, with F features.
        group_size: samples per group, at least 2.

    Raises:
        ValueError: `group_size` below 2, fewer samples than one group, or what `statistics` and `frechet_distance`
            refuse.
    """
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    groups = len(features) // group_size
    if groups == 0:
        raise ValueError(f"{len(features)} samples do not fill one group of {group_size}; draw more or lower group_size")
    root = _root(reference.covariance)
    chunks = features[: groups * group_size].split(group_size)
    distances = [_distance(root, reference, statistics(chunk)) for chunk in chunks]
    return numbers.fmean(distances), numbers.stdev(distances) if groups > 1 else float("nan"), groups


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # rounding leaves tiny negative eigenvalues


def _distance(root_a: Tensor, a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance, given the square root of `a.covariance`."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"statistics of different features: {a.mean.numel()} and {b.mean.numel()} of them")
    cross = root_a @ b.covariance @ root_a
    values = torch.linalg.eigvalsh((cross + cross.T) / 2)
    shared = values.clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(float(distance), 0.0)
