"""A progress bar on stderr for work on a large data set; work that takes only seconds shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

DELAY = 3.0  # seconds before the bar appears

T = TypeVar("T")


def shown(
    parts: Iterable[T], total: int, what: str, size: Callable[[T], int] = lambda part: 1, unit: str = "image"
) -> Iterator[T]:
    """Yield the parts under a progress bar called `what`; a part counts as size(part) of the `total` units."""
    with tqdm(desc=what, total=total, unit=unit, delay=DELAY, mininterval=0.5) as bar:
        for part in parts:
            yield part
            bar.update(size(part))
