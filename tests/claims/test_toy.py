"""The claim `toy`: planted answers of every kind, and a miniature from end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdiff.claims import toy
from kdiff.claims.claim import Group, Outcome, Study
from kdiff.claims.reproduction import reproduce
from kdiff.evaluation import classifier
from kdiff.run.build import build_model, load_dataset
from kdiff.theory import whitened

RISES, CLOSE, NEAREST, AS_GOOD, VELOCITY, NOISE = range(6)
FACTORS = {"noise": 3.0, "velocity": 2.0, "data": 1.1, "learned": 1.0}


def planted(
    out: Path,
    full: bool = True,
    k: Callable[[int], float] = lambda D: D / (D + 2),
    off: Callable[[str, int], float] = lambda target, D: 20.0 if target == "noise" and D >= 128 else 0.1 * FACTORS[target],
) -> Outcome:
    """What the claim answers if k after training is k(D), and samples lie off(target, D) off the plane."""
    jobs, rows = toy.CLAIM.jobs(full, out), []
    for job in jobs:
        D = int(job.cell.rpartition(" ")[2])
        shift = 1 + 0.01 * math.sin(7 * (job.config.seed + 1) * (1 + len(job.target)) * D)
        common = {"cell": job.cell, "target": job.target, "seed": job.config.seed, "loss": 1.0}
        common["k"] = common["k_before"] = common["k_last"] = 1 - (1 - k(D)) * shift if job.target == "learned" else None
        for sampler in ("paper", "clean"):
            for measure, value in (("sliced_wasserstein", 0.03), ("off_manifold", off(job.target, D) * shift)):
                figure = {"sampler": sampler, "measure": measure, "value": value, "grouped": value, "heldout": 0.02}
                rows.append({**common, **figure, "exact": 0.01 if job.exact else None, "num_samples": 10})
    return toy.CLAIM.examine(Study(jobs, rows, full))


def verdicts(outcome: Outcome) -> list[str]:
    return [finding.verdict for finding in outcome.findings]


def test_the_full_form_fits_its_budget() -> None:
    jobs = toy.CLAIM.jobs(True, Path("out"))
    assert len(jobs) == 3 * 5 * 4 * 3
    assert sum(job.config.steps for job in jobs) == 1_440_000
    assert sum(job.config.steps for job in toy.CLAIM.jobs(False, Path("out"))) == 24_000
    assert {(job.config.seed, job.exact) for job in jobs} == {(0, True), *((seed, False) for seed in (1, 2))}


@pytest.mark.parametrize("full", [False, True])
def test_every_cell_builds_one_network(full: bool) -> None:
    sizes = set()
    for group in toy.plan(full):
        for config in group.cells.values():
            small = replace(config, data=str(config.data).replace(")", "").split(", num")[0] + ", num_samples=200)")
            dataset = load_dataset(small)
            assert dataset.y is not None
            for target in group.targets:
                network = build_model(small, target, dataset.shape, dataset.num_classes).network
            sizes.add(tuple(network.hidden[1].weight.shape))
    assert sizes == {(256, 256)}


def test_as_many_samples_as_are_held_out() -> None:
    for full in (False, True):
        (group,) = toy.plan(full)
        for config in group.cells.values():
            heldout = len(load_dataset(config).part("heldout")[0])
            assert abs(heldout - group.num_samples) < 0.05 * heldout


@pytest.mark.parametrize("D", [2, 32])
def test_the_predictions_are_those_of_data_whitened_in_a_plane(D: int) -> None:
    found = toy.predictions(D)
    assert found["D/(D + 2)"] == pytest.approx(D / (D + 2))
    assert found["√D/(√D + √2)"] == pytest.approx(D**0.5 / (D**0.5 + 2**0.5))
    assert whitened(D, 2).sum() == 2


def test_all_that_is_claimed(tmp_path: Path) -> None:
    outcome = planted(tmp_path)
    assert verdicts(outcome) == ["confirmed"] * 6
    assert outcome.verdict == "confirmed"
    assert "| spiral | 512 | 0.9961" in outcome.table
    assert outcome.table.count("held-out data") == 15
    assert "bottleneck" in outcome.notes[0]


class TestRefutations:
    def test_k_that_falls(self, tmp_path: Path) -> None:
        found = verdicts(planted(tmp_path, k=lambda D: 0.9 if D == 512 else D / (D + 2)))
        assert (found[RISES], found[CLOSE]) == ("refuted", "refuted")

    def test_k_that_rises_elsewhere(self, tmp_path: Path) -> None:
        found = verdicts(planted(tmp_path, k=lambda D: D**0.5 / (D**0.5 + 2**0.5)))
        assert found[RISES : NEAREST + 1] == ["confirmed", "refuted", "refuted"]

    def test_worse_than_the_best_in_one_dimension(self, tmp_path: Path) -> None:
        def off(target: str, D: int) -> float:
            return 0.3 if (target, D) == ("learned", 8) else 20 if target == "noise" else 0.1 * FACTORS[target]

        outcome = planted(tmp_path, off=off)
        assert verdicts(outcome)[AS_GOOD:] == ["refuted", "confirmed", "confirmed"]
        assert "moons, D = 8 +" in outcome.findings[AS_GOOD].evidence

    def test_worse_than_velocity(self, tmp_path: Path) -> None:
        def off(target: str, D: int) -> float:
            return 0.5 if (target, D) == ("learned", 512) else 20 if target == "noise" else 0.1 * FACTORS[target]

        assert verdicts(planted(tmp_path, off=off))[VELOCITY] == "refuted"

    def test_noise_prediction_that_works(self, tmp_path: Path) -> None:
        found = verdicts(planted(tmp_path, off=lambda target, D: 0.1 * FACTORS[target]))
        assert found[NOISE] == "refuted"


class TestInconclusive:
    def test_equal_to_velocity(self, tmp_path: Path) -> None:
        def off(target: str, D: int) -> float:
            return 20 if target == "noise" else 0.1

        assert verdicts(planted(tmp_path, off=off))[AS_GOOD:] == ["confirmed", "inconclusive", "confirmed"]

    def test_the_quick_form_refutes_nothing_of_k_and_of_quality(self, tmp_path: Path) -> None:
        found = verdicts(planted(tmp_path, full=False, k=lambda D: 0.9 - D / 1000, off=lambda *_: 0.1))
        assert "refuted" not in found[:NOISE]


def test_the_distance_adds_up_what_lies_in_the_plane_and_off_it(tmp_path: Path) -> None:
    outcome = planted(tmp_path, full=False, off=lambda target, D: 0.04)
    line = next(line for line in outcome.table.splitlines() if line.startswith("| spiral, D = 32 | velocity"))
    assert float(line.split("|")[3].split("±")[0]) == pytest.approx(math.sqrt(2 * 0.03**2 + 0.04**2), rel=0.02)


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "sizes", lambda full: (["spiral"], [2, 128]))
    monkeypatch.setattr(toy, "SHOWN", 50)
    monkeypatch.setattr(classifier, "RECIPE", replace(classifier.RECIPE, steps=5))

    def plan(full: bool) -> list[Group]:
        (group,) = toy.plan(full)
        cells = {
            name: replace(config, data=str(config.data).replace("3000", "300"), network="MLP(width=8, depth=1)", steps=3)
            for name, config in group.cells.items()
        }
        return [replace(group, cells=cells, num_samples=60)]

    outcome = reproduce(replace(toy.CLAIM, plan=plan), False, tmp_path)
    assert len(outcome.findings) == 6
    assert "nan" not in outcome.table
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["runs"] == 16
    assert (tmp_path / "toy.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "toy.png").stat().st_size > 20_000
