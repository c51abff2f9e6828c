"""Samples, labels and conditions from files of named arrays: one file or several, with or without windows of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.arranged import Concatenated, Picked, Stacked
from kdiff.data.formats.array_choice import Chooser
from kdiff.data.formats.array_file import ArrayFile, Asked, files_of
from kdiff.data.opened import Array, Opened, Source
from kdiff.data.windows import Window, Windows, cut


def open_array_files(path: str | Path, open_one: Callable[[Path], ArrayFile], asked: Asked) -> Opened:
    """The data of one file or several. Raises ValueError as the opener of the format describes."""
    archives = [open_one(file) for file in files_of(path)]
    rows = [_rows(archive, asked) for archive in archives]
    first, name = rows[0], str(path)
    for other in rows[1:]:
        if other.used != first.used:
            raise ValueError(f"{other.path} would give {other.used}, and {first.path} gives {first.used}; name them with key")
    opened = Opened(_joined(name, [one.x for one in rows]), about={"variables": first.keys, **archives[0].about, **first.facts})
    opened.remarks = list(dict.fromkeys(remark for one in rows for remark in one.remarks))
    if len(rows) > 1:
        opened.about = {**opened.about, "files": len(rows)}
    kinds = dict(asked.condition) if isinstance(asked.condition, Mapping) else {}
    names = _short(asked.conditions)
    found = {names[one]: _joined(name, [part.conditions[one] for part in rows]) for one in asked.conditions}
    opened.kinds = {names[one]: kind for one, kind in kinds.items()}
    for one in list(found):
        if found[one].dtype.kind == "U":
            found[one], classes = _classes(found[one])
            opened.kinds = {**opened.kinds, one: "class"}
            opened.about = {**opened.about, "condition_classes": {**opened.about.get("condition_classes", {}), one: classes}}
    opened.conditions = found
    if first.y is not None:
        opened.y = _joined(name, [one.y for one in rows if one.y is not None])
        if opened.y.dtype.kind == "U":
            opened.y, opened.classes = _classes(opened.y)
    if asked.window is not None:
        lengths = [length for one in rows for length in one.lengths]
        per_series = {names[one] for one in first.per_series}
        _cut(name, opened, lengths, asked.window, first.channels, per_series, "y" in first.per_series)
    return opened


def _joined(name: str, sources: list[Source]) -> Source:
    return sources[0] if len(sources) == 1 else Concatenated(name, sources)


def _short(names: list[str]) -> dict[str, str]:
    """The last part of each path, or the whole path where two share the last part."""
    last = [name.rsplit("/", 1)[-1] for name in names]
    return {name: short if last.count(short) == 1 else name.replace("/", "_") for name, short in zip(names, last)}


def _classes(source: Source) -> tuple[Source, list[str]]:
    names, numbers = np.unique(source.read(np.arange(len(source))), return_inverse=True)
    return Array(source.name, numbers.reshape(-1).astype(np.int64), source.identity), [str(one) for one in names]


def _cut(
    name: str, opened: Opened, lengths: list[int], window: Window, channels: bool, per_series: set[str], label_per_series: bool
) -> None:
    """Windows in place of frames. A condition of each frame is that of the first future frame."""
    found, frames = cut(name, lengths, window), opened.x
    opened.x = Windows(frames.name, frames, found.starts, window.past, window.future, channels)
    now = found.starts + window.past
    conditions: dict[str, Source] = {
        one: Picked(source.name, source, found.series if one in per_series else now)
        for one, source in opened.conditions.items()
    }
    if "past" in conditions:
        raise ValueError(f'{name}: a window makes the condition "past", and a condition in the file has this name too')
    if window.past:
        conditions["past"] = Windows(frames.name, frames, found.starts, 0, window.past, channels)
    opened.conditions = conditions
    if opened.y is not None:
        opened.y = Picked(opened.y.name, opened.y, found.series if label_per_series else now)
    opened.groups = Array(f"{name}: groups", found.groups.astype(np.int64))
    opened.remarks.append(found.remark)
    opened.about = {**opened.about, "window": {"past": window.past, "future": window.future, "stride": window.stride}}


@dataclass
class FileRows:
    """The samples or frames of one file. `per_series` names the conditions (or "y") with one row for each series."""

    path: Path
    keys: list[str]
    x: Source
    channels: bool
    lengths: list[int]
    y: Source | None
    conditions: dict[str, Source]
    per_series: set[str]
    facts: dict[str, Any]
    remarks: list[str]

    @property
    def used(self) -> str:
        """What this file is used for, to compare files."""
        return f"samples {', '.join(self.keys)}{' with labels' if self.y is not None else ''}"


def _rows(archive: ArrayFile, asked: Asked) -> FileRows:
    chosen = Chooser(archive, asked)
    keys = chosen.keys()
    entry = archive.entries[keys[0]]
    axes = chosen.axes(keys[0])
    sources = [archive.source(key, chosen.axes(key)) for key in keys]
    chosen.same_axes(keys)
    stacked = len(keys) > 1
    x = Stacked(f"{archive.path}: {', '.join(keys)}", sources, identity=tuple(one.identity for one in sources))
    x_source = x if stacked else sources[0]
    series = entry.shape[axes[0]] if len(axes) == 2 else 1
    length = entry.shape[axes[-1]]
    if min(x_source.shape) < 1:
        raise ValueError(f"{x_source.name} is empty: its shape is {entry.shape}; expected at least one sample of one value")
    per_series: set[str] = set()
    conditions = {one: chosen.companion(one, keys[0], per_series) for one in asked.conditions}
    y, label = chosen.labels(keys[0], per_series)
    facts: dict[str, Any] = {
        "units": {key: archive.entries[key].facts["units"] for key in keys if "units" in archive.entries[key].facts}
    }
    rest = [dim for axis, dim in enumerate(entry.dims) if axis not in axes]
    facts = {**{name: value for name, value in facts.items() if value}, **({"dimensions": rest} if rest else {})}
    remarks = [line for key in dict.fromkeys([*keys, *asked.conditions]) for line in archive.remarks(key)]
    if archive.entries[keys[0]].dtype.kind == "c":
        remarks.append(f"{x_source.name}: complex numbers become two channels, the real and the imaginary part")
    remarks += chosen.unused({*keys, *asked.conditions, label})
    channels = stacked or len(x_source.shape) > 3 or entry.dtype.kind == "c"
    return FileRows(archive.path, keys, x_source, channels, [length] * series, y, conditions, per_series, facts, remarks)
