"""Holding a folder: one process at a time writes in it, and no other folder is mistaken for it.

The kernel releases the lock when the process ends, however it ends. The lock file, .lock, stays. If it is no longer the file
that this process has locked, the folder was removed, moved or replaced, and nothing more is written there. A run that is only
read needs no lock: its `Place` says whether the run still stands there before anything about the run is written into it.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdiff.files.atomic import read_json, remove_leftovers
from kdiff.run.contents import MOVING
from kdiff.run.yaml_file import load_yaml

# The open lock file of each folder that this process holds, and the place of the run that the folder is about.
_HELD: dict[str, tuple[int, Place | None]] = {}


class FolderReplaced(RuntimeError):
    """A folder was removed, moved or replaced while this process wrote in it."""


@contextlib.contextmanager
def locked(folder: Path, doing: str = "training", about: Place | None = None) -> Iterator[None]:
    """Hold a folder (made if needed) for this process alone, and clear leftovers.

    Args:
        folder: the folder.
        doing: what this process does there, for the message to another process.
        about: the place of the run that the folder is about. If the folder lies there, `check_held` checks the place too.

    Raises:
        ValueError: the folder is in use.
        FolderReplaced: the folder lies in a run that was removed or replaced.
    """
    if about:
        about.check(folder)
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
        with _held(folder, about):
            remove_leftovers(folder)
            yield
    finally:
        lock.release()


@contextlib.contextmanager
def _held(folder: Path, about: Place | None) -> Iterator[None]:
    """Remember the lock file, kept open so that no other file can have its identity."""
    place = os.path.abspath(folder)
    before, _HELD[place] = _HELD.get(place), (os.open(folder / ".lock", os.O_RDONLY), about)
    try:
        yield
    finally:
        os.close(_HELD.pop(place)[0])
        if before is not None:
            _HELD[place] = before


def check_held(folder: Path, *files: str) -> None:
    """Raise FolderReplaced unless the folder is the one that this process has locked, and still holds these files.

    It is called before the process writes. So a folder that was removed is never made again, and no two runs mix in one folder.
    """
    number, about = _HELD.get(os.path.abspath(folder), (None, None))
    if about:
        about.check(folder)
    try:
        lost = number is not None and not os.path.samestat(os.fstat(number), os.stat(folder / ".lock"))
        lost = lost or not folder.is_dir() or not all((folder / name).exists() for name in files)
    except (FileNotFoundError, NotADirectoryError):
        lost = True
    if lost:
        raise FolderReplaced(_lost(folder))


def _lost(folder: Path) -> str:
    return (
        f"{folder} was removed or replaced while this process wrote in it. The process has stopped, and nothing more was "
        "written there. If you moved it, continue with --out NEW_PLACE (a training also needs --resume); otherwise start again"
    )


def locks_around(path: Path) -> dict[Path, tuple[int, int]]:
    """The folders around a path that this process has locked, each with the identity of its lock file for `check_locks`."""
    around = {Path(place): os.fstat(number) for place, (number, _) in _HELD.items()}
    return {place: (s.st_dev, s.st_ino) for place, s in around.items() if Path(os.path.abspath(path)).is_relative_to(place)}


def check_locks(locks: Mapping[Path, tuple[int, int]]) -> None:
    """Raise FolderReplaced unless all these folders are still those that a process, this one or its parent, has locked."""
    for place, identity in locks.items():
        try:
            found = os.stat(place / ".lock")
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or (found.st_dev, found.st_ino) != identity:
            raise FolderReplaced(_lost(place))


class Place:
    """The folder that a run was read from: it tells whether that run, and no other, still stands there.

    The folder is kept open while the run is in use, so that no other folder can have its identity. (Windows opens no folders.)
    The settings and the data, which stay the same when a run is resumed, show a run that was copied into the same folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number: int | None = None
        with contextlib.suppress(OSError):
            self._number = os.open(folder, os.O_RDONLY)
            weakref.finalize(self, os.close, self._number)
        self._facts = _facts_of(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.folder,)  # an open folder cannot be copied or sent

    def check(self, path: Path | None = None) -> None:
        """Raise FolderReplaced if another folder or run, or nothing, stands there now.

        path: what is about to be written; outside the folder it is of no concern, and nothing is checked.
        """
        if path is not None and not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(self.folder)):
            return
        now = _facts_of(self.folder)
        lost = bool(self._facts) and (not now or any(now.get(name, value) != value for name, value in self._facts.items()))
        try:
            lost = lost or (self._number is not None and not os.path.samestat(os.fstat(self._number), os.stat(self.folder)))
        except OSError:
            lost = True
        if lost:
            raise FolderReplaced(
                f"{self.folder} was removed or replaced after this process had read its run. The process has stopped, and "
                "nothing more was written there. If you moved the run, type the command again with its new place"
            )


def _facts_of(folder: Path) -> dict[str, Any]:
    """The settings that stay the same when a run is resumed, and the fingerprint of its data; empty if they cannot be read."""
    try:
        values = load_yaml((folder / "config.yaml").read_text(encoding="utf-8"), "config.yaml")
        data = read_json(folder / "data.json", {"fingerprint": str})
    except (OSError, ValueError):
        return {}
    plain = values.items() if isinstance(values, dict) else ()
    return {"fingerprint": data["fingerprint"], **{name: v for name, v in plain if name not in MOVING["config.yaml"]}}
