"""Measure the cost of a whole training step in two builds of kdiff: does a change make training slower?

    git worktree add ../before COMMIT
    python benchmarks/step.py --before ../before/src [--configs digits fashion_pixel] [--restarts 8]

Each build trains in its own process with one thread, as `kdiff train` does (data, loss, optimiser, averages, metrics, checks).
The two processes take turns: one takes a few steps while the other waits. The order within a pair of turns changes from pair
to pair, so that other work on the machine affects both builds equally. Where a process lies in memory changes its speed by
several per cent for as long as it lives, so both are started again several times. The output is the median time of a step in
each build, and the mean over the restarts of the median ratio and the median difference of the pairs, each with its 95 %
bootstrap interval over the restarts.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Steps in a turn, and turns of each build that warm up and are not counted.
TURN = {"digits": 100, "fashion_pixel": 4}
WARM_UP = 3


class Build:
    """A process that trains with the package found in the folder `source`."""

    def __init__(self, source: Path, config: str, turn: int, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--worker", config, str(turn), str(folder)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def seconds(self) -> float:
        """Take one turn; returns the seconds per step."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with code {self.process.wait()}: {' '.join(map(str, self.process.args))}")
        return float(line)


def worker(config: str, turn: int, folder: str) -> None:
    """Train as `kdiff train` does; before each turn wait for a line on standard input, after it print the seconds per step."""
    from kdiff.commands.main import main as kdiff
    from kdiff.training import trainer

    fit, answers, began = trainer.fit, sys.stdout, [0.0]
    sys.stdout = sys.stderr

    def wait(step: int, _: object) -> None:
        if step % turn == 0:
            if step:
                print((time.perf_counter() - began[0]) / turn, file=answers, flush=True)
            sys.stdin.readline()
            began[0] = time.perf_counter()

    def in_turns(*args: object, **options: object) -> object:
        wait(0, None)
        return fit(*args, **{**options, "after_step": wait})

    trainer.fit = in_turns
    kdiff(["train", config, "--out", folder, "--steps", "1000000", "--sample_every", "0"])


def interval(values: list[float]) -> str:
    """The mean, and its 95 % bootstrap interval."""
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(2000))
    return f"{statistics.fmean(values):.4g} ({means[50]:.4g} to {means[-51]:.4g})"


def pairs(config: str, sources: list[Path], rounds: int) -> list[tuple[float, float]]:
    """The seconds per step of two builds that take turns in new processes."""
    with tempfile.TemporaryDirectory() as scratch:
        builds = [Build(source, config, TURN[config], Path(scratch) / str(i)) for i, source in enumerate(sources)]
        try:
            both: list[list[float]] = [[], []]
            for i in range(WARM_UP + rounds):
                for which in (0, 1) if i % 2 else (1, 0):
                    both[which].append(builds[which].seconds())
        finally:
            for build in builds:
                build.process.kill()
                build.process.wait()
    return list(zip(*(values[WARM_UP:] for values in both)))


def compare(config: str, before: Path, rounds: int, restarts: int) -> str:
    """Compare the two builds; returns a line of the table."""
    sources = [before, Path(__file__).parents[1] / "src"]
    found = [pairs(config, sources, rounds) for _ in range(restarts)]
    old, new = (1e3 * statistics.median(pair[i] for each in found for pair in each) for i in (0, 1))
    ratios = [statistics.median(b / a for a, b in each) for each in found]
    more = [1e6 * statistics.median(b - a for a, b in each) for each in found]
    return f"| {config} | {old:.4g} | {new:.4g} | {interval(ratios)} | {interval(more)} | {restarts} × {rounds} |"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the folder src of the other build")
    parser.add_argument("--configs", nargs="+", default=list(TURN), choices=list(TURN))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=8)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, 1 thread")
    print("| configuration | before, ms a step | now, ms a step | now / before (95 %) | now − before, µs (95 %) | rounds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for config in arguments.configs:
        print(compare(config, arguments.before, arguments.rounds, arguments.restarts), flush=True)


if __name__ == "__main__":
    main()
