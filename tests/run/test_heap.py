"""Freed memory is kept: the same blocks again cost no pages again."""

import os
import platform
import subprocess
import sys

import pytest

from kdiff.run.heap import CHOSEN, keep_freed_memory

# Two blocks of 48 MB live at a time, in the pattern of a step: the C library's own way maps and unmaps each.
STEPS = """
import resource, sys
import torch
from kdiff.run.heap import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():
    a = torch.ones(12_000_000)
    b = a + 1
    return float(b[0])
for _ in range(10):  # until the heap has grown as far as it will
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and the pages that fifty steps asked the system for."""
    plain = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    command = [sys.executable, "-c", STEPS, how]
    out = subprocess.run(command, env=plain | environment, check=True, capture_output=True, text=True).stdout.split()
    return out[0], int(out[1])


def test_freed_blocks_are_kept() -> None:
    """By the GNU C library; with another one nothing is done, and that is said."""
    kept, few = faults("keep")
    if platform.libc_ver()[0] != "glibc":
        assert kept == "False"
        return
    _, many = faults("leave")
    assert kept == "True"
    # 50 steps, 2 blocks, 48 MB in pages of 4 KiB (or 2 MiB where the system gives huge ones). Not none with it: a small block
    # that happens to lie at the end of a large free one makes the heap grow by another, which was seen three times in a run.
    assert few < many / 10


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_environment_chooses_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=1000000" if name == "GLIBC_TUNABLES" else "1000000")
    assert not keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
