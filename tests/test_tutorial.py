"""The tutorial runs from its first picture to its report: here with few steps, in full by `make tutorials`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_tutorial_runs_in_a_quick_form(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools" / "run_tutorial.py"),
        str(ROOT / "docs" / "tutorial.md"),
        str(tmp_path),
        "--quick",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    said = re.findall(r"^\$ kdiff (\S+)", run.stdout, re.MULTILINE)
    assert said == ["estimate", "compare", "train", "sample", "evaluate", "report"]
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 1797
    for made in ("comparisons/pictures/strip.png", "runs/pictures/report.html", "runs/pictures/evaluation.json"):
        assert (tmp_path / made).stat().st_size > 1000
