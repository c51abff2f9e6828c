"""The claim `ablation`: planted answers of every kind, and a miniature from end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdiff.claims import ablation, kinds_of_k
from kdiff.claims.claim import Group, Outcome, Study
from kdiff.claims.kinds_of_k import CLAMPED, DATA_EXACT, EXACT, FORMS, PACES, PAIR, TABLE, UNIFORM
from kdiff.claims.reproduction import reproduce
from kdiff.config.training import TrainConfig
from kdiff.run.build import build_model, load_dataset

FORMS_UNIFORM, FORMS_NORMAL, TWO, ACCOUNT, STARTS, PACE, CLAMP_K, CLAMP_QUALITY, LAW = (
    slice(0, 3),
    slice(3, 6),
    *range(6, 13),
)
Factor = Callable[[str, str], float]


def usual(name: str, target: str) -> float:
    """Distances as the paper has them."""
    if target in FORMS or target == PAIR:
        return 1.3
    return {PACES[1]: 1.5, DATA_EXACT: 1.2}.get(target, 1.0)


def usual_k(name: str, target: str) -> float:
    """Lower where times lie towards noise, and where the exact velocity is compared with."""
    if target == EXACT:
        return 0.7
    return {"−0.8": 0.5, "+0.8": 0.95}.get(name[-4:], 0.8)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    monkeypatch.setattr(ablation, "predictions", lambda data, times: {"u": 0.5, "start": 0.6, "end": 0.7})

    def make(
        full: bool = True,
        distance: Factor = usual,
        k: Factor = usual_k,
        ends: Callable[[str], float] = lambda name: 2.0 if UNIFORM in name else 0.5,
        heldout: Factor | None = None,
    ) -> Study:
        """Runs with these distances, to held-out data the same unless given, and k.

        The free table's logit k is ends(cell) at t = 0 and −ends(cell) at 1.
        """
        jobs, rows = ablation.CLAIM.jobs(full, tmp_path), []
        places = list(dict.fromkeys((job.cell, job.target) for job in jobs))
        for job in jobs:
            # Noise that is gone in the mean over five seeds.
            i = places.index((job.cell, job.target))
            shift = 1 + 0.01 * math.cos(0.4 * math.pi * (1 + i % 2) * job.config.seed + i)
            one = {"cell": job.cell, "target": job.target, "seed": job.config.seed, "loss": 1.0}
            one["k"] = one["k_before"] = one["k_last"] = k(job.cell, job.target) + 0.1 * (shift - 1)
            value = distance(job.cell, job.target) * shift
            pair = ("sliced_wasserstein", 0.0), ("off_manifold", value)
            for sampler in ("paper", "clean"):
                images = ("frechet", value), ("frechet_heldout", (heldout or distance)(job.cell, job.target) * shift)
                for measure, figure in images if job.cell.startswith("digits") else pair:
                    floors = {"grouped": figure, "heldout": 0.02, "exact": 0.01 if job.exact else None}
                    rows.append({**one, "sampler": sampler, "measure": measure, "value": figure, **floors})
            job.folder.mkdir(parents=True, exist_ok=True)
            # For the picture.
            lines = [json.dumps({"step": step, "loss": 1.0, "k": one["k"]}) for step in (1, 100)]
            (job.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        of_folder = {job.folder: job for job in jobs}

        def curve(folder: Path):
            t = np.linspace(0, 1, 201)
            job = of_folder[folder]
            return t, 1 / (1 + np.exp(-ends(job.cell) * (1 - 2 * t) * (1 + 0.01 * job.config.seed)))

        monkeypatch.setattr(kinds_of_k, "curve", curve)
        return Study(jobs, rows, full)

    return make


def verdicts(outcome: Outcome) -> list[str]:
    return [finding.verdict for finding in outcome.findings]


def test_the_forms_fit_their_budget() -> None:
    jobs = ablation.CLAIM.jobs(True, Path("out"))
    assert len(jobs) == 5 * 2 * (14 + 5 + 3)
    assert sum(job.config.steps for job in jobs) == 5 * 22 * (3000 + 4000)
    assert sum(job.config.steps for job in ablation.CLAIM.jobs(False, Path("out"))) == 22 * 900
    assert {str(job.config.timesteps) for job in jobs} == {
        "uniform",
        "logit_normal",
        *(f"logit_normal(mean={mean}, std=0.8)" for mean in (-0.8, 0.0, 0.8)),
    }


@pytest.mark.parametrize("full", [False, True])
def test_every_cell_builds(full: bool) -> None:
    for group in ablation.plan(full):
        for config in group.cells.values():
            dataset = load_dataset(config)
            for target in group.targets:
                model = build_model(config, target, dataset.shape, dataset.num_classes)
                assert len(list(model.target.parameters())) == ("learned" in str(target))
            assert dataset.y is not None


def test_the_papers_findings_planted_are_confirmed(planted) -> None:
    outcome = ablation.examine(planted())
    assert verdicts(outcome) == ["confirmed"] * 13
    assert "+30%" in outcome.findings[0].evidence
    assert outcome.table.count("\n") == 2 * 22 + 1


def test_the_opposite_is_refuted(planted) -> None:
    def worse(name: str, target: str) -> float:
        return 1 / usual(name, target)

    def other(name: str, target: str) -> float:
        return {"learned(init=0.2)": 0.6, EXACT: 0.99}.get(target, 0.8)

    outcome = ablation.examine(planted(distance=worse, k=other, ends=lambda name: 0.5 if UNIFORM in name else 2.0))
    assert verdicts(outcome) == ["refuted"] * 13


def test_nothing_planted_is_inconclusive_and_a_law_that_moves_nothing_is_refuted(planted) -> None:
    outcome = ablation.examine(planted(distance=lambda *_: 1.0, k=lambda *_: 0.8, ends=lambda name: 1.0))
    found = verdicts(outcome)
    assert found[:TWO] == ["inconclusive"] * 6
    assert [found[i] for i in (TWO, ACCOUNT, PACE, CLAMP_QUALITY)] == ["inconclusive"] * 4
    assert (found[STARTS], found[LAW]) == ("confirmed", "refuted")


def test_a_form_that_is_better_on_one_data_set_and_worse_on_the_other_is_inconclusive(planted) -> None:
    def mixed(name: str, target: str) -> float:
        return (1.5 if name.startswith("digits") else 0.8) if target == TABLE else usual(name, target)

    outcome = ablation.examine(planted(distance=mixed))
    assert [outcome.findings[i].verdict for i in (0, 3)] == ["inconclusive"] * 2
    assert verdicts(outcome)[1:3] == ["confirmed"] * 2


def test_what_is_nearer_to_the_training_data_alone_decides_nothing(planted) -> None:
    """A table that copies more: nearer to the training digits, and farther from others."""

    def copies(name: str, target: str) -> float:
        return 0.6 if target == TABLE else usual(name, target)

    def heldout(name: str, target: str) -> float:
        return 1.04 if target == TABLE else usual(name, target)

    assert verdicts(ablation.examine(planted(distance=copies)))[0] == "refuted"
    outcome = ablation.examine(planted(distance=copies, heldout=heldout))
    assert [outcome.findings[i].verdict for i in (0, 3)] == ["inconclusive"] * 2
    assert "digits, uniform times, to held-out data +4%" in outcome.findings[0].evidence
    assert verdicts(outcome)[1:3] == ["confirmed"] * 2


def test_a_law_may_decide_alone(planted) -> None:
    def by_law(name: str, target: str) -> float:
        return 1.0 / 1.3 if target in FORMS and UNIFORM in name else usual(name, target)

    found = verdicts(ablation.examine(planted(distance=by_law)))
    assert found[FORMS_UNIFORM] == ["refuted"] * 3
    assert found[FORMS_NORMAL] == ["confirmed"] * 3


def test_a_law_that_moves_k_on_one_data_set_alone_is_inconclusive(planted) -> None:
    """The mean over both would be far above what is asked for."""

    def k(name: str, target: str) -> float:
        return 0.7 if name.startswith("digits") else {"+0.8": 0.95, "−0.8": 0.6}.get(name[-4:], 0.8)

    finding = ablation.examine(planted(k=k)).findings[LAW]
    assert finding.verdict == "inconclusive"
    assert "spiral +0.35" in finding.evidence
    assert "+0.18" in finding.evidence


def test_starts_that_end_apart_in_some_seeds_only_are_inconclusive(planted) -> None:
    def k(name: str, target: str) -> float:
        return 0.79 if target == "learned(init=0.8)" else 0.8

    study = planted(k=k)
    for row in study.rows:
        if row["target"] == "learned(init=0.8)" and row["seed"] == 0:
            row["k"] = 0.6
    found = verdicts(ablation.examine(study))
    assert found[STARTS] == "inconclusive"


def test_the_quick_form_decides_nothing(planted) -> None:
    assert verdicts(ablation.examine(planted(full=False))) == ["inconclusive"] * 13


@pytest.mark.parametrize("full", [False, True])
def test_the_picture_of_made_up_runs(full: bool, planted, tmp_path: Path) -> None:
    study = planted(full=full)
    ablation.draw(study, ablation.examine(study), tmp_path / "ablation.png")
    assert (tmp_path / "ablation.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data without labels, so that no classifier is trained."""
    monkeypatch.setitem(kinds_of_k.DATA, "spiral", "gaussian(ambient_dim=6, embedding=curved, num_samples=300)")
    whole = ablation.settings

    def tiny(data: str, timesteps: str, full: bool) -> TrainConfig:
        return replace(whole(data, timesteps, full), steps=4, network="MLP(width=8, depth=1)", log_every=2)

    monkeypatch.setattr(ablation, "settings", tiny)

    def plan(full: bool) -> list[Group]:
        return [replace(group, num_samples=60) for group in ablation.plan(False)]

    outcome = reproduce(replace(ablation.CLAIM, plan=plan), False, tmp_path / "out", workers=1)
    assert outcome.verdict == "inconclusive"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"verdict.json", "table.md", "ablation.png", "results.csv"}
    run = tmp_path / "out/runs/spiral_uniform_times"
    t, k = kinds_of_k.curve(next(run.glob("learned_of_time*wiener*/seed_0")))
    assert t.shape == k.shape == (201,)
    assert np.allclose(k, 0.5, atol=0.05)
    assert len(list(run.iterdir())) == 14
    assert CLAMPED in (tmp_path / "out/table.md").read_text(encoding="utf-8")
