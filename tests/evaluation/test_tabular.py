"""Tables: a table against itself, units, and one wrong thing at a time, which the figure for that thing finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdiff.evaluation.tabular import COLUMNS, TableJudge, auc_error, classifier_auc, correlations


def table(count: int, seed: int) -> np.ndarray:
    """Two columns with a correlation of 0.8, an exponential one, one of three categories, and one that is large."""
    g = np.random.default_rng(seed)
    a = g.normal(size=count)
    b = 0.8 * a + 0.6 * g.normal(size=count)
    return np.stack([a, b, g.exponential(size=count), g.choice([0.0, 1.0, 5.0], count), 1e9 + g.uniform(size=count)], axis=1)


@pytest.fixture(scope="module")
def judge() -> TableJudge:
    return TableJudge(table(1000, 0), table(500, 1), classify=False)


def test_a_table_is_like_itself(judge) -> None:
    same = judge.measure(judge.heldout)
    for measure in ("wasserstein", "ks", "categories", "correlation", "pair"):
        assert getattr(same, measure) == pytest.approx(0, abs=1e-12)
    assert [column["kind"] for column in same.columns] == ["number"] * 3 + ["category", "number"]
    assert (same.rows, same.pairs) == (500, 10)


def test_order_and_units_change_nothing(judge) -> None:
    other = table(300, 2)
    plain = judge.measure(other)
    mixed = judge.measure(other[np.random.default_rng(0).permutation(300)])
    factor, shift = np.array([1, 1e-3, 1e4, 1, 7]), np.array([0, 3, -5, 0, 0])
    scaled = TableJudge(*(each * factor + shift for each in (table(1000, 0), judge.heldout)), classify=False)
    for measure in ("wasserstein", "ks", "categories", "correlation", "pair"):
        assert getattr(mixed, measure) == pytest.approx(getattr(plain, measure))
        assert getattr(scaled.measure(other * factor + shift), measure) == pytest.approx(getattr(plain, measure), rel=1e-3)
    # An increasing map changes neither ranks nor cells.
    mapped = TableJudge(*(np.exp(each / [1, 1, 1, 1, 1e9]) for each in (table(1000, 0), judge.heldout)), classify=False)
    found = mapped.measure(np.exp(other / [1, 1, 1, 1, 1e9]))
    for measure in ("ks", "categories", "pair"):
        assert getattr(found, measure) == pytest.approx(getattr(plain, measure), abs=0.003)


def test_each_fault_is_found_by_its_figure(judge) -> None:
    floor = judge.measure(judge.train)
    shifted, apart, biased = (table(1000, 3) for _ in range(3))
    shifted[:, 2] += 1
    apart[:, 1] = np.random.default_rng(0).permutation(apart[:, 1])
    biased[:500, 3] = 5
    found = {name: judge.measure(rows) for name, rows in {"shifted": shifted, "apart": apart, "biased": biased}.items()}
    assert found["shifted"].columns[2]["wasserstein"] == pytest.approx(1 / judge.heldout[:, 2].std(), rel=0.2)
    assert found["shifted"].ks > 3 * floor.ks
    assert found["shifted"].worst_column == 2
    assert found["shifted"].worst == found["shifted"].columns[2]["ks"] > 4 * floor.worst
    # Columns on their own are right; only pairs show it.
    assert found["apart"].ks < 1.5 * floor.ks
    assert found["apart"].correlation > 0.8 / 10 > 1.5 * floor.correlation
    assert found["apart"].pair > 1.2 * floor.pair
    assert found["apart"].worst_joint > 3 * floor.worst_joint
    assert sorted(found["apart"].worst_pair) == [0, 1]
    assert found["biased"].categories == pytest.approx(0.5 * (1 - 1 / 3), abs=0.05)
    assert found["biased"].ks < 1.5 * floor.ks
    assert found["biased"].worst_column == 3


def test_a_generated_category_counts_as_the_nearest(judge) -> None:
    rows = judge.heldout.copy()
    rows[:, 3] += np.random.default_rng(0).uniform(-0.4, 0.4, len(rows))
    assert judge.measure(rows).categories == 0
    # A classifier would tell 0.2 from 0 at once.
    other = table(300, 2)
    other[:, 3] += np.random.default_rng(0).uniform(-0.4, 0.4, 300)
    found = TableJudge(judge.train, judge.heldout[:300]).measure(other).auc
    assert found == pytest.approx(0.5, abs=3 * auc_error(300))


def test_two_columns_of_a_known_joint_distribution() -> None:
    """Signs that agree, against signs that do not: single columns are the same, joint distributions are disjoint."""
    g = np.random.default_rng(0)
    signs = g.choice([-1.0, 1.0], 2000)
    data, wrong = np.stack([signs, signs], axis=1), np.stack([signs, -signs], axis=1)
    found = TableJudge(data[:1000], data[1000:], classify=False).measure(wrong)
    assert found.pair == pytest.approx(1)
    assert found.correlation == pytest.approx(2)
    assert found.categories < 0.05
    assert math.isnan(found.ks)
    # Three rows in ten are (0, 1) and the others (1, 0), against the reverse: 0.4 of the rows are elsewhere.
    some = np.repeat([[0.0, 1.0], [1.0, 0.0]], [300, 700], axis=0)
    assert TableJudge(some, some, classify=False).measure(some[:, ::-1]).pair == pytest.approx(0.4)


def test_missing_values() -> None:
    train, heldout = table(400, 0), table(200, 1)
    for each in (train, heldout):
        each[::3, 0] = np.nan
    judge = TableJudge(train, heldout)
    same = judge.measure(heldout)
    assert same.columns[0]["ks"] == 0
    assert same.pair == 0
    # Copies of the data would be an exception: every row that is left out has a twin of the other kind.
    other = table(200, 2)
    assert judge.measure(other).auc > 0.6
    other[::3, 0] = np.nan
    assert judge.measure(other).auc == pytest.approx(0.5, abs=4 * auc_error(200))
    assert classifier_auc(heldout, heldout) < 0.2
    expected = np.corrcoef(heldout[:, :2][~np.isnan(heldout[:, 0])].T)[0, 1]
    assert correlations(heldout)[0, 1] == pytest.approx(expected)
    assert correlations(heldout)[1, 0] == pytest.approx(expected)


def test_correlations_are_those_of_numpy_and_none_for_a_constant() -> None:
    rows = table(300, 0)
    np.testing.assert_allclose(correlations(rows), np.corrcoef(rows.T), atol=1e-6)
    rows[:, 2] = 3.7
    assert np.isnan(correlations(rows)[2]).all()
    assert not np.isnan(np.delete(np.delete(correlations(rows), 2, 0), 2, 1)).any()


def test_the_classifier_cannot_tell_equal_laws_and_tells_wrong_ones() -> None:
    rows, data = table(400, 0), table(400, 1)
    assert classifier_auc(rows, data) == pytest.approx(0.5, abs=3 * auc_error(400))
    assert classifier_auc(rows, data) == classifier_auc(rows, data)
    shifted, far = rows + np.array([0.5, 0, 0, 0, 0]), rows + np.array([100, 0, 0, 0, 0])
    assert 0.6 < classifier_auc(shifted, data) < 0.95
    assert classifier_auc(far, data) > 0.999
    apart = rows.copy()
    apart[:, 1] = np.random.default_rng(0).permutation(apart[:, 1])
    assert classifier_auc(apart, data) > 0.5 + 4 * auc_error(400)


def test_the_error_of_the_auc_is_that_of_random_scores() -> None:
    from sklearn.metrics import roc_auc_score

    g = np.random.default_rng(0)
    found = [roc_auc_score(np.repeat([0, 1], 50), g.uniform(size=100)) for _ in range(400)]
    assert np.std(found) * math.sqrt(1 / 5 + 1 / 4) == pytest.approx(auc_error(5 * 50), rel=0.15)


def test_many_columns_are_drawn_from() -> None:
    rows = np.random.default_rng(0).normal(size=(90, COLUMNS + 50))
    judge = TableJudge(rows[:60], rows[60:], classify=False)
    found = judge.measure(rows[:30])
    assert len(found.columns) == COLUMNS
    assert found.pairs == 2000
    wrong = rows[:30].copy()
    wrong[:, judge.chosen[7]] += 100
    assert judge.measure(wrong).worst_column == judge.chosen[7]
    assert set(judge.measure(wrong).worst_pair) <= set(judge.chosen.tolist())


def test_tables_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="expected rows of as many columns"):
        TableJudge(np.zeros((20, 3)), np.zeros((20, 4)))
    with pytest.raises(ValueError, match="9 rows are held out"):
        TableJudge(np.zeros((20, 3)), np.zeros((9, 3)))
    with pytest.raises(ValueError, match="expected at least 10 rows of 5 columns"):
        TableJudge(table(20, 0), table(20, 1), classify=False).measure(table(20, 2)[:, :4])
