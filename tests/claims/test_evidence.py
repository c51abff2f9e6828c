"""Where k ends: planted rises and falls, planted predictions, right ones and wrong ones."""

from __future__ import annotations

import math

import pytest

from kdiff.claims.claim import Study
from kdiff.claims.evidence import alike, last_factor, last_move, learned_k, moves_one_way, nearest, still_moving, within


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


RISING = {"a": [seeds(0.5, 0.51, 0.49), seeds(0.8, 0.81, 0.79), seeds(0.95, 0.951, 0.949)]}
PREDICTED = {"a": {"rule": 0.5, "other": 0.6}, "b": {"rule": 0.9, "other": 0.7}}


class TestOneWay:
    def test_a_rise_is_confirmed_and_not_a_fall(self) -> None:
        assert moves_one_way("rises", RISING, up=True).verdict == "confirmed"
        assert moves_one_way("falls", RISING, up=False).verdict == "refuted"
        assert moves_one_way("falls", RISING, up=False, may_refute=False).verdict == "inconclusive"

    def test_one_step_the_other_way_refutes_all(self) -> None:
        series = {**RISING, "b": [seeds(0.9, 0.91, 0.89), seeds(0.5, 0.52, 0.48)]}
        finding = moves_one_way("rises", series, up=True)
        assert finding.verdict == "refuted"
        assert "2 of 3 steps go significantly in this direction (3 seeds, paired); in the other direction" in finding.evidence
        assert "other direction (difference of logit k): b, step 1" in finding.evidence

    def test_a_step_that_chance_explains_is_inconclusive(self) -> None:
        series = {"a": [seeds(0.5, 0.6, 0.4), seeds(0.55, 0.45, 0.6)]}
        finding = moves_one_way("rises", series, up=True)
        assert finding.verdict == "inconclusive"
        assert "not significant" in finding.evidence

    def test_one_seed_tells_nothing(self) -> None:
        assert moves_one_way("rises", {"a": [seeds(0.5), seeds(0.9)]}, up=True).verdict == "inconclusive"

    def test_k_that_float32_rounds_to_one_is_compared_too(self) -> None:
        series = {"a": [seeds(0.9, 0.91), seeds(1.0, 1.0)]}
        assert moves_one_way("rises", series, up=True).verdict == "confirmed"

    def test_near_one_it_is_the_logit_that_counts(self) -> None:
        # 0.9990 to 0.9999 is a rise by a factor of ten in k/(1 − k), with a spread far smaller than that.
        series = {"a": [seeds(0.9990, 0.9991, 0.9989), seeds(0.9999, 0.99991, 0.99989)]}
        assert moves_one_way("rises", series, up=True).verdict == "confirmed"


class TestWithin:
    @pytest.mark.parametrize(
        ("b", "verdict"),
        [
            (seeds(0.89, 0.915), "confirmed"),
            (seeds(0.91, 0.94), "inconclusive"),
            (seeds(0.94, 0.97), "refuted"),
            (seeds(0.84, 0.96), "refuted"),
        ],
    )
    def test_every_run_counts(self, b: dict[int, float], verdict: str) -> None:
        finding = within("close", {"a": seeds(0.5, 0.52), "b": b, "not asked": seeds(0.0)}, {"a": 0.5, "b": 0.9})
        assert finding.verdict == verdict

    def test_a_short_run_refutes_nothing(self) -> None:
        finding = within("close", {"a": seeds(0.5), "b": seeds(0.99)}, {"a": 0.5, "b": 0.9}, may_refute=False)
        assert finding.verdict == "inconclusive"
        # (1 − 0.99)/0.99 is 1/99 where 1/9 is predicted.
        text = "agrees in every run in 1 of 2 cells; (1 − k)/k is at worst 0.0909 times the predicted value (b); "
        assert f"{text}mean difference of k 0.045; 1 seed" in finding.evidence

    def test_near_one_it_is_the_dimension_meant_that_counts(self) -> None:
        """D/(D + d) at D = 512 is 0.9961 for d = 2 and 0.9942 for d = 3: alike as numbers, and not as dimensions."""
        assert within("close", {"a": seeds(512 / 514.4)}, {"a": 512 / 514}).verdict == "confirmed"
        assert within("close", {"a": seeds(512 / 515)}, {"a": 512 / 514}).verdict == "refuted"

    def test_what_still_moves_decides_nothing(self) -> None:
        ks, predicted = {"a": seeds(0.5, 0.52), "b": seeds(0.97, 0.97)}, {"a": 0.5, "b": 0.9}
        finding = within("close", ks, predicted, moving=["b", "not asked"])
        assert finding.verdict == "inconclusive"
        text = "agrees in every run in 1 of 1 cells where k had come to rest, in some runs in 0, in no run in 0; in 1 more, "
        assert finding.evidence.startswith(f"{text}(1 − k)/k still changed")
        assert "(a)" in finding.evidence, "the farthest is one that counts"
        assert within("close", ks, predicted, moving=["a", "b"]).evidence.startswith("no cell decides: in all 2 (1")
        assert within("close", ks, {"a": 0.9, "b": 0.9}, moving=["b"]).verdict == "refuted"
        assert within("close", ks, {"a": 0.5, "b": 0.97}, moving=["b"]).verdict == "inconclusive"
        assert within("close", ks, {"a": 0.5, "b": 0.97}).verdict == "confirmed"


class TestNearest:
    def test_the_rule_is_nearest(self) -> None:
        ks = {"a": seeds(0.52, 0.5), "b": seeds(0.9, 0.88)}
        finding = nearest("near", ks, PREDICTED, "rule")
        assert finding.verdict == "confirmed"
        assert "rule 0.010, other 0.140" in finding.evidence

    def test_another_is_nearer_in_every_seed(self) -> None:
        ks = {"a": seeds(0.6, 0.59), "b": seeds(0.71, 0.7)}
        assert nearest("near", ks, PREDICTED, "rule").verdict == "refuted"
        assert nearest("near", ks, PREDICTED, "rule", may_refute=False).verdict == "inconclusive"

    def test_it_must_hold_of_k_and_of_its_logit(self) -> None:
        # By k the rule is nearer (0.05 against 0.06), by its logit the other: 0.9990 is far from 0.95 there.
        predicted = {"a": {"rule": 0.95, "other": 0.9996}, "b": {"rule": 0.55, "other": 0.67}}
        ks = {"a": seeds(0.9990, 0.9991), "b": seeds(0.55, 0.55)}
        assert nearest("near", ks, predicted, "rule").verdict == "inconclusive"
        assert nearest("near", ks, predicted, "other").verdict == "inconclusive"

    def test_seeds_that_disagree(self) -> None:
        ks = {"a": seeds(0.6, 0.5), "b": seeds(0.7, 0.9)}
        assert nearest("near", ks, PREDICTED, "rule").verdict == "inconclusive"

    def test_it_is_the_mean_over_cells_that_counts(self) -> None:
        # The other is nearer in cell a, the rule by more in cell b.
        ks = {"a": seeds(0.58, 0.58), "b": seeds(0.9, 0.9)}
        assert nearest("near", ks, PREDICTED, "rule").verdict == "confirmed"

    def test_a_mean_that_one_cell_makes_does_not_confirm(self) -> None:
        ks = {"a": seeds(0.58, 0.58), "b": seeds(0.9, 0.9), "c": seeds(0.58, 0.58)}
        finding = nearest("near", ks, {**PREDICTED, "c": PREDICTED["a"]}, "rule")
        assert finding.verdict == "inconclusive"
        assert "closest by k in 1 (rule), 2 (other) of 3 cells" in finding.evidence

    def test_ties_count_for_both(self) -> None:
        ks = {"a": seeds(0.55, 0.55), "b": seeds(0.9, 0.9)}
        predicted = {"a": {"rule": 0.5, "other": 0.4996}, "b": PREDICTED["b"]}
        assert "2 (rule), 1 (other) of 2 cells" in nearest("near", ks, predicted, "rule").evidence

    def test_what_still_moves_does_not_count(self) -> None:
        ks = {"a": seeds(0.6, 0.59), "b": seeds(0.9, 0.9)}
        assert nearest("near", ks, PREDICTED, "rule").verdict == "confirmed"
        finding = nearest("near", ks, PREDICTED, "rule", moving=["b"])
        assert finding.verdict == "refuted"
        assert "1 of 2 cells are left out because k still moved" in finding.evidence
        assert nearest("near", ks, PREDICTED, "rule", moving=["a", "b"]).verdict == "inconclusive"

    def test_a_limit_is_compared_by_k_alone(self) -> None:
        """As a logit 1 is as far as one likes; by k it is nearer here."""
        ks = {"a": seeds(0.99, 0.991), "b": seeds(0.995, 0.996)}
        predicted = {"a": {"rule": 0.94, "limit": 1.0}, "b": {"rule": 0.98, "limit": 1.0}}
        assert nearest("near", ks, predicted, "rule").verdict == "refuted"


class TestAlike:
    NEAR, FAR = seeds(0.5, 0.505), seeds(0.7, 0.71)

    def test_all_runs_within_the_factor(self) -> None:
        groups = [{"a": self.NEAR, "b": seeds(0.52)}, {"c": seeds(0.9), "d": seeds(0.91)}]
        finding = alike("alike", groups)
        assert finding.verdict == "confirmed"
        assert "over all runs (1 − k)/k differs by a factor of 1.08 and 1.12" in finding.evidence
        assert alike("alike", [{"a": seeds(0.5), "c": seeds(0.9)}]).verdict == "refuted", "which a group of its own is not"

    def test_two_cells_whose_runs_are_all_apart_refute(self) -> None:
        finding = alike("alike", [{"a": self.NEAR, "b": self.FAR, "c": seeds(0.6)}])
        assert finding.verdict == "refuted"
        assert "at least 2.29 between b and a" in finding.evidence
        assert alike("alike", [{"a": self.NEAR, "b": self.FAR}], may_refute=False).verdict == "inconclusive"

    def test_one_run_that_is_near_is_enough_not_to_refute(self) -> None:
        assert alike("alike", [{"a": self.NEAR, "b": seeds(0.7, 0.51)}]).verdict == "inconclusive"

    def test_what_still_moves_refutes_nothing(self) -> None:
        group = {"a": self.NEAR, "b": self.FAR, "c": seeds(0.51)}
        finding = alike("alike", [group], moving=["b", "elsewhere"])
        assert finding.verdict == "inconclusive"
        assert "1 of 3 cells were still moving and refute nothing" in finding.evidence
        assert alike("alike", [{"a": self.NEAR, "c": seeds(0.51)}], moving=["c"]).verdict == "inconclusive"


def test_one_run_that_moves_is_a_cell_that_moves() -> None:
    assert still_moving(ended([(0.5, 0.5), (0.5, 0.5), (0.5, 0.6)]), ["c"]) == ["c"]
    assert still_moving(ended([(0.5, 0.6), (0.6, 0.5)]), ["c"]) == ["c"], "opposite ways do not make rest"


def ended(runs: list[tuple[float, float]]) -> Study:
    """Runs of a cell, each with k at three quarters and at the end; and another cell."""
    common = {"cell": "c", "target": "learned"}
    # Averaged weights lag behind: k is not where the weights are.
    rows = [{**common, "seed": i, "k": k - 0.01, "k_before": before, "k_last": k} for i, (before, k) in enumerate(runs)]
    other = {"cell": "d", "target": "learned", "seed": 0, "k": 0.3, "k_before": 0.1, "k_last": 0.3}
    return Study([], [*rows, other], full=True)


def test_k_and_its_last_move() -> None:
    study = ended([(0.7, 0.9), (0.7, 0.8)])
    assert learned_k(study, "c") == {0: 0.89, 1: 0.79}
    assert math.isclose(last_move(study, "c"), (0.2 + 0.1) / 2)
    # (1 − k)/k from 3/7 to 1/9 and to 1/4.
    assert math.isclose(last_factor(study, "c"), math.sqrt((1 / 9) * (1 / 4)) / (3 / 7))


@pytest.mark.parametrize(
    ("before", "after", "moving"),
    [(0.5, 0.55, False), (0.5, 0.56, True), (0.56, 0.5, True), (0.9957, 0.9973, True), (0.9970, 0.9973, False)],
)
def test_what_counts_as_moving_is_the_dimension_that_k_means(before: float, after: float, moving: bool) -> None:
    """0.0016 of k near 1 is a factor of 1.6 of d."""
    assert still_moving(ended([(before, after)]), ["c"]) == ["c"] * moving
