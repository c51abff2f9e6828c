"""TIFF stacks: the pages of one file are the samples, or each file of a folder is a volume. Axes are those that the file names.

    'TYX' → (N, 1, H, W)      'TCYX' → (N, C, H, W)      'TCZYX' → (N, C, D, H, W)        samples along T
    folder of 'ZYX' → (N, 1, D, H, W)                                                     samples are files

The letters are tifffile's: T time, Z depth, C and S channels, Y and X rows and columns, I and Q unnamed. A file that is stored
as one piece is mapped into memory; of others (compressed or tiled) the pages are read one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.decoding import Content
from kdiff.data.formats import needed
from kdiff.data.formats.tiff_axes import PLANE, Layout, layout_of, order_of
from kdiff.data.opened import Array, Opened, Source
from kdiff.files import cache

TIFF = (".tif", ".tiff", ".btf", ".tf8")


def open_tiff(
    path: str | Path,
    key: int | str | None = None,
    sample_axis: str | int | None = None,
    labels: str | Path | bool | None = None,
) -> Opened:
    """The stack in a TIFF file (also BigTIFF, ImageJ and OME), or the volumes in a folder of TIFF files.

    `key` is the number or name of the series, in a file with several. `sample_axis` is the letter of the axis of the samples,
    or its number; it is needed if the file has more than one axis besides channels, rows and columns. `labels` is the path of a
    .npy file; of a folder, the sub-folders are classes unless labels=False.

    Raises FileNotFoundError for a missing file. Raises ValueError for a damaged file, several series without `key`, a single
    image, axes that are ambiguous, numbers of another type, and volumes of different shapes.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no TIFF file at {path}")
    if path.is_dir():
        if sample_axis is not None:
            raise ValueError(f"{path} is a folder, whose files are the samples; leave sample_axis out")
        return _open_volumes(path, key, labels)
    identity = ("tiff", cache.stamp(path), key, sample_axis)
    with opened_file(path) as tif:
        series, index = _series(path, tif, key)
        layout, remarks = layout_of(path, series.axes, series.shape, sample_axis)
        _remark_on_colours(path, series.keyframe, remarks)
        value_range = (0.0, 255.0) if series.dtype == np.uint8 else None
        axes, mapped = series.axes, series.dataoffset is not None and series.dtype.kind != "b"
        x: Source = Pages(path, tif, series, index, layout, identity)
    if mapped:
        try:
            raw = needed("tifffile", str(path)).memmap(path, series=index, mode="r")
        except ValueError as error:
            raise _damaged(path, error) from error
        x = Array(str(path), layout.apply(raw), identity)
    y = None if labels is None or labels is False else _labels(path, labels)
    return Opened(x, y, value_range=value_range, about={"axes": axes}, remarks=remarks)


def _damaged(path: Path | Content, error: object) -> ValueError:
    return ValueError(f"{path}: cannot be read as TIFF: the file is damaged, cut off or of another format ({error})")


class _Complaints(logging.Handler):
    """What tifffile writes to its log about a damaged file, such as pages that are not there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.found.append(record.getMessage())


@contextlib.contextmanager
def opened_file(path: Path | Content) -> Iterator[Any]:
    """The TiffFile, with its series found. Raises ValueError for a damaged file, also if tifffile only logs what is missing."""
    tifffile, handler, log = needed("tifffile", f"{path} (TIFF)"), _Complaints(), logging.getLogger("tifffile")
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        try:
            tif = tifffile.TiffFile(path if isinstance(path, Path) else path.open())
            count = len(tif.series)
        except Exception as error:  # TiffFileError, struct.error, ValueError, KeyError, …
            raise _damaged(path, error) from error
        lost = [
            text for text in handler.found if "page offset" in text or "invalid" in text.lower() or "corrupt" in text.lower()
        ]
        if lost or not count:
            tif.close()
            raise _damaged(path, lost[0] if lost else "it has no images")
    finally:
        log.removeHandler(handler)
        log.propagate = before
    with tif:
        yield tif


def _series(path: Path, tif: Any, key: int | str | None) -> tuple[Any, int]:
    """The series and its number."""
    listing = ", ".join(
        f"{i} {one.name + ' ' if one.name else ''}{one.axes} {one.shape} {one.dtype}" for i, one in enumerate(tif.series)
    )
    if key is None and len(tif.series) > 1:
        raise ValueError(
            f"{path}: the file has {len(tif.series)} series, and a data set is one of them: {listing}; give key=0, …"
        )
    names = {index: index for index in range(len(tif.series))} | {one.name: i for i, one in enumerate(tif.series) if one.name}
    if key is not None and key not in names:
        raise ValueError(f"{path}: no series {key!r}; the file has {listing}")
    index = names[key or 0]
    series = tif.series[index]
    if series.dtype is None or series.dtype.kind not in "iufb":
        raise ValueError(f"{path}: the values are {series.dtype}; expected integers or floats")
    if not all(letter in series.axes for letter in PLANE):
        raise ValueError(f"{path}: the axes are {series.axes!r} of shape {series.shape}; expected images, with Y and X")
    if any(page is None for page in series.pages):
        raise _damaged(path, "pages are missing")
    return series, index


def _remark_on_colours(path: Path, page: Any, remarks: list[str]) -> None:
    colours = getattr(page.photometric, "name", "")
    if colours == "PALETTE":
        remarks.append(f"{path}: the images have a palette, and their values are numbers of colours; convert them to RGB")
    if colours == "MINISWHITE":
        remarks.append(f"{path}: the file says that 0 is white; the values are taken as they are")


def _labels(path: Path, labels: str | Path | bool) -> Array:
    if isinstance(labels, bool) or Path(labels).suffix.lower() != ".npy":
        raise ValueError(f"{path}: labels is {labels!r}; expected the path of a .npy file with a whole number for each sample")
    file = Path(labels).expanduser()
    return Array(str(file), np.load(file, allow_pickle=False), cache.stamp(file))


class Pages(Source):
    """Samples whose pages are read one at a time."""

    def __init__(self, path: Path, tif: Any, series: Any, index: int, layout: Layout, identity: object) -> None:
        self.path, self.name, self.index, self.layout, self.identity = path, str(path), index, layout, identity
        inner = tuple(series.keyframe.shape)
        lead = tuple(series.shape[: len(series.shape) - len(inner)])
        sample = layout.sample
        self.pages_are_pieces = lead + inner == tuple(series.shape) and math.prod(lead) == len(series.pages)
        if series.dataoffset is None and sample is not None and (not self.pages_are_pieces or sample >= len(lead)):
            raise ValueError(
                f"{path}: the axes {series.axes!r} of shape {tuple(series.shape)} are stored in {len(series.pages)} pages of "
                f"shape {inner}, so that samples along {series.axes[sample]} cannot be read alone; save it without compression"
            )
        self.dtype = np.dtype("uint8") if series.dtype.kind == "b" else series.dtype.newbyteorder("=")
        self.series_shape, self.lead = tuple(series.shape), lead
        self.shape = layout.apply(np.broadcast_to(np.int8(0), self.series_shape)).shape
        self._file = contextlib.ExitStack()
        self._pages: tuple[int, Any] = (-1, None)
        self._lock = threading.Lock()

    def _opened(self) -> Any:
        """The pages of the file, which stays open; another process opens it again."""
        if self._pages[0] != os.getpid():
            self._pages = os.getpid(), self._file.enter_context(opened_file(self.path)).series[self.index].pages
        return self._pages[1]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These samples, in a new array."""
        sample = self.layout.sample or 0
        numbers = np.moveaxis(np.arange(math.prod(self.lead)).reshape(self.lead), sample, 0)
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        with self._lock:
            pages = self._opened()
            for place, row in enumerate(rows.tolist()):
                try:
                    one = np.stack([pages[int(number)].asarray() for number in np.ravel(numbers[row])])
                except Exception as error:  # every codec raises its own
                    raise ValueError(f"{self.path}: sample {row} cannot be read: {_why(error)}") from error
                one = one.reshape((*self.lead[:sample], *self.lead[sample + 1 :], *self.series_shape[len(self.lead) :]))
                values[place] = self.layout.apply(np.expand_dims(one, sample))[0]
        return values


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text + ("; type: pip install 'kdiff[tiff]'" if "imagecodecs" in text else "")


class Volumes(Source):
    """Files, each of which is one sample."""

    def __init__(self, path: Path, files: Sequence[Path], key: int | str | None, identity: object, remarks: list[str]) -> None:
        self.path, self.name, self.files, self.key, self.identity = path, str(path), list(files), key, identity
        with opened_file(files[0]) as tif:
            series, _ = _series(files[0], tif, key)
            _remark_on_colours(files[0], series.keyframe, remarks)
            self.axes, self.inner = series.axes, tuple(series.shape)
            self.layout = order_of(files[0], self.axes, self.inner, None, remarks)
            self.stored = series.dtype.newbyteorder("=")
        self.dtype = np.dtype("uint8") if self.stored.kind == "b" else self.stored
        self.shape = (len(files), *self.layout.apply(np.broadcast_to(np.int8(0), self.inner)).shape)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These samples, in a new array."""
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            file = self.files[row]
            with opened_file(file) as tif:
                series, _ = _series(file, tif, self.key)
                found = (series.axes, tuple(series.shape), series.dtype.newbyteorder("="))
                if found != (self.axes, self.inner, self.stored):
                    raise ValueError(
                        f"{file} has the axes {found[0]!r}, shape {found[1]} and type {found[2]}; expected {self.axes!r}, "
                        f"{self.inner} and {self.stored} as in {self.files[0].name}"
                    )
                try:
                    values[place] = self.layout.apply(series.asarray())
                except Exception as error:  # every codec raises its own
                    raise ValueError(f"{file} cannot be read: {_why(error)}") from error
        return values


def _open_volumes(path: Path, key: int | str | None, labels: str | Path | bool | None) -> Opened:
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] != "."]
    files = [file for file in found if file.suffix.lower() in TIFF]
    if not files:
        raise ValueError(f"{path} holds no TIFF files; expected files ending in {', '.join(TIFF)}, found {len(found)} others")
    remarks: list[str] = []
    if len(found) > len(files):
        remarks.append(f"{path}: {len(found) - len(files)} files that are no TIFF are left out")
    x = Volumes(path, files, key, ("volumes", [cache.stamp(file) for file in files], key), remarks)
    opened = Opened(x, about={"axes": x.axes}, remarks=remarks)
    if isinstance(labels, str | Path):
        opened.y = _labels(path, labels)
    elif labels is not False:
        tops = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
        classes = sorted(set(tops))
        if "" in classes and len(classes) > 1:
            raise ValueError(
                f"{path} holds {tops.count('')} files beside folders; move them into a folder, or give labels=False"
            )
        if len(classes) > 1:
            opened.classes = classes
            opened.y = Array(str(path), np.array([classes.index(top) for top in tops], np.int64))
    return opened
