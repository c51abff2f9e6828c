"""The quality of samples as one number, and whether one target reaches the best of many."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdiff.claims.claim import Study
from kdiff.claims.quality import by_target, not_apart, plane_dim, quality_rows, reaches_the_best, target_table
from kdiff.config.training import TrainConfig
from kdiff.studies.runner import make_jobs


def row(**values):
    return {"cell": "one", "target": "0.5", "seed": 0, "sampler": "clean", "k": 0.5, "loss": 2.0, **values}


def study(data: str, rows: list) -> Study:
    return Study(make_jobs({"one": TrainConfig(data=data)}, [0.5], [0], Path("out"), 10, exact=True), rows, full=True)


def figures(measure: str, value: float, exact: float | None) -> dict:
    return {"measure": measure, "value": value, "grouped": 2 * value, "heldout": 3 * value, "exact": exact}


@pytest.mark.parametrize(
    ("data", "p"), [("gaussian(ambient_dim=8, intrinsic_dim=3)", 3), ("sphere(intrinsic_dim=4, ambient_dim=9)", 5)]
)
def test_on_a_manifold_it_is_what_is_off_it_and_what_is_within(data, p) -> None:
    rows = [
        row(**figures(measure, value, exact), seed=seed)
        for seed, exact in ((0, 0.5), (1, None))
        for measure, value in (("sliced_wasserstein", 0.2), ("off_manifold", 0.3), ("copying", 1.0))
    ]
    found = quality_rows(study(data, rows), "one")
    assert [r["seed"] for r in found] == [0, 1]
    assert plane_dim(data) == p
    distance = math.sqrt(p * 0.04 + 0.09)
    assert found[0]["value"] == pytest.approx(distance)
    assert found[0]["heldout"] == pytest.approx(3 * distance)
    assert found[0]["exact"] == pytest.approx(math.sqrt(p * 0.25 + 0.25))
    assert found[1]["exact"] is None


def test_of_labelled_images_it_is_the_frechet_distance() -> None:
    rows = [row(**figures(measure, value, None)) for measure, value in (("frechet", 1.0), ("sliced_wasserstein", 7.0))]
    (found,) = quality_rows(study("digits", rows), "one")
    assert found == {**rows[0], "measure": "quality"}


def test_held_out_images_may_be_compared_with_instead() -> None:
    rows = [row(**figures(measure, value, None)) for measure, value in (("frechet", 1.0), ("frechet_heldout", 7.0))]
    (found,) = quality_rows(study("digits", rows), "one", heldout=True)
    assert found == {**rows[1], "measure": "quality"}


def test_fields_are_listed_by_target_in_order_of_seeds() -> None:
    rows = [row(seed=seed, value=float(seed), target=target) for target in "ab" for seed in (2, 0, 1)]
    rows += [row(seed=0, value=9.0, target="a", sampler="paper")]
    assert by_target(rows) == {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]}
    assert by_target(rows, sampler="paper") == {"a": [9.0]}


def noisy(value: float, i: int) -> list[float]:
    return [value * (1 + 0.02 * math.sin(5 * (i + 1) * (seed + 1))) for seed in range(3)]


def test_what_is_not_told_apart_from_the_best() -> None:
    values = {f"{k:g}": noisy(1 + 3 * abs(k - 0.7), i) for i, k in enumerate((0.5, 0.695, 0.7, 0.9))}
    assert set(not_apart(values)) == {"0.695", "0.7"}
    assert not_apart({"0.7": [1.0]}) == ["0.7"]
    assert set(not_apart({"a": [1.0], "b": [9.0]})) == {"a", "b"}  # one seed tells nothing


@pytest.mark.parametrize(
    ("ours", "verdict"), [(1.0, "confirmed"), (1.5, "refuted"), (1.06, "inconclusive"), (0.5, "confirmed")]
)
def test_reaching_the_best_of_others(ours: float, verdict: str) -> None:
    others = {cell: {f"{k}": noisy(1 + 2 * k, i + j) for i, k in enumerate((0, 1, 2))} for j, cell in enumerate(("x", "y"))}
    noise = 0.2 if verdict == "inconclusive" else 0.01
    mine = {cell: [ours * (1 + noise * s) for s in (-1, 0.5, 1)] for cell in others}
    finding = reaches_the_best("as good", mine, others, "its distance")
    assert finding.verdict == verdict
    assert "(3 seeds, 95 %" in finding.evidence
    assert finding.evidence.endswith("2 cells") or verdict == "refuted"
    assert ("significantly worse than target 0 in x" in finding.evidence) == (verdict == "refuted")


def test_being_worse_in_one_cell_refutes_and_one_seed_says_nothing() -> None:
    others = {cell: {"0": noisy(1, i), "1": noisy(2, 4 + i)} for i, cell in enumerate("xyz")}
    mine = {cell: noisy(1.5 if cell == "y" else 0.9, 7 + i) for i, cell in enumerate("xyz")}
    finding = reaches_the_best("as good", mine, others, "its distance")
    assert finding.verdict == "refuted"
    assert "significantly worse than target 0 in y" in finding.evidence
    single = reaches_the_best("as good", {"x": [9.0]}, {"x": {"0": [1.0], "1": [2.0]}}, "its distance")
    assert single.verdict == "inconclusive"
    assert "× 9 (one seed, no spread), at worst × 9 (x), 1 cell" in single.evidence


def test_the_table_has_both_samplers_and_the_floors() -> None:
    rows = [row(**figures("quality", value, 0.125), sampler=sampler) for sampler, value in (("clean", 0.5), ("paper", 0.75))]
    table = target_table({"one": rows}, "data", "beside", {("one", "0.5"): "theory"})
    assert table.splitlines()[-1] == "| one | 0.5 | 0.5 | 2 | 0.5 | 0.75 | 0.125 | 1 | 1.5 | theory |"
