"""Ensembles: CRPS against its integral, the Gaussian's closed form and another library; spread, ranks; wrong ensembles."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from kdiff.evaluation.ensemble import channel_scale, crps, crps_gaussian, judge_ensemble, mean_difference, ranks


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integral(members: np.ndarray, truth: float) -> float:
    """∫ (F(s) − [s ≥ y])² ds of the empirical distribution, on a fine grid."""
    grid = np.linspace(min(*members, truth) - 1, max(*members, truth) + 1, 200_001)
    steps = (members[:, None] <= grid).mean(axis=0) - (grid >= truth)
    return float((steps**2).mean() * (grid[-1] - grid[0]))


@pytest.mark.parametrize("truth", [-3.0, 0.2, 5.0])
def test_the_plain_crps_is_the_integral(truth) -> None:
    for count in (2, 3, 10):
        members = normal(count, seed=count)
        found = crps(members, torch.tensor(truth, dtype=torch.float64), fair=False).item()
        assert found == pytest.approx(integral(members.numpy(), truth), abs=1e-4)


def test_the_mean_difference_is_that_of_all_pairs() -> None:
    members = normal(7, 3, 5)
    pairs = (members[:, None] - members[None]).abs().sum(dim=(0, 1)) / (7 * 6)
    torch.testing.assert_close(mean_difference(members), pairs)


def test_the_gaussian_in_closed_form() -> None:
    """Against the integral, and as the limit of a large ensemble."""
    y = torch.tensor([-1.0, 0.3, 4.0], dtype=torch.float64)
    found = crps_gaussian(torch.tensor(0.5), torch.tensor(2.0), y)
    grid = np.linspace(-40, 40, 400_001)
    cumulative = np.array([0.5 * (1 + math.erf((s - 0.5) / 2 / math.sqrt(2))) for s in grid])
    expected = [((cumulative - (grid >= each)) ** 2).sum() * (grid[1] - grid[0]) for each in y.tolist()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    members = 0.5 + 2 * normal(100_000, 1)
    np.testing.assert_allclose(crps(members.expand(-1, 3), y).numpy(), expected, rtol=0.02)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_fair_crps_does_not_depend_on_the_number_of_members(count) -> None:
    truth, members = normal(40_000), normal(count, 40_000, seed=1)
    fair, plain = (crps(members, truth, fair=fair) for fair in (True, False))
    error = 4 * fair.std().item() / 200
    assert fair.mean().item() == pytest.approx(1 / math.sqrt(math.pi), abs=error)  # that of the law itself
    assert plain.mean().item() == pytest.approx((1 + 1 / count) / math.sqrt(math.pi), abs=error)


def test_agreement_with_scoringrules(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # it compiles for seconds when scoringrules is imported
    scoringrules = pytest.importorskip("scoringrules")
    truth, members = normal(50), normal(9, 50, seed=1)
    for fair, name in ((True, "fair"), (True, "pwm"), (False, "nrg"), (False, "qd")):
        theirs = scoringrules.crps_ensemble(truth.numpy(), members.T.numpy(), estimator=name, backend="numpy")
        np.testing.assert_allclose(crps(members, truth, fair).numpy(), theirs, rtol=1e-9, atol=1e-12)
    theirs = scoringrules.crps_normal(truth.numpy(), 0.3, 1.7)
    ours = crps_gaussian(torch.tensor(0.3), torch.tensor(1.7), truth)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5)


def test_invariances() -> None:
    members, truth = normal(6, 20), normal(20, seed=1)
    plain = crps(members, truth)
    torch.testing.assert_close(crps(members[torch.randperm(6)], truth), plain)
    torch.testing.assert_close(crps(3 * members + 1, 3 * truth + 1), 3 * plain)
    torch.testing.assert_close(crps(-members, -truth), plain)
    torch.testing.assert_close(crps(truth.expand(4, 20), truth), torch.zeros(20, dtype=torch.float64))


def judged(spread: float = 1.0, shift: float = 0.0, count: int = 8, conditions: int = 400):
    """Members of deviation `spread` for truths of deviation 1, around means that the conditions give."""
    means = 2 * normal(conditions, 2, 4, 4, seed=5)
    truth = means + normal(conditions, 2, 4, 4, seed=6)
    members = means[:, None] + shift + spread * normal(conditions, count, 2, 4, 4, seed=7)
    return judge_ensemble(members, truth, torch.ones(2)), truth


def test_a_perfect_ensemble_reaches_the_closed_forms() -> None:
    found, _ = judged()
    assert found.crps == pytest.approx(1 / math.sqrt(math.pi), rel=0.02)
    assert found.own_floor == pytest.approx(found.crps, rel=0.02)
    assert found.plain == pytest.approx(found.crps * (1 + 1 / 8), rel=0.02)
    assert found.error == pytest.approx(math.sqrt(1 + 1 / 8), rel=0.02)
    assert found.spread == pytest.approx(1, rel=0.02)
    assert found.ratio == pytest.approx(1, rel=0.02)
    assert found.unevenness < 0.02
    assert sum(found.ranks) == pytest.approx(1)
    assert len(found.ranks) == 9
    assert found.channels == pytest.approx([found.crps] * 2, rel=0.03)
    # 32 independent entries of each of 400 conditions.
    assert found.standard_error == pytest.approx(0.5 / math.sqrt(400 * 32), rel=0.5)
    assert (found.members, found.conditions) == (8, 400)


def test_wrong_ensembles_are_ranked_worse_and_the_figures_say_how() -> None:
    good, truth = judged()
    narrow, wide, shifted = judged(0.5)[0], judged(2.0)[0], judged(shift=1.0)[0]
    for wrong in (narrow, wide, shifted):
        assert wrong.crps > 1.05 * good.crps
        assert wrong.unevenness > 5 * good.unevenness
    assert narrow.ratio < 0.6
    assert wide.ratio > 1.5
    assert narrow.own_floor < 0.6 * narrow.crps
    assert wide.own_floor > 1.2 * wide.crps
    assert narrow.ranks[0] > 2 / 9 > 2 * wide.ranks[0]
    assert shifted.ranks[0] > 2 * shifted.ranks[-1]
    # The climatology is honest about what it does not know, and worse than an ensemble that knows the condition.
    climate = judge_ensemble(truth[torch.randperm(400)][:100].expand(400, -1, -1, -1, -1), truth, torch.ones(2))
    assert climate.crps > 1.8 * good.crps
    assert climate.ratio == pytest.approx(1, rel=0.05)


def test_a_deterministic_ensemble_scores_its_absolute_error() -> None:
    truth = normal(30, 3)
    found = judge_ensemble(torch.zeros(30, 4, 3), truth, torch.ones(3))
    assert found.crps == pytest.approx(truth.abs().mean().item())
    assert found.plain == found.crps
    assert (found.ratio, found.own_floor) == (0, 0)
    assert math.isnan(judge_ensemble(truth[:, None].expand(-1, 4, -1), truth).ratio)


def test_units_of_a_channel_are_those_of_the_truth() -> None:
    members, truth = normal(40, 5, 2, 6), normal(40, 2, 6, seed=1)
    factor = torch.tensor([1.0, 1e4], dtype=torch.float64)[:, None]
    plain, scaled = judge_ensemble(members, truth), judge_ensemble(members * factor, truth * factor)
    for name in ("crps", "error", "spread", "ratio", "unevenness"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name))
    assert scaled.channels == pytest.approx([plain.channels[0], 1e4 * plain.channels[1]])
    torch.testing.assert_close(channel_scale(truth), truth.transpose(0, 1).flatten(1).std(dim=1, correction=0))
    assert channel_scale(torch.ones(5, 1, 3)).tolist() == [1]


def test_missing_truth_is_left_out() -> None:
    members, truth = normal(40, 5, 2, 6), normal(40, 2, 6, seed=1)
    holes = truth.clone()
    holes[:, :, 4:] = math.nan
    holes[7] = math.nan
    kept = torch.arange(40) != 7
    one, other = (
        judge_ensemble(members, holes, torch.ones(2)),
        judge_ensemble(members[kept][..., :4], truth[kept][..., :4], torch.ones(2)),
    )
    for name in ("crps", "plain", "standard_error", "error", "spread", "ranks", "channels", "conditions"):
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name


def test_the_result_does_not_depend_on_the_chunks(monkeypatch) -> None:
    members, truth = normal(40, 5, 2, 6), normal(40, 2, 6, seed=1)
    whole = judge_ensemble(members, truth)
    monkeypatch.setattr("kdiff.evaluation.ensemble.VALUES", 150)
    assert judge_ensemble(members, truth).crps == pytest.approx(whole.crps)
    assert judge_ensemble(members, truth).ranks == pytest.approx(whole.ranks)


def test_equal_values_are_ranked_at_random() -> None:
    """Dry days: truth and members are 0 together, and no rank is favoured."""
    found = torch.bincount(ranks(torch.zeros(4, 50_000), torch.zeros(50_000)), minlength=5) / 50_000
    assert (found - 0.2).abs().max() < 0.01
    assert ranks(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2.5])).tolist() == [2]
    mixed = ranks(torch.tensor([[1.0], [2.0], [2.0]]).expand(-1, 1000), torch.full((1000,), 2.0))
    assert sorted(mixed.unique().tolist()) == [1, 2, 3]


def test_what_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="ensemble of 1 has no spread"):
        crps(torch.zeros(1, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="expected \\(m, \\*truth\\)"):
        crps(torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="expected \\(n, m, \\*shape\\)"):
        judge_ensemble(torch.zeros(4, 2, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="not finite"):
        judge_ensemble(torch.full((4, 2, 3), math.inf), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="no value of the truth"):
        judge_ensemble(torch.zeros(4, 2, 3), torch.full((4, 3), math.nan))
