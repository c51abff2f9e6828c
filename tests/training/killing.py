"""Training runs killed by SIGKILL at chosen moments; a script for test_kill.py, which says what it is to find.

    python killing.py FOLDER      writes FOLDER/whole, FOLDER/00 … 19 and FOLDER/kills.json

One process imports torch and forks for every leg of a run. A moment is a number of Python and C calls since the leg began,
counted by the interpreter's profiler, so that moments are the same on a slow machine and on a fast one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from kdiff.config.training import TrainConfig
from kdiff.training.trainer import train_run

CONFIG = TrainConfig(
    data="spiral(num_samples=200, ambient_dim=8)",
    network="MLP(width=16, depth=1)",
    steps=30,
    batch_size=16,
    ema=[0.9, 0.5],
    log_every=3,
    checkpoint_every=4,
    keep=2,
)
WRITING = ("save_checkpoint", "keep_newest")


def leg(folder: Path, profile: Callable[[FrameType, str, object], None]) -> int:
    """Train or go on in a process of its own; returns its wait status."""
    child = os.fork()
    if not child:
        # tqdm's own lock is one of all forked processes, and a process that is killed while it holds the lock never returns it.
        tqdm.set_lock(threading.RLock())
        sys.setprofile(profile)
        try:
            train_run(CONFIG, folder, resume=True)
            sys.setprofile(None)
            os._exit(0)
        except BaseException:
            sys.setprofile(None)
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitpid(child, 0)[1]


def measure(folder: Path) -> list[list[int]]:
    """A whole run: all its calls, those made while a checkpoint was written, and those made while old ones were removed."""
    calls, inside, found = 0, "", {name: [] for name in WRITING}
    result = folder / "calls.json"

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls, inside
        calls += 1
        if frame.f_code.co_name in WRITING and event in ("call", "return"):
            inside = frame.f_code.co_name if event == "call" else ""
        if inside:
            found[inside].append(calls)
        if event == "return" and frame.f_code.co_name == "train_run":
            result.write_text(json.dumps([calls, found]))

    assert leg(folder / "whole", profile) == 0
    total, found = json.loads(result.read_text())
    # Not to the very end: the number of calls varies a little with what the garbage collector finds to do.
    return [list(range(1, total * 19 // 20)), *(found[name] for name in WRITING)]


def spread(draw: random.Random, moments: list[int], count: int) -> list[int]:
    """A random moment out of each of so many equal stretches."""
    return [draw.choice(moments[i * len(moments) // count : (i + 1) * len(moments) // count]) for i in range(count)]


def kill_at(moment: int) -> Callable[[FrameType, str, object], None]:
    calls = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return profile


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread, whose locks a fork would copy as they are
    # Imports on first use are most of a short run's calls; here they are made before the forks.
    train_run(replace(CONFIG, steps=2), folder / "warm")
    assert len(os.listdir("/proc/self/task") if os.path.exists("/proc/self/task") else [0]) == 1, "only one thread may fork"
    everywhere, saving, removing = measure(folder)
    draw = random.Random(0)
    moments = [*spread(draw, everywhere, 11), *spread(draw, saving, 6), *spread(draw, removing, 3)]
    kills = []
    for number, moment in enumerate(moments):
        run = folder / f"{number:02d}"
        status = leg(run, kill_at(moment))
        partial = [str(path.relative_to(run)) for path in run.rglob("*partial*")]
        checkpoints = len(list(run.glob("checkpoints/step_*")))
        # Every third run is killed again while it resumes.
        again = leg(run, kill_at(draw.choice(everywhere[: len(everywhere) // 3]))) if number % 3 == 0 else None
        end = leg(run, lambda frame, event, argument: None)
        kills.append({"status": status, "again": again, "end": end, "partial": partial, "checkpoints": checkpoints})
    (folder / "kills.json").write_text(json.dumps(kills))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
