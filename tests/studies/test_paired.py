"""Paired comparisons: the interval is Student's, holds as often as it says, and the verdict follows it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kdiff.studies.paired import as_good, intervals, log_ratios, over_best


def test_one_cell_is_students_interval() -> None:
    values = [0.1, 0.4, 0.3, 0.2]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    overall, each = intervals({"a": values})
    assert (overall.mean, overall.low, overall.high) == pytest.approx((np.mean(values), low, high))
    assert each["a"] == overall


def test_the_intervals_hold_together_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    overall_held, all_held = 0, 0
    for _ in range(400):
        means = {"a": 0.3, "b": -1.0, "c": 0.0}
        overall, each = intervals({cell: generator.normal(mean, 0.1, 3).tolist() for cell, mean in means.items()})
        overall_held += overall.low <= sum(means.values()) / 3 <= overall.high
        all_held += all(each[cell].low <= mean <= each[cell].high for cell, mean in means.items())
    assert 0.92 < overall_held / 400 < 0.98
    assert all_held / 400 > 0.92


@pytest.mark.parametrize("noisy", [1, 3])
def test_cells_that_are_noisier_than_others_are_not_told_apart_for_it(noisy) -> None:
    """A variance that all cells share would be far too small for these: it did so in a third of the cases."""
    generator = np.random.default_rng(2)
    apart = 0
    for _ in range(300):
        scales = [0.2] * noisy + [0.03] * (10 - noisy)
        _, each = intervals({str(i): generator.normal(0, scale, 3).tolist() for i, scale in enumerate(scales)})
        apart += any(one.low > 0 or one.high < 0 for one in each.values())
    assert apart / 300 < 0.09


def test_a_difference_too_small_to_matter_refutes_nothing() -> None:
    assert as_good({cell: [0.005, 0.0051, 0.0049] for cell in "abcde"})[0] == "confirmed"
    assert as_good({cell: [0.05, 0.051, 0.049] for cell in "abcde"})[0] == "refuted"


def test_the_best_is_chosen_by_the_other_seeds() -> None:
    """Of equals the lowest mean is lower than they are: chosen by the figures that it is compared by it would look better."""
    assert over_best([1.0, 1.0], {"a": [2.0, 0.5], "b": [1.0, 1.0]}) == pytest.approx([math.log(1 / 2.0), 0.0])
    assert over_best([3.0], {"a": [2.0], "b": [1.0]}) == pytest.approx([math.log(3)])
    with pytest.raises(ValueError, match=r"2 values of ours and \[1\] of the others"):
        over_best([1.0, 1.0], {"a": [1.0]})
    generator, biased, fair = np.random.default_rng(0), [], []
    for _ in range(400):
        ours, *others = np.exp(generator.normal(0, 0.1, (6, 3))).tolist()
        named = {str(i): values for i, values in enumerate(others)}
        best = min(others, key=lambda values: np.mean(np.log(values)))
        biased.append(np.mean(log_ratios(ours, best)))
        fair.append(np.mean(over_best(ours, named)))
    assert np.mean(biased) > 0.05
    assert abs(np.mean(fair)) < 4 * np.std(fair) / 20


def test_what_leans_to_ours_confirms_only_if_what_leans_against_it_does() -> None:
    fine, bad = {"a": [0.0, 0.01, -0.01]}, {"a": [0.2, 0.21, 0.19]}
    assert as_good(fine)[0] == as_good(fine, fine)[0] == "confirmed"
    assert as_good(fine, bad)[0] == "inconclusive"
    assert as_good(bad, fine)[0] == "refuted"


def test_several_means_hold_together() -> None:
    values = {"a": [0.1, 0.4, 0.3, 0.2], "b": [0.0, 0.1, 0.2, 0.3]}
    one, seven = intervals(values)[0], intervals(values, 7)[0]
    assert seven.mean == one.mean
    freedom = 2 * 3  # equal variances
    reach = stats.t.ppf(1 - 0.025 / 7, freedom) / stats.t.ppf(0.975, freedom)
    assert (seven.high - seven.mean) / (one.high - one.mean) == pytest.approx(reach)


def test_one_seed_says_nothing() -> None:
    overall, each = intervals({"a": [0.5], "b": [0.2]})
    assert (overall.low, overall.high) == (-math.inf, math.inf)
    assert each["a"].mean == 0.5
    assert as_good({"a": [5.0]})[0] == "inconclusive"


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ({"a": [-0.2, -0.21, -0.19], "b": [0.0, 0.01, -0.01]}, "confirmed"),
        ({"a": [0.02, -0.02, 0.0], "b": [0.01, -0.01, 0.0]}, "confirmed"),
        ({"a": [0.4, 0.5, 0.6], "b": [0.3, 0.4, 0.5]}, "refuted"),
        ({"a": [-1.0, -1.01, -0.99], "b": [0.2, 0.21, 0.19]}, "refuted"),
        ({"a": [0.5, -0.5, 0.1], "b": [0.4, -0.3, 0.0]}, "inconclusive"),
    ],
    ids=["better", "equal", "worse", "worse in one cell", "who knows"],
)
def test_the_verdict(differences, verdict) -> None:
    assert as_good(differences)[0] == verdict


def test_equal_things_are_rarely_called_worse() -> None:
    generator = np.random.default_rng(1)
    refuted = sum(as_good({c: generator.normal(0, 0.2, 3).tolist() for c in "abcd"})[0] == "refuted" for _ in range(300))
    assert refuted / 300 < 0.08


def test_log_ratios_are_of_equal_seeds() -> None:
    assert log_ratios([2.0, 1.0], [1.0, 1.0]) == pytest.approx([math.log(2), 0])
    with pytest.raises(ValueError, match="argument"):
        log_ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize("differences", [{}, {"a": []}, {"a": [1.0], "b": []}])
def test_nothing_to_compare(differences) -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        intervals(differences)
