"""Nothing half-written: files and folders are made aside, flushed to disk, and renamed into place."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Once, as asking for it sets it: what the user takes away from the permissions of new files.
UMASK = os.umask(0)
os.umask(UMASK)
LEFTOVER = re.compile(r"\..*\.partial-(\d+)")


def partial_name(path: Path) -> Path:
    """Where this process puts what is not whole: hidden, and with its number, so that others tell whose it is."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def is_leftover(path: Path) -> bool:
    """Whether a name is one that `partial_name` gives."""
    return LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what processes that were killed have left half-written anywhere below a folder; returns what was removed."""
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
    except OSError:  # there is one, but not ours to signal
        return True
    return True


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write aside; flushed to disk and renamed to `path` on success, removed on failure."""
    aside = partial_name(path)
    try:
        yield aside
        _flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Onto the disk; and with a new file's usual permissions, which safetensors keeps from all but the owner."""
    path.chmod(0o666 & ~UMASK)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    with new_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON at once or not at all; what JSON has no number for (NaN, infinities) becomes null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with NaN and infinite numbers as None, so that any JSON reader can take it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """JSON from a file.

    Raises:
        ValueError: a missing or damaged file, by name.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill aside; renamed to `path` on success (replacing what is there), removed on failure."""
    aside = partial_name(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            shutil.rmtree(path)
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
