"""Paths: their ends, their derivatives, and that (z, v) gives back (x, n)."""

from __future__ import annotations

import pytest
import torch

from kdiff import LinearPath, VariancePreservingPath
from kdiff.path import broadcast_time

PATHS = [LinearPath(), VariancePreservingPath()]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_ends_are_noise_and_data(path):
    x, n = torch.randn(2, 3, 5)
    assert torch.equal(path.interpolate(x, n, 0.0)[0], n)
    assert torch.equal(path.interpolate(x, n, 1.0)[0], x)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_velocity_is_the_derivative(path):
    x, n = torch.randn(2, 4, 3, dtype=torch.float64)
    t, h = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64), 1e-6
    _, v = path.interpolate(x, n, t)
    numeric = (path.interpolate(x, n, t + h)[0] - path.interpolate(x, n, t - h)[0]) / (2 * h)
    torch.testing.assert_close(v, numeric, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 4, 4)])
def test_data_and_noise_come_back(path, shape):
    x, n = torch.randn(2, *shape, dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    z, v = path.interpolate(x, n, t)
    torch.testing.assert_close(path.data(z, v, t), x)
    torch.testing.assert_close(path.noise(z, v, t), n)


def test_variance_is_preserved():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    path = VariancePreservingPath()
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))
    assert path.sigma(torch.tensor(1.0)) == 0


def test_half_precision_data_is_interpolated_in_float32():
    x, n, t = torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16(), torch.rand(2)
    z, v = LinearPath().interpolate(x, n, t)
    assert z.dtype == v.dtype == torch.float32
    torch.testing.assert_close(z, t[:, None] * x.float() + (1 - t[:, None]) * n.float(), atol=0, rtol=0)


def test_time_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"t has shape \(3,\); expected a number, \(2,\)"):
        broadcast_time(torch.rand(3), torch.rand(2, 4, 4))
