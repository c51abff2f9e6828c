"""Freed memory is kept for the next step, on Linux with the GNU C library.

A network on the CPU frees and asks again for the same tens of megabytes at every layer. The C library gives blocks of that size
back to the system and gets them again page by page, every page zeroed: a sixth of the time of sampling from a transformer, less
of training it (docs/results/speed.md). On a GPU PyTorch keeps memory itself.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt(3), from malloc.h
KEPT = 2**31 - 1  # bytes free at the end of the heap that are not given back; an int holds no more
LARGEST = 2**30  # bytes; larger blocks are the system's as before
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Ask the C library, for the whole process, to keep up to 2 GiB of what is freed; returns whether it does.

    It is for commands, which have a process to themselves. Nothing is changed where the environment chooses (mallopt(3)), or
    on systems with another library.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
