from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdiff.evaluation import exact
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.evaluation.neighbours import nearest_distance
from kdiff.model import KDiff
from kdiff.path import GaussianPath, LinearPath, VariancePreservingPath
from kdiff.targets import FixedK, LearnedK

PATHS = [LinearPath(), VariancePreservingPath()]


def posterior(z: Tensor, t: float, points: Tensor, path: GaussianPath) -> tuple[Tensor, Tensor]:
    """Data and noise estimates from the densities N(z; alpha x_i, sigma^2 I) themselves, one sample at a time."""
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(path.alpha(time)), float(path.sigma(time))
    rows = []
    for sample in z.double().flatten(1):
        distances = (sample - alpha * points.double().flatten(1)).square().sum(dim=1)
        density = torch.exp(-(distances - distances.min()) / (2 * sigma**2))
        rows.append((density[:, None] * points.double().flatten(1)).sum(dim=0) / density.sum())
    x = torch.stack(rows).view(z.shape)
    return x.float(), ((z.double() - alpha * x) / sigma).float()


def data_and_noise(points: Tensor, path: GaussianPath, labels: Tensor | None = None) -> tuple[ExactDenoiser, ExactDenoiser]:
    """Denoisers that return the data estimate (k = 1) and minus the noise estimate (k = 0)."""
    return tuple(ExactDenoiser(points, FixedK(k), path, labels) for k in ("data", "noise"))  # type: ignore[return-value]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("z", [-1.3, 0.0, 0.2])
def test_two_points_on_a_line(t: float, z: float) -> None:
    """For x = +1 and -1 the posterior mean is tanh(alpha z / sigma^2)."""
    data, noise = data_and_noise(torch.tensor([[1.0], [-1.0]]), LinearPath())
    x = math.tanh(t * z / (1 - t) ** 2)
    assert data(torch.tensor([[z]]), torch.tensor([t])).item() == pytest.approx(x, abs=1e-6)
    assert noise(torch.tensor([[z]]), torch.tensor([t])).item() == pytest.approx(-(z - t * x) / (1 - t), abs=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("k", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.97])
def test_against_the_posterior_mean(path: GaussianPath, k: float, t: float) -> None:
    points, z = torch.randn(20, 2, 3), torch.randn(7, 2, 3)
    x, n = posterior(z, t, points, path)
    u = ExactDenoiser(points, FixedK(k), path)(z, torch.full((7,), t))
    assert u.shape == z.shape
    assert u.dtype == torch.float32
    torch.testing.assert_close(u, k * x - (1 - k) * n, rtol=1e-4, atol=1e-5)


def test_each_sample_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And chunks of the batch change nothing."""
    points, z, t = torch.randn(10, 3), torch.randn(8, 3), torch.linspace(0, 1, 8)
    denoiser = ExactDenoiser(points, FixedK(0.4), LinearPath())
    together = denoiser(z, t)
    torch.testing.assert_close(together, torch.cat([denoiser(z[i : i + 1], t[i : i + 1]) for i in range(8)]))
    monkeypatch.setattr(exact, "ELEMENTS", 35)
    torch.testing.assert_close(denoiser(z, t), together)


@pytest.mark.parametrize("sigma", [1e-2, 1e-3, 1e-4])
def test_little_noise_keeps_the_posterior(sigma: float) -> None:
    """Two points 2 sigma apart, 30 from the origin, z in between: the exponent is a difference of numbers of 1e3 / sigma^2."""
    t = torch.tensor([1 - sigma], dtype=torch.float64)
    alpha, offset = float(t), 0.3
    points = torch.full((2, 4), 30.0, dtype=torch.float64)
    points[0, 0] += sigma / alpha
    points[1, 0] -= sigma / alpha
    z = alpha * torch.full((1, 4), 30.0, dtype=torch.float64)
    z[0, 0] += offset * sigma
    x = ExactDenoiser(points, FixedK("data"), LinearPath())(z, t)
    expected = math.tanh(offset)  # in units of sigma / alpha, from the middle
    assert float((x[0, 0] - 30) / (sigma / alpha)) == pytest.approx(expected, abs=1e-4)


def test_float32_samples_with_little_noise_find_their_point() -> None:
    points, sigma = 10 * torch.randn(500, 50), 1e-4
    z = (1 - sigma) * points[:40] + sigma * torch.randn(40, 50)
    data, _ = data_and_noise(points, LinearPath())
    torch.testing.assert_close(data(z, torch.full((40,), 1 - sigma)), points[:40])


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_both_ends_of_time(path: GaussianPath) -> None:
    points, z = torch.randn(9, 4), torch.randn(3, 4)
    data, noise = data_and_noise(points, path)
    torch.testing.assert_close(data(z, torch.zeros(3)), points.mean(0).expand(3, 4))
    torch.testing.assert_close(noise(z, torch.zeros(3)), -z)
    torch.testing.assert_close(data(z, torch.ones(3)), z)
    assert noise(z, torch.ones(3)).eq(0).all()


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_labels_select_points(path: GaussianPath) -> None:
    points, z, t = torch.randn(12, 3), torch.randn(4, 3), torch.full((4,), 0.6)
    labels = torch.arange(12) % 3
    target = FixedK(0.5)
    conditional = ExactDenoiser(points, target, path, labels)
    for label in range(3):
        only = ExactDenoiser(points[labels == label], target, path)(z, t)
        torch.testing.assert_close(conditional(z, t, y=torch.full((4,), label)), only)
    everything = ExactDenoiser(points, target, path)(z, t)
    torch.testing.assert_close(conditional(z, t), everything)
    mixed = conditional(z, t, y=torch.tensor([0, 3, 2, 3]))  # 3 is the null class
    torch.testing.assert_close(mixed[[1, 3]], everything[[1, 3]])
    torch.testing.assert_close(mixed[:1], conditional(z, t, y=torch.zeros(4, dtype=torch.int64))[:1])
    assert not torch.allclose(mixed[0], everything[0])


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_every_target_means_the_same_velocity(path: GaussianPath, k: float) -> None:
    points, z, t = torch.randn(15, 3), torch.randn(6, 3), torch.linspace(0.05, 0.95, 6)
    target, velocity = FixedK(k), FixedK("velocity")
    got = target.to_velocity(ExactDenoiser(points, target, path)(z, t), z, t, path, 0.0)
    expected = velocity.to_velocity(ExactDenoiser(points, velocity, path)(z, t), z, t, path, 0.0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [FixedK("noise"), FixedK("velocity"), FixedK("data"), LearnedK(0.7)], ids=repr)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_samples_without_a_clamp_are_points(path: GaussianPath, target: FixedK | LearnedK) -> None:
    points = torch.randn(10, 1, 2)
    model = KDiff(ExactDenoiser(points, target, path, torch.arange(10) % 2), target, path)
    noise, y = torch.randn(20, 1, 2), torch.arange(20) % 2
    samples = model.sample(noise, steps=50, min_denominator=0.0, last_step="data", y=y)
    assert nearest_distance(samples[::2], points[::2]).max() < 1e-3
    assert nearest_distance(samples[1::2], points[1::2]).max() < 1e-3


def test_the_clamp_alone_leaves_noise_behind() -> None:
    """What the floor is for: k = 1, a perfect network, and the paper's clamp leave 0.05/e = 0.018 of the noise."""
    target = FixedK("data")
    model = KDiff(ExactDenoiser(torch.zeros(1, 200), target, LinearPath()), target, LinearPath())
    samples = model.sample(torch.randn(50, 200), sampler="paper", steps=1000)
    assert float(samples.std()) == pytest.approx(0.05 / math.e, rel=0.05)


def test_the_target_stays_the_models_and_the_points_stay_out_of_checkpoints() -> None:
    target = LearnedK()
    denoiser = ExactDenoiser(torch.randn(5, 2), target, LinearPath(), torch.zeros(5, dtype=torch.int64))
    assert not list(denoiser.parameters())
    assert not denoiser.state_dict()
    assert denoiser.double().points.dtype == torch.float64
    u = denoiser(torch.randn(3, 2), torch.full((3,), 0.5))
    assert torch.autograd.grad(u.sum(), target.w)[0].abs() > 0


def test_half_precision_and_empty_batches() -> None:
    points = torch.randn(5, 2)
    denoiser = ExactDenoiser(points, FixedK(0.5), LinearPath())
    z, t = torch.randn(3, 2).bfloat16(), torch.full((3,), 0.5)
    torch.testing.assert_close(denoiser(z, t), denoiser(z.float(), t))
    assert denoiser(z[:0], t[:0]).shape == (0, 2)


def test_errors() -> None:
    points, target, path = torch.randn(5, 2), FixedK(0.5), LinearPath()
    with pytest.raises(ValueError, match="at least 1"):
        ExactDenoiser(points[:0], target, path)
    with pytest.raises(ValueError, match="labels"):
        ExactDenoiser(points, target, path, torch.zeros(4, dtype=torch.int64))
    denoiser = ExactDenoiser(points, target, path)
    with pytest.raises(ValueError, match="points"):
        denoiser(torch.randn(3, 4), torch.rand(3))
    with pytest.raises(ValueError, match="labels="):
        denoiser(torch.randn(3, 2), torch.rand(3), y=torch.zeros(3, dtype=torch.int64))
