"""The Python on the pages runs, and prints what the pages say that it prints."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("code_cache")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order and in one namespace; a block of >>> lines must also print what it shows."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
            report: list[str] = []
            result = doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
            assert not result.failed, "".join(report)
            names = test.globs
        else:
            exec(compile(block, str(page), "exec"), names)


def test_there_is_something_to_run() -> None:
    assert any(">>>" in block for page in PAGES for block in blocks(page))


def test_every_part_of_the_package_is_in_the_reference() -> None:
    source = ROOT / "src" / "kdiff"
    internal = {"__init__", "__main__", "cli", "export_command", "latent_commands", "precision", "report_command"}
    parts = {p.relative_to(source).parts[0].removesuffix(".py") for p in source.rglob("*.py")} - internal
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert parts <= set(re.findall(r"automodule:: kdiff\.(\w+)", text))


def test_the_readme_shows_the_table_that_its_command_made() -> None:
    table = (ROOT / "docs" / "results" / "digits" / "table.md").read_text(encoding="utf-8")
    assert table.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_the_table_is_what_the_command_makes_of_the_results(data: str) -> None:
    from kdiff.experiments.compare import table

    folder = ROOT / "docs" / "results" / data
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    assert table(rows) + "\n" == (folder / "table.md").read_text(encoding="utf-8")
