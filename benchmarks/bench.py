"""Run the benchmarks one after the other, and write one page with their figures.

    make bench                                     # the short form, under five minutes, into bench/
    make bench ARGS="--full"                       # all of them in full: an hour
    python benchmarks/bench.py --only step guidance --before COMMIT --out FOLDER

Each benchmark is a script of its own in this folder. It compares two or more ways in one run: builds of kdiff, kdiff and plain
code, kdiff and the official code of a peer. `--before` is the commit of the build that counts as "before"; its sources are
unpacked into a temporary folder. The folder `--out` gets `index.md`, a page with machine, date, commits, commands and the
output of each script, and `results.json` with the same. Nothing else should run meanwhile. A script that fails is named on the
page, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kdiff.files.atomic import write_text

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "1c08e154b457aaf33cea09708a183eede8c47d57"  # the last build before half precision, compiled steps and faster judging
# Instructions that decide which precision is fast, as Linux names them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")


@dataclass(frozen=True)
class Benchmark:
    """A script, and what it is given. {sources} stands for the folder of the earlier sources, {before} for their commit."""

    script: str
    title: str
    full: str = ""
    short: str | None = None  # None: it is not in the short form
    threads: int = 2

    @property
    def name(self) -> str:
        return self.script.removesuffix(".py")


BENCHMARKS = [
    Benchmark("step.py", "A training step before and now", "--before {sources}", "--before {sources} --restarts 2 --rounds 6"),
    Benchmark("objective.py", "The cost of a learned target", "", "--networks digits fashion --steps 40", 1),
    Benchmark("backbone.py", "Transformers, plain code and the matrix product", "--profile", "--networks JiT-B/16 --rounds 3"),
    Benchmark("guidance.py", "Guided sampling against a plain loop", "", "--batches 2 --steps 4 --rounds 1"),
    Benchmark("heap.py", "Freed memory that is kept"),
    Benchmark("waiting.py", "Waiting for data", "", "--images 2000 --gigabytes 0.1 --steps 10", 1),
    Benchmark("reading.py", "Training from disk and from memory", "", "--gigabytes 0.2 --steps 10 --repeats 1", 1),
    Benchmark("reading_images.py", "Reading batches of images", "", "--batches 10", 1),
    Benchmark("latents.py", "Reading batches of latents", "", "--batches 10", 1),
    Benchmark("indexing.py", "Opening a folder of images before and now", "{before}", "{before} --images 3000 --repeats 1"),
    Benchmark("dimension.py", "Estimating a dimension", "", "--points 10000 --dimension 512"),
    Benchmark("default_network.py", "Networks chosen for the data", threads=1),
]


@dataclass
class Outcome:
    """What a script printed, and how it ended."""

    name: str
    title: str
    command: str
    threads: int
    seconds: float
    status: int
    output: str


def processor() -> str:
    """The name of the processor, with the instructions that matter here."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return f"{facts.get('model name', platform.machine())} ({', '.join(name for name in INSTRUCTIONS if name in flags)})"


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def unpack(commit: str, folder: Path) -> Path:
    """The sources of a commit in a folder."""
    packed = subprocess.run(["git", "-C", ROOT, "archive", commit, "src"], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
    return folder / "src"


def run(benchmark: Benchmark, given: str, sources: Path, before: str) -> Outcome:
    """Run one script; its output is shown as it comes, and kept."""
    words = given.format(sources=sources, before=before).split()
    command = [sys.executable, str(ROOT / "benchmarks" / benchmark.script), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(benchmark.threads), "PYTHONPATH": str(ROOT / "src")}
    environment["PYTHONUNBUFFERED"] = "1"
    print(f"\n== {benchmark.title}: {benchmark.script} {given}".rstrip(), flush=True)
    began, lines = time.perf_counter(), []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    shown = f"python benchmarks/{benchmark.script} {given.format(sources='BEFORE/src', before=before)}".rstrip()
    seconds = round(time.perf_counter() - began, 1)
    return Outcome(benchmark.name, benchmark.title, shown, benchmark.threads, seconds, process.returncode, "".join(lines))


def as_markdown(output: str) -> str:
    """Tables stay tables, everything else becomes a block of text."""
    parts: list[tuple[bool, list[str]]] = []
    for line in output.splitlines():
        table = line.startswith("|")
        if not parts or parts[-1][0] != table:
            parts.append((table, []))
        parts[-1][1].append(line)
    texts = [(table, "\n".join(lines).strip("\n")) for table, lines in parts]
    return "\n\n".join(text if table else f"```text\n{text}\n```" for table, text in texts if text)


def page(facts: dict[str, str], outcomes: list[Outcome]) -> str:
    """The page of all benchmarks."""
    parts = ["# Benchmarks", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    for each in outcomes:
        threads = "1 thread" if each.threads == 1 else f"{each.threads} threads"
        failed = f" **It failed with status {each.status}.**" if each.status else ""
        parts += [f"## {each.title}", f"```sh\nOMP_NUM_THREADS={each.threads} {each.command}\n```"]
        parts += [f"{threads}, {each.seconds:.0f} s in all.{failed}", as_markdown(each.output)]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the full form of each benchmark, an hour in all")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], metavar="NAME", help="some of them")
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with; default: %(default).7s")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="the folder for the page; default: %(default)s")
    given = parser.parse_args()
    chosen = [each for each in BENCHMARKS if not given.only or each.name in given.only]
    if not given.full:
        left_out = [each.name for each in chosen if each.short is None]
        chosen = [each for each in chosen if each.short is not None]
        if left_out:
            print(f"only in the full form (--full): {', '.join(left_out)}")
    before, changed = git("rev-parse", given.before), git("status", "--porcelain", "--untracked-files=no")
    facts = {
        "Date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "Machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "Versions": f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}",
        "This build": git("rev-parse", "--short", "HEAD") + (" with changes" if changed else ""),
        "The build before": before[:7],
        "Form": "full" if given.full else "short",
    }
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    given.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as scratch:
        sources = unpack(before, Path(scratch))
        for each in chosen:
            outcomes.append(run(each, each.full if given.full else each.short or "", sources, before))
            # The page is written after each script, so that it holds what was measured if this is stopped.
            write_text(given.out / "index.md", page(facts, outcomes))
            record = {"facts": facts, "results": [asdict(outcome) for outcome in outcomes]}
            write_text(given.out / "results.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    failed = [each.name for each in outcomes if each.status]
    print(f"\n{sum(each.seconds for each in outcomes):.0f} s in all; the page is {given.out / 'index.md'}")
    if failed:
        sys.exit(f"these benchmarks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
