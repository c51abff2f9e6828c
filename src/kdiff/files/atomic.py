"""Atomic writing: files and folders are written under a temporary name, flushed to disk, and renamed into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdiff.files.schema import problem

# The permissions that the user's umask removes from new files. It is read once, because reading it means setting it.
UMASK = os.umask(0)
os.umask(UMASK)
# Errors of writing that are not the user's mistake: no room, a quota, a limit of the size of files, a read-only disk.
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))
LEFTOVER = re.compile(r"\..*\.partial-(\d+)")


class Damaged(ValueError):
    """A file that kdiff wrote is missing or has changed. The message says what was found, and what the user can do."""

    def __init__(self, what: str, back: str = "") -> None:
        super().__init__(f"{what}; {back}" if back else what)
        self.what = what


def partial_name(path: Path) -> Path:
    """The temporary name of `path`: hidden, and with the number of this process, so that others know to whom it belongs."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def check_utf8(name: str | Path) -> None:
    """Raise ValueError for a name with bytes that are not UTF-8: safetensors and YAML cannot keep such names."""
    shown = os.fsencode(name)
    try:
        shown.decode("utf-8")
    except UnicodeDecodeError:
        text = shown.decode("utf-8", "backslashreplace")
        raise ValueError(f"the name {text} is not valid UTF-8; rename the file or folder") from None


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
    """A temporary path to write a file to. On success it is flushed to disk and renamed to `path`; on failure it is removed.

    The error of a full disk gets the name of the file.
    """
    temporary = partial_name(path)
    try:
        with _named(path):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush_names(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it would hide the error that ended the writing
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give an OSError of a full disk the name of what was written; Python names no file when it writes."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:  # the name of the temporary file means nothing to the user
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _flush(path: Path) -> None:
    """Flush a file to disk, and give it the usual permissions of a new file: safetensors lets only the owner read it."""
    path.chmod(0o666 & ~UMASK)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _flush_names(folder: Path) -> None:
    """Flush the names in a folder to disk, without which a power cut may lose a file that was renamed into it."""
    if os.name != "posix":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    r"""Write a file completely or not at all, in UTF-8.

    Bytes of file names that are not UTF-8 are escaped, as in \udcff, which JSON and YAML read back.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write JSON completely or not at all. NaN and infinities, which JSON does not have, become null."""
    write_text(path, json.dumps(finite(value), indent=indent, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and infinite numbers, so that any JSON reader can read it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, schema: Any = object, back: str = "restore it from a copy") -> Any:
    """The value in a JSON file.

    Args:
        path: the file.
        schema: what it must hold (`kdiff.files.schema`).
        back: what the user can do if it does not, for the message.

    Raises:
        Damaged: the file is missing, or is damaged: it is not valid JSON, or does not hold what the schema says.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path} is missing", back) from None
    except (ValueError, RecursionError) as error:  # ValueError: no JSON or no UTF-8
        raise Damaged(f"{path} is damaged: {error}", back) from None
    if found := problem(value, schema):
        raise Damaged(f"{path} is damaged: {found}", back)
    return value


def digest(content: bytes) -> str:
    """A hash of bytes, as 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's bytes, as 32 hex digits."""
    found = hashlib.blake2b()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:32]


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill. On success it is renamed to `path` and replaces an existing one; on failure it is removed."""
    temporary = partial_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with _named(path):
            yield temporary
            for file in temporary.rglob("*"):
                _flush(file) if file.is_file() else _flush_names(file)
            _flush_names(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
            _flush_names(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
