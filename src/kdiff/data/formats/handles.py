"""A file that stays open while it is read, opened once in each process and closed at the end; and the stamp of a folder."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MANY_FILES = 200_000  # above, files are not looked at


class Handle:
    """The open file that `function(*arguments)` returns. It has a method `close`.

    A process that was forked closes what it inherited and opens the file again, because two processes must not share a position
    in a file. A copy in another process (pickled by the workers of a loader) opens it too.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._make, self._lock, self._file, self._process = (function, arguments), threading.Lock(), None, 0

    def get(self) -> Any:
        """The open file of this process."""
        with self._lock:
            if self._file is None or self._process != os.getpid():
                close(self._file)
                function, arguments = self._make
                self._file, self._process = function(*arguments), os.getpid()
                weakref.finalize(self, close, self._file)
            return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self._make}

    def __setstate__(self, state: dict[str, Any]) -> None:
        function, arguments = state["make"]
        self.__init__(function, *arguments)  # type: ignore[misc]


def close(file: Any) -> None:
    """Close a file, if it is open and can still be closed."""
    if file is not None:
        with suppress(Exception):
            file.close()


def folder_stamp(folder: Path) -> tuple[Any, ...] | None:
    """Facts that change with the files of an array: number, size and last change; None for very many files."""
    count, size, changed = 0, 0, 0
    for place, _, names in os.walk(folder):
        for name in names:
            status = os.stat(os.path.join(place, name))
            count, size = count + 1, size + status.st_size
            changed = max(changed, status.st_mtime_ns, status.st_ctime_ns)
        if count > MANY_FILES:
            return None
    return os.path.abspath(folder), count, size, changed
