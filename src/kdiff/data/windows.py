"""An axis of time cut into windows: `past` frames are a condition, and the `future` frames that follow are the sample.

    series     (T, C, *grid), one or more of different length T, never a window across two of them
    past       (past·C, *grid), the condition "past"
    sample     (future·C, *grid)

Windows that overlap hold almost the same frames. If the hash of each sample decided its part, near copies of training samples
would be held out, and a copy of the past would pass for a forecast. So whole series share a part: each series gets a number
(`Opened.groups`). Fewer than `FEW` series are cut into blocks of time first, and no window crosses the end of a block.
Frames next to the end of a block still resemble those after it; more and longer series are the better test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdiff.data.opened import Source

FEW, BLOCKS = 10, 50  # series that are cut into blocks of time, and how many blocks they become at most


@dataclass(frozen=True)
class Window:
    """`past` frames, then `future` frames; the next window begins `stride` frames later.

    `blocks`: into how many blocks of time each series is cut; None chooses. Raises ValueError for numbers below 1 (`past`: 0).
    """

    past: int
    future: int = 1
    stride: int = 1
    blocks: int | None = None

    def __post_init__(self) -> None:
        least = {"past": 0, "future": 1, "stride": 1, "blocks": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise ValueError(f"window: {name} is {value!r}; expected a whole number from {low}, as in window=[2, 1]")

    @property
    def length(self) -> int:
        """The frames of a window."""
        return self.past + self.future


def window_of(given: Window | int | Sequence[int] | Mapping[str, Any]) -> Window:
    """A window from [past, future], [past, future, stride], [past, future, stride, blocks], or a mapping of these names.

    Raises ValueError for anything else.
    """
    if isinstance(given, Window):
        return given
    try:
        return Window(**given) if isinstance(given, Mapping) else Window(*([given] if isinstance(given, int) else given))
    except TypeError as error:
        raise ValueError(
            f"window is {given!r}; expected window=[past, future], or past, future, stride and blocks by name"
        ) from error


class Windows(Source):
    """Frames `offset` … `offset` + `count` − 1 of each window, with the frames joined along the channels.

    `frames` are all frames, (F, …), and `starts` the first frame of each window. A frame (C, *grid) of two or more axes in all
    has channels if `channels`; else each frame is one channel. Numbers (D,) are joined to (count·D,).
    """

    def __init__(self, name: str, frames: Source, starts: np.ndarray, offset: int, count: int, channels: bool) -> None:
        self.name, self.frames, self.starts, self.offset, self.count = name, frames, starts, offset, count
        frame = frames.shape[1:]
        joined = len(frame) > 0 and (channels or len(frame) == 1)
        self.shape = (len(starts), count * frame[0], *frame[1:]) if joined else (len(starts), count, *frame)
        self.dtype = frames.dtype
        self.identity = (frames.identity, offset, count, channels, len(starts), int(starts[-1]) if len(starts) else 0)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These windows. A frame that several of them need is read once."""
        wanted = self.starts[rows][:, None] + np.arange(self.offset, self.offset + self.count)
        return self.frames.read(wanted.reshape(-1)).reshape(len(rows), *self.shape[1:])


@dataclass(frozen=True)
class Cut:
    """Where the windows are: the first frame of each, the group (series or block) and the series that it belongs to."""

    starts: np.ndarray
    groups: np.ndarray
    series: np.ndarray
    remark: str


def cut(name: str, lengths: Sequence[int], window: Window) -> Cut:
    """The windows of series of these lengths, one after another. Raises ValueError if there are too few frames."""
    blocks = window.blocks
    if blocks is None:
        blocks = 1
        if len(lengths) < FEW:
            blocks = max(5, min(BLOCKS // len(lengths), min(lengths) // (10 * window.length)))
    shortest = min(lengths) // blocks
    if shortest < window.length:
        raise ValueError(
            f"{name}: a window has {window.length} frames, and {'series' if blocks == 1 else f'a block (of {blocks})'} only "
            f"{shortest}; expected longer series; give a shorter window, or fewer blocks of time, as in "
            f"window=[{window.past}, {window.future}, {window.stride}, 3]"
        )
    starts, groups, series, lost, group, first = [], [], [], 0, 0, 0
    for number, length in enumerate(lengths):
        edges = np.linspace(0, length, blocks + 1).astype(np.int64)
        for low, high in zip(edges, edges[1:]):
            found = np.arange(low, high - window.length + 1, window.stride)
            starts.append(first + found)
            groups.append(np.full(len(found), group))
            series.append(np.full(len(found), number))
            group += 1
        lost += len(np.arange(0, length - window.length + 1, window.stride)) - sum(map(len, starts[-blocks:]))
        first += length
    remark = f"{name}: {len(lengths)} series gave {sum(map(len, starts))} windows; "
    if blocks == 1:
        remark += "the windows of one series share a part (training, classifier or held-out)"
    else:
        remark += (
            f"windows overlap, so {group} blocks of time, not single windows, are divided into the parts; {lost} windows "
            f"across the ends of blocks are left out (window=[past, future, stride, blocks] sets the number)"
        )
    return Cut(np.concatenate(starts), np.concatenate(groups), np.concatenate(series), remark)
