"""Run the commands and the Python of a tutorial page, in order, in one folder.

    python tools/run_tutorial.py docs/tutorial.md FOLDER             everything as it stands
    python tools/run_tutorial.py docs/tutorial.md FOLDER --quick     with few steps and samples, in seconds

Blocks that are marked `sh` hold one command a line, and those marked `python` share one namespace.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from pathlib import Path

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = {"--steps": "20", "--num_samples": "270", "--num": "8", "--sample_every": "10", "--truths": "12"}


def quick(words: list[str]) -> list[str]:
    """The same command with few steps and samples, and two targets to compare."""
    fewer = ["--targets", "velocity", "learned"] if words[1] == "compare" else []
    return [QUICK.get(before, word) for before, word in zip(["", *words], words)] + fewer


def run(page: Path, folder: Path, is_quick: bool) -> None:
    """Run the page; SystemExit, naming the command, if one fails."""
    from kdiff.commands.main import main

    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    names: dict[str, object] = {}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)
            continue
        for line in text.strip().splitlines():
            words = shlex.split(line, comments=True)
            words = quick(words) if is_quick else words
            started = time.perf_counter()
            print(f"$ {shlex.join(words)}", flush=True)
            if main(words[1:]):
                raise SystemExit(f"this command of {page} failed: {line}")
            print(f"  {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="few steps and samples")
    given = parser.parse_args()
    run(given.page.resolve(), given.folder, given.quick)
    sys.exit(0)
