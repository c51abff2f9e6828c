"""The calibration of a velocity: a gain for every direction and time, which goes to 1 at t = 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff, LinearPath, VariancePreservingPath
from kdiff.path import GaussianPath
from kdiff.targets.bases import KINDS, make_basis
from kdiff.targets.calibration import Calibration

PATHS = (LinearPath(), VariancePreservingPath())


class Wave(nn.Module):
    """A smooth network, with a condition y that shifts its output; every sample on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        shift = 0.0 if y is None else y.to(z).reshape(-1, *[1] * (z.ndim - 1))
        return torch.sin(self.scale * z + shift) * (1 + t.to(z).reshape(-1, *[1] * (z.ndim - 1)))


def calibration(kind: str = "random", shape: tuple[int, ...] = (6,), knots: int = 5, size: float = 0.5) -> Calibration:
    generator = torch.Generator().manual_seed(3)
    basis = make_basis(kind, shape)
    h = size * torch.randn(knots, *basis.coefficient_shape, generator=generator)
    centre = torch.randn(basis.coordinate_shape, generator=generator)
    return Calibration(basis, torch.linspace(0.1, 0.9, knots), h, centre)


def model(path: GaussianPath | None = None, target: float = 0.7, **options: object) -> KDiff:
    return KDiff(Wave(), target, path, **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_data_prediction_gets_the_gain_in_every_direction(kind: str, path: GaussianPath) -> None:
    shape = (2, 4, 4)
    plain, z = model(path), torch.randn(7, *shape)
    found = calibration(kind, shape)
    for t in (0.0, 0.37, torch.rand(7), torch.tensor(1.0)):
        plain.calibration = None
        times = torch.as_tensor(t).expand(7)
        before = found.basis.turn(path.data(z, plain.velocity(z, t), times)) - found.centre
        plain.calibration = found
        after = found.basis.turn(path.data(z, plain.velocity(z, t), times)) - found.centre
        g = found.gain(times, path)
        pad = (1,) * (before.ndim - g.ndim)
        torch.testing.assert_close(after, g.reshape(7, *pad, *g.shape[1:]) * before, atol=3e-5, rtol=1e-4)


def test_h_is_linear_between_knots_and_constant_beyond() -> None:
    found = Calibration(make_basis("channels", (2,)), torch.tensor([0.2, 0.6]), torch.tensor([[1.0, -1.0], [3.0, 5.0]]))
    at = found.at(torch.tensor([0.0, 0.2, 0.3, 0.6, 1.0]))
    expected = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.5, 0.5], [3.0, 5.0], [3.0, 5.0]])
    torch.testing.assert_close(at, expected)
    single = Calibration(make_basis("channels", (2,)), torch.tensor([0.5]), torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(single.at(torch.tensor([0.1, 0.9])), torch.tensor([[1.0, -1.0]]).expand(2, 2))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_gain_goes_to_one_like_sigma(path: GaussianPath) -> None:
    found = calibration()
    for gap in (0.1, 1e-2, 1e-4):
        t = torch.tensor([1 - gap])
        assert (found.gain(t, path) - 1).abs().max() <= 1.001 * found.h.abs().max() * path.sigma(t).item()
    assert torch.equal(found.gain(torch.ones(1), path), torch.ones(1, 6))


@pytest.mark.parametrize("target", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_velocity_is_finite_to_the_end_and_samples_close(path: GaussianPath, target: float) -> None:
    one = model(path, target)
    one.calibration = calibration(size=5.0)
    z = torch.randn(4, 6)
    for t in (0.0, 1e-6, 1 - 2**-24, 1.0):
        assert one.velocity(z, t, min_denominator=0.0).isfinite().all()
    late = path.data(z, one.velocity(z, 1.0), torch.ones(()))
    torch.testing.assert_close(late, z / path.alpha(torch.ones(())))


def test_nothing_changes_without_h() -> None:
    one, z = model(), torch.randn(4, 6)
    before = one.velocity(z, 0.3)
    one.calibration = Calibration(make_basis("random", (6,)), torch.tensor([0.2, 0.8]))
    assert torch.equal(one.velocity(z, 0.3), before)


def test_guidance_and_calibration_may_be_exchanged() -> None:
    """The correction is affine in v, and a guided velocity is an affine combination of two."""
    one = model(null={"y": 3}, null_rate=0.1)
    z, y, found = torch.randn(5, 6), torch.arange(5) % 3, calibration()
    t, scale, null = torch.tensor(0.4), 2.5, torch.full((5,), 3)
    conditional, unconditional = (one.velocity(z, t, y=label) for label in (y, null))
    expected = found(unconditional + scale * (conditional - unconditional), z, t, one.path)
    one.calibration = found
    conditional, unconditional = (one.velocity(z, t, y=label) for label in (y, null))
    torch.testing.assert_close(unconditional + scale * (conditional - unconditional), expected)
    seen = []
    one.sample(z, times=[0.4, 0.5], solver="euler", guidance=scale, y=y, callback=lambda step, t, z: seen.append(z))
    torch.testing.assert_close(seen[1], z + (torch.tensor(0.5) - t) * expected)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_dopri5_and_a_fine_grid_agree(path: GaussianPath) -> None:
    one, noise = model(path), torch.randn(3, 6)
    one.calibration = calibration()
    fine = one.sample(noise, solver="rk4", steps=400, last_step="data", min_denominator=0)
    adaptive = one.sample(noise, solver="dopri5(rtol=1e-6, atol=1e-6)", last_step="data", min_denominator=0)
    torch.testing.assert_close(adaptive, fine, atol=1e-3, rtol=1e-3)


def test_the_divergence_agrees_with_finite_differences() -> None:
    one = model().double()
    one.calibration = calibration().double()
    z, t, step = torch.randn(3, 6, dtype=torch.float64), torch.tensor(0.63, dtype=torch.float64), 1e-5
    from kdiff.sampling.likelihood import exact_divergence

    at = z.clone().requires_grad_()
    found = exact_divergence(one.velocity(at, t), at)
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(6):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[i] = step
        expected += (one.velocity(z + shift, t) - one.velocity(z - shift, t))[:, i].detach() / (2 * step)
    torch.testing.assert_close(found.detach(), expected, atol=1e-6, rtol=1e-6)
    one.calibration = None
    at = z.clone().requires_grad_()
    assert (exact_divergence(one.velocity(at, t), at) - expected).abs().min() > 1e-3  # the calibration counts


def test_the_likelihood_is_that_of_the_calibrated_flow() -> None:
    """For one dimension the density of a flow is that of the noise times the derivative of the map back to the noise."""
    one = model().double()
    one.calibration = Calibration(
        make_basis("channels", (1,)), torch.tensor([0.2, 0.8]), torch.tensor([[0.4], [-0.6]])
    ).double()
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    options = {"steps": 200, "min_denominator": 0.0}
    noise, moved = (one.invert(each, **options) for each in (x, x + 1e-4))
    slope = ((moved - noise) / 1e-4).flatten()
    expected = -noise.flatten().square() / 2 - math.log(2 * math.pi) / 2 + slope.abs().log()
    torch.testing.assert_close(one.log_likelihood(x, **options), expected, atol=2e-3, rtol=2e-3)


def test_half_precision_leaves_the_calibration_in_float32() -> None:
    one, z = model(), torch.randn(5, 6)
    one.calibration = calibration()
    v = one.calibration(z, z, 0.3, one.path)
    one.bfloat16()
    assert {value.dtype for value in one.calibration.buffers()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        found = one.calibration(z, z, 0.3, one.path)
        assert one.velocity(z, 0.3).dtype == torch.float32
    assert torch.equal(found, v)


def test_the_state_is_saved_and_read_back() -> None:
    one, other = calibration(), Calibration(make_basis("random", (6,), seed=5), torch.linspace(0, 1, 5))
    other.load_state_dict(one.state_dict())
    z = torch.randn(4, 6)
    assert torch.equal(one(z, z, 0.3, LinearPath()), other(z, z, 0.3, LinearPath()))


@pytest.mark.parametrize("knots", [[], [0.5, 0.5], [0.6, 0.2], [-0.1, 0.5], [0.5, 1.1]])
def test_knots_that_are_no_times_are_refused(knots: list[float]) -> None:
    with pytest.raises(ValueError, match="increasing times"):
        Calibration(make_basis("channels", (2,)), torch.tensor(knots))


def test_numbers_of_another_shape_or_not_finite_are_refused() -> None:
    basis, knots = make_basis("channels", (2,)), torch.tensor([0.2, 0.8])
    with pytest.raises(ValueError, match=r"h has shape \(2, 3\)"):
        Calibration(basis, knots, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="finite"):
        Calibration(basis, knots, centre=torch.tensor([0.0, math.nan]))
