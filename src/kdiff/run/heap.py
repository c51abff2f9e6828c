"""Keeping freed memory for the next step, on Linux with the GNU C library.

A network on the CPU frees tens of megabytes at every layer and asks for them again. The C library returns blocks of that size
to the system and gets them back page by page, and every page is zeroed. That takes a sixth of the time of sampling from a
transformer, and less of the time of training it (docs/results/speed.md). On a GPU, PyTorch itself keeps freed memory.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt(3), from malloc.h
KEPT = 2**31 - 1  # free bytes at the end of the heap that are not returned to the system; the largest int
LARGEST = 2**30  # bytes; larger blocks still come from the system
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Ask the C library to keep up to 2 GiB of the memory that the process frees; return whether it does.

    This is meant for commands, which have a process to themselves. It changes nothing if environment variables already set
    these limits (mallopt(3)), or on systems with another library.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
