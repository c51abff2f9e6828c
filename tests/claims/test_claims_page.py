"""The results page says what the committed verdicts say, and these what the committed figures say."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kdiff.claims import ablation, depth, dimension, loss_space, toy
from kdiff.claims import kinds_of_k as kinds
from kdiff.claims.claim import Finding, Study
from kdiff.claims.evidence import learned_k, nearest, still_moving, within
from kdiff.claims.quality import by_target, quality_rows, reaches_the_best
from kdiff.claims.reproduction import CLAIMS, find_claim

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PAGE = (RESULTS / "claims.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_has_its_line_and_its_verdict(name: str) -> None:
    (line,) = (line for line in PAGE.splitlines() if re.search(rf"`{name}`", line) and line.startswith("|"))
    folder = RESULTS / "claims" / name
    if not folder.exists():
        assert "not run in full yet" in line
        return
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["form"] == "full"
    assert len(verdict["seeds"]) >= 3
    assert f"**{verdict['verdict']}**" in line
    assert f"claims/{name}/report.md" in line
    assert re.search(rf"!\[[^]]+\]\(claims/{name}/{name}\.png\)", PAGE)
    report = (folder / "report.md").read_text(encoding="utf-8").replace(r"\|", "|")  # a bar, within a table
    assert f"**Verdict: {verdict['verdict']}**" in report
    assert all(finding["evidence"] in report for finding in verdict["findings"])
    assert (folder / f"{name}.png").exists()
    assert (folder / "results.csv").exists()


# What the committed figures say, by the code as it is


def committed(name: str) -> tuple[Study, list[tuple[str, str]]]:
    """The study of a claim from its results.csv, without run folders, and the verdict and evidence of its findings."""
    texts, rows = {"cell", "target", "sampler", "measure"}, list[dict[str, Any]]()
    with (RESULTS / "claims" / name / "results.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row = {key: value if key in texts else float(value) if value else None for key, value in line.items()}
            rows.append({**row, "seed": int(line["seed"])})
    verdict = json.loads((RESULTS / "claims" / name / "verdict.json").read_text(encoding="utf-8"))
    found = [(one["verdict"], one["evidence"]) for one in verdict["findings"]]
    return Study(find_claim(name).jobs(True, Path("nowhere")), rows, True), found


def said(finding: Finding) -> tuple[str, str]:
    return finding.verdict, finding.evidence


def test_toys_k_and_distances() -> None:
    study, found = committed("toy")
    assert said(toy._as_good(toy.distances(study), True)) == found[3]
    cells = {toy.cell(data, D): D for data in toy.sizes(True)[0] for D in toy.sizes(True)[1]}
    ks, predicted = {name: learned_k(study, name) for name in cells}, {name: toy.predictions(D) for name, D in cells.items()}
    moving, rule = still_moving(study, ks), {name: each[toy.RULE] for name, each in predicted.items()}
    assert said(within("", ks, rule, moving=moving)) == found[1]
    assert said(nearest("", ks, predicted, toy.RULE, moving=moving)) == found[2]


def test_the_kinds_of_k() -> None:
    study, found = committed("ablation")
    laws = [[kinds.cell(data, law) for data in kinds.DATA] for law in (kinds.UNIFORM, kinds.LOGIT_NORMAL)]
    values = ablation.both_distances(study, [name for cells in laws for name in cells])
    pairs = [(cells, target) for cells in laws for target in kinds.FORMS] + [([*laws[0], *laws[1]], kinds.PAIR)]
    again = [ablation._better("", values, cells, target, True, kinds.DECIDING) for cells, target in pairs]
    assert [said(one) for one in again] == found[: len(again)]
    assert said(ablation._better("", values, laws[0], kinds.PACES[1], True)) == found[9]
    assert said(ablation._clamp(study, laws[0])) == found[10]
    clamps = ablation._better("", values, laws[0], kinds.DATA_EXACT, True, ours=kinds.DATA_CLAMPED)
    assert said(clamps) == found[11]
    assert said(ablation._law(study, list(kinds.DATA))) == found[12]


def test_which_prediction_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """These predictions need no estimate of d, which takes much longer."""
    monkeypatch.setattr("kdiff.studies.estimation.estimate_dimensions", lambda *_, **__: [])
    monkeypatch.setattr(dimension, "seen", dimension.seen.__wrapped__)  # keeps nothing
    study, found = committed("dimension")
    cases = dimension.present(study)
    ks = {name: learned_k(study, name) for name in cases}
    predicted = {name: dimension.predictions(case) for name, case in cases.items() if case.d}
    assert said(nearest("", ks, predicted, dimension.RULE, moving=still_moving(study, ks))) == found[-1]


def test_the_losses_samples() -> None:
    study, found = committed("loss_space")
    assert said(loss_space.quality(study)) == found[3]


def test_learned_k_beside_the_best_fixed_one() -> None:
    study, found = committed("depth")
    values = {name: by_target(quality_rows(study, name)) for name in depth.rules(True)}
    learned = {name: found["learned"] for name, found in values.items()}
    fixed = {name: depth._fixed(found) for name, found in values.items()}
    assert said(reaches_the_best("", learned, fixed, "distance of learned k")) == found[3]
    ks, moving = {name: learned_k(study, name) for name in values}, still_moving(study, values)
    assert said(within("", ks, depth.rules(True), moving=moving)) == found[4]
