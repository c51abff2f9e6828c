"""Make a notebook from a tutorial page, and run it.

    python tools/make_notebook.py docs/scientists.md docs/tutorial/scientists.ipynb

Text becomes text, blocks that are marked `python` become cells, and a command in a block that is marked `sh` becomes
`!command`. The notebook is run in an empty folder, and is written with its results. It needs nbclient and ipykernel.
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


def tidied(cell: Any) -> None:
    """Of lines that a progress bar wrote over each other, only the last one is kept."""
    for output in cell.get("outputs", []):
        if "text" in output:
            output["text"] = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output["text"].split("\n"))


def main(page: Path, out: Path) -> None:
    """Write the notebook with its results; raises nbclient's error if a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    made = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(cells=[made[kind](source) for kind, source in cells(page.read_text(encoding="utf-8"))])
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        tidied(cell)
        cell.get("metadata", {}).pop("execution", None)
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
