"""Toy data with known geometry: laws in the plane (or in a few dimensions), embedded in R^D.

    c = C^(−1/2) (p − m)            p a point of the law, m and C its mean and covariance in closed form, so cov c = I
    c ← (c + ε g) / √(1 + ε²)       for laws with noise ε, g ~ N(0, I): the covariance stays I
    x = Q c  or  Q [c, bend(c)]     `kdiff.data.manifold`

So with a linear embedding Σ has p eigenvalues 1 and D − p eigenvalues 0: the data are whitened on a subspace, and tr Σ = p.

All laws have these parameters: `num_samples`; `ambient_dim` D; `embedding`, linear or curved (curved needs one dimension more);
`seed` of samples and embedding (the same seed gives the same bytes, and the same embedding for any num_samples); `normalise`,
none, standard or features (see `kdiff.data.normalisation`). All raise ValueError for a parameter that is out of range, and
TypeError for a parameter of another type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from kdiff.data.checks import check_whole
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.manifold import make_manifold


def spiral(
    num_samples: int = 10000,
    ambient_dim: int = 2,
    embedding: str = "linear",
    seed: int = 0,
    noise: float = 0.02,
    normalise: str = "none",
) -> Dataset:
    """Two arms of an Archimedean spiral with 1½ turns each, labels 0 and 1.

    Arm j: p = (−1)^j ρ (cos ωρ, sin ωρ), ω = 3π, ρ = √u, u ~ U(0, 1). Mean 0; with density 2ρ,
    E p₁² = ∫ 2ρ³ cos² ωρ dρ = 1/4 + 3/w², E p₂² = 1/4 − 3/w², E p₁p₂ = 6/w³ − 1/w, with w = 2ω.
    """
    rng = _generator(num_samples, ambient_dim, seed)
    omega = 3 * math.pi
    arm = rng.integers(0, 2, num_samples)
    radius = np.sqrt(rng.random(num_samples))
    signed = np.where(arm == 0, radius, -radius)
    points = np.stack([signed * np.cos(omega * radius), signed * np.sin(omega * radius)], axis=1)
    w = 2 * omega
    mixed = 6 / w**3 - 1 / w
    covariance = np.array([[1 / 4 + 3 / w**2, mixed], [mixed, 1 / 4 - 3 / w**2]])
    plane = _noisy(_whiten(points, np.zeros(2), covariance), noise, rng)
    return _embedded("spiral", plane, arm, 2, ambient_dim, embedding, seed, normalise)


def moons(
    num_samples: int = 10000,
    ambient_dim: int = 2,
    embedding: str = "linear",
    seed: int = 0,
    noise: float = 0.05,
    normalise: str = "none",
) -> Dataset:
    """Two interlocking half circles, labels 0 and 1.

    Class 0: p = (cos a, sin a), class 1: p = (1 − cos a, ½ − sin a), a ~ U(0, π).
    Mean (½, ¼); var p₁ = 3/4, var p₂ = 9/16 − 1/π, cov = 1/8 − 1/π.
    """
    rng = _generator(num_samples, ambient_dim, seed)
    label = rng.integers(0, 2, num_samples)
    angle = math.pi * rng.random(num_samples)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(label[:, None] == 0, circle, np.array([1.0, 0.5]) - circle)
    mixed = 1 / 8 - 1 / math.pi
    covariance = np.array([[3 / 4, mixed], [mixed, 9 / 16 - 1 / math.pi]])
    plane = _noisy(_whiten(points, np.array([0.5, 0.25]), covariance), noise, rng)
    return _embedded("moons", plane, label, 2, ambient_dim, embedding, seed, normalise)


def gaussian_mixture(
    num_samples: int = 10000,
    ambient_dim: int = 2,
    embedding: str = "linear",
    seed: int = 0,
    components: int = 8,
    spread: float = 0.1,
    intrinsic_dim: int = 2,
    normalise: str = "none",
) -> Dataset:
    """K = `components` Gaussians of equal weight on a ring; the label is the component.

    p = (cos 2πj/K, sin 2πj/K, 0, …, 0) + s g, g ~ N(0, I) in `intrinsic_dim` ≥ 2 dimensions, s = `spread`. Dimensions after the
    second hold plain Gaussians. The covariance is diag(½ + s², ½ + s², s², …) for K ≥ 3 and diag(1 + s², s², …) for K = 2. With
    K = 1 there is no ring: the law is N(0, I), the whitened subspace of the linear theory.
    """
    rng = _generator(num_samples, ambient_dim, seed)
    check_whole("components", components, 1)
    check_whole("intrinsic_dim", intrinsic_dim, 2)
    _check_number("spread", spread)
    if spread == 0:
        raise ValueError("spread must be positive, found 0, which makes every component a single point")
    angles = 2 * math.pi * np.arange(components) / components
    means = np.zeros((components, intrinsic_dim))
    if components > 1:
        means[:, 0], means[:, 1] = np.cos(angles), np.sin(angles)
    component = rng.integers(0, components, num_samples)
    points = means[component] + spread * rng.standard_normal((num_samples, intrinsic_dim))
    # This is exact and no estimate: these are the means of the law, and their sum is zero.
    covariance = means.T @ means / components + spread**2 * np.eye(intrinsic_dim)
    plane = _whiten(points, np.zeros(intrinsic_dim), covariance)
    return _embedded("gaussian_mixture", plane, component, components, ambient_dim, embedding, seed, normalise)


def gaussian(
    num_samples: int = 10000,
    ambient_dim: int = 2,
    embedding: str = "linear",
    seed: int = 0,
    intrinsic_dim: int = 2,
    variance: float | Sequence[float] = 1.0,
    normalise: str = "none",
) -> Dataset:
    """N(0, diag(variance)) in `intrinsic_dim` d ≥ 1 dimensions, without labels: the data of the linear theory.

    `variance` is one number for all d directions, or one for each. With d = D and variance 1 the data are white noise.
    """
    rng = _generator(num_samples, ambient_dim, seed)
    check_whole("intrinsic_dim", intrinsic_dim, 1)
    variances = [variance] if isinstance(variance, int | float) else list(variance)
    for value in variances:
        _check_number("variance", value)
    if len(variances) not in (1, intrinsic_dim) or 0 in variances:
        raise ValueError(
            f"variance has {len(variances)} values, {variances.count(0)} of them 0; expected one positive number for all "
            f"directions, or one for each of {intrinsic_dim} directions"
        )
    plane = np.sqrt(variances) * rng.standard_normal((num_samples, intrinsic_dim))
    return _embedded("gaussian", plane, None, None, ambient_dim, embedding, seed, normalise)


def sphere(
    num_samples: int = 10000,
    ambient_dim: int = 3,
    embedding: str = "linear",
    seed: int = 0,
    intrinsic_dim: int = 2,
    normalise: str = "none",
) -> Dataset:
    """The uniform law on a sphere of `intrinsic_dim` d dimensions and radius √(d + 1) in R^(d + 1), without labels.

    c = √(d + 1) g/|g|, g ~ N(0, I) in d + 1 dimensions; by symmetry cov c = I. d = 1 is a circle and d = 2 the usual sphere.
    """
    rng = _generator(num_samples, ambient_dim, seed)
    check_whole("intrinsic_dim", intrinsic_dim, 1)
    radius = math.sqrt(intrinsic_dim + 1)
    directions = rng.standard_normal((num_samples, intrinsic_dim + 1))
    plane = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return _embedded("sphere", plane, None, None, ambient_dim, embedding, seed, normalise, radius)


def _embedded(
    name: str,
    plane: np.ndarray,
    y: np.ndarray | None,
    num_classes: int | None,
    ambient_dim: int,
    embedding: str,
    seed: int,
    normalise: str,
    radius: float | None = None,
) -> Dataset:
    if normalise == "range":
        raise ValueError(f"{name} has no known range of values; normalise must be none, standard or features")
    manifold = make_manifold(plane.shape[1], ambient_dim, embedding, seed, radius)
    raw = manifold.embed(torch.from_numpy(plane))
    return make_dataset(name, raw, y, normalise=normalise, manifold=manifold, num_classes=num_classes)


def _whiten(points: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """C^(−1/2) (p − m) with the symmetric root, which rotates the picture as little as possible."""
    values, vectors = np.linalg.eigh(covariance)
    return (points - mean) @ (vectors / np.sqrt(values)) @ vectors.T


def _noisy(plane: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    _check_number("noise", noise)
    return (plane + noise * rng.standard_normal(plane.shape)) / math.sqrt(1 + noise**2)


def _generator(num_samples: int, ambient_dim: int, seed: int) -> np.random.Generator:
    """The generator of the samples, after a check of the numbers that all toys share."""
    check_whole("num_samples", num_samples, 1)
    check_whole("ambient_dim", ambient_dim, 1)
    check_whole("seed", seed, 0)
    return np.random.default_rng((seed, 0))


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number, found {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, found {value}")
