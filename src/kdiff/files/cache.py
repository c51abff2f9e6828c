"""A cache of results that are computed once: decoded images, and the hashes of large data sets.

    <cache folder>/<kind>/<hash of everything that determines the content>.<ending>

The cache folder is $KDIFF_CACHE, else $XDG_CACHE_HOME/kdiff, else ~/.cache/kdiff. It may be deleted at any time. Files are
written under a temporary name, flushed and renamed, so that existing files are complete. A file that cannot be read is computed
again. If several processes need the same file, one computes it and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from kdiff.files.atomic import new_file, read_json, write_json

VERSION = 1  # of all files; it is raised when the same inputs give other contents
PATIENCE = 3.0  # seconds of waiting for another process before a message says so

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of the cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KDIFF_CACHE") or Path(base) / "kdiff")


def entry(kind: str, *facts: Any) -> Path:
    """The path, without an ending, of the file that these facts determine. Different facts must differ in their `repr`."""
    name = hashlib.blake2b(repr((VERSION, facts)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return cache_folder() / kind / name


def stamp(path: Path) -> tuple[str, int, int, int]:
    """Facts that change with a file's content, found without reading it: absolute name, size, and two times of change.

    Both times are needed: archives and copies keep the first one, so that different files of equal size may share it.
    """
    status = path.stat()
    return os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def stamps(folder: Path, names: Iterable[str]) -> list[tuple[str, int, int, int]]:
    """The stamps of files with these relative names below a folder. This is much faster than one `stamp` after another."""
    base, found = os.path.abspath(folder), []
    for name in names:
        path = f"{base}{'' if base.endswith('/') else '/'}{name}" if os.sep == "/" else os.path.abspath(folder / name)
        status = os.stat(path)
        found.append((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found


def write_images(path: Path, shape: tuple[int, ...], images: Iterable[np.ndarray], dtype: Any = np.uint8) -> int:
    """Write images of one shape and type to a .npy file (N, *shape); return N, maybe 0. Errors are those of `replacing`."""
    header, count, expected = _npy_header(0, shape, dtype), 0, np.dtype(dtype)
    with replacing(path) as write:
        write(header)
        for image in images:
            if image.shape != shape or image.dtype != expected:
                raise RuntimeError(f"expected a {expected} image of shape {shape}, found {image.dtype} {image.shape}")
            write(np.ascontiguousarray(image).data)
            count += 1
        # The number of images is known only now, because some cannot be read.
        write(_npy_header(count, shape, dtype), 0)
    return count


def read_images(path: Path) -> np.ndarray | None:
    """The array that `write_images` wrote, mapped into memory and not read yet; None if it is missing or incomplete."""
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError):
        return None


def keep(path: Path, value: Any) -> None:
    """Write a value as JSON. Errors are those of `replacing`."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value, indent=None)


def kept(path: Path) -> Any:
    """The value that `keep` wrote; None if the file is missing or incomplete."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def json_of(path: Path, work: Callable[[], Any]) -> Any:
    """The value that `keep` wrote to `path`. If it is missing or incomplete, `work` computes it, and it is written."""
    value = kept(path)
    if value is None:
        with alone(path):
            value = kept(path)  # another process may have written it meanwhile
            if value is None:
                value = work()
                keep(path, value)
    return value


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let only this process compute the file `path`, with or without its ending. Others wait here, for hours if needed.

    Once this is entered, check again whether the file exists. Raises OSError as `replacing` does.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            logger.warning("another process is at work on %s; waiting for it", path)
            lock.acquire()
    try:
        # No other process writes here now, so an incomplete file was left by a process that was killed.
        for leftover in path.parent.glob(f".{path.name}*.partial-*"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


class _Abandoned(Exception):
    """Carries an error that was not caused by writing through `_explained` unchanged."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Callable[..., None]]:
    """A function write(bytes, at=None) for a temporary file, which replaces `path` on success and is removed on failure.

    Raises OSError, with advice on how to move the cache, if the folder cannot be written to or the disk is full. Any other
    error that is raised between the writes, such as an image that cannot be read, is raised unchanged.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _explained(path), new_file(path) as temporary:
            file = temporary.open("wb")

            def write(content: bytes | memoryview, at: int | None = None) -> None:
                with _explained(path):
                    if at is not None:
                        file.seek(at)
                    file.write(content)

            try:
                yield write
                with _explained(path):
                    file.flush()  # the last bytes are written only here, and the disk may be full
            except Exception as error:
                raise _Abandoned(error) from error
            finally:
                with contextlib.suppress(OSError):  # after a failure, the rest may not fit either
                    file.close()
    except _Abandoned as abandoned:
        raise abandoned.args[0] from None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an OSError into one that says that the cache cannot be written to, and how to move it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to the cache in {path.parent}: {error.strerror or error}. Make room there, or set KDIFF_CACHE to "
            "a folder with enough space",
        ) from error


def _npy_header(count: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> bytes:
    """A .npy header for (count, *shape) of this type. Its length does not depend on count, so that it can be overwritten."""
    kind = np.dtype(dtype).str
    text, longest = (
        repr({"descr": kind, "fortran_order": False, "shape": (number, *shape)}).encode() for number in (count, 10**18)
    )
    length = 64 * math.ceil((len(longest) + 11) / 64) - 10
    return np.lib.format.magic(1, 0) + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"
