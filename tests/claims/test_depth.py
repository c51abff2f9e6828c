"""The claim `depth`: planted answers of every kind, and a miniature from end to end."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdiff.claims import depth
from kdiff.claims.claim import Group, Outcome, Study
from kdiff.claims.reproduction import reproduce
from kdiff.data import load
from kdiff.run.build import build_model, load_dataset
from kdiff.targets import fixed_k
from kdiff.theory.intrinsic_dimension import estimate_dimensions

QUALITY, LOSS, TRANSFORMERS, LEARNED, NEAR, SIZE, NEAREST = range(7)
Best = Callable[[str, float], float]


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear theory of images takes their spectra, which takes seconds; here it is asked for anything."""
    monkeypatch.setattr(depth, "predictions", lambda data: {"u": 0.5, "start": 0.6, "end": 0.7})


def made_up(full: bool, best: Best, best_loss: Best, learned: Best, worse: float = 1.0) -> Study:
    """Runs whose distance is least at k = best(cell, D/(D + d)), their loss at best_loss, with learned k at learned."""
    jobs, rows, rules = depth.CLAIM.jobs(full, Path("out")), [], depth.rules(full)
    for i, job in enumerate(jobs):
        of_rule = rules[job.cell]
        k = fixed_k(job.config.target)
        k, factor = (learned(job.cell, of_rule), worse) if k is None else (k, 1.0)
        noise = 1 + 0.01 * math.sin(7 * i)
        value, loss = (noise * (1 + 20 * (k - at(job.cell, of_rule)) ** 2) for at in (best, best_loss))
        common = {
            "cell": job.cell,
            "target": job.target,
            "seed": job.config.seed,
            "k": k,
            "k_before": k,
            "k_last": k,
            "loss": loss,
        }
        off = ("sliced_wasserstein", 0.0), ("off_manifold", value * factor)
        for sampler in ("paper", "clean"):
            for measure, figure in off if job.cell.startswith("MLP") else (("frechet", value * factor),):
                floors = {"grouped": figure, "heldout": 0.1, "exact": 0.05 if job.exact else None}
                rows.append({**common, "sampler": sampler, "measure": measure, "value": figure, **floors})
    return Study(jobs, rows, full)


def at_rule(_: str, of_rule: float) -> float:
    return of_rule


def below(_: str, of_rule: float) -> float:
    return of_rule - 0.3


def verdicts(outcome: Outcome) -> list[str]:
    return [finding.verdict for finding in outcome.findings]


def test_the_forms_fit_their_budget() -> None:
    jobs = depth.CLAIM.jobs(True, Path("out"))
    assert len(jobs) == 3 * (2 * 5 * 13 + 4 * 6)
    assert sum(job.config.steps for job in jobs) == 390 * 3000 + 72 * 2000
    assert sum(job.config.steps for job in depth.CLAIM.jobs(False, Path("out"))) == 26 * 600 + 6 * 250
    assert {job.cell for job in jobs} == set(depth.rules(True))


@pytest.mark.parametrize("full", [False, True])
def test_every_cell_builds_and_has_the_rule_among_its_targets(full: bool) -> None:
    shapes = {"fashion": ((1, 28, 28), 10), "glyphs(size=16)": ((3, 16, 16), 9)}
    for group in depth.plan(full):
        for name, config in group.cells.items():
            data = str(config.data)
            if data in shapes:
                shape, classes = shapes[data]
            else:
                dataset = load_dataset(config)
                shape, classes = dataset.shape, dataset.num_classes
            for target in group.targets:
                build_model(config, target, shape, classes)
            assert depth.rules(full)[name] in group.targets


def test_the_estimated_dimension_of_digits() -> None:
    x = load("digits").part("train")[0]
    (two_nn,) = (e.value for e in estimate_dimensions(x, max_points=5000) if (e.method, e.scope) == ("TwoNN", "global"))
    assert depth.IMAGES["digits"] == (64, pytest.approx(two_nn, abs=0.06))


def test_a_planted_rule_is_confirmed_everywhere() -> None:
    outcome = depth.examine(made_up(True, at_rule, at_rule, at_rule))
    assert verdicts(outcome) == ["confirmed"] * 7
    assert outcome.verdict == "confirmed"
    assert "| MLP 256 × 8, d = 16 | 0.667 | 0.667 | 0.667 |" in outcome.table or "0.667, 0.7" in outcome.table
    assert outcome.table.count("\n") == 2 * (14 + 1) + 2


def test_a_best_k_elsewhere_refutes_the_rule_and_not_the_learning() -> None:
    outcome = depth.examine(made_up(True, below, below, below))
    assert verdicts(outcome) == ["refuted"] * 3 + ["confirmed", "refuted", "confirmed", "refuted"]
    assert re.search(r"significantly worse than target \S+ in MLP 64 × 1, d = 2", outcome.findings[QUALITY].evidence)
    assert outcome.verdict == "mixed"


def test_one_cell_refutes() -> None:
    def one(cell: str, of_rule: float) -> float:
        return 0.2 if cell == "MLP 256 × 8, d = 16" else of_rule

    found = depth.examine(made_up(True, one, at_rule, at_rule)).findings
    assert [found[i].verdict for i in (QUALITY, LOSS, TRANSFORMERS, LEARNED)] == [
        "refuted",
        "confirmed",
        "confirmed",
        "refuted",
    ]
    found = depth.examine(made_up(True, at_rule, one, at_rule)).findings
    assert [found[i].verdict for i in (QUALITY, LOSS)] == ["confirmed", "refuted"]


def test_a_learned_k_that_costs_quality_is_refuted() -> None:
    found = depth.examine(made_up(True, at_rule, at_rule, at_rule, worse=1.5)).findings
    assert [found[i].verdict for i in (QUALITY, LEARNED, NEAR)] == ["confirmed", "refuted", "confirmed"]


def test_a_learned_k_that_depends_on_the_size_is_refuted() -> None:
    def by_size(cell: str, of_rule: float) -> float:
        return of_rule - 0.4 * ("MLP 64" in cell)

    found = depth.examine(made_up(True, at_rule, at_rule, by_size)).findings
    assert [found[i].verdict for i in (QUALITY, NEAR, SIZE)] == ["confirmed", "refuted", "refuted"]


def test_sizes_further_apart_than_the_tolerance_are_refuted_and_nearer_ones_are_not() -> None:
    for apart, verdict in ((0.04, "confirmed"), (0.06, "refuted")):
        k = {cell: 0.6 + apart * i / 4 for i, cell in enumerate(depth.mlp_cells(2, True))}
        found = depth.examine(made_up(True, at_rule, at_rule, lambda cell, of_rule, k=k: k.get(cell, of_rule))).findings
        assert found[SIZE].verdict == verdict


@pytest.mark.parametrize("best", [at_rule, below])
def test_the_quick_form_decides_nothing(best: Best) -> None:
    assert verdicts(depth.examine(made_up(False, best, best, best))) == ["inconclusive"] * 7


@pytest.mark.parametrize("full", [False, True])
def test_the_picture_of_made_up_runs(full: bool, tmp_path: Path) -> None:
    study = made_up(full, at_rule, at_rule, at_rule)
    depth.draw(study, depth.examine(study), tmp_path / "depth.png")
    assert (tmp_path / "depth.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = depth.plan(False)[:1]
    name, config = next(iter(groups[0].cells.items()))
    config = replace(config, data=depth.sheet(2).replace(")", ", num_samples=300)"), steps=4, network="MLP(width=8, depth=1)")
    cells = {name: replace(config, log_every=2), "no MLP": replace(config, log_every=2, steps=2)}
    small = Group(cells, [0.0, 0.5, 0.941, 1.0, "learned"], [0, 1], num_samples=60)
    monkeypatch.setattr(depth, "rules", lambda full: dict.fromkeys(cells, 0.941))
    claim = replace(depth.CLAIM, plan=lambda full: [small])
    outcome = reproduce(claim, False, tmp_path / "out", workers=1)
    assert outcome.verdict == "inconclusive"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"verdict.json", "table.md", "depth.png", "results.csv"}
