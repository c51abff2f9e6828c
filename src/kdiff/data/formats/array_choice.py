"""Which arrays of a file are samples, labels and conditions, and along which axes. What cannot be known is refused."""

from __future__ import annotations

import numpy as np

from kdiff.data.arranged import Picked
from kdiff.data.formats.array_file import DATA_KEY, LABEL_KEY, ArrayFile, Asked, Entry
from kdiff.data.opened import Array, Source


class Chooser:
    """The choices for one file. Every method raises ValueError with what the file holds."""

    def __init__(self, archive: ArrayFile, asked: Asked) -> None:
        self.archive, self.asked, self.path = archive, asked, archive.path

    def entry(self, name: str, what: str) -> Entry:
        """The entry of this name, which can be read."""
        entries = self.archive.entries
        if name not in entries:
            why = f" can be used ({name} is {self.archive.ignored[name]})" if name in self.archive.ignored else ""
            raise ValueError(f"{self.path}: no array {name!r}{why}; the file holds {self.archive.listing()}; give {what}")
        if entries[name].refused:
            raise ValueError(f"{self.path}: {name} {entries[name].refused}")
        return entries[name]

    def keys(self) -> list[str]:
        """The names of the samples: those asked for, else the only plausible ones."""
        given = self.asked.key
        names = self._only() if given is None else [given] if isinstance(given, str) else list(given)
        if not names:
            raise ValueError(f"{self.path}: key is an empty list; expected names from {self.archive.listing()}")
        for name in names:
            if self.entry(name, "the samples with key=NAME").text:
                raise ValueError(f"{self.path}: {name} holds text; samples are numbers")
        return names

    def _only(self) -> list[str]:
        spoken_for = {*self.asked.conditions, self.asked.label_key}
        names = [
            name
            for name, one in self.archive.entries.items()
            if len(one.shape) >= 2 and not (one.text or one.coordinate) and name not in spoken_for
        ]
        if DATA_KEY in names:
            return [DATA_KEY]
        high = [name for name in names if len(self.archive.entries[name].shape) >= 3]
        for plausible in (names, high):
            if len(plausible) == 1:
                return plausible
        found = "several arrays could be the samples" if names else "no array of two axes or more"
        example = names[0] if names else next(iter(self.archive.entries), "NAME")
        raise ValueError(
            f"{self.path}: {found}; the file holds {self.archive.listing()}; give key={example}, or several as "
            f"channels with key=[{', '.join(names[:2] or ['u', 'v'])}]"
        )

    def axis(self, name: str, given: int | str, option: str) -> int:
        """The number of an axis that is given by number or name."""
        entry = self.archive.entries[name]
        if isinstance(given, str):
            if given not in entry.dims:
                found = f"its axes are {', '.join(entry.dims)}" if entry.dims else "its axes have no names; give a number"
                raise ValueError(f"{self.path}: {name} {entry.shape} has no axis {given!r} for {option}; {found}")
            return entry.dims.index(given)
        rank = len(entry.shape)
        if not -rank <= given < rank:
            raise ValueError(f"{self.path}: {name} has the shape {entry.shape}; {option}={given} is no axis of it")
        return given % rank

    def axes(self, name: str) -> tuple[int, ...]:
        """The axes of the samples: one, or those of the series and of time."""
        axes = (self.axis(name, self.asked.sample_axis, "sample_axis"),)
        if self.asked.time_axis is None:
            return axes
        time = self.axis(name, self.asked.time_axis, "time_axis")
        if time == axes[0]:
            raise ValueError(
                f"{self.path}: sample_axis counts series and time_axis their frames, and both name axis {time} of {name}; for "
                "one long series leave time_axis out"
            )
        return (*axes, time)

    def same_axes(self, keys: list[str]) -> None:
        """Refuse variables whose grids have the same axes in another order."""
        orders = {}
        for key in keys:
            dims, axes = self.archive.entries[key].dims, self.axes(key)
            if dims and all(dims):
                orders[key] = tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
        for key, order in orders.items():
            first = next(iter(orders))
            if order != orders[first] and sorted(order) == sorted(orders[first]):
                raise ValueError(
                    f"{self.path}: {key} has the axes {', '.join(order)}, and {first} has {', '.join(orders[first])}; expected "
                    "the same order to stack them; transpose one of them in the file"
                )

    def companion(self, name: str, key: str, per_series: set[str]) -> Source:
        """The values of a condition or labels, one for each sample of `key`, or for each series (then noted in `per_series`).

        Attributes of the samples or of the file count, if no array has the name.
        """
        axes, main = self.axes(key), self.archive.entries[key]
        sizes = tuple(main.shape[axis] for axis in axes)
        if name not in self.archive.entries:
            values = self.archive.attribute(name, key)
            if values is not None and values.ndim and len(values) == sizes[0]:
                if len(sizes) == 2:
                    per_series.add(name)
                return Array(f"{self.path}: {name}", values)
        entry = self.entry(name, "a condition with condition=NAME")
        if entry.shape[: len(sizes)] == sizes:
            mine: tuple[int, ...] = tuple(range(len(sizes)))
        elif len(entry.shape) == len(main.shape) and tuple(entry.shape[axis] for axis in axes) == sizes:
            mine = axes
        elif entry.shape[:1] == sizes[:1]:
            mine = (0,)
        elif isinstance(self.asked.sample_axis, str) and self.asked.sample_axis in entry.dims:
            mine = (entry.dims.index(self.asked.sample_axis),)
        elif len(entry.shape) == 2 and entry.shape[1] == sizes[0] and (axes[0] != 0 or entry.shape[0] == 1):
            mine = (1,)
        else:
            raise ValueError(
                f"{self.path}: {name} has the shape {entry.shape}, and {key} {main.shape} has {sizes[0]} samples along axis "
                f"{axes[0]}; expected the same number along the first axis of {name}"
            )
        if isinstance(self.asked.sample_axis, str) and self.asked.sample_axis in entry.dims and len(sizes) == 1:
            mine = (entry.dims.index(self.asked.sample_axis),)
        if len(mine) < len(sizes):
            per_series.add(name)
        if entry.text:
            values = self.archive.text(name)
            return Array(f"{self.path}: {name}", values.reshape(-1) if values.size == len(values) else values)
        return self.archive.source(name, mine)

    def labels(self, key: str, per_series: set[str]) -> tuple[Source | None, str | None]:
        """The labels and their name; (None, None) without."""
        name = self.asked.label_key
        if name is False or name is True:
            name = None if name is False else LABEL_KEY
        elif name is None:
            entry = self.archive.entries.get(LABEL_KEY)
            rows = self.archive.entries[key].shape[self.axes(key)[0]]
            plausible = entry is not None and entry.shape == (rows,) and not entry.coordinate and entry.dtype.kind in "iub"
            name = LABEL_KEY if plausible and key != LABEL_KEY and LABEL_KEY not in self.asked.conditions else None
        if not name:
            return None, None
        found: set[str] = set()
        y = self.companion(name, key, found)
        if found:
            per_series.add("y")
        if len(y.shape) == 2 and y.shape[1] == 1:
            y = Column(y)
        if len(y.shape) != 1 or y.dtype.kind not in "iubU":
            raise ValueError(
                f"{self.path}: labels {name} have the shape {y.shape} and type {y.dtype}; expected whole numbers or text, "
                f"one for each sample; for other values type condition={name}"
            )
        return y, name

    def unused(self, used: set[str | None]) -> list[str]:
        """One line on the arrays that have a value for each sample and are not used."""
        key = self.keys()[0]
        axis = self.axes(key)[0]
        rows = self.archive.entries[key].shape[axis]
        names = [
            f"{name} {one.shape} {'text' if one.text else one.dtype}"
            for name, one in self.archive.entries.items()
            if name not in used and not one.coordinate and one.shape[:1] == (rows,)
        ]
        if not names:
            return []
        first = names[0].split(" ", 1)[0]
        return [
            f"{self.path}: not used, although there is a value for each sample: {', '.join(names[:8])}"
            f"{', …' if len(names) > 8 else ''}; type condition={first} or label_key={first} to use it"
        ]


class Column(Picked):
    """A source (N, 1) as (N,)."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, source, np.arange(len(source)))
        self.shape, self.block = (len(source),), source.block

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows."""
        return self.source.read(rows)[:, 0]
