"""The results page says what the committed verdicts say, and these what the committed figures say."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kdiff.experiments import ablation, depth, loss_space, toy
from kdiff.experiments.claim import Study
from kdiff.experiments.quality import by_target, quality_rows, reaches_the_best
from kdiff.experiments.reproduce import CLAIMS, find_claim

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
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


def committed(name: str) -> tuple[Study, list[str]]:
    """The study of a claim from its results.csv, without run folders, and the evidence that its verdict gives."""
    texts, rows = {"cell", "target", "sampler", "measure"}, list[dict[str, Any]]()
    with (RESULTS / "claims" / name / "results.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row = {key: value if key in texts else float(value) if value else None for key, value in line.items()}
            rows.append({**row, "seed": int(line["seed"])})
    verdict = json.loads((RESULTS / "claims" / name / "verdict.json").read_text(encoding="utf-8"))
    return Study(find_claim(name).jobs(True, Path("nowhere")), rows, True), [one["evidence"] for one in verdict["findings"]]


def test_toys_distances() -> None:
    study, evidence = committed("toy")
    assert toy._as_good(toy.distances(study), True).evidence == evidence[3]


def test_the_kinds_of_k() -> None:
    study, evidence = committed("ablation")
    laws = [[ablation.cell(data, law) for data in ablation.DATA] for law in (ablation.UNIFORM, ablation.LOGIT_NORMAL)]
    values = {name: by_target(quality_rows(study, name)) for cells in laws for name in cells}
    pairs = [(cells, target) for cells in laws for target in ablation.FORMS] + [([*laws[0], *laws[1]], ablation.PAIR)]
    found = [ablation._better("", values, cells, "learned", target, True, ablation.DECIDING) for cells, target in pairs]
    assert [one.evidence for one in found] == evidence[: len(found)]


def test_the_losses_samples() -> None:
    study, evidence = committed("loss_space")
    assert loss_space.quality(study).evidence == evidence[3]


def test_learned_k_beside_the_best_fixed_one() -> None:
    study, evidence = committed("depth")
    values = {name: by_target(quality_rows(study, name)) for name in depth.rules(True)}
    learned = {name: found["learned"] for name, found in values.items()}
    fixed = {name: depth._fixed(found) for name, found in values.items()}
    assert reaches_the_best("", learned, fixed, "learned k's distance").evidence == evidence[3]
