"""How far work on a large data set is, on stderr; what takes only seconds shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

DELAY = 3.0  # seconds before anything is shown

T = TypeVar("T")


def shown(
    parts: Iterable[T], total: int, what: str, size: Callable[[T], int] = lambda part: 1, unit: str = "image"
) -> Iterator[T]:
    """These parts, one by one, under a bar of this name; a part counts for `size` of it units out of `total`."""
    with tqdm(desc=what, total=total, unit=unit, delay=DELAY, mininterval=0.5) as bar:
        for part in parts:
            yield part
            bar.update(size(part))
