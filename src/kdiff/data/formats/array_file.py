"""What HDF5, Zarr, NetCDF and MATLAB files have in common: arrays with names, and the options that choose among them.

key=fields                    samples: this array, whose axis `sample_axis` counts them
key=[u, v]                    several arrays as channels
condition=params              an array with a row for each sample; also a list, or {name: kind}
window=[2, 1]                 `sample_axis` is time: two frames are the condition "past", the next one is the sample
time_axis=1                   with a window: many series, counted by `sample_axis`, each along this axis
runs/*.h5                     the samples of all files in the order of their names; with a window, each file is a series
"""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.opened import Source
from kdiff.data.windows import Window, window_of

Names = str | Sequence[str]
DATA_KEY, LABEL_KEY, SHOWN = "x", "y", 12


@dataclass
class Entry:
    """An array of a file: its shape, type, names of axes if it has them, and facts such as units.

    `text` arrays can be labels only. `coordinate` arrays describe an axis. `refused` says why the array cannot be read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    text: bool = False
    coordinate: bool = False
    refused: str = ""


class ArrayFile(ABC):
    """A file of named arrays. `entries` are those of numbers or text, and `ignored` names the others, with the reason."""

    path: Path
    entries: dict[str, Entry]
    ignored: dict[str, str]
    about: dict[str, Any]

    @abstractmethod
    def source(self, name: str, axes: tuple[int, ...]) -> Source:
        """The numbers of an entry; `axes` are those of the samples, in the order of `Entry.shape`."""

    @abstractmethod
    def text(self, name: str) -> np.ndarray:
        """The strings of a text entry."""

    def remarks(self, name: str) -> list[str]:
        """What a user should know about an entry that is used."""
        return []

    def attribute(self, name: str, key: str) -> np.ndarray | None:
        """The attribute `name` of the entry `key` or of the file, if it is an array of numbers."""
        return None

    def listing(self) -> str:
        """The arrays with shape and type, for messages."""
        shown = [f"{name} {one.shape} {one.dtype}" for name, one in self.entries.items()]
        shown += [f"{name} ({why})" for name, why in self.ignored.items()]
        more = f", and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        return (", ".join(shown[:SHOWN]) + more) or "no arrays"


@dataclass
class Asked:
    """What a user asked for; see the module."""

    key: Names | None = None
    sample_axis: int | str = 0
    label_key: str | bool | None = None
    condition: Names | Mapping[str, str] | None = None
    window: Window | None = None
    time_axis: int | str | None = None

    def __post_init__(self) -> None:
        if self.time_axis is not None and self.window is None:
            raise ValueError(f"time_axis={self.time_axis!r} is for windows of time; give window=[past, future] too")

    @property
    def conditions(self) -> list[str]:
        """The names of the conditions in the file."""
        given = self.condition
        return [] if given is None else [given] if isinstance(given, str) else list(given)


def choice(window: Any = None, labels: str | bool | None = None, label_key: str | None = None, **options: Any) -> Asked:
    """The options of an opener. `labels` is the same as `label_key`; False says that there are none."""
    if labels is not None and label_key is not None and labels != label_key:
        raise ValueError(f"labels={labels!r} and label_key={label_key!r} mean the same; give one of them")
    chosen = label_key if labels is None or labels is True else labels
    return Asked(label_key=chosen, window=None if window is None else window_of(window), **options)


def files_of(path: str | Path) -> list[Path]:
    """The file, or those that a pattern such as runs/*.h5 names. Raises FileNotFoundError if there is none."""
    path = Path(path).expanduser()
    if path.exists():
        return [path]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise FileNotFoundError(f"no file at {path}")
    return found
