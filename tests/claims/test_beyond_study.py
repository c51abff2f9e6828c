"""The study `beyond`: its split, its plan, its criteria on made-up rows, its report of unfinished studies, and one real run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdiff.claims import beyond_cells as cells
from kdiff.claims import beyond_findings as findings
from kdiff.claims import beyond_study as beyond
from kdiff.claims.beyond_analysis import Settings, by_seed, chosen, ratio, ratios
from kdiff.claims.beyond_cells import CELLS, CHOOSING, JUDGING, PAPER, PLAIN, RECIPE, fixed
from kdiff.claims.beyond_data import TOKENS, find_tokens, own_latents_of, table, tokens, unlabelled
from kdiff.claims.beyond_judging import clean, copying, distance, judge_of, with_controls
from kdiff.claims.beyond_page import advice, draw
from kdiff.claims.claim import Group, Study
from kdiff.claims.quality import quality_rows
from kdiff.claims.reproduction import reproduce
from kdiff.config.parts import parse
from kdiff.config.training import TrainConfig
from kdiff.data import load
from kdiff.run.build import build_model
from kdiff.studies.runner import Job, execute

GRID = Settings((0.5, 0.8), ("none", "log"))
TOY, OTHER_TOY, IMAGE, OTHER_IMAGE = "H1 bent sphere, MLP", "H2 noisy moons, MLP", "H3 digits, DiT", "H4 Fashion, JiT, short"
NOISE = {0: 1.0, 1: 1.02, 2: 0.97, 3: 1.01, 4: 0.99, 5: 1.03, 6: 0.98, 7: 1.0}  # factors by seed


# Cells and plan


def test_half_of_the_cells_are_held_out_and_both_halves_are_mixed() -> None:
    parts = Counter(cell.part for cell in CELLS.values())
    assert parts["development"] == parts["held-out"] >= 6
    for part in ("development", "held-out"):
        there = [cell for cell in CELLS.values() if cell.part == part]
        assert {"image", "latent", "toy"} <= {cell.kind for cell in there}
        assert len({cell.config.network.name for cell in there}) == 4
    keys = [(str(cell.config.data), str(cell.config.network), cell.config.steps) for cell in CELLS.values()]
    assert len(set(keys)) == len(keys)
    dimensions = [256, 32, 16, 64, 512]
    assert sorted(dimensions) == sorted(
        parse(config.data.options.get("of", config.data)).options["ambient_dim"]
        for config in (cell.config for cell in CELLS.values() if cell.kind == "toy")
    )


def test_the_pilots_settings_are_for_development() -> None:
    pilots = [name for name in CELLS if name.split("(")[-1][:2] in ("S)", "F)", "G)")]
    assert len(pilots) == 3
    assert all(CELLS[name].part == "development" for name in pilots)
    assert CELLS["D6 Fashion (F), JiT"].config.steps == 2000
    assert not set(CHOOSING) & set(JUDGING)


def test_every_target_has_its_own_folder_and_names_its_weight(tmp_path) -> None:
    jobs = beyond.CLAIM.jobs(True, tmp_path)
    assert {RECIPE, PLAIN, PAPER, cells.NOISE, cells.OF_TIME, cells.SELF_CONSISTENT} <= {job.target for job in jobs}
    assert {*cells.off_line("patch"), *cells.off_line("principal")} <= {job.target for job in jobs}
    assert all(job.config.recipe == "balanced" for job in jobs)
    assert all("weighting" in job.target for job in jobs if job.target not in (RECIPE, PAPER))
    held = Counter((job.target, job.config.seed) for job in jobs if job.cell == IMAGE)
    assert set(held.values()) == {1}
    grid = [seed for target, seed in held if target in Settings(cells.FROZEN_GRID).targets]
    assert Counter(grid) == dict.fromkeys(CHOOSING, 18)
    assert {seed for target, seed in held if target in (RECIPE, PLAIN, PAPER)} == set(JUDGING)
    developed = Counter(job.target for job in jobs if job.cell == "D4 digits, MLP" and job.config.seed == 0)
    assert len(set(developed) & set(Settings(cells.FULL_GRID).targets)) == 33
    judged = {job.target: job.judge for job in jobs if job.cell == "D4 digits, MLP" and job.config.seed == 0}
    assert judged[fixed(0.8, "log")] is with_controls
    assert judged[fixed(0.3, "log")] is clean


@pytest.mark.parametrize("name", ["D3 ring, MLP", "H3 digits, DiT", "H9 table, MLP"])
def test_all_targets_of_a_cell_can_be_built(name, tmp_path) -> None:
    jobs = [job for job in beyond.CLAIM.jobs(True, tmp_path) if job.cell == name and job.config.seed in (0, 3)]
    dataset = load(jobs[0].config.data)
    for job in jobs:
        model = build_model(
            job.config, job.config.target, dataset.shape, dataset.num_classes, moments=dataset.moments, samples=dataset.samples
        )
        assert model(torch.randn(4, *dataset.shape)).isfinite()


def test_without_the_file_of_tokens_its_cell_is_left_out(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDIFF_DATA", raising=False)
    assert find_tokens() is None
    assert "D9 VA-VAE tokens, MLP" not in cells.cells("development")
    with pytest.raises(FileNotFoundError, match=TOKENS):
        tokens()
    import safetensors.torch

    safetensors.torch.save_file({"x": torch.randn(100, 32) + 3}, tmp_path / TOKENS)
    monkeypatch.setenv("KDIFF_DATA", str(tmp_path))
    assert "D9 VA-VAE tokens, MLP" in cells.cells("development")
    assert tokens().x.mean() == pytest.approx(3, abs=0.1)  # as its makers have standardised it


def test_the_data_of_the_study() -> None:
    rows = table("breast_cancer")
    assert rows.shape == (30,)
    assert rows.y is None
    train = rows.part("train")[0]
    torch.testing.assert_close(train.std(0), torch.ones(30), rtol=0.01, atol=0.01)
    spiral = unlabelled("spiral(ambient_dim=8, num_samples=100)")
    assert spiral.y is None
    assert spiral.num_classes == 0
    assert spiral.manifold is not None
    with pytest.raises(ValueError, match="breast_cancer, diabetes, wine, iris"):
        table("california")


@pytest.mark.slow
def test_own_latents_are_made_once(tmp_path, monkeypatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path))
    first = own_latents_of("digits", channels=(4, 8), steps=2)
    assert first.shape == (4, 4, 4)
    monkeypatch.setattr("kdiff.claims.beyond_data.make_latents", lambda *_: pytest.fail("made again"))
    assert own_latents_of("digits", channels=(4, 8), steps=2).fingerprint == first.fingerprint


# Criteria, on made-up rows


def row(cell: str, target: str, seed: int, value: float | None, sampler: str = "clean", measure: str = "distance", k=0.8):
    common = {"cell": cell, "target": target, "seed": seed, "k": k, "train_seconds": 1.0, "heldout": 0.1}
    return {**common, "sampler": sampler, "measure": measure, "value": value, "num_samples": 2000}


def rows_of(cell: str, levels: dict[str, float], seeds: Iterable[int], sampler: str = "clean") -> list[dict[str, Any]]:
    """Distances at these levels, with a little noise that differs from target to target."""
    return [
        row(cell, target, seed, level * NOISE[(seed + i) % 8], sampler)
        for i, (target, level) in enumerate(levels.items())
        for seed in seeds
    ]


def study_of(rows: list[dict[str, Any]], names: Iterable[str], full: bool = True) -> Study:
    jobs = [Job(name, RECIPE, replace(CELLS[name].config, target=RECIPE), Path("nowhere"), 1, False) for name in names]
    return Study(jobs, rows, full)


def held(recipe: dict[str, float], plain: float = 3.0, names: Iterable[str] = (TOY, OTHER_TOY, IMAGE, OTHER_IMAGE)) -> Study:
    """A study in which the best of the grid has the distance 1, and the recipe this distance in each cell."""
    rows = []
    for name in names:
        grid = dict(zip(GRID.targets, (3.0, 2.0, 1.5, 1.0)))
        rows += rows_of(name, grid, CHOOSING) + rows_of(name, {fixed(0.8, "log"): 1.0}, JUDGING)
        if name in recipe:
            rows += rows_of(name, {RECIPE: recipe[name], PLAIN: plain * recipe[name], PAPER: 4.0}, JUDGING)
    return study_of(rows, names)


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((1.0, 1.0, 1.0, 1.0), "confirmed"),
        ((0.6, 1.0, 1.0, 1.0), "confirmed"),
        ((1.3, 1.3, 1.3, 1.3), "refuted"),
        ((0.5, 0.9, 0.9, 1.6), "refuted"),  # one cell is far worse, though the mean is better
        ((1.0, 1.0, 1.0), "inconclusive"),  # a cell is missing
        ((), "inconclusive"),
    ],
)
def test_the_recipe_beside_the_best_of_the_grid(levels, verdict) -> None:
    study = held(dict(zip((TOY, OTHER_TOY, IMAGE, OTHER_IMAGE), levels)))
    finding, best = findings.near_the_best(study, GRID)
    assert finding.verdict == verdict, finding.evidence
    assert set(best.values()) == {fixed(0.8, "log")}
    if len(levels) == 3:
        assert f"missing: {OTHER_IMAGE}" in finding.evidence


def test_the_best_is_chosen_by_other_seeds_than_those_that_judge_it() -> None:
    """A target that is best on the judging seeds alone is not chosen."""
    lucky, best = fixed(0.5, "log"), fixed(0.8, "log")
    rows = rows_of(TOY, {**dict.fromkeys(GRID.targets, 2.0), lucky: 1.1, best: 1.0}, CHOOSING)
    rows += rows_of(TOY, {lucky: 0.5, best: 1.0, RECIPE: 1.0}, JUDGING)
    study = study_of(rows, [TOY])
    assert chosen(study, TOY, GRID.targets, CHOOSING) == best
    logs = ratios(study, TOY, RECIPE, best, JUDGING)
    assert len(logs) == 5
    assert math.exp(sum(logs) / 5) == pytest.approx(1.0, abs=0.03)
    rows = [one for one in rows if (one["target"], one["seed"]) != (GRID.targets[0], 2)]
    assert chosen(study_of(rows, [TOY]), TOY, GRID.targets, CHOOSING) is None  # a run is missing


@pytest.mark.parametrize(
    ("plain", "kind", "verdict"), [(3, "image", "confirmed"), (1.2, "image", "refuted"), (1.2, "toy", "confirmed")]
)
def test_the_recipe_beside_the_default_before(plain, kind, verdict) -> None:
    study = held(dict.fromkeys((TOY, OTHER_TOY, IMAGE, OTHER_IMAGE), 1.0), plain)
    limit = findings.HALVED if kind == "image" else findings.NO_WORSE
    assert findings.against(study, GRID, PLAIN, "plain", kind, limit).verdict == verdict


def test_samples_that_are_not_finite_are_infinitely_far() -> None:
    study = study_of([row(TOY, RECIPE, 3, None), row(TOY, PLAIN, 3, 1.0)], [TOY])
    assert by_seed(study, TOY, RECIPE)[3] >= 1e6
    assert ratios(study, TOY, RECIPE, PLAIN, [3])[0] > 10


@pytest.mark.parametrize(
    ("after", "adopted", "verdict"),
    [(0.8, 1.0, "confirmed"), (1.2, 1.0, "refuted"), (1.2, 0.0, "refuted"), (0.95, 1.0, "refuted")],
)
def test_calibration(after, adopted, verdict) -> None:
    """A calibration that makes samples worse does no harm where it is not adopted, but it is not 10 % closer either."""
    rows = []
    for name in (TOY, IMAGE, OTHER_IMAGE):
        rows += rows_of(name, {RECIPE: 1.0}, JUDGING)
        rows += [row(name, RECIPE, seed, after * NOISE[seed] * (1 + seed / 1000), "calibrated") for seed in JUDGING]
        rows += [row(name, RECIPE, seed, adopted, "calibrated", "adopted") for seed in JUDGING]
    used, always = findings.calibrated(study_of(rows, [TOY, IMAGE, OTHER_IMAGE]), GRID)
    half = [one for one in rows if one["cell"] != IMAGE or one["seed"] != 3]  # one of the judging seeds is missing
    assert f"missing: {IMAGE}" in findings.calibrated(study_of(half, [TOY, IMAGE, OTHER_IMAGE]), GRID)[0].evidence
    assert used.verdict == verdict, used.evidence
    assert used.decides
    assert not always.decides
    if not adopted:
        assert "worse than 1.02: " not in used.evidence
        assert f"worse than 1.02: {TOY}" in always.evidence


@pytest.mark.parametrize(("level", "verdict"), [(0.8, "confirmed"), (1.0, "refuted")])
def test_targets_off_the_line_are_compared_under_one_weight_and_both_calibrated(level, verdict) -> None:
    rows = []
    for name in (TOY, IMAGE):
        basis = CELLS[name].basis
        rows += rows_of(name, dict(zip(GRID.targets, (0.1, 0.1, 1.5, 1.0))), CHOOSING)  # the best of all has another weight
        rows += rows_of(name, dict(zip(cells.off_line(basis), (1.5, 1.2, 1.9))), CHOOSING)
        both = {cells.off_line(basis)[1]: level, fixed(0.8, "log"): 1.0}
        rows += rows_of(name, both, JUDGING, "calibrated") + rows_of(name, dict.fromkeys(both, 1.0), JUDGING)
    finding, pairs = findings.off_the_line(study_of(rows, [TOY, IMAGE]), GRID)
    assert finding.verdict == verdict, finding.evidence
    assert pairs[TOY] == (cells.off_line("principal")[1], fixed(0.8, "log"))
    assert pairs[IMAGE] == (cells.off_line("patch")[1], fixed(0.8, "log"))


def test_the_runs_that_follow_are_those_that_were_chosen(tmp_path) -> None:
    full = Settings(cells.FROZEN_GRID)
    off = cells.off_line(CELLS[IMAGE].basis)
    levels = {**{target: 2.0 + i / 100 for i, target in enumerate(full.targets)}, fixed(0.9, "den"): 1.0, off[2]: 1.0}
    rows = rows_of(IMAGE, levels, CHOOSING) + rows_of(TOY, {RECIPE: 1.0}, JUDGING)
    (group,) = beyond.follow(study_of(rows, [IMAGE, TOY]))
    assert set(group.cells) == {IMAGE}
    assert set(group.targets) == {fixed(0.9, "den"), chosen(study_of(rows, [IMAGE]), IMAGE, full.under("log"), CHOOSING)}
    assert list(group.seeds) == list(JUDGING)
    rows += rows_of(IMAGE, {off[0]: 3.0, off[1]: 3.0}, CHOOSING)  # now all targets off the line have been tried
    assert off[2] in beyond.follow(study_of(rows, [IMAGE, TOY]))[0].targets
    jobs = beyond.CLAIM.jobs_of([group], tmp_path)
    assert not {job.folder for job in jobs} & {job.folder for job in beyond.CLAIM.jobs(True, tmp_path)}


@pytest.mark.parametrize(("paper", "verdict"), [(2.0, "confirmed"), (0.5, "refuted")])
def test_persistence(paper, verdict) -> None:
    names = [name for name, cell in CELLS.items() if cell.part == "persistence"]
    rows = [one for name in names for one in rows_of(name, {RECIPE: 1.0, PAPER: paper, PLAIN: 2.0}, CHOOSING)]
    assert findings.persists(study_of(rows, names)).verdict == verdict
    assert findings.persists(study_of(rows[: 9 * 3], names)).verdict == ("inconclusive" if paper > 1 else "refuted")


def test_an_unfinished_study_is_examined_whole(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(findings, "predictions", lambda data: {"loss on u": 0.79})
    study = held({TOY: 1.0, IMAGE: 1.0})
    outcome = beyond.examine(study)
    assert outcome.verdict == "inconclusive"
    assert f"| {OTHER_IMAGE} |" in outcome.table
    assert "not chosen yet" in outcome.table  # the grid here is smaller than the study's
    draw(study, outcome, tmp_path / "beyond.png")
    assert (tmp_path / "beyond.png").stat().st_size > 1000
    assert beyond.examine(study_of(rows_of(TOY, {RECIPE: 1.0}, [3]), [TOY])).verdict == "inconclusive"


def test_the_rule_is_compared_with_the_grid(monkeypatch) -> None:
    monkeypatch.setattr(findings, "predictions", lambda data: {"loss on u": 0.79})
    found = findings.rule(held({}), GRID)
    assert found.verdict == "confirmed"  # 0.8 is the best of each weight
    monkeypatch.setattr(findings, "predictions", lambda data: {"loss on u": 0.55})
    assert findings.rule(held({}), GRID).verdict == "refuted"
    assert not found.decides


def test_what_to_pick() -> None:
    flat = rows_of(TOY, dict(zip(GRID.targets, (3.0, 2.0, 1.5, 1.0))), CHOOSING)
    other = rows_of(IMAGE, dict(zip(GRID.targets, (1.0, 2.0, 1.5, 1.6))), CHOOSING)
    little, much = advice(study_of(flat + other, [TOY, IMAGE, OTHER_IMAGE]), GRID)
    assert TOY in little
    assert IMAGE not in little
    assert IMAGE in much
    assert OTHER_IMAGE not in little + much  # its runs are not finished


def test_ratios_of_cells_without_enough_seeds_are_missing() -> None:
    found = ratio({"a": [0.1, 0.2], "b": [0.1], "c": []}, 2)
    assert list(found.each) == ["a"]
    assert found.missing == ["b", "c"]


def test_the_criterion_finds_the_quality_of_this_study() -> None:
    rows = quality_rows(held({TOY: 1.0}), TOY, heldout=True)
    assert {one["measure"] for one in rows} == {"quality"}
    assert len(rows) == 4 * 3 + 5 * 4


# Judging


def test_distances_are_those_of_the_measures() -> None:
    judge = judge_of("kdiff.claims.beyond_data.unlabelled(of='spiral(ambient_dim=8, num_samples=600)')")
    x = judge.heldout
    assert distance(judge, x) < 0.3
    off = torch.randn_like(x)
    assert distance(judge, x + off) > 1
    assert distance(judge, x * math.nan) == math.inf
    assert copying(judge, judge.train[:100]) == 0
    assert copying(judge, x) == pytest.approx(1, abs=0.2)
    rows = judge_of("kdiff.claims.beyond_data.table(of=wine)")
    shift = torch.full((13,), 0.5)
    assert distance(rows, rows.heldout) == 0  # held-out rows, not training rows
    assert distance(rows, rows.heldout + shift) == pytest.approx(0.5, rel=0.1)


TINY = TrainConfig(
    data="kdiff.claims.beyond_data.table(of=wine)",
    network="MLP(width=8, depth=1)",
    recipe="balanced",
    steps=6,
    batch_size=16,
    ema=[0.999, 0.99],
)


def test_pieces_of_a_study_are_run_and_reported(tmp_path, monkeypatch) -> None:
    """The first piece is one of two cells, and what it has chosen follows at once; the second call does the rest."""
    settings = Settings((0.5, 0.8), ("log",), (0,), (1,))
    first, second = "H9 table, MLP", "H1 bent sphere, MLP"
    tiny, done = {first: TINY, second: replace(TINY, steps=4)}, list[str]()

    def plan(full: bool) -> list[Group]:
        groups = [Group(tiny, settings.targets, [0], 20, judge=clean), Group(tiny, [RECIPE, PLAIN], [1], 20, judge=clean)]
        return [*groups, Group({first: TINY}, [RECIPE], [1], 20, judge=with_controls)]

    def follow(study: Study) -> list[Group]:
        best = {name: chosen(study, name, settings.targets, [0]) for name in tiny}
        return [Group({name: tiny[name]}, [target], [1], 20, judge=clean) for name, target in best.items() if target]

    def run_here(jobs: Sequence[Job], workers: int, progress: str | None) -> None:
        done.extend(job.cell for job in jobs if not job.finished)
        for job in jobs:
            execute(job)

    monkeypatch.setattr(beyond, "judging", lambda full: settings)
    monkeypatch.setattr("kdiff.claims.reproduction.run_jobs", run_here)
    claim = replace(beyond.CLAIM, plan=plan, follow=follow)
    with pytest.raises(ValueError, match=r"no run of beyond matches X\*; expected patterns"):
        reproduce(claim, False, tmp_path, only=["X*"])
    with pytest.raises(ValueError, match="cannot be reproduced in pieces"):
        reproduce(replace(claim, piecewise=False), False, tmp_path, only=["H9*"])
    outcome = reproduce(claim, False, tmp_path, only=["H9*"])
    assert done == [first] * 5
    assert first in outcome.findings[0].evidence
    assert f"missing: {second}" in outcome.findings[0].evidence
    assert "5 of 9 runs, seeds 0, 1" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "clamp 0.2" in (tmp_path / "results.csv").read_text(encoding="utf-8")
    assert f"| {first} | learned | 1 |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    done.clear()
    outcome = reproduce(claim, False, tmp_path)
    assert done == [second] * 5
    assert "2 cells" in outcome.findings[0].evidence
