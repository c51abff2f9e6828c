"""Finding a calibration: known gains are recovered, and an exact network keeps the identity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff, LinearPath, VariancePreservingPath
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.path import GaussianPath
from kdiff.targets import FixedK, Target
from kdiff.targets.bases import Basis, make_basis
from kdiff.targets.calibration import Calibration
from kdiff.training import calibrating
from kdiff.training.calibrating import (
    directions_of,
    fit_calibration,
    improvements,
    knot_times,
    least_squares,
    predictions,
    squared_errors,
)

LAMBDA = torch.tensor([4.0, 1.0, 0.3, 0.0])


class Gaussian(nn.Module):
    """The exact output for Gaussian data of variances λ and mean m in a basis, with x̂ off by the gain 1 + σ e."""

    def __init__(self, target: Target, path: GaussianPath, basis: Basis, mean: Tensor, error: Tensor, scale: float) -> None:
        super().__init__()
        self.parts, self.scale = (target, path, basis, mean, error), scale
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        target, path, basis, mean, error = self.parts
        a, s = path.alpha(t)[:, None], path.sigma(t)[:, None]
        c = basis.turn(z - path.alpha(t)[:, None] * mean)
        wiener = LAMBDA * a / (a.square() * LAMBDA + (self.scale * s).square())
        x_hat = mean + basis.turn_back((1 + s * error) * (wiener * c + (LAMBDA == 0) * 0.1 * c))
        return target.encode(x_hat, (z - a * x_hat) / s, t)


def gaussian(path: GaussianPath, error: Tensor, scale: float = 1.0) -> tuple[KDiff, Tensor, tuple[Basis, Tensor]]:
    """A model of Gaussian data, its data, and the directions in which it is wrong by known gains."""
    basis, mean, target = make_basis("random", (4,), seed=2), torch.tensor([1.0, -2.0, 0.5, 3.0]), FixedK(0.7)
    network = Gaussian(target, path, basis, mean, error, scale)
    x = mean + basis.turn_back(torch.randn(6000, 4, generator=torch.Generator().manual_seed(1)) * LAMBDA.sqrt())
    return KDiff(network, target, path, noise_scale=scale), x, (basis, basis.turn(mean[None])[0])


@pytest.mark.parametrize(("path", "scale"), [(LinearPath(), 1.0), (VariancePreservingPath(), 1.0), (LinearPath(), 2.0)])
def test_known_gains_are_recovered_and_noise_in_empty_directions_goes(path: GaussianPath, scale: float) -> None:
    error = torch.tensor([-0.5, 0.4, -0.7, 0.0])
    model, x, directions = gaussian(path, error, scale)
    found, gained = fit_calibration(model, x, directions=directions, knots=6, samples=3000)
    assert (gained > 0).all()
    alpha, sigma = path.alpha(found.knots)[:, None], path.sigma(found.knots)[:, None]
    product = found.gain(found.knots, path) * (1 + sigma * error)
    # The variance of a fitted gain is (unexplained variance)/(samples · variance of x̂).
    spread = ((scale * sigma).square() / (LAMBDA * alpha.square()) / 3000).sqrt()
    assert ((product - 1).abs() < 4 * spread + 0.02)[2:, :3].all()
    torch.testing.assert_close(found.gain(found.knots, path)[:, 3], torch.zeros(6), atol=0.02, rtol=0)
    model.calibration = found
    for at, _, data, x_hat in predictions(model, x, None, torch.tensor([0.3, 0.6, 0.9]), 1500, seed=7):
        a, s = (value(torch.tensor([0.3, 0.6, 0.9])[at]) for value in (path.alpha, path.sigma))
        best = (LAMBDA * (scale * s) ** 2 / (a**2 * LAMBDA + (scale * s) ** 2)).sum().item()
        assert (data - x_hat).square().sum(1).mean().item() == pytest.approx(best, rel=0.08)


@pytest.mark.parametrize("seed", range(3))
def test_an_exact_network_keeps_the_identity(seed: int) -> None:
    """Of points in a plane of eight dimensions: non-Gaussian, and empty directions where û is linear in z."""
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed)) @ torch.eye(3, 8)
    target = FixedK(0.8)
    model = KDiff(nn.Linear(1, 1), target)
    model.network = ExactDenoiser(points, target, model.path)
    model.register_parameter("placed", nn.Parameter(torch.zeros(1)))
    found, gained = fit_calibration(model, points, knots=8, samples=256, seed=seed)
    assert torch.equal(found.h, torch.zeros_like(found.h))
    assert gained.abs().max() < 0.02
    z = torch.randn(5, 8)
    model.calibration = None
    before = model.velocity(z, 0.4)
    model.calibration = found
    assert torch.equal(model.velocity(z, 0.4), before)


def test_shrinkage_removes_what_is_noise_and_keeps_what_is_not() -> None:
    """Half of the directions have a gain to be found, and half have none."""
    generator = torch.Generator().manual_seed(0)
    knots, folds, rows, directions = 16, 8, 64, 200
    c = torch.randn(knots, folds, rows, directions, generator=generator)
    true = torch.where(torch.arange(directions) < 100, 0.5, 0.0)
    r = true * c + torch.randn(c.shape, generator=generator)
    a, b = c.square().sum(2), (c * r).sum(2)
    h, raw = least_squares(a, b), b.sum(1) / a.sum(1)
    assert (h[:, :100] - true[:100]).square().mean() < 1.3 * (raw[:, :100] - true[:100]).square().mean()
    assert h[:, 100:].square().mean() < 0.2 * raw[:, 100:].square().mean()
    assert (h.abs() <= raw.abs() + 1e-6).all()


def test_an_empty_direction_keeps_a_gain_of_one() -> None:
    a, b = torch.ones(3, 8, 2), torch.full((3, 8, 2), 0.5)
    a[..., 1], b[..., 1] = 0.0, 0.0
    torch.testing.assert_close(least_squares(a, b), torch.tensor([[0.5, 0.0]]).expand(3, 2))


def test_folds_that_do_not_agree_show() -> None:
    a, error = torch.ones(3, 8, 2), torch.full((3, 8), 4.0, dtype=torch.float64)
    b = torch.full((3, 8, 2), 0.5)
    b[:, 5] = -0.5
    gained = improvements(calibrating.Sums(a, b, error))
    assert gained[5] < 0
    assert (gained[:5] > 0).all()


def test_directions_that_share_a_number_share_their_sums() -> None:
    """One gain for a channel is the least squares over its pixels."""
    shape = (2, 3, 3)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1))

        def forward(self, z: Tensor, t: Tensor) -> Tensor:  # a data prediction that is good late only
            return self.factor * z

    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    model = KDiff(Scaled(), FixedK(1.0))
    basis = make_basis("channels", shape)
    found, _ = fit_calibration(model, x, directions=(basis, torch.zeros(shape)), knots=2, samples=64)
    for at, _, data, x_hat in predictions(model, x, None, found.knots, 64):
        expected = (data * x_hat).sum((0, 2, 3)) / x_hat.square().sum((0, 2, 3))
        torch.testing.assert_close(found.gain(found.knots[at], model.path).flatten(), expected, atol=0.05, rtol=0)


def test_a_calibration_is_not_fitted_on_top_of_itself_and_the_same_seed_gives_the_same() -> None:
    model, x, directions = gaussian(LinearPath(), torch.tensor([-0.5, 0.4, -0.7, 0.0]))
    first, _ = fit_calibration(model, x, directions=directions, knots=3, samples=400)
    model.calibration = first
    again, _ = fit_calibration(model, x, directions=directions, knots=3, samples=400)
    assert torch.equal(first.h, again.h)
    assert model.calibration is first
    other, _ = fit_calibration(model, x, directions=directions, knots=3, samples=400, seed=1)
    assert not torch.equal(first.h, other.h)


def test_a_row_is_always_in_the_same_fold_and_has_its_own_noise() -> None:
    model, x, _ = gaussian(LinearPath(), torch.zeros(4))
    folds: dict[tuple[float, ...], int] = {}
    seen = []
    for at, fold, data, x_hat in predictions(model, x[:40], None, torch.tensor([0.2, 0.7]), 100, folds=8):
        seen += [(at, *row) for row in x_hat.tolist()]
        assert all(folds.setdefault(tuple(row), fold) == fold for row in data.tolist())
    assert len(folds) == 40
    assert len(set(seen)) == 200


def test_labels_reach_the_network_and_the_mode_is_kept() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.seen: list[Tensor] = []

        def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
            assert not self.training
            self.seen.append(torch.stack([z[:, 0], y.to(z)]))
            return 0.5 * z

    network = Asks()
    model = KDiff(network, 1.0).train()
    y = torch.arange(30)
    fit_calibration(model, y[:, None].float() * torch.ones(1, 4), y, knots=1, samples=30)
    z, labels = torch.cat(network.seen, dim=1)
    assert torch.corrcoef(torch.stack([z, labels]))[0, 1] > 0.95
    assert model.training


def test_a_prediction_that_is_not_finite_is_refused() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            return torch.where(t[:, None] > 0.6, torch.nan, z)

    with pytest.raises(ValueError, match=r"at t = 0\.\d+ is not finite"):
        fit_calibration(KDiff(Wrong(), 0.5), torch.randn(20, 3), knots=2, samples=16)


def test_knots_are_denser_late_so_that_an_empty_direction_is_followed() -> None:
    knots = knot_times(32)
    assert (knots.diff() > 0).all()
    assert 0 < knots[0] < 0.03
    assert 0.99 < knots[-1] < 0.997
    found = Calibration(make_basis("channels", (1,)), knots, -1 / (1 - knots)[:, None])
    gain = found.gain(torch.linspace(float(knots[0]), float(knots[-1]), 999), LinearPath())
    assert gain.abs().max() < 0.06  # 0 at the knots


def test_few_rows_are_refused() -> None:
    model, x, directions = gaussian(LinearPath(), torch.zeros(4))
    with pytest.raises(ValueError, match="at least 8"):
        fit_calibration(model, x[:7], directions=directions)


@pytest.mark.parametrize("kind", ["principal", "patch", "dct", "channels"])
def test_the_mean_is_in_the_coordinates_of_the_basis(kind: str) -> None:
    x = torch.randn(50, 2, 4, 4) + torch.arange(32.0).reshape(2, 4, 4)
    basis, centre = directions_of(x, kind)
    torch.testing.assert_close(basis.turn_back(centre[None])[0], x.mean(0), atol=1e-4, rtol=1e-4)


def test_errors_are_measured_with_and_without_the_calibration() -> None:
    model, x, directions = gaussian(LinearPath(), torch.tensor([-0.9, 0.9, -0.9, 0.0]))
    model.calibration, _ = fit_calibration(model, x, directions=directions, knots=6, samples=2000)
    used = model.calibration
    found = squared_errors(model, x[:500], None, times=3, samples=500)
    assert found["t"] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert all(after < 0.97 * before for before, after in zip(found["plain"], found["calibrated"]))
    model.calibration = None
    alone = squared_errors(model, x[:500], None, times=3, samples=500)
    assert alone["plain"] == alone["calibrated"] == found["plain"]
    model.calibration = used
