"""Claims: what they consist of, how they are run, what they may answer; and the first of them, the linear theorem."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdiff.claims import linear
from kdiff.claims.claim import Claim, Finding, Group, Outcome, Study
from kdiff.claims.reproduction import CLAIMS, describe, find_claim, report, reproduce
from kdiff.commands.main import main
from kdiff.config.parts import parse
from kdiff.config.training import TrainConfig
from kdiff.run.build import build_model, load_dataset
from kdiff.studies.runner import Job, execute
from kdiff.studies.tables import markdown

TINY = TrainConfig(
    data="gaussian(ambient_dim=4, intrinsic_dim=2, num_samples=200)", network="Linear", loss_space="u", steps=4, batch_size=16
)


def tiny_claim(verdict: str = "confirmed") -> Claim:
    def plan(full: bool) -> list[Group]:
        return [
            Group({"one": TINY, "two": replace(TINY, steps=6)}, ["learned"], range(3 if full else 2)),
            Group({"judged": TINY}, ["velocity"], [0], num_samples=60),
        ]

    def examine(study: Study) -> Outcome:
        return Outcome([Finding("it is so", verdict, f"{len(study.runs(cell='one'))} runs")], markdown(["a"], [["1"]]))

    def draw(study: Study, outcome: Outcome, path: Path) -> None:
        path.write_text("a picture")

    return Claim("tiny", "a title", "says", "varied", "measured", "refuted", (0.01, 2.5), plan, examine, draw)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_says_what_it_is_and_its_runs_can_be_built(name: str) -> None:
    claim = find_claim(name)
    assert claim.name == name
    assert all((claim.title, claim.says, claim.varied, claim.measured, claim.refuted_if))
    assert 0 < claim.core_hours[0] <= 0.2
    assert 0 < claim.core_hours[1] <= (80 if claim.piecewise else 6)
    for full in (False, True):
        jobs = claim.jobs(full, Path("out"))
        folders = [job.folder for job in jobs]
        assert len(set(folders)) == len(folders) > 0
        seeds = {job.config.seed for job in jobs}
        assert len(seeds) >= (3 if full else 1)
        assert [job.config.seed for job in jobs] == sorted(job.config.seed for job in jobs)


def test_no_claim_is_listed_twice() -> None:
    assert len(set(CLAIMS)) == len(CLAIMS)


def test_an_unknown_claim_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'linaer'.*did you mean 'linear'"):
        find_claim("linaer")


def test_what_is_about_to_be_done_is_said_with_its_cost() -> None:
    assert "about 1 core-minutes" in describe(tiny_claim(), False)
    assert "about 2.5 core-hours" in describe(tiny_claim(), True)
    assert "refuted if  refuted" in describe(tiny_claim(), True)


def test_a_claim_is_run_examined_and_written(tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    outcome = reproduce(tiny_claim(), False, out, workers=1)
    assert outcome.verdict == "confirmed"
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["verdict"] == "confirmed"
    assert verdict["findings"] == [{"statement": "it is so", "verdict": "confirmed", "evidence": "2 runs", "decides": True}]
    assert (verdict["form"], verdict["runs"], verdict["seeds"]) == ("quick", 5, [0, 1])
    assert verdict["core_hours"]["estimated"] == 0.01
    assert (out / "tiny.png").read_text() == "a picture"
    text = (out / "report.md").read_text()
    for part in (
        "# tiny: a title",
        "**Verdict: confirmed** (quick form: 5 runs, seeds 0, 1, ",
        " core-hours, 0.01 estimated).",
        "![a title](tiny.png)",
        "refuted",
    ):
        assert part in text
    assert "| it is so | **confirmed** | 2 runs |" in text
    assert (out / "table.md").read_text() == "| a |\n| --- |\n| 1 |\n"
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["measure"] for row in rows if row["cell"] == "one"} == {""}
    assert {row["measure"] for row in rows if row["cell"] == "judged"} >= {"sliced_wasserstein", "copying"}
    assert len({(row["cell"], row["seed"]) for row in rows}) == 5
    # What is there is not run again.
    monkeypatch.setattr("kdiff.studies.runner.train_run", lambda *_, **__: pytest.fail("run again"))
    monkeypatch.setattr("kdiff.claims.reproduction.run_jobs", lambda jobs, *_: [execute(job) for job in jobs])
    reproduce(tiny_claim(), False, out, workers=1)


def test_a_study_finds_runs_and_values() -> None:
    def row(seed: int, sampler: str, measure: str, value: float) -> dict:
        return {"cell": "a", "target": "0.5", "seed": seed, "sampler": sampler, "measure": measure, "value": value, "k": 0.5}

    rows = [row(0, "clean", "m", 1.0), row(0, "paper", "m", 2.0), row(1, "clean", "m", 3.0), row(1, "clean", "other", 4.0)]
    job = Job("a", "0.5", replace(TINY, seed=1), Path("there"), 0, False)
    study = Study([job], rows, False)
    assert [run["seed"] for run in study.runs(cell="a")] == [0, 1]
    assert study.runs(cell="b") == []
    assert study.values("m", target="0.5") == [1.0, 3.0]
    assert study.values("m", "paper") == [2.0]
    assert study.folder("a", "0.5", 1) == Path("there")


def test_what_stands_beside_a_claim_does_not_decide_it() -> None:
    outcome = Outcome([Finding("s", "confirmed", "e"), Finding("aside", "refuted", "e", decides=False)], "")
    assert outcome.verdict == "confirmed"
    assert "refuted       aside" in report(outcome)


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "inconclusive"], "inconclusive"),
        (["inconclusive", "refuted"], "refuted"),
        (["confirmed", "refuted", "inconclusive"], "mixed"),
    ],
)
def test_the_verdict_of_several_findings(verdicts, whole) -> None:
    outcome = Outcome([Finding("s", verdict, "e") for verdict in verdicts], "")
    assert outcome.verdict == whole
    assert f"verdict: {whole}" in report(outcome)


@pytest.mark.usefixtures("in_this_process")
def test_the_command_lists_runs_and_refuses(capsys, tmp_path, monkeypatch) -> None:
    assert main(["reproduce", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CLAIMS)
    assert "All together: " in listed
    assert main(["reproduce", "linear", "--list"]) == 0
    assert "refuted if  any run of the full form" in capsys.readouterr().out
    assert main(["reproduce"]) == 2
    assert "which claim?" in capsys.readouterr().err
    assert main(["reproduce", "nothing"]) == 2
    monkeypatch.setattr("kdiff.claims.reproduction.find_claim", lambda _: tiny_claim("refuted"))
    assert main(["reproduce", "linear", "--out", str(tmp_path / "x"), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "INCONCLUSIVE" in text, "the quick form refutes nothing"
    assert "against the claim, but the quick form refutes nothing" in text
    assert "quick form" in text
    assert (tmp_path / "x" / "verdict.json").exists()


@pytest.mark.usefixtures("in_this_process")
def test_missing_data_are_told_before_any_run_and_stop_no_other_claim(capsys, tmp_path, monkeypatch) -> None:
    claims = {
        "one": replace(
            tiny_claim(), plan=lambda full: [Group({"a": TINY, "b": replace(TINY, data="nowhere.npz")}, ["learned"], [0])]
        ),
        "two": replace(tiny_claim(), plan=lambda full: [Group({"a": TINY}, ["learned"], [0])]),
    }
    monkeypatch.setattr("kdiff.claims.reproduction.CLAIMS", tuple(claims))
    monkeypatch.setattr("kdiff.claims.reproduction.find_claim", lambda name: replace(claims[name], name=name))
    assert main(["reproduce", "one", "--out", str(tmp_path / "alone")]) == 2
    assert "nowhere.npz" in capsys.readouterr().err
    assert not (tmp_path / "alone" / "runs").exists()
    assert main(["reproduce", "all", "--out", str(tmp_path / "all"), "--workers", "1"]) == 0
    last = capsys.readouterr().out
    assert "one            not decided: " in last
    assert "two            confirmed" in last


# The linear theorem


def linear_study(shift: dict[str, float], full: bool = True) -> Study:
    """Runs that end where the theory says, some shifted."""
    rows, jobs = [], []
    for job in linear.CLAIM.jobs(full, Path("out")):
        jobs.append(job)
        k = 0.5 + shift.get(job.cell, 0.0)
        rows.append({"cell": job.cell, "target": job.target, "seed": job.config.seed, "k": k})
    return Study(jobs, rows, full)


def test_linear_confirms_refutes_and_doubts(monkeypatch) -> None:
    monkeypatch.setattr(linear, "predicted", lambda config: 0.5)
    monkeypatch.setattr(linear, "sizes", lambda full: [(8, 8), (32, 32)])
    monkeypatch.setattr(linear, "OTHERS", dict(list(linear.OTHERS.items())[:1]))
    right, off = linear_study({}), linear_study({"D = 8, d = 8": 0.011})
    assert [finding.verdict for finding in linear.examine(right).findings] == ["confirmed", "confirmed"]
    assert [finding.verdict for finding in linear.examine(off).findings] == ["refuted", "refuted"]
    assert "0.0110 (D = 8, d = 8)" in linear.examine(off).findings[0].evidence
    unsure = linear_study({"D = 8, d = 8": 0.011}, full=False)
    assert linear.examine(unsure).verdict == "inconclusive"
    elsewhere = linear_study({next(iter(linear.OTHERS)): 0.02})
    assert [finding.verdict for finding in linear.examine(elsewhere).findings] == ["confirmed", "refuted"]


def test_the_theory_is_asked_about_the_very_samples() -> None:
    config = linear.settings("gaussian(ambient_dim=6, intrinsic_dim=2, variance=[2.0, 0.5], num_samples=500)", "uniform", True)
    x = load_dataset(config).part("train")[0].double()
    assert linear.predicted(config) == pytest.approx(6 / (6 + x.square().sum(1).mean().item()), abs=1e-9)
    assert linear.predicted(config) == pytest.approx(6 / 8.5, abs=0.02)


def test_linear_cells_are_what_they_are_called() -> None:
    for job in linear.CLAIM.jobs(False, Path("out")):
        data = load_dataset(job.config)
        assert job.config.loss_space == "u"
        assert parse(job.config.network).name == "Linear"
        if job.cell.startswith("D = "):
            D, d = (int(part.split("= ")[1]) for part in job.cell.split(", "))
            assert data.shape == (D,)
            assert np.linalg.matrix_rank(np.asarray(data.x[:2000])) == d
        build_model(job.config, job.config.target, data.shape, data.num_classes)


@pytest.mark.usefixtures("in_this_process")
def test_a_short_linear_run_heads_for_the_theory_and_is_drawn(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(linear, "sizes", lambda full: [(8, 1), (8, 8)])
    monkeypatch.setattr(linear, "OTHERS", {})
    claim = replace(
        linear.CLAIM,
        plan=lambda full: [
            Group({n: replace(c, steps=800) for n, c in group.cells.items()}, group.targets, [0]) for group in linear.plan(full)
        ],
    )
    outcome = reproduce(claim, False, tmp_path / "out", workers=1)
    with (tmp_path / "out" / "results.csv").open() as file:
        ks = {row["cell"]: float(row["k"]) for row in csv.DictReader(file)}
    assert ks["D = 8, d = 1"] == pytest.approx(8 / 9, abs=0.05)
    assert ks["D = 8, d = 8"] == pytest.approx(0.5, abs=0.05)
    assert (tmp_path / "out" / "linear.png").stat().st_size > 10_000
    assert "0.8889" in outcome.table
