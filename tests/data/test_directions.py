from __future__ import annotations

import pytest
import torch

from kdiff.data import principal_directions, spiral


def gaussian(count: int, variances: list[float], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples (N, D) with exactly these variances along exactly these orthonormal directions, mean 5."""
    generator = torch.Generator().manual_seed(seed)
    dimension = len(variances)
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))[0]
    white = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / count)).T
    return 5 + (white * torch.tensor(variances).sqrt()) @ basis.T, basis


def test_finds_known_directions_in_order_with_their_largest_entry_positive() -> None:
    x, basis = gaussian(500, [8.0, 4.0, 2.0, 1.0])
    found = principal_directions(x, energy=1.0)
    assert found.shape == (4, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close((found.double().T @ basis).abs(), torch.eye(4, dtype=torch.float64), atol=1e-5, rtol=0)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("energy", "count"), [(0.5, 1), (0.53, 1), (0.54, 2), (0.79, 2), (0.81, 3), (0.94, 4), (1.0, 4)])
def test_takes_as_few_directions_as_hold_the_energy(energy: float, count: int) -> None:
    # Shares of 15: 0.533, 0.800, 0.933, 1.
    x, _ = gaussian(500, [8.0, 4.0, 2.0, 1.0])
    assert principal_directions(x, energy).shape == (4, count)


def test_data_in_a_subspace_give_the_subspace() -> None:
    data = spiral(num_samples=2000, ambient_dim=40)
    found = principal_directions(data.x, energy=1.0)
    assert found.shape == (40, 2)
    torch.testing.assert_close(found.T @ found, torch.eye(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.x @ found @ found.T, data.x, atol=1e-5, rtol=0)


def test_samples_of_any_shape_and_rotation_of_the_sign() -> None:
    x, _ = gaussian(300, [8.0, 4.0, 2.0, 1.0, 0.5, 0.25])
    found = principal_directions(x.reshape(300, 2, 3), energy=0.9)
    assert torch.equal(found, principal_directions(x, energy=0.9))
    torch.testing.assert_close(found, principal_directions(-x, energy=0.9), atol=1e-5, rtol=0)


def test_many_samples_are_thinned_evenly() -> None:
    # The second half varies along another direction: the first samples alone would miss it.
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1000, 2)
    x[:500, 0] = torch.randn(500, generator=generator)
    x[500:, 1] = 3 * torch.randn(500, generator=generator)
    found = principal_directions(x, energy=0.8, max_samples=100)
    torch.testing.assert_close(found, torch.tensor([[0.0], [1.0]]), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(10, 4097), {}, "up to 4096 dimensions, found 4097"),
        (torch.ones(10, 3), {}, "need data that vary"),
        (torch.ones(1, 3), {}, "at least 2 samples"),
        (torch.ones(10), {}, "at least 2 samples"),
        (torch.full((10, 3), torch.nan), {}, "need finite values"),
        (torch.randn(10, 3), {"energy": 0.0}, r"energy must lie in \(0, 1\], found 0.0"),
        (torch.randn(10, 3), {"energy": 1.1}, "found 1.1"),
        (torch.randn(10, 3), {"max_samples": 1}, "max_samples=1"),
    ],
)
def test_refusals(x: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        principal_directions(x, **options)
