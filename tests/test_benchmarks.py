"""The page of `make bench`: every script is on it, tables stay tables, and a script that fails is named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
# Scripts that are not run by bench.py: itself, and the one for a GPU.
OTHERS = {"bench.py", "device.py"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module benchmarks/bench.py."""
    spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench", module)
    spec.loader.exec_module(module)
    return module


def test_every_script_is_run(bench: ModuleType) -> None:
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - OTHERS
    assert {each.script for each in bench.BENCHMARKS} == scripts


def test_the_page(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "good.py").write_text(
        "import sys\nprint('a machine')\nprint('| x |')\nprint('| - |')\nprint(sys.argv[1:])"
    )
    (tmp_path / "benchmarks" / "bad.py").write_text("print('before'); raise SystemExit(3)")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    both = [bench.Benchmark("good.py", "Good", "--before {sources} {before}"), bench.Benchmark("bad.py", "Bad", threads=1)]
    outcomes = [bench.run(each, each.full, tmp_path / "old", "abc") for each in both]
    page = bench.page({"Machine": "this"}, outcomes)
    assert f"```text\na machine\n```\n\n| x |\n| - |\n\n```text\n['--before', '{tmp_path / 'old'}', 'abc']\n```" in page
    assert "OMP_NUM_THREADS=2 python benchmarks/good.py --before BEFORE/src abc\n" in page
    assert [each.status for each in outcomes] == [0, 3]
    assert page.count("It failed with status 3") == 1
