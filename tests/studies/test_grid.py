"""A grid of fixed k in a comparison: which targets it adds, and what the verdict says of the curve."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from kdiff.config.parts import parse
from kdiff.config.plain import as_dict
from kdiff.config.studies import CompareConfig
from kdiff.run.build import build
from kdiff.studies.comparison import best_target, check_same, has_curve, plan, verdict, with_grid
from kdiff.targets import fixed_k


def rows_of(values: dict[str, list[float]], **more: Any) -> list[dict[str, Any]]:
    """Rows of targets with a value per seed, under the clean sampler."""
    common = {"sampler": "clean", "measure": "frechet", "heldout": 0.25, "exact": None}
    return [
        {**common, "target": target, "seed": seed, "value": value, "grouped": value, "k": 0.9 + 0.01 * seed, **more}
        for target, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


# The targets


@pytest.mark.parametrize(
    "spec",
    ["noise", "velocity", "data", 0.9, "0.25", 1, "fixed(k=0.3)", "fixed(0.3)", "fixed(k=noise)", {"name": "fixed", "k": 0.7}],
)
def test_the_k_of_a_fixed_target_is_the_one_it_is_built_with(spec) -> None:
    assert fixed_k(spec) == build("target", spec).k


@pytest.mark.parametrize(
    "spec",
    [
        "learned",
        "learned(init=0.3)",
        "data(min_denominator=0.1)",
        "general(a=1, b=1)",
        "fixed(k=0.3, clamp_target=false)",
        "fixed(0.3, 0.1)",
    ],
)
def test_a_target_that_is_more_than_a_fixed_k_is_none(spec) -> None:
    build("target", spec)
    assert fixed_k(spec) is None


@pytest.mark.parametrize("targets", [[], ["learned"], ["data", "learned", 0.9, "noise", "velocity", "general(a=1, b=1)"]])
@pytest.mark.parametrize("grid", [2, 4, 5, 11, 21, 101])
def test_a_grid_has_every_k_once_under_the_name_that_was_given(targets, grid) -> None:
    together = with_grid(targets, grid)
    ks = [k for target in together if (k := fixed_k(target)) is not None]
    assert ks == sorted(set(ks)), "in order of k, none twice"
    for i in range(grid):
        assert min(abs(k - i / (grid - 1)) for k in ks) <= 5e-5
    given = [target for target in targets if fixed_k(target) is not None]
    assert [target for target in together if fixed_k(target) is None] == [t for t in targets if fixed_k(t) is None]
    assert all(target in together for target in given)
    assert len(ks) == len({round(i / (grid - 1), 4) for i in range(grid)} | {fixed_k(target) for target in given})
    assert all(len(str(parse(k))) <= 6 for k in ks), "0.3, not 0.30000000000000004"


def test_no_grid_leaves_the_targets_as_they_are() -> None:
    assert with_grid(["learned", "data", "noise"], 0) == ["learned", "data", "noise"]


@pytest.mark.parametrize("grid", [1, -1, -5])
def test_a_grid_needs_two_ends(grid) -> None:
    with pytest.raises(ValueError, match=rf"grid is {grid}; expected 0 \(none\) or at least 2"):
        CompareConfig(grid=grid)


def test_a_plan_with_a_grid(tmp_path) -> None:
    config = CompareConfig(data="spiral(num_samples=400)", targets=["learned", "data"], grid=3, seeds=2, steps=7)
    _, jobs = plan(config, tmp_path)
    assert [job.target for job in jobs] == ["0", "0.5", "data", "learned"] * 2
    assert [build("target", job.config.target).k for job in jobs[:3]] == [0, 0.5, 1]


def test_a_finer_grid_continues_a_comparison_and_a_coarser_one_does_not(tmp_path) -> None:
    stored = as_dict(CompareConfig(targets=["learned", "data"], grid=3))
    (tmp_path / "results.json").write_text(json.dumps({"config": stored}))
    check_same(CompareConfig(targets=["learned", "data"], grid=5), tmp_path)
    for targets, grid, lost in ((["learned", "data"], 0, "0, 0.5"), (["learned"], 3, "data"), (["data", "learned"], 4, "0.5")):
        with pytest.raises(ValueError, match=rf"holds a comparison with {re.escape(lost)}; choose"):
            check_same(CompareConfig(targets=targets, grid=grid), tmp_path)


# The verdict


def test_the_verdict_says_where_learned_k_lands_on_the_curve() -> None:
    """Significant in both directions, by the test of the rest of the verdict: t(2), two-sided, over five others is 9.9."""
    values = {"noise": [9.0, 9.2, 9.1], "0.8": [1.0, 2.0, 3.0], "data": [4.0, 4.5, 4.2]}
    far, near = [1.5, 3.02, 4.47], [1.5, 3.3, 4.2]
    better = [0.5, 1.01, 1.49]
    rows = rows_of({**values, "learned": far, "learned(rate=1)": near, "learned(init=0.1)": better})
    assert (
        "Best of 3 fixed k: 0.8 (2 ± 1); "
        "learned ends at k = 0.91 ± 0.01 with 3 ± 1, significantly higher than the best fixed k; "
        "learned(rate=1) ends at k = 0.91 ± 0.01 with 3 ± 1, not significantly different from the best fixed k; "
        "learned(init=0.1) ends at k = 0.91 ± 0.01 with 1 ± 0.5, significantly lower than the best fixed k."
    ) in verdict(rows)
    assert "learned ends at mean k = 0.91" in verdict([{**row, "main_number": "mean k", "mean k": row["k"]} for row in rows])
    assert (best_target(rows), best_target(rows, ["noise", "data"])) == ("learned(init=0.1)", "data")


def test_the_verdict_on_a_curve_agrees_with_itself() -> None:
    """Where the best of all is a fixed k, both sentences say the same of learned k; over draws, both outcomes occur."""
    generator = np.random.default_rng(1)
    said = set()
    for _ in range(60):
        values = {name: generator.normal(mean, 0.1, 4).tolist() for name, mean in (("noise", 3), ("0.7", 1), ("0.8", 1.5))}
        text = verdict(rows_of({**values, "learned": generator.normal(2, 0.2, 4).tolist()}))
        apart = re.search(r"over 4 seeds, 5 % level over all comparisons\): ([^.]*(?:0\.\d[^.]*)*)\. Not", text)
        assert apart
        assert ("learned" in apart[1]) == ("not significantly different from the best fixed k" not in text)
        said.add("learned" in apart[1])
    assert said == {True, False}


def test_learned_k_is_rarely_told_from_the_luckiest_of_equal_fixed_k() -> None:
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(300):
        names = ["noise", "0.2", "0.4", "0.6", "0.8", "data", "learned"]
        text = verdict(rows_of({name: generator.normal(1.0, 0.1, 3).tolist() for name in names}))
        told += "not significantly different from the best fixed k" not in text
    assert told / 300 < 0.08


def test_fewer_than_three_different_fixed_k_are_no_curve() -> None:
    two = rows_of({"noise": [4.0, 5.0], "0": [4.0, 5.0], "data": [1.0, 1.1], "learned": [1.0, 1.1]})
    assert not has_curve(two)
    assert "fixed k" not in verdict(two)
    assert has_curve([*two, *rows_of({"0.3": [2.0, 2.0]})])


def test_a_target_without_k_is_not_on_the_curve_and_one_seed_shows_nothing_significant() -> None:
    fixed = rows_of({"noise": [4.0], "0.8": [1.0], "data": [2.0], "learned": [1.5]})
    rows = fixed + rows_of({"general(a=1, b=1)": [0.5]}, k=None)
    text = verdict(rows)
    assert "Best of 3 fixed k: 0.8 (1); learned ends at k = 0.9 with 1.5." in text
    assert "significant" not in text
