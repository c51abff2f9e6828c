"""The claim `dynamics`: its cells are what they are called, its predictions follow the losses, and it can be refuted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdiff.claims import curves, dynamics
from kdiff.claims.claim import Group, Study
from kdiff.claims.reproduction import reproduce
from kdiff.run.build import build, build_model, load_dataset
from kdiff.studies.predictions import second_moments
from kdiff.studies.runner import Job
from kdiff.theory import Modes, modes

QUICK = {job.cell: job.config for job in dynamics.CLAIM.jobs(False, Path("out"))}
FLAT, OTHER = QUICK
NOISE = 0.002


def planted(tmp_path: Path, slow: float = 1.0, shift: float = 0.0) -> Study:
    """Runs as the theory has them and sampling noise; or with time `slow` times as fast, or every k as if it were k + shift."""
    jobs, rows, rng = [], [], np.random.default_rng(0)
    noise: dict[tuple, np.ndarray] = {}
    expected: dict[tuple, Modes] = {}
    for job in dynamics.CLAIM.jobs(False, tmp_path):
        spectrum, k = second_moments(str(job.config.data)), float(job.target)
        D, q, h = len(spectrum), curves.directions(str(job.config.data)), dynamics.step_of_time(False)
        every = job.config.log_every
        tau = np.arange(job.config.steps) * h * slow
        if (job.cell, k) not in expected:
            times = build("timesteps", job.config.timesteps)
            expected[job.cell, k] = modes(tau, min(1.0, k + shift), spectrum, times=times)
        found = expected[job.cell, k]
        each = (found.loss * found.counts).reshape(-1, every, len(found.counts)).mean(1) / D
        along = found.counts.cumsum() <= q
        key = (job.cell, job.config.seed)
        noise.setdefault(key, 1 + NOISE * rng.standard_normal((2, len(each))))
        jobs.append(replace(job, folder=tmp_path / job.cell / job.target / str(job.config.seed)))
        jobs[-1].folder.mkdir(parents=True)
        sides = {"loss_along": each[:, along].sum(1) * noise[key][0], "loss_across": each[:, ~along].sum(1) * noise[key][1]}
        lines = [{"step": every * (i + 1), "loss": 1.0, **{s: v[i] for s, v in sides.items()}} for i in range(len(each))]
        (jobs[-1].folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows.append({"cell": job.cell, "target": job.target, "seed": job.config.seed, "k": k})
    return Study(jobs, rows, False)


def test_cells_are_what_they_are_called_and_split_along_their_data() -> None:
    for full in (False, True):
        jobs: list[Job] = dynamics.CLAIM.jobs(full, Path("out"))
        for job in {job.cell: job for job in jobs}.values():
            D, variances, _, _ = dynamics.CELLS[job.cell]
            data = load_dataset(job.config)
            assert data.shape == (D,)
            assert curves.directions(str(job.config.data)) == len(variances), "the trainer's split is the data's subspace"
            build_model(job.config, job.target, data.shape, data.num_classes)
            assert job.config.learning_rate == pytest.approx(dynamics.step_of_time(full) * D)
            assert job.config.steps % job.config.log_every == 0
        assert sum(job.config.steps for job in jobs) <= (30_000 if not full else 600_000)


def test_what_the_theory_says_is_confirmed(tmp_path) -> None:
    outcome = dynamics.examine(planted(tmp_path))
    assert [finding.verdict for finding in outcome.findings] == ["confirmed"] * 5
    assert "2.673" in outcome.table
    assert "(0.714) at 0.82" in outcome.table


def test_errors_that_decay_at_other_rates_refute(tmp_path) -> None:
    outcome = dynamics.examine(planted(tmp_path, slow=0.9))
    rate, flat, other, best, above = (finding.verdict for finding in outcome.findings)
    assert (rate, flat, other, best) == ("refuted",) * 4
    assert above == "confirmed", "it rises all the same"


def test_another_best_k_refutes(tmp_path) -> None:
    """Were everything as at k + 0.15, the best k would lie lower by that."""
    outcome = dynamics.examine(planted(tmp_path, shift=0.15))
    verdicts = [finding.verdict for finding in outcome.findings]
    assert verdicts[3] == "refuted"
    assert verdicts[4] == "refuted", "never above the rule"


def test_the_rate_of_a_decay_is_found() -> None:
    tau, rng = np.linspace(0.02, 4, 100), np.random.default_rng(0)
    losses = np.stack([0.3 + a * np.exp(-1.7 * tau) for a in (0.5, 0.1, -0.2)])
    assert curves.fitted_rate(tau, losses) == pytest.approx(1.7, abs=1e-4)
    assert curves.fitted_rate(tau, losses * (1 + 1e-3 * rng.standard_normal(losses.shape))) == pytest.approx(1.7, abs=0.05)


def test_noise_is_told_from_a_smooth_error() -> None:
    rng, smooth = np.random.default_rng(0), np.sin(np.linspace(0, 3, 400))
    level = np.where(np.arange(400) < 200, 0.01, 0.05)
    found = curves.noise_of(smooth + level * rng.standard_normal(400))
    assert found.shape == (400,)
    assert found[-1] == pytest.approx(0.05, rel=0.2)
    assert 0.01 < found[0] < 0.05, "never below the noise of the whole"


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_runs_and_is_drawn(tmp_path) -> None:
    def plan(full: bool) -> list[Group]:
        cells = {name: replace(config, steps=80, log_every=5, batch_size=256) for name, config in QUICK.items()}
        return [Group(cells, [0.0, 0.5, 1.0], [0, 1])]

    outcome = reproduce(replace(dynamics.CLAIM, plan=plan), False, tmp_path / "out", workers=1)
    assert FLAT in outcome.table
    assert (tmp_path / "out" / "dynamics.png").stat().st_size > 10_000
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert len(verdict["findings"]) == len(outcome.findings)
    assert all(finding["verdict"] != "refuted" for finding in verdict["findings"][1:3]), "80 steps follow the closed form too"
