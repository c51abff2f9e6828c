"""The Python on the pages runs, and prints what the pages say that it prints."""

from __future__ import annotations

import ast
import doctest
import json
import re
from pathlib import Path

import pytest

import kdiff

ROOT = Path(__file__).resolve().parent.parent
# The tutorials run in tests of their own: their Python needs what their commands make.
TUTORIALS = ("tutorial", "scientists")
PAGES = [ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts and p.stem not in TUTORIALS)]
PAGES.sort()
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


def test_the_reference_has_every_module_once_in_the_order_of_the_rooms() -> None:
    source = ROOT / "src"
    files = (p.relative_to(source).with_suffix("") for p in (source / "kdiff").rglob("*.py"))
    modules = {".".join(p.parts).removesuffix(".__init__") for p in files} - {"kdiff", "kdiff.__main__"}
    listed = re.findall(r"automodule:: (\S+)", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(modules)
    order = re.search(r"^```\n(commands .*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
    assert order is not None
    rooms = re.findall(r"^(\w+)", order[1], re.M)
    assert list(dict.fromkeys(name.split(".")[1] for name in listed)) == rooms


def test_the_readme_shows_figures_that_its_command_made() -> None:
    """Every row of its first table: k, and the clean distances to training and held-out digits, mean ± deviation over seeds."""
    from kdiff.studies.comparison import summarise

    rows = json.loads((ROOT / "docs" / "results" / "digits" / "results.json").read_text(encoding="utf-8"))["rows"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in dict.fromkeys(row["target"] for row in rows):
        cells = [cell.strip() for cell in re.findall(rf"^\| {target} \|(.*)\|$", readme, re.MULTILINE)[0].split("|")]
        assert float(cells[0]) == pytest.approx(next(row["k"] for row in rows if row["target"] == target), abs=6e-4)
        for cell, measure in zip(cells[1:], ("frechet", "frechet_heldout"), strict=True):
            summary = summarise(rows, target, "clean", measure)
            for shown, value in zip(cell.split(" ± "), (summary.mean, summary.std), strict=True):
                digits = len(shown.partition(".")[2])
                assert float(shown) == pytest.approx(value, abs=0.51 * 10**-digits), (target, measure)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p}" for p in ("", "howto", "results"))]
)
def test_pictures_and_pages_that_are_linked_exist(page: str) -> None:
    files = [ROOT / page] if page.endswith(".md") else list((ROOT / page).glob("*.md"))
    for file in files:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
            assert ":" in link or (file.parent / link).exists(), f"{file.relative_to(ROOT)}: {link}"


def test_the_version_is_the_same_everywhere() -> None:
    assert f"\nversion: {kdiff.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version = {{{kdiff.__version__}}}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n## [{kdiff.__version__}] - 2" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_the_table_is_what_the_command_makes_of_the_results(data: str) -> None:
    from kdiff.studies.comparison import table

    folder = ROOT / "docs" / "results" / data
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    assert table(rows) + "\n" == (folder / "table.md").read_text(encoding="utf-8")


def test_messages_that_the_troubleshooting_page_quotes_are_messages_of_kdiff() -> None:
    literals = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                literals.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.append(node.value)
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs/howto/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [words for row in rows for words in re.findall(r'"([^"]+)"', row)]
    assert len(quoted) > 40
    assert [words for words in quoted if not any(words in text for text in literals)] == []
