"""Make a notebook from a tutorial page, and run it.

    python tools/make_notebook.py docs/scientists.md docs/tutorial/scientists.ipynb

Text becomes text, blocks that are marked `python` become cells, and a command in a block that is marked `sh` becomes
`!command`. The notebook is run in an empty folder, and is written with its results. If only text has changed since it was last
written, the results are kept, and nothing is run. It needs nbclient and ipykernel.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

PART = re.compile(r"^```(sh|python)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)]*)\)")


def cells(page: str) -> list[tuple[str, str]]:
    """The cells of a page: their kind (markdown or code), and their source. Links to other pages become plain text."""
    found, end = [], 0

    def text(part: str) -> None:
        plain = LINK.sub(lambda link: "" if link[1] else link[2], part).strip()
        if plain:
            found.append(("markdown", plain))

    for block in PART.finditer(page):
        text(page[end : block.start()])
        source = block[2].strip()
        found.append(("code", re.sub("^", "!", source, flags=re.MULTILINE) if block[1] == "sh" else source))
        end = block.end()
    text(page[end:])
    return found


def sources(notebook: Path) -> list[tuple[str, str]]:
    """The same of a notebook."""
    read = json.loads(notebook.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in read["cells"]]


def of_code(found: list[tuple[str, str]]) -> list[str]:
    """The sources of the cells of code."""
    return [source for kind, source in found if kind == "code"]


def tidied(cell: Any) -> None:
    """Text that came in pieces is joined. Of lines that a progress bar wrote over each other, only the last one is kept."""
    joined: list[Any] = []
    for output in cell.get("outputs", []):
        if joined and output["output_type"] == "stream" == joined[-1]["output_type"] and output["name"] == joined[-1]["name"]:
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    for output in joined:
        if "text" in output:
            output["text"] = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output["text"].split("\n"))
    if "outputs" in cell:
        cell["outputs"] = joined


def main(page: Path, out: Path) -> None:
    """Write the notebook with its results; raises nbclient's error if a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    made = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(cells=[made[kind](source) for kind, source in cells(page.read_text(encoding="utf-8"))])
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    if out.exists() and of_code(sources(out)) == of_code([(cell.cell_type, cell.source) for cell in notebook.cells]):
        before = [cell for cell in nbformat.read(out, 4).cells if cell.cell_type == "code"]
        for cell, old in zip((cell for cell in notebook.cells if cell.cell_type == "code"), before):
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
    else:
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        tidied(cell)
        cell.get("metadata", {}).pop("execution", None)
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
