"""Atomic writing: files and folders are written under a temporary name, flushed to disk, and renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The permissions that the user's umask removes from new files. It is read once, because reading it means setting it.
UMASK = os.umask(0)
os.umask(UMASK)
LEFTOVER = re.compile(r"\..*\.partial-(\d+)")


def partial_name(path: Path) -> Path:
    """The temporary name of `path`: hidden, and with the number of this process, so that others know to whom it belongs."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def is_leftover(path: Path) -> bool:
    """Whether a path has a name that `partial_name` gives."""
    return LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove incomplete files that killed processes have left anywhere below a folder; return the paths that were removed."""
    removed = []
    for path in sorted(folder.rglob(".*.partial-*")):
        number = LEFTOVER.fullmatch(path.name)
        if number and path.exists() and not _is_another_process(int(number[1])):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(path)
    return removed


def _is_another_process(number: int) -> bool:
    if number == os.getpid():
        return False
    if os.name != "posix":
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists, but this process may not signal it
        return True
    return True


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to write a file to. On success it is flushed to disk and renamed to `path`; on failure it is removed."""
    temporary = partial_name(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file to disk, and give it the usual permissions of a new file: safetensors lets only the owner read it."""
    path.chmod(0o666 & ~UMASK)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON completely or not at all. NaN and infinities, which JSON does not have, become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and infinite numbers, so that any JSON reader can read it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ValueError, with the file's name, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def file_digest(path: Path) -> str:
    """A hash of a file's bytes, as 32 hex digits."""
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill. On success it is renamed to `path` and replaces an existing one; on failure it is removed."""
    temporary = partial_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
