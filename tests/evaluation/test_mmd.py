"""Maximum mean discrepancy: a closed form between Gaussians, no bias, no unit."""

import math

import pytest
import torch

from kdiff.evaluation import mmd
from kdiff.evaluation.mmd import KernelDistance


def between_gaussians(shift: float, dim: int, median: float) -> float:
    """MMD² of N(0, I) and N(shift e₁, I): E exp(−|δ|²/2σ²) of δ ~ N(m, 2I) is (1 + 2/σ²)^(−D/2) exp(−m²/2(σ² + 2))."""
    squares = [(factor * median) ** 2 for factor in (0.5, 1, 2)]
    near = [(1 + 2 / s) ** (-dim / 2) for s in squares]
    return sum(2 * n * (1 - math.exp(-(shift**2) / (2 * (s + 2)))) for n, s in zip(near, squares)) / 3


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 3.0])
def test_between_gaussians_it_is_the_closed_form(shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4000, 5, generator=generator) for _ in range(2))
    x[:, 0] += shift
    distance = KernelDistance(y)
    # |x − y|² is twice a χ² of 5 degrees of freedom, whose median is 4.3515.
    assert distance.median == pytest.approx(math.sqrt(2 * 4.3515), rel=0.02)
    assert distance(x) == pytest.approx(between_gaussians(shift, 5, distance.median), abs=1.5e-3)


def test_few_samples_are_not_farther() -> None:
    """The mean over many draws of ten samples each is that of all, where biased means would add 1/10 and more."""
    generator = torch.Generator().manual_seed(1)
    distance = KernelDistance(torch.randn(1000, 2, generator=generator))
    x = torch.randn(5000, 2, generator=generator)
    few = torch.tensor([distance(part) for part in x.split(10)])
    assert few.mean().item() == pytest.approx(distance(x), abs=4 * few.std().item() / math.sqrt(len(few)))
    assert (few < 0).any()


def test_it_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(7, 2, 2, generator=generator), torch.randn(9, 2, 2, generator=generator)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        square, median = (a.double() - b.double()).square().sum().item(), distance.median
        return sum(math.exp(-square / (2 * (factor * median) ** 2)) for factor in (0.5, 1, 2)) / 3

    distance = KernelDistance(y)
    expected = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (7 * 6)
    expected += sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (9 * 8)
    expected -= 2 * sum(kernel(a, b) for a in x for b in y) / (7 * 9)
    assert distance(x) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(mmd, "ELEMENTS", 20)  # in many parts, of two rows each
    assert KernelDistance(y)(x) == pytest.approx(expected, rel=1e-9)


def test_units_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(50, 3, generator=generator), torch.randn(60, 3, generator=generator) + 1
    plain = KernelDistance(y)(x)
    assert KernelDistance(1e3 * y - 5)(1e3 * x - 5) == pytest.approx(plain, rel=1e-3)
    assert plain > 0.05


def test_data_with_few_values_have_a_scale() -> None:
    """Nine in ten are the same, and so are most pairs."""
    y = (torch.arange(100) % 10 == 0).float()[:, None].repeat(1, 3)
    distance = KernelDistance(y)
    assert distance.median == pytest.approx(math.sqrt(3))
    assert distance(1 - y) > 10 * abs(distance(y)) > 0


def test_what_cannot_be_compared() -> None:
    y = torch.randn(10, 3)
    with pytest.raises(ValueError, match=r"the reference has shape \(1, 3\)"):
        KernelDistance(y[:1])
    with pytest.raises(ValueError, match="all samples of the reference are the same"):
        KernelDistance(torch.ones(10, 3))
    with pytest.raises(ValueError, match="dimension 2; the reference has 3"):
        KernelDistance(y)(y[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        KernelDistance(y)(y / 0)


def test_weights_count_pairs() -> None:
    """Equal weights change nothing, and a sample of weight 0 is not there."""
    generator = torch.Generator().manual_seed(0)
    x, distance = torch.randn(20, 3, generator=generator) + 1, KernelDistance(torch.randn(50, 3, generator=generator))
    assert distance(x, torch.full((20,), 1 / 20)) == pytest.approx(distance(x), abs=1e-6)
    weights = torch.cat([torch.full((15,), 1 / 15), torch.zeros(5)])
    assert distance(x, weights) == pytest.approx(distance(x[:15]), abs=1e-6)
