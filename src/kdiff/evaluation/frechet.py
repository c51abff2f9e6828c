"""Fréchet distance between two sets of features, each described by its mean and covariance.

    d(A, B) = |mu_A - mu_B|^2 + tr A + tr B - 2 tr (A B)^(1/2)

is the squared 2-Wasserstein distance between the Gaussians N(mu_A, A) and N(mu_B, B) (Dowson & Landau, 1982); for Inception
features it is the FID (Heusel et al., 2017). `A B` is not symmetric, and its general matrix square root becomes complex if a
covariance is singular. `A B` has the same eigenvalues as the symmetric `A^(1/2) B A^(1/2)`, which are real and not negative,
so the last term is the sum of their square roots. For `B = Y^T Y / (n - 1)` of n centred samples Y, the eigenvalues that are
not 0 are also those of the n x n matrix `Y A Y^T / (n - 1)`, which is smaller if n is below F.
"""

from __future__ import annotations

import math
import statistics as numbers
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy import stats
from torch import Tensor

GROUPS = 10  # of the jackknife
CHUNK = 4096  # samples that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """The mean and covariance that a Fréchet distance needs of a set of features: float64, on the CPU.

    Attributes:
        mean: (F,).
        covariance: (F, F), unbiased (divided by count - 1).
        count: number of samples; 0 if unknown, as for statistics that another program wrote. Without it a distance means
            little: see `grouped_frechet`.
    """

    mean: Tensor
    covariance: Tensor
    count: int

    @cached_property
    def root(self) -> Tensor:
        """Symmetric square root of the covariance, (F, F); the most expensive part of a distance, kept for the next one."""
        return _root(self.covariance)


def statistics(features: Tensor, weights: Tensor | None = None) -> FeatureStatistics:
    """Mean and unbiased covariance (divided by N - 1) of `features` (N, F), in float64 on the CPU.

    With `weights` w (N,) of sum 1, the mean is weighted, and so is the covariance, which is then divided by 1 - sum w^2. The
    count is N all the same.

    Raises:
        ValueError: features that are not (N, F), fewer than 2 samples, or values that are not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features must have shape (samples, features), got {tuple(features.shape)}; use x.flatten(1)")
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(features)}")
    # On the CPU: not every accelerator has float64, and a figure should not depend on the device.
    features = features.detach().cpu().double()
    broken = int((~features.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(f"{broken} of {len(features)} samples have features that are not finite (NaN or infinite)")
    if weights is not None:
        share = weights.detach().cpu().double()[:, None]
        mean = (share * features).sum(dim=0)
        scatter = (share * (features - mean)).T @ (features - mean)
        return FeatureStatistics(mean, scatter / (1 - share.square().sum()), len(features))
    mean = features.mean(dim=0)
    centred = features - mean
    return FeatureStatistics(mean, centred.T @ centred / (len(features) - 1), len(features))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance of `a` and `b`, in squared units of the features (no square root is taken, as is usual for FID).

    It is symmetric, 0 for equal statistics, and defined for singular covariances. Rounding is about 1e-8 of the largest
    variance for each direction in which a covariance is singular.

    Raises:
        TypeError: anything but `FeatureStatistics`, such as features that did not pass through `statistics`.
        ValueError: different numbers of features.
    """
    for value in (a, b):
        if not isinstance(value, FeatureStatistics):
            raise TypeError(f"expected FeatureStatistics, got {type(value).__name__}; use statistics(features)")
    return _distance(a.root, a, b)


def grouped_frechet(features: Tensor, reference: FeatureStatistics, group_size: int) -> tuple[float, float, int]:
    """Fréchet distances to `reference` of disjoint groups of `group_size` samples: their (mean, std, number of groups).

    The Fréchet distance of N samples is biased upward: it falls towards its limit about as `limit + c / N`, with a `c` that
    depends on the distribution and the features. So a set of samples may only be compared at the same N, with a floor
    (held-out data against `reference`) or with another set. To compare a large set with a small held-out set, the large set is
    cut into groups as large as the held-out set. The std (divided by N - 1; NaN for a single group) is the spread of one
    group's distance; the std of the mean is smaller by sqrt(groups).

    Groups are consecutive samples, and a rest at the end is dropped. Samples that are sorted, for example by class, must be
    shuffled first.

    Args:
        features: (N, F).
        reference: statistics of the data, with F features.
        group_size: samples per group, at least 2.

    Raises:
        ValueError: `group_size` below 2, fewer samples than one group, or an error of `statistics` and `frechet_distance`.
    """
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    groups = len(features) // group_size
    if groups == 0:
        raise ValueError(f"{len(features)} samples do not fill one group of {group_size}; draw more or lower group_size")
    chunks = features[: groups * group_size].split(group_size)
    distances = [_distance(reference.root, reference, statistics(chunk)) for chunk in chunks]
    return numbers.fmean(distances), numbers.stdev(distances) if groups > 1 else float("nan"), groups


def jackknife_frechet(
    features: Tensor, reference: FeatureStatistics, groups: int = GROUPS
) -> tuple[float, tuple[float, float] | None]:
    """Fréchet distance d of `features` to `reference`, and a 95 % confidence interval for it, by the jackknife.

        interval = d +- t s,    s^2 = (G - 1) / G  sum_g (d_g - mean d_g)^2

    where d_g is the distance without the g-th of G random groups of samples (fixed seed), and t is the 97.5 % quantile of
    Student's t with G - 1 degrees of freedom (Efron, 1982; in groups: Shao and Wu, 1989). The interval says how far d would
    move with other samples of the same number from the same model, for a fixed reference. It does not cover the bias: d falls
    as N grows, about as `limit + c / N`, and the interval is around its value at this N, not around the limit. It does not
    cover other training seeds either. Where most of d is bias, as for samples of the data's own distribution, it is too wide
    by a factor of 1.2 to 1.4 (sqrt(2) for a quadratic form); elsewhere its width is right.

    Args:
        features: (N, F).
        reference: statistics of the data, with F features.
        groups: G; at most N groups are made.

    Returns:
        The distance, and the interval, which is None for fewer than 3 samples.

    Raises:
        ValueError: an error of `statistics` or `frechet_distance`.
    """
    if features.ndim != 2 or len(features) < 3:
        return frechet_distance(reference, statistics(features)), None
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    groups = min(groups, len(features))
    value, left = leave_out_frechet([features[rows] for rows in order.tensor_split(groups)], reference)
    error = (groups - 1) / math.sqrt(groups) * numbers.stdev(left)  # stdev divides by G - 1
    margin = float(stats.t.ppf(0.975, groups - 1)) * error
    return value, (max(value - margin, 0.0), value + margin)


def leave_out_frechet(parts: Sequence[Tensor], reference: FeatureStatistics) -> tuple[float, list[float]]:
    """Fréchet distance to `reference` of the features (n, F) of all parts together, and of all but each part in turn.

    Raises:
        ValueError: an error of `statistics` or `frechet_distance`, also of all parts but one.
    """
    parts = list(parts)
    if sum(map(len, parts)) <= parts[0].shape[1]:
        kept = [parts, *(parts[:g] + parts[g + 1 :] for g in range(len(parts)))]
        value, *left = [_distance_of_few(torch.cat(some), reference) for some in kept]
    else:
        moments, total = [FeatureMoments().add(part) for part in parts], FeatureMoments()
        for each in moments:
            total.merge(each)
        sums = [total, *(total.without(each) for each in moments)]
        value, *left = [_distance(reference.root, reference, each.statistics()) for each in sums]
    return value, left


class FeatureMoments:
    """Count, mean and scatter `S = sum (x - mean)(x - mean)^T` of features that come a part at a time, in float64.

    Two sets are merged by `n = n1 + n2, delta = m2 - m1, m = m1 + delta n2 / n, S = S1 + S2 + delta delta^T n1 n2 / n`
    (Chan, Golub and LeVeque, 1983).
    """

    def __init__(self) -> None:
        self.count, self.mean, self.scatter = 0, torch.zeros(1).double(), torch.zeros(1, 1).double()

    def add(self, features: Tensor) -> FeatureMoments:
        """Add `features` (n, F), and return self."""
        for chunk in features.detach().split(CHUNK):
            x = chunk.cpu().double()
            mean = x.mean(dim=0)
            part = FeatureMoments()
            part.count, part.mean, part.scatter = len(x), mean, (x - mean).T @ (x - mean)
            self.merge(part)
        return self

    def merge(self, other: FeatureMoments) -> None:
        """Add the features that another one holds."""
        count = self.count + other.count
        if not other.count:
            return
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / count)
        self.scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        self.count = count

    def without(self, part: FeatureMoments) -> FeatureMoments:
        """The moments without a part that was added before."""
        rest = FeatureMoments()
        rest.count = self.count - part.count
        rest.mean = (self.mean * self.count - part.mean * part.count) / rest.count
        delta = part.mean - rest.mean
        rest.scatter = self.scatter - part.scatter - torch.outer(delta, delta) * (part.count * rest.count / self.count)
        return rest

    def statistics(self) -> FeatureStatistics:
        """Mean and unbiased covariance; fewer than 2 samples, or features that are not finite, raise ValueError."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        if not (self.mean.isfinite().all() and self.scatter.isfinite().all()):
            raise ValueError("some samples have features that are not finite (NaN or infinite)")
        return FeatureStatistics(self.mean, self.scatter / (self.count - 1), self.count)


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # rounding leaves tiny negative eigenvalues


def _distance(root_a: Tensor, a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance, given the square root of `a.covariance`."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"different numbers of features: {a.mean.numel()} and {b.mean.numel()}")
    cross = root_a @ b.covariance @ root_a
    values = torch.linalg.eigvalsh((cross + cross.T) / 2)
    shared = values.clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(float(distance), 0.0)


def _distance_of_few(features: Tensor, reference: FeatureStatistics) -> float:
    """Fréchet distance of fewer samples than features, by eigenvalues of an N x N matrix, without the root of a covariance."""
    if features.shape[1] != reference.mean.numel():
        raise ValueError(f"different numbers of features: {features.shape[1]} and {reference.mean.numel()}")
    x = features.detach().cpu().double()
    if len(x) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(x)}")
    if not x.isfinite().all():
        raise ValueError("some samples have features that are not finite (NaN or infinite)")
    mean = x.mean(dim=0)
    rows = (x - mean) / math.sqrt(len(x) - 1)
    cross = rows @ reference.covariance @ rows.T
    shared = torch.linalg.eigvalsh((cross + cross.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean - reference.mean).square().sum() + rows.square().sum() + reference.covariance.trace() - 2 * shared
    return max(float(distance), 0.0)
