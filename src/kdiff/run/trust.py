"""What a run folder may make kdiff import. A recorded configuration names classes by path, and an import runs their code.

Every reader of a run folder's config.yaml calls `check_trusted` before it imports anything. Class paths outside kdiff are
refused, except in a folder that this user wrote on this machine: its place and the digest of its config.yaml are kept in the
folder `trusted` of the cache (`kdiff.files.cache`). A folder that was moved, changed or received needs `--trust`, or in Python
`load_run(folder, trust=True)`, or `with trusting(): …` around any other call.

Class paths inside kdiff are not refused if they lead to what kdiff itself defines for this use: a class; for data, a function
of `kdiff.data` that returns a `Dataset`; for a solver and its times, anything in `kdiff.sampling`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from kdiff.config.parts import CLASS_PATH, import_attribute, parse
from kdiff.files.atomic import digest, write_text
from kdiff.run.yaml_file import load_yaml

PLACES = ("start_from",)  # fields that name files and folders alone: a run that is named there is checked when it is read
_trusting: ContextVar[bool] = ContextVar("trusting", default=False)
_written: set[tuple[Path, str]] = set()  # the folders of this process, for the case that the cache cannot be written to


def trust_all(trust: bool = True) -> None:
    """From now on, trust every folder that this thread reads, or none that is not remembered."""
    _trusting.set(trust)


def is_trusting() -> bool:
    """Whether every folder is trusted here."""
    return _trusting.get()


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Trust every folder that is read in the body of the with statement; with `trust` False nothing changes."""
    token = _trusting.set(trust or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(token)


def remember(folder: Path, values: Mapping[str, Any]) -> None:
    """Remember that this user has written a run folder's config.yaml, with these values, if they name code outside kdiff."""
    if not _named_outside(values):
        return
    written = digest((folder / "config.yaml").read_bytes())
    _written.add((folder.resolve(), written))
    # Without the entry, a later command asks for --trust. That is no reason to end a training.
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: this user has no home folder
        file = _entry(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, written)


def check_trusted(folder: Path, content: bytes, values: Mapping[str, Any]) -> None:
    """Refuse a run folder whose configuration would make kdiff import something from outside kdiff, unless it is trusted.

    Nothing outside kdiff is imported here.

    Args:
        folder: the run folder.
        content: the bytes of its config.yaml.
        values: their content.

    Raises:
        ValueError: the folder is not trusted. The message says what it names, and how to trust it.
    """
    found = _named_outside(values)
    if not found or is_trusting() or _is_remembered(folder, content):
        return
    named = ", ".join(f"{path} ({field})" for path, field in found.items())
    raise ValueError(
        f"{folder / 'config.yaml'} names {named}, which would run code from outside kdiff or write files. "
        "If you trust this folder, add --trust (in Python: load_run(folder, trust=True))"
    )


def check_config_file(path: Path) -> None:
    """`check_trusted` for a YAML file that is given as a configuration, if it is the config.yaml of a run folder."""
    folder = path.parent
    if path.name == "config.yaml" and any((folder / name).exists() for name in ("data.json", "checkpoints")):
        content = path.read_bytes()
        try:
            values = load_yaml(content.decode("utf-8"), path)
        except ValueError:  # the reader of the file, which uses the same function, says what is wrong
            return
        check_trusted(folder, content, values if isinstance(values, dict) else {})


def _entry(folder: Path) -> Path:
    """The file that remembers a run folder of this place."""
    from kdiff.files.cache import cache_folder  # not at the top, because it imports numpy, and `kdiff --help` does not need it

    return cache_folder() / "trusted" / digest(os.fsencode(folder.resolve()))


def _is_remembered(folder: Path, content: bytes) -> bool:
    """Whether this user has written this content to the config.yaml of a folder at this place."""
    found = digest(content)
    if (folder.resolve(), found) in _written:
        return True
    try:
        file = _entry(folder)
        mine = os.name != "posix" or file.stat().st_uid == os.getuid()  # several users may share a cache
        return mine and file.read_bytes() == found.encode()
    except (OSError, RuntimeError):
        return False


def _named_outside(values: Mapping[str, Any]) -> dict[str, str]:
    """The class paths outside kdiff in a configuration, and the field of each."""
    return {path: str(field) for field, value in values.items() if field not in PLACES for path in _outside(str(field), value)}


def _outside(field: str, value: Any) -> Iterator[str]:
    """The class paths in the value of a field that would be imported and are not kdiff's own, options of parts included."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _outside(field, item)
    elif isinstance(value, dict) and not isinstance(value.get("name"), str):
        for key, item in value.items():
            yield from _outside(str(key), item)
    elif isinstance(value, str | dict):
        try:
            part = parse(value)
        except ValueError:  # it names no part, so nothing can be imported for it
            return
        is_path = CLASS_PATH.fullmatch(part.name) is not None and not (field == "data" and _is_file(part.name))
        if is_path and not _is_own(field, part.name):
            yield part.name
        if is_path or field != "data":  # the readers of files and kdiff's own data sets take no parts
            yield from _outside(field, [*part.options.values(), *part.values])


def _is_file(name: str) -> bool:
    """Whether data of this name are read from a file or a folder, such as vectors.npz."""
    from kdiff.data.arrays import READERS

    path = Path(name).expanduser()
    return path.exists() or path.suffix.lower() in READERS


def _is_own(field: str, path: str) -> bool:
    """Whether a class path leads to what kdiff defines for a field. Paths outside kdiff are not imported."""
    if not path.startswith(("kdiff.", "kdiff:")):
        return False
    try:
        found = import_attribute(path)
    except ValueError:  # there is no such object, as the reader will say
        return True
    home = f"{getattr(found, '__module__', None)}."
    if field == "data":
        # own_latents would train an autoencoder, and write it where the configuration says.
        return home.startswith("kdiff.data.") and inspect.isfunction(found) and _returns(found) == "Dataset"
    if field in ("solver", "times"):
        return home.startswith("kdiff.sampling.")
    return home.startswith("kdiff.") and inspect.isclass(found)


def _returns(function: Any) -> str:
    """The name of the class that a function says it returns."""
    annotation = function.__annotations__.get("return")
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
