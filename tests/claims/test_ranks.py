"""Rank correlations of quantities with the quality of samples: known orders, ties, spread, and what is kept beside a run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from kdiff.claims import ranks
from kdiff.claims.claim import Study
from kdiff.claims.ranks import criterion_rows, measured, rank_table, ranks_csv, ranks_markdown, within_weightings
from kdiff.config.training import TrainConfig
from kdiff.studies.runner import make_jobs
from kdiff.training.trainer import train_run

QUALITIES = [5.0, 0.5, 3.0, 2.0, 8.0, 4.0]


def rows(seeds: int = 1, cell: str = "one", **quantities: list[float]) -> list[dict]:
    return [
        {"cell": cell, "target": f"0.{i + 1}", "seed": seed, "quality": quality, **{q: v[i] for q, v in quantities.items()}}
        for seed in range(seeds)
        for i, quality in enumerate(QUALITIES)
    ]


def test_a_monotone_function_of_the_quality_ranks_exactly_and_its_negative_backwards() -> None:
    same, back, flat = rank_table(rows(same=[math.exp(q) for q in QUALITIES], back=[-q for q in QUALITIES], flat=[7.0] * 6))
    assert (same.rho, same.picked, same.regret) == (pytest.approx(1), "0.2", pytest.approx(1))
    assert (back.rho, back.picked, back.regret) == (pytest.approx(-1), "0.5", pytest.approx(16))
    assert same.p == back.p < 0.01
    assert (flat.rho, flat.p) == (0, 1)
    assert (same.targets, same.seeds) == (6, 1)


def test_it_is_spearmans_with_ties() -> None:
    values = [1.0, 1.0, 2.0, 5.0, 4.0, 4.0]
    (found,) = rank_table(rows(q=values))
    assert found.rho == pytest.approx(spearmanr(values, QUALITIES).statistic)


def test_p_is_that_of_all_orders() -> None:
    """Of the 6 orders of three targets two have |ρ| = 1, and all have |ρ| of at least ½."""
    three = rows(q=[3.0, 1.0, 2.0, 0, 0, 0])[:3]
    (found,) = rank_table(three)
    assert found.p == pytest.approx(1 / 3, abs=0.03)
    assert rank_table([{**row, "q": [2.0, 1.0, 3.0][i]} for i, row in enumerate(three)])[0].p == 1


def test_seeds_give_a_mean_and_a_spread_and_the_regret_is_each_seeds_own() -> None:
    both = rows(seeds=2, q=QUALITIES)
    for row, value in zip(both[6:], [-q for q in QUALITIES]):
        row["q"] = value
    (found,) = rank_table(both)
    assert (found.rho, found.seeds) == (pytest.approx(0), 2)
    assert found.spread == pytest.approx(math.sqrt(2))
    assert found.regret == pytest.approx(4)


def test_what_is_missing_or_infinite() -> None:
    """A target without one of the seeds, and a quantity that one run lacks, are left out; infinite values rank last."""
    both = rows(seeds=2, q=QUALITIES, r=QUALITIES)[:-1]
    del both[0]["r"]
    (found,) = rank_table(both)
    assert (found.quantity, found.targets) == ("q", 5)
    broken = rows(q=QUALITIES)
    broken[4] |= {"quality": math.inf, "q": math.inf}
    (found,) = rank_table(broken)
    assert (found.rho, found.regret) == (pytest.approx(1), pytest.approx(1))
    with pytest.raises(ValueError, match="at least three targets"):
        rank_table(rows(q=QUALITIES)[:2])


def test_cells_are_apart_and_weightings_can_be() -> None:
    two = [*rows(q=QUALITIES), *rows(cell="two", q=[-q for q in QUALITIES])]
    assert [round(rank.rho) for rank in rank_table(two)] == [1, -1]
    weighed = [{**row, "target": f"{row['target']}(weighting={w})"} for row in rows(q=QUALITIES) for w in ("log", "den")]
    split = within_weightings([*weighed, *rows(q=QUALITIES)])
    assert {row["cell"] for row in split} == {"one, weighting log", "one, weighting den", "one"}
    assert {row["target"] for row in split} == {f"0.{i + 1}" for i in range(6)}


def test_tables_name_every_cell_and_the_best_quantity_first() -> None:
    found = rank_table([*rows(bad=[-q for q in QUALITIES], good=QUALITIES), *rows(cell="two", good=QUALITIES)])
    header, _, first, second = ranks_markdown(found).splitlines()
    assert header == "| quantity | one (6 targets, 1 seed) | two (6 targets, 1 seed) | mean ρ | lowest ρ | mean regret |"
    assert first == "| good | 1*, regret 1 | 1*, regret 1 | +1.00 | +1.00 | 1 |"
    assert second == "| bad | -1*, regret 16 |  | -1.00 | -1.00 | 16 |"
    lines = list(csv.DictReader(ranks_csv(found).splitlines()))
    assert [(line["cell"], line["quantity"]) for line in lines] == [("one", "bad"), ("one", "good"), ("two", "good")]
    assert float(lines[1]["rho"]) == pytest.approx(1)


def test_quantities_are_kept_beside_the_run_and_computed_again_for_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(data="sphere(num_samples=300, ambient_dim=4)", steps=2, network="MLP(width=8, depth=1)")
    jobs = make_jobs({"one": config}, ["velocity"], [0], tmp_path, 10, exact=False)
    train_run(jobs[0].config, jobs[0].folder)
    figures = [{"measure": measure, "value": value} for measure, value in (("sliced_wasserstein", 0.3), ("off_manifold", 0.4))]
    common = {"cell": "one", "target": "velocity", "seed": 0, "grouped": 1, "heldout": 1, "exact": None}
    all_rows = [{**common, **figure, "sampler": sampler} for figure in figures for sampler in ("clean", "paper")]
    (row,) = criterion_rows(Study(jobs, all_rows, full=True), ["one"])
    assert row["quality"] == pytest.approx(math.sqrt(3 * 0.09 + 0.16))
    kept = json.loads((jobs[0].folder / ranks.FILE).read_text())
    assert kept["quantities"].items() <= row.items()
    assert kept["quantities"]["v_error"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "probe_of", None)
        assert measured(jobs[0].folder) == kept["quantities"]
    kept["stamp"]["step"] = 1
    kept["quantities"] = {}
    (jobs[0].folder / ranks.FILE).write_text(json.dumps(kept))
    assert measured(jobs[0].folder) == {name: row[name] for name in row if name not in ranks.KEYS}


def test_the_runs_of_an_unfinished_study_are_found_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distances = {"one": [3.0, 1.0, None], "two": [1.0, 2.0]}
    for cell, values in distances.items():
        for i, value in enumerate(values):
            folder = tmp_path / "runs" / cell / f"target_{i}" / "seed_0"
            folder.mkdir(parents=True)
            config = {"target": {"name": f"0.{i + 1}", "weighting": "log"}, "seed": 0, "data": "moons"}
            found = {"k": None, "samplers": {}, "job": {"config": config}, "figures": {"clean": {"distance": value}}}
            (folder / "evaluation.json").write_text(json.dumps(found))
    (tmp_path / "runs" / "one" / "target_3" / "seed_0").mkdir(parents=True)  # not judged yet
    monkeypatch.setattr(ranks, "measured", lambda folder: {"q": float(folder.parts[-2][-1])})
    found = ranks.folder_rows(tmp_path)
    assert [(row["cell"], row["target"], row["quality"]) for row in found[:3]] == [
        ("one", "0.1(weighting='log')", 3.0),
        ("one", "0.2(weighting='log')", 1.0),
        ("one", "0.3(weighting='log')", math.inf),
    ]
    text = ranks.rank_folder(tmp_path)
    assert "one (3 targets, 1 seed)" in text
    assert "one, weighting log (3 targets, 1 seed)" in text
    assert "two" not in text, "two targets have no order to speak of"
    (whole, split) = csv.DictReader((tmp_path / "criterion.csv").read_text().splitlines())
    assert float(whole["rho"]) == pytest.approx(float(split["rho"])) == pytest.approx(0.5)
    assert [row["cell"] for row in ranks.folder_rows(tmp_path, ["tw"])] == ["two", "two"]


@pytest.mark.parametrize(
    ("data", "figures", "wanted"),
    [
        ("sphere(ambient_dim=4)", {"sliced_wasserstein": 0.3, "off_manifold": 0.4}, math.sqrt(3 * 0.09 + 0.16)),
        ("digits", {"sliced_wasserstein": 0.3, "frechet": 1.0, "frechet_heldout": 2.0}, 2.0),
        ("table", {"sliced_wasserstein": 0.3}, 0.3),
    ],
)
def test_the_quality_of_a_comparisons_run_is_that_of_its_clean_samples(data: str, figures: dict, wanted: float) -> None:
    samplers = {"clean": {"figures": {name: {"value": value} for name, value in figures.items()}}}
    assert ranks._quality({"job": {"config": {"data": data}}, "samplers": samplers}) == pytest.approx(wanted)
