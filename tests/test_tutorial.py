"""The tutorials run from their first line to their report: here with few steps, in full by `make tutorials`."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def quickly(page: str, folder: Path) -> list[str]:
    """Run a page in its quick form; the commands of kdiff that it ran."""
    command = [sys.executable, str(ROOT / "tools" / "run_tutorial.py"), str(ROOT / "docs" / page), str(folder), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return re.findall(r"^\$ kdiff (\S+)", run.stdout, re.MULTILINE)


def test_the_tutorial_runs_in_a_quick_form(tmp_path: Path) -> None:
    assert quickly("tutorial.md", tmp_path) == ["estimate", "compare", "train", "sample", "evaluate", "report"]
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 1797
    for made in ("comparisons/pictures/strip.png", "runs/pictures/report.html", "runs/pictures/evaluation.json"):
        assert (tmp_path / made).stat().st_size > 1000


def test_the_notebook_is_the_page_and_was_run() -> None:
    """If this fails: python tools/make_notebook.py docs/scientists.md docs/tutorial/scientists.ipynb."""
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "tools" / "make_notebook.py")
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    path = ROOT / "docs" / "tutorial" / "scientists.ipynb"
    assert tool.sources(path) == tool.cells((ROOT / "docs" / "scientists.md").read_text(encoding="utf-8"))
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("CRPS" in "".join(output.get("text", "")) for output in outputs)


def test_the_tutorial_for_scientists_runs_in_a_quick_form(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    assert quickly("scientists.md", tmp_path) == ["info", "train", "sample", "evaluate", "report"]
    found = json.loads((tmp_path / "runs/plumes/evaluation.json").read_text(encoding="utf-8"))
    assert found["ensemble"]["conditions"] > 10
    for made in ("unseen_wind.png", "runs/plumes/report.html", "runs/plumes/evaluation_ensemble.png"):
        assert (tmp_path / made).stat().st_size > 1000
