from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdiff.evaluation import sliced
from kdiff.evaluation.sliced import sliced_wasserstein


def whitened(count: int, size: int) -> Tensor:
    """Samples of mean exactly 0 and second moment exactly the identity."""
    x = torch.randn(count, size, dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / count)).T


def test_one_dimension_by_hand() -> None:
    """Quantile functions of {0, 3} and {0, 1, 5}, on the sixths: 0 0 0 3 3 3 and 0 0 1 1 5 5."""
    a, b = torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [5.0], [0.0]])
    expected = math.sqrt((0 + 0 + 1 + 4 + 4 + 4) / 6)
    assert sliced_wasserstein(a, b, projections=7) == pytest.approx(expected)
    assert sliced_wasserstein(b, a, projections=7) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scaling_whitened_data(scale: float) -> None:
    """In every direction the variance is 1 and the optimal map is x -> scale x: W2 = |scale - 1| in all of them."""
    x = whitened(40, 5)
    assert sliced_wasserstein(x, scale * x, projections=16) == pytest.approx(abs(scale - 1))


def test_shift_gives_its_length_by_the_root_of_the_dimension() -> None:
    x, shift = torch.randn(30, 6), torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0, 3.0])
    got = sliced_wasserstein(x, x + shift, projections=20_000)
    assert got == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=0.03)


def test_two_gaussians() -> None:
    """N(0, I) and N(0, 4 I): |1 - 2| = 1 in every direction."""
    a, b = torch.randn(4000, 3), 2 * torch.randn(6000, 3)
    assert sliced_wasserstein(a, b, projections=64) == pytest.approx(1, abs=0.05)


def test_repeating_samples_changes_nothing() -> None:
    """The same two distributions with counts 12 and 7, 24 and 21, 84 and 84: the merge of quantiles is exact."""
    a, b = torch.randn(12, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64) + 1
    plain = sliced_wasserstein(a, b)
    assert sliced_wasserstein(a.repeat(2, 1), b.repeat(3, 1)) == pytest.approx(plain, rel=1e-12)
    assert sliced_wasserstein(a.repeat(7, 1), b.repeat(12, 1)) == pytest.approx(plain, rel=1e-12)


def test_weights_are_repetitions() -> None:
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(11, 3, dtype=torch.float64) + 1
    often = torch.tensor([1, 4, 2, 1, 3, 5])
    repeated = sliced_wasserstein(a.repeat_interleave(often, dim=0), b)
    assert sliced_wasserstein(a, b, weights=often.double() / often.sum()) == pytest.approx(repeated, rel=1e-9)
    assert sliced_wasserstein(a, b, weights=torch.full((6,), 1 / 6)) == pytest.approx(sliced_wasserstein(a, b), rel=1e-6)


def test_permutation_shape_and_seed() -> None:
    a, b = torch.randn(50, 2, 3), torch.randn(50, 2, 3) + 1
    plain = sliced_wasserstein(a, b)
    assert sliced_wasserstein(a[torch.randperm(50)], b.flatten(1)) == pytest.approx(plain, rel=1e-6)
    assert sliced_wasserstein(a, a[torch.randperm(50)]) == pytest.approx(0, abs=1e-6)
    assert sliced_wasserstein(a, b) == plain
    assert sliced_wasserstein(a, b, seed=1) != plain


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(9, 5, dtype=torch.float64), torch.randn(14, 5, dtype=torch.float64)
    plain = sliced_wasserstein(a, b, projections=33)
    monkeypatch.setattr(sliced, "ELEMENTS", 100)
    assert sliced_wasserstein(a, b, projections=33) == pytest.approx(plain, rel=1e-12)


def test_errors() -> None:
    x = torch.randn(5, 3)
    with pytest.raises(ValueError, match="3 and 4"):
        sliced_wasserstein(x, torch.randn(5, 4))
    with pytest.raises(ValueError, match="second"):
        sliced_wasserstein(x, x[:0])
    with pytest.raises(ValueError, match="first"):
        sliced_wasserstein(x[:, 0], x)
    with pytest.raises(ValueError, match="finite"):
        sliced_wasserstein(x, x / 0)
    with pytest.raises(ValueError, match="projections"):
        sliced_wasserstein(x, x, projections=0)
