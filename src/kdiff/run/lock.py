"""Holding a folder: one process at a time writes in it, and no other folder is mistaken for it.

The kernel releases the lock when the process ends, however it ends. The lock file, .lock, stays. If it is no longer the file
that this process has locked, the folder was removed, moved or replaced, and nothing more is written there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kdiff.files.atomic import remove_leftovers

_HELD: dict[str, int] = {}  # the open lock file of each folder that this process holds


class FolderReplaced(RuntimeError):
    """A folder was removed, moved or replaced while this process wrote in it."""


@contextlib.contextmanager
def locked(folder: Path, doing: str = "training") -> Iterator[None]:
    """Hold a run folder (made if needed) for this process alone, and clear leftovers. Raises ValueError if it is in use."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is {doing} in {folder}; wait for it, stop it (by Ctrl-C or SIGTERM, after which it saves and "
            "exits), or choose another folder by --out"
        ) from None
    try:
        with _held(folder):
            remove_leftovers(folder)
            yield
    finally:
        lock.release()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Remember the lock file, kept open so that no other file can have its identity."""
    place = os.path.abspath(folder)
    before, _HELD[place] = _HELD.get(place), os.open(folder / ".lock", os.O_RDONLY)
    try:
        yield
    finally:
        os.close(_HELD.pop(place))
        if before is not None:
            _HELD[place] = before


def check_held(folder: Path, *files: str) -> None:
    """Raise FolderReplaced unless the folder is the one that this process has locked, and still holds these files.

    It is called before the process writes. So a folder that was removed is never made again, and no two runs mix in one folder.
    """
    number = _HELD.get(os.path.abspath(folder))
    try:
        lost = number is not None and not os.path.samestat(os.fstat(number), os.stat(folder / ".lock"))
        lost = lost or not folder.is_dir() or not all((folder / name).exists() for name in files)
    except (FileNotFoundError, NotADirectoryError):
        lost = True
    if lost:
        raise FolderReplaced(
            f"{folder} was removed or replaced while this process wrote in it. The process has stopped, and nothing more was "
            "written there. If you moved it, continue with --out NEW_PLACE (a training also needs --resume); otherwise start "
            "again"
        )
