"""A run folder while it is written: by one process at a time, with nothing half-written left, and warnings kept.

    .lock           held by the process that trains
    warnings.log    what was also said on stderr, with the time

The lock is the kernel's and goes with the process, however that ends; the file stays.
"""

from __future__ import annotations

import contextlib
import datetime
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kdiff.files import remove_leftovers


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, made if it is not there, for this process alone; leftovers of killed ones are removed first.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is training in {folder}; wait for it, stop it (Ctrl-C or SIGTERM: it saves and leaves), or "
            "choose another folder by --out"
        ) from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def warn(folder: Path, message: str) -> None:
    """Warn on stderr and in the folder's warnings.log."""
    warnings.warn(message, stacklevel=2)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # What is warned of may be a full disk.
    with contextlib.suppress(OSError), (folder / "warnings.log").open("a", encoding="utf-8") as file:
        file.write(f"{now} {message}\n")
