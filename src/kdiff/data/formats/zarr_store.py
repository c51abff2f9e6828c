"""Zarr of formats 2 and 3 by zarr: folders and zip files, with groups, consolidated metadata or not, and shards.

kdiff reads the stored numbers. A chunk that is not stored reads as the fill value of the array. Zarr cannot tell a
chunk that was never written from one that holds nothing but fill values. A remark counts such chunks. Attributes of NetCDF
(`_FillValue`, `scale_factor`, …) are not applied; `netcdf=True` reads the store as NetCDF.
"""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.arranged import Stored
from kdiff.data.formats import needed
from kdiff.data.formats.array_file import ArrayFile, Entry, Names, choice
from kdiff.data.formats.handles import Handle, folder_stamp
from kdiff.data.formats.named_arrays import open_array_files
from kdiff.data.opened import Opened, Source
from kdiff.files import cache

MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "valid_min", "valid_max", "valid_range")
MANY_CHUNKS = 20_000  # above, chunks are not counted


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store, or a file has the name of one (.zarr.zip)."""
    return any((path / mark).exists() for mark in MARKS) if path.is_dir() else path.name.lower().endswith(".zarr.zip")


def open_zarr(
    path: str | Path,
    key: Names | None = None,
    sample_axis: int | str = 0,
    condition: Names | dict[str, str] | None = None,
    label_key: str | None = None,
    labels: str | bool | None = None,
    window: Any = None,
    time_axis: int | str | None = None,
    netcdf: bool = False,
) -> Opened:
    """The data of a Zarr store, or of all stores of a pattern. `kdiff.data.formats.array_file` has the options.

    Raises FileNotFoundError for a missing store. Raises ValueError for one that is damaged or no Zarr, names that are missing
    or ambiguous, types that are no numbers, unknown codecs, and shapes that do not belong together.
    """
    if netcdf:
        from kdiff.data.formats.netcdf import open_netcdf

        return open_netcdf(path, key, sample_axis, condition, label_key, labels, window, time_axis)
    asked = choice(window, labels, label_key, key=key, sample_axis=sample_axis, condition=condition, time_axis=time_axis)
    return open_array_files(path, ZarrArchive, asked)


class _Open:
    """An open store with its top group or array."""

    def __init__(self, path: str) -> None:
        zarr = needed("zarr", f"{path} (Zarr)")
        is_zip = not Path(path).is_dir()
        try:
            self.store = zarr.storage.ZipStore(path, mode="r") if is_zip else path
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.top = zarr.open(self.store, mode="r")
        except Exception as error:
            what = "is no Zarr store, or its description is damaged"
            raise ValueError(f"{path}: {what} ({type(error).__name__}: {one_line(error)})") from error

    def close(self) -> None:
        """Close a zip file."""
        if not isinstance(self.store, str):
            self.store.close()


class ZarrArchive(ArrayFile):
    """The arrays of one store by their paths."""

    def __init__(self, path: Path) -> None:
        self.path, self.entries, self.ignored = path, {}, {}
        self.handle = Handle(_Open, str(path))
        self._kept: tuple[Any, dict[str, Any]] = (None, {})
        top = self.handle.get().top
        self.about = {"format": f"Zarr {top.metadata.zarr_format}" if hasattr(top, "metadata") else "Zarr 2"}
        if hasattr(top, "shape"):
            self._add("x", top)
        else:
            self._walk(top, "")

    def _walk(self, group: Any, prefix: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                arrays, groups = sorted(group.arrays(), key=_first), sorted(group.groups(), key=_first)
        except Exception as error:
            raise ValueError(
                f"{self.path}: the description of an array is damaged, or names a codec or type that is not installed "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        for name, array in arrays:
            self._add(prefix + name, array)
        for name, found in groups:
            self._walk(found, f"{prefix}{name}/")

    def _add(self, name: str, array: Any) -> None:
        dtype, shape = array.dtype, tuple(array.shape)
        attributes = dict(array.attrs)
        dims = getattr(getattr(array, "metadata", None), "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS") or ()
        dims = tuple(str(dim) if dim is not None else "" for dim in dims)
        if not shape:
            self.ignored[name] = f"one value, {dtype}"
        elif dtype.kind in "UT":
            self.entries[name] = Entry(shape, np.dtype("U"), dims, text=True)
        elif dtype.kind not in "iufbc":
            self.ignored[name] = f"of type {dtype}"
        else:
            units = {"units": str(attributes["units"])} if "units" in attributes else {}
            self.entries[name] = Entry(shape, dtype, dims, units, coordinate=dims == (name.rsplit("/", 1)[-1],))

    def array(self, name: str) -> Any:
        """The zarr array of an entry, whose description is read once in each process."""
        top = self.handle.get().top
        if self._kept[0] is not top:
            self._kept = (top, {})
        if name not in self._kept[1]:
            self._kept[1][name] = top if hasattr(top, "shape") else top[name]
        return self._kept[1][name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": (None, {})}

    def source(self, name: str, axes: tuple[int, ...]) -> Source:
        """The stored numbers of an entry."""
        return ZarrSource(self, name, axes)

    def text(self, name: str) -> np.ndarray:
        """The strings of an entry."""
        return np.asarray(self.array(name)[...]).astype(str)

    def attribute(self, name: str, key: str) -> np.ndarray | None:
        """An attribute of the samples or of the store."""
        for found in (self.array(key), self.handle.get().top):
            with suppress(ValueError):
                values = np.asarray(found.attrs[name]) if name in found.attrs else None
                if values is not None and values.dtype.kind in "iufb":
                    return values
        return None

    def remarks(self, name: str) -> list[str]:
        """Packing that is not applied, and chunks that are not stored."""
        if name not in self.entries:
            return []
        array, lines = self.array(name), []
        packed = [f"{one}={array.attrs[one]}" for one in PACKING if one in array.attrs]
        if packed:
            lines.append(
                f"{self.path}: {name} has the attributes {', '.join(packed)} of NetCDF, which are not applied to Zarr; type "
                "netcdf=true to read the store by xarray"
            )
        chunks = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks))
        shards = getattr(array, "shards", None)
        if chunks <= MANY_CHUNKS:
            each = 1
            if shards is not None:
                chunks = math.prod(-(-size // shard) for size, shard in zip(array.shape, shards))
                each = math.prod(shard // chunk for shard, chunk in zip(shards, array.chunks))
            there = array.nchunks_initialized // each
            if there < chunks:
                lines.append(
                    f"{self.path}: {chunks - there} of {chunks} {'chunks' if shards is None else 'shards'} of {name} are not "
                    f"stored and read as the fill value {array.fill_value}; Zarr leaves out chunks that hold only fill values, "
                    "so check whether they were written"
                )
        return lines


class ZarrSource(Stored):
    """An array of a Zarr store."""

    def __init__(self, archive: ZarrArchive, name: str, axes: tuple[int, ...]) -> None:
        self._archive, self._name = archive, name
        array, path = archive.array(name), archive.path
        folder = path / name if (path / name).is_dir() else path
        seen = folder_stamp(folder) if path.is_dir() else cache.stamp(path)
        identity = None if seen is None else ("zarr", seen, name, axes)
        super().__init__(f"{path}: {name}", array.shape, array.dtype, array.chunks, axes, identity=identity)

    def slab(self, selection: tuple[slice, ...]) -> np.ndarray:
        """A part of the array, decompressed."""
        try:
            return np.asarray(self._archive.array(self._name)[selection])
        except Exception as error:
            raise ValueError(
                f"{self.name}: cannot be read: a chunk is damaged or cut off ({type(error).__name__}: {one_line(error)})"
            ) from error


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def one_line(error: Exception) -> str:
    """The message of an error in one short line."""
    return " ".join(str(error).split())[:200]
