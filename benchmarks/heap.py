"""Measure the time saved on a CPU by keeping freed memory (`kdiff.run.heap`) instead of giving it back to the system.

    python benchmarks/heap.py [--network JiT-B/16] [--rounds 3]

    forward    one evaluation of 8 samples, without gradients, as in sampling
    step       forward and backward of 4 samples, as in training

A process cannot change this setting later, so the two settings take turns in separate processes. "pages" is the number of pages
of memory that one evaluation or step requests from the system.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from kdiff.networks import published
from kdiff.run.heap import keep_freed_memory

REPEATS = 4


def measure(name: str) -> dict[str, tuple[float, int]]:
    """Median seconds and mean pages of both kinds of work, over four repetitions."""
    torch.manual_seed(0)
    network = published(name, 256, 3, 1000)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    x, t, y = torch.randn(8, 3, 256, 256), torch.rand(8), torch.arange(8)

    def forward() -> None:
        with torch.no_grad():
            network(x, t, y)

    def step() -> None:
        network(x[:4], t[:4], y[:4]).square().mean().backward()
        network.zero_grad(set_to_none=True)

    return {"forward": timed(forward), "step": timed(step)}


def timed(work: Callable[[], None]) -> tuple[float, int]:
    for _ in range(2):
        work()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // REPEATS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="JiT-B/16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=["kept", "given back"], help=argparse.SUPPRESS)  # measures in a separate process
    arguments = parser.parse_args()
    if arguments.way:
        if arguments.way == "kept" and not keep_freed_memory():
            parser.error("memory cannot be kept: the C library is not glibc, or environment variables already choose")
        print(json.dumps(measure(arguments.network)))
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.network}, float32")
    print("| round | work | given back, s (pages) | kept, s (pages) | ratio |\n| --- | --- | --- | --- | --- |")
    for i in range(arguments.rounds):
        found = {}
        for way in ("given back", "kept"):
            command = [sys.executable, __file__, "--network", arguments.network, "--way", way]
            found[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for work in ("forward", "step"):
            (slow, many), (fast, few) = found["given back"][work], found["kept"][work]
            print(f"| {i + 1} | {work} | {slow:.3f} ({many}) | {fast:.3f} ({few}) | {slow / fast:.2f} |", flush=True)


if __name__ == "__main__":
    main()
