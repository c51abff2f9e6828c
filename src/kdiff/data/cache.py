"""What is worked out once and kept: decoded images, and the hashes of large data sets.

    <cache folder>/<kind>/<hash of everything that the content follows from>.<ending>

The cache folder is $KDIFF_CACHE, else $XDG_CACHE_HOME/kdiff, else ~/.cache/kdiff; it may be deleted at any time. Files are
written aside, flushed and renamed, so that what is there is whole; whatever cannot be read is worked out again. Of several
processes that want the same thing one works it out, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

VERSION = 1  # of all that is kept: raised when the same inputs would give other contents
PATIENCE = 3.0  # seconds of waiting for another process before that is said

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where things are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KDIFF_CACHE") or Path(base) / "kdiff")


def entry(kind: str, *facts: Any) -> Path:
    """The path, without an ending, of what follows from these facts (anything whose `repr` tells it apart)."""
    name = hashlib.blake2b(repr((VERSION, facts)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return cache_folder() / kind / name


def stamp(path: Path) -> tuple[str, int, int, int]:
    """What tells a file's content apart without reading it: its absolute name, size and times of change.

    Both times: archives and copies bring the first along, so that files of equal size may well share it.
    """
    status = path.stat()
    return os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def file_digest(path: Path) -> str:
    """32 hex digits of a hash over a file's bytes."""
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:32]


def write_images(path: Path, shape: tuple[int, ...], images: Iterable[np.ndarray]) -> int:
    """Write uint8 images of one shape, one after the other, as a .npy (N, *shape); returns N, which may be 0.

    Errors as `replacing`.
    """
    header, count = _npy_header(0, shape), 0
    with replacing(path) as write:
        write(header)
        for image in images:
            if image.shape != shape or image.dtype != np.uint8:
                raise RuntimeError(f"expected a uint8 image of shape {shape}, found {image.dtype} {image.shape}")
            write(np.ascontiguousarray(image).data)
            count += 1
        # How many there are is known only now: some could not be read.
        write(_npy_header(count, shape), 0)
    return count


def read_images(path: Path) -> np.ndarray | None:
    """The array that `write_images` wrote, mapped into memory and not read yet; None if it is not there or not whole."""
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write JSON; errors as `replacing`."""
    with replacing(path) as write:
        write(json.dumps(value, ensure_ascii=True).encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None if it is not there or not whole."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def json_of(path: Path, work: Callable[[], Any]) -> Any:
    """What `write_json` wrote there; if that is not there or not whole, what `work` returns now, which is then written."""
    value = read_json(path)
    if value is None:
        with alone(path):
            value = read_json(path)  # another process may have been first
            if value is None:
                value = work()
                write_json(path, value)
    return value


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Work out what belongs at `path`, without or with an ending, in this process alone; another one waits here, for hours too.

    Look again whether it is there once this is entered. Raises OSError as `replacing`.
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
        # Nobody else writes here now: what is half-written was left by a process that was killed.
        for leftover in path.parent.glob(f".{path.name}*.partial-*"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Callable[..., None]]:
    """write(bytes, at=None) to a file, which takes the place of `path` when all went well and is removed when not.

    Raises OSError, saying how to move the cache, if the folder cannot be written to or the disk is full. Whatever else goes
    wrong between the writing, an image that cannot be read, is raised as it is.
    """
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = aside.open("wb")

        def write(content: bytes | memoryview, at: int | None = None) -> None:
            with _explained(path):
                if at is not None:
                    file.seek(at)
                file.write(content)

        with file:
            yield write
            with _explained(path):
                file.flush()
                os.fsync(file.fileno())
        with _explained(path):
            aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An OSError here says that the cache cannot be written to, and how to move it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to the cache in {path.parent}: {error.strerror or error}; make room there, or set KDIFF_CACHE to "
            "a folder with room",
        ) from error


def _npy_header(count: int, shape: tuple[int, ...]) -> bytes:
    """A .npy header of uint8 (count, *shape) whose length does not depend on count, so that it can be written over."""
    text, longest = (
        repr({"descr": "|u1", "fortran_order": False, "shape": (number, *shape)}).encode() for number in (count, 10**18)
    )
    length = 64 * math.ceil((len(longest) + 11) / 64) - 10
    return np.lib.format.magic(1, 0) + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"
