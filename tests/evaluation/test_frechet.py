from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from kdiff.evaluation.frechet import (
    FeatureMoments,
    FeatureStatistics,
    frechet_distance,
    grouped_frechet,
    jackknife_frechet,
    statistics,
)


def gaussian(mean: Tensor, covariance: Tensor) -> FeatureStatistics:
    return FeatureStatistics(mean.double(), covariance.double(), 100)


def random_covariance(size: int, rank: int) -> Tensor:
    factor = torch.randn(size, rank, dtype=torch.float64)
    return factor @ factor.T / rank


def test_statistics_are_mean_and_unbiased_covariance() -> None:
    features = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 7.0]])
    got = statistics(features)
    assert got.count == 3
    assert got.mean.dtype == got.covariance.dtype == torch.float64
    torch.testing.assert_close(got.mean, torch.tensor([2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(got.covariance, torch.tensor([[4.0, 6.0], [6.0, 12.0]], dtype=torch.float64))
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.count = 4  # type: ignore[misc]


def test_covariance_survives_a_large_mean() -> None:
    features = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(statistics(features + 1e6).covariance, statistics(features).covariance, rtol=1e-7, atol=1e-7)


def test_diagonal_covariances() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0, 0.25]), torch.tensor([9.0, 1.0, 2.0, 0.25])
    shift = torch.tensor([1.0, -2.0, 0.0, 3.0])
    got = frechet_distance(gaussian(torch.zeros(4), a.diag()), gaussian(shift, b.diag()))
    assert got == pytest.approx(14 + 4 + 1 + 2, abs=1e-7)


def test_rotation_of_the_features_changes_nothing() -> None:
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    a, b = random_covariance(5, 5), random_covariance(5, 5)
    mean = torch.randn(5, dtype=torch.float64)
    straight = frechet_distance(gaussian(mean, a), gaussian(-mean, b))
    turned = frechet_distance(gaussian(q @ mean, q @ a @ q.T), gaussian(-q @ mean, q @ b @ q.T))
    assert turned == pytest.approx(straight, rel=1e-9)


def test_non_commuting_covariances_of_two_features() -> None:
    """For 2 by 2 matrices tr M^(1/2) = sqrt(tr M + 2 sqrt(det M))."""
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.5], [-0.5, 4.0]], dtype=torch.float64)
    assert not torch.allclose(a @ b, b @ a)
    product = a @ b
    root_trace = math.sqrt(product.trace() + 2 * math.sqrt(product.det()))
    expected = float(a.trace() + b.trace()) - 2 * root_trace
    assert frechet_distance(gaussian(torch.zeros(2), a), gaussian(torch.zeros(2), b)) == pytest.approx(expected)


def test_agrees_with_a_general_matrix_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = random_covariance(8, 12), random_covariance(8, 12)
    expected = float(a.trace() + b.trace()) - 2 * linalg.sqrtm((a @ b).numpy()).trace().real
    assert frechet_distance(gaussian(torch.zeros(8), a), gaussian(torch.zeros(8), b)) == pytest.approx(expected)


def test_singular_covariances() -> None:
    """Rank 3 in 20 dimensions, in the same subspace: the distance is that inside the subspace."""
    basis = torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64)).Q
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    left = gaussian(torch.zeros(20), basis @ a.double().diag() @ basis.T)
    right = gaussian(torch.zeros(20), basis @ b.double().diag() @ basis.T)
    assert frechet_distance(left, right) == pytest.approx(1 + 0 + 4, abs=1e-5)


def test_fewer_samples_than_features() -> None:
    """Orthogonal subspaces share nothing: the distance is the sum of both traces."""
    a, b = torch.zeros(4, 12), torch.zeros(5, 12)
    a[:, :6], b[:, 6:] = torch.randn(4, 6), torch.randn(5, 6)
    a, b = statistics(a - a.mean(0)), statistics(b - b.mean(0))
    assert frechet_distance(a, b) == pytest.approx(float(a.covariance.trace() + b.covariance.trace()), rel=1e-5)


@pytest.mark.parametrize("count", [4, 200])
def test_zero_for_identical_and_symmetric(count: int) -> None:
    a, b = statistics(torch.randn(count, 10)), statistics(torch.randn(count, 10) + 1)
    assert 0 <= frechet_distance(a, a) < 1e-6
    assert frechet_distance(a, b) > 1
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-6)


def test_groups_are_disjoint_consecutive_and_drop_the_rest() -> None:
    features, reference = torch.randn(35, 3), statistics(torch.randn(50, 3))
    distances = [frechet_distance(statistics(features[i : i + 10]), reference) for i in (0, 10, 20)]
    mean, std, groups = grouped_frechet(features, reference, 10)
    assert groups == 3
    assert mean == pytest.approx(sum(distances) / 3)
    assert std == pytest.approx(float(torch.tensor(distances, dtype=torch.float64).std()))


def test_one_group_has_no_spread() -> None:
    features, reference = torch.randn(15, 3), statistics(torch.randn(50, 3))
    mean, std, groups = grouped_frechet(features, reference, 10)
    assert groups == 1
    assert math.isnan(std)
    assert mean == pytest.approx(frechet_distance(statistics(features[:10]), reference))


def test_small_groups_are_biased_upward() -> None:
    """The reason for groups: the same distribution, less data, a larger distance; at equal size, equal within error."""
    features, reference = torch.randn(4000, 4), statistics(torch.randn(100_000, 4))
    small, std, groups = grouped_frechet(features, reference, 50)
    large, _, _ = grouped_frechet(features, reference, 1000)
    assert small > 5 * large
    other, _, _ = grouped_frechet(torch.randn(4000, 4), reference, 50)
    assert abs(small - other) < 5 * std * math.sqrt(2 / groups)


def test_errors() -> None:
    good = statistics(torch.randn(5, 3))
    with pytest.raises(ValueError, match="3 and 4"):
        frechet_distance(good, statistics(torch.randn(5, 4)))
    with pytest.raises(TypeError, match="statistics"):
        frechet_distance(torch.randn(5, 3), good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2"):
        statistics(torch.randn(1, 3))
    with pytest.raises(ValueError, match="flatten"):
        statistics(torch.randn(5, 3, 2))
    with pytest.raises(ValueError, match="1 of 5"):
        statistics(torch.randn(5, 3).index_fill(0, torch.tensor([2]), float("nan")))
    with pytest.raises(ValueError, match="one group"):
        grouped_frechet(torch.randn(9, 3), good, 10)
    with pytest.raises(ValueError, match="group_size"):
        grouped_frechet(torch.randn(9, 3), good, 1)


# Parts of a set, and the interval


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x = torch.randn(50, 4).double() * torch.tensor([1.0, 10.0, 0.1, 1.0]) + 1000
    whole = statistics(x)
    parts = [FeatureMoments().add(part) for part in x.split(17)]
    total = FeatureMoments()
    for part in parts:
        total.merge(part)
    for found, wanted in ((total, whole), (total.without(parts[1]), statistics(torch.cat([x[:17], x[34:]])))):
        assert found.statistics().count == wanted.count
        torch.testing.assert_close(found.statistics().mean, wanted.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.statistics().covariance, wanted.covariance, rtol=1e-9, atol=1e-9)
    assert total.count == 50
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        FeatureMoments().add(x[:1]).statistics()
    with pytest.raises(ValueError, match="not finite"):
        FeatureMoments().add(x / 0).statistics()


@pytest.mark.parametrize("count", [12, 200])
def test_the_jackknife_is_around_the_distance(count: int) -> None:
    """Fewer samples than features, and more: the same figure by another way."""
    reference = statistics(torch.randn(100, 30).double() @ torch.randn(30, 30).double())
    features = torch.randn(count, 30) + 0.3
    value, interval = jackknife_frechet(features, reference)
    assert value == pytest.approx(frechet_distance(statistics(features), reference), rel=1e-6)
    assert interval is not None
    assert 0 <= interval[0] < value < interval[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    rest = torch.cat(order.tensor_split(10)[1:])
    left = [frechet_distance(statistics(features[rest]), reference)]
    left += [
        frechet_distance(
            statistics(features[torch.cat(order.tensor_split(10)[:g] + order.tensor_split(10)[g + 1 :])]), reference
        )
        for g in range(1, 10)
    ]
    error = math.sqrt(9 / 10 * sum((d - sum(left) / 10) ** 2 for d in left))
    assert interval[1] - value == pytest.approx(2.262157 * error, rel=1e-5)


@pytest.mark.parametrize(("size", "count", "shift", "width"), [(3, 400, 0.5, 1.0), (3, 400, 0.0, 1.35), (64, 50, 0.3, 1.15)])
def test_the_interval_is_as_wide_as_the_distance_moves(size: int, count: int, shift: float, width: float) -> None:
    """Its half width over t is the standard deviation over sets of samples of that number; wider where most is bias."""
    reference = statistics(torch.randn(20_000, size))
    found = [jackknife_frechet(torch.randn(count, size) + shift, reference) for _ in range(80)]
    values = torch.tensor([value for value, _ in found])
    errors = torch.tensor([(interval[1] - value) / 2.262157 for value, interval in found])
    assert errors.square().mean().sqrt() == pytest.approx(width * float(values.std()), rel=0.25)
    covered = sum(interval[0] < float(values.mean()) < interval[1] for _, interval in found)
    assert covered >= 68  # of 80; 95 % would be 76


def test_the_jackknife_of_few() -> None:
    reference = statistics(torch.randn(100, 3))
    assert jackknife_frechet(torch.randn(2, 3), reference)[1] is None
    assert jackknife_frechet(torch.randn(3, 3), reference)[1] is not None
    for count in (1, 5):
        with pytest.raises(ValueError, match=r"different numbers of features|at least 2"):
            jackknife_frechet(torch.randn(count, 7 if count > 1 else 3), reference)
    with pytest.raises(ValueError, match="not finite"):
        jackknife_frechet(torch.full((3, 3), float("nan")), reference)


def test_the_distance_is_torch_fidelitys() -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = (torch.randn(count, 40).double() @ torch.randn(40, 40).double() + shift for count, shift in ((300, 0.1), (200, 0.0)))
    theirs = metric_fid.fid_statistics_to_metric(*map(metric_fid.fid_features_to_statistics, (a, b)), verbose=False)
    ours = frechet_distance(statistics(a), statistics(b))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def test_weights_are_repetitions_up_to_the_divisor() -> None:
    features, often = torch.randn(7, 3), torch.tensor([1, 3, 2, 1, 1, 4, 2])
    weights = often.double() / often.sum()
    weighted, repeated = statistics(features, weights), statistics(features.repeat_interleave(often, dim=0))
    total = int(often.sum())
    torch.testing.assert_close(weighted.mean, repeated.mean)
    by_divisor = repeated.covariance * (total - 1) / total / (1 - weights.square().sum())
    torch.testing.assert_close(weighted.covariance, by_divisor)
    equal = statistics(features, torch.full((7,), 1 / 7).double())
    torch.testing.assert_close(equal.covariance, statistics(features).covariance)
