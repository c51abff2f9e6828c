"""A data set from what a format has opened: in memory if its samples are small, and read from disk by rows if they are not."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.checks import KEEP_BYTES
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.decoded_once import decoded_once
from kdiff.data.opened import Array, Opened, Source, everything
from kdiff.data.streamed import streamed_dataset

LAYOUTS = ("channels_first", "channels_last")


def assemble(
    name: str,
    opened: Opened,
    normalise: str | None = None,
    value_range: tuple[float, float] | None = None,
    missing: str = "refuse",
    num_classes: int | None = None,
    flip: bool = False,
    layout: str | None = None,
) -> Dataset:
    """The data set of an opened file.

    Samples, fields and tokens that take at most 256 MB each as float32 are read into memory, and larger ones are read from disk
    batch by batch. Both have the same parts and the same fingerprint. The default of `normalise` (see `make_dataset`) is that
    of `default_normalisation`. `layout` channels_last says that samples are (*grid, C), and they are transposed. `missing` is
    explained in `kdiff.data.missing`.

    Raises ValueError for a layout that does not fit, and for everything that `make_dataset` refuses.
    """
    for remark in opened.remarks:
        warnings.warn(remark, stacklevel=3)
    x, mask = laid_out(name, opened, layout)
    if value_range is None and normalise in (None, "range"):
        value_range = opened.value_range
    normalise = normalise or default_normalisation(opened, value_range)
    if num_classes is None and opened.classes:
        num_classes = len(opened.classes)
    about = {**({"class_names": list(opened.classes)} if opened.classes else {}), **opened.about}
    small: dict[str, Any] = {
        "y": None if opened.y is None else everything(opened.y),
        "num_classes": num_classes,
        "flip": flip,
        "about": about,
        "conditions": {key: source if _is_large(source) else everything(source) for key, source in opened.conditions.items()},
        "condition_kinds": dict(opened.kinds),
        "groups": None if opened.groups is None else everything(opened.groups),
    }
    if _is_large(x) and x.decoded:
        x = decoded_once(x)
    # Images of type uint8 stay bytes, in memory up to 256 MB, or mapped from the cache.
    mapped = isinstance(x, Array) and x is not opened.x
    stays = x.dtype == np.uint8 and x.ndim > 2 and normalise in ("none", "range") and mask is None
    if _is_large(x) and not (stays and (mapped or math.prod(x.shape) <= KEEP_BYTES)):
        return streamed_dataset(name, x, normalise, value_range, missing=missing, mask=mask, **small)
    present = None if mask is None else everything(mask)
    raw = x.values if mapped and isinstance(x, Array) else everything(x)
    known = x.identity if stays else None
    return make_dataset(
        name, raw, normalise=normalise, value_range=value_range, missing=missing, mask=present, identity=known, **small
    )


def laid_out(name: str, opened: Opened, layout: str | None) -> tuple[Source, Source | None]:
    """Samples and mask with their channels first. Raises ValueError for a layout that does not fit."""
    if layout is not None and (layout not in LAYOUTS or len(opened.x.shape) < 3):
        raise ValueError(
            f"{name}: layout must be one of {', '.join(LAYOUTS)}, for samples with channels; found layout={layout!r} and shape "
            f"{opened.x.shape}"
        )
    if layout != "channels_last":
        return opened.x, opened.mask
    return Transposed(opened.x), None if opened.mask is None else Transposed(opened.mask)


def _is_large(source: Source) -> bool:
    """Whether samples, or a condition, stay on disk."""
    return source.ndim > 1 and 4 * math.prod(source.shape) > KEEP_BYTES


def default_normalisation(opened: Opened, value_range: tuple[float, float] | None) -> str:
    """range with a `value_range`; else features for vectors, channels for variables on a grid, and standard for the rest.

    Several variables that are stacked as channels have their own units, so each gets its own mean and deviation.
    """
    if value_range is not None:
        return "range"
    if len(opened.x.shape) == 2:
        return "features"
    return "channels" if len(opened.about.get("variables", ())) > 1 else "standard"


class Transposed(Source):
    """Samples (*grid, C) as (C, *grid)."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.dtype, self.block = source, source.name, source.dtype, source.block
        self.shape = (source.shape[0], source.shape[-1], *source.shape[1:-1])
        self.identity = None if source.identity is None else ("channels_last", source.identity)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, in a new array."""
        return np.ascontiguousarray(np.moveaxis(self.source.read(rows), -1, 1))


def reader_of(opener: Callable[..., Opened], path: str | Path) -> Callable[..., Dataset]:
    """A function that opens this path and assembles the data set; its options are those of the opener and of `assemble`."""
    own = dict(inspect.signature(opener).parameters)
    own.pop(next(iter(own)))
    added = dict(list(inspect.signature(assemble).parameters.items())[2:])

    def read(**options: Any) -> Dataset:
        opened = opener(path, **{key: value for key, value in options.items() if key in own})
        name = Path(path).name.split(".")[0] or str(path)
        return assemble(name, opened, **{key: value for key, value in options.items() if key in added and key not in own})

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in {**added, **own}.values()]
    read.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return read
