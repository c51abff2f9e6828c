"""One-point distributions: closed forms, units, missing values, and what the distribution cannot see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from kdiff.evaluation.one_point import LEVELS, channel_values, histograms, one_point_distance, quantiles


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(50, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_shift_is_a_distance_in_standard_deviations(x) -> None:
    assert one_point_distance(x, x) == [0, 0]
    unit = x.double().transpose(0, 1).flatten(1).std(dim=1, correction=0)
    shifted = x + 0.5 * unit.reshape(2, 1, 1).float()
    assert one_point_distance(shifted, x) == pytest.approx([0.5, 0.5], rel=1e-4)
    # Gaussians of deviations s and 1: ∫ |s − 1| |Φ⁻¹(p)| dp = |s − 1| √(2/π).
    assert one_point_distance(1.3 * x, x) == pytest.approx([0.3 * math.sqrt(2 / math.pi)] * 2, rel=0.02)


def test_units_and_order_change_nothing(x) -> None:
    other = torch.rand(30, 2, 16, 16)
    plain = one_point_distance(other, x)
    assert one_point_distance(1e3 * other - 7, 1e3 * x - 7) == pytest.approx(plain, rel=1e-4)
    mixed = other[torch.randperm(30)].flatten(2)[..., torch.randperm(256)].reshape(other.shape)
    assert one_point_distance(mixed, x) == pytest.approx(plain, rel=1e-6)
    assert one_point_distance(other.repeat(2, 1, 1, 1), x) == pytest.approx(plain, rel=1e-6)
    assert one_point_distance(other.flip(1), x.flip(1)) == pytest.approx(plain[::-1], rel=1e-6)


def test_missing_values_are_left_out(x) -> None:
    holes = x.clone()
    holes[:, 0, :3] = math.nan
    assert len(channel_values(holes)[0]) == 50 * 13 * 16
    assert one_point_distance(holes, holes) == [0, 0]
    holes[:, 0] = math.nan
    with pytest.raises(ValueError, match="channel 0 has no value"):
        one_point_distance(holes, x)
    with pytest.raises(ValueError, match="1 and 2 channels"):
        one_point_distance(x[:, :1], x)


def test_large_sets_are_drawn_from_and_constant_channels_stand() -> None:
    many = torch.arange(200_000.0)[:, None]
    drawn = channel_values(many, limit=10_000)[0]
    assert len(drawn) == 10_000
    assert drawn.mean() == pytest.approx(100_000, rel=0.03)
    assert np.array_equal(drawn, channel_values(many, limit=10_000)[0])
    flat = torch.zeros(5, 1, 4)
    assert one_point_distance(flat, flat) == [0]
    assert one_point_distance(flat + 1, flat) == [math.inf]


def test_quantiles_and_histograms(x) -> None:
    found = quantiles(x)
    assert np.abs(np.array(found) - norm.ppf(LEVELS)).max() < 0.4
    each = histograms({"a": x, "b": 2 * x})
    for channel in each:
        widths = np.diff(channel["edges"])
        for name in ("a", "b"):
            assert (np.array(channel[name]) * widths).sum() == pytest.approx(1)
    assert len(histograms({"a": torch.zeros(3, 1)})[0]["a"]) == 1
