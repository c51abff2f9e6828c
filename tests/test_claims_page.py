"""The results page says what the committed verdicts say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kdiff.experiments.reproduce import CLAIMS

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
