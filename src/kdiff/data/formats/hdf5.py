"""HDF5 by h5py: the arrays of a file and its groups, also MATLAB 7.3, virtual arrays and links to other files.

kdiff reads the stored numbers. Attributes with which NetCDF says how numbers are packed are not applied. A remark
names them, and `netcdf=True` reads the file as NetCDF. An array that was only partly written gives the fill value of HDF5 (0 if
none was set) for the rest, and a remark says so.
"""

from __future__ import annotations

import importlib
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.arranged import Stored
from kdiff.data.formats import needed
from kdiff.data.formats.array_file import ArrayFile, Entry, Names, choice
from kdiff.data.formats.handles import Handle
from kdiff.data.formats.named_arrays import open_array_files
from kdiff.data.opened import Opened, Source
from kdiff.files import cache

PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "valid_min", "valid_max", "valid_range", "_Unsigned")
NETCDF = "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"
PLAIN = "iufb"
BUILT_IN_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}


def open_hdf5(
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
    """The data of an HDF5 file, or of all files of a pattern. `kdiff.data.formats.array_file` has the options.

    Raises FileNotFoundError for a missing file. Raises ValueError for a file that is damaged or no HDF5, names that are missing
    or ambiguous, types that are no numbers, a compression whose plugin is not installed, a virtual array whose files are
    missing, and shapes that do not belong together.
    """
    if netcdf:
        from kdiff.data.formats.netcdf import open_netcdf

        return open_netcdf(path, key, sample_axis, condition, label_key, labels, window, time_axis)
    asked = choice(window, labels, label_key, key=key, sample_axis=sample_axis, condition=condition, time_axis=time_axis)
    return open_array_files(path, Hdf5Archive, asked)


def open_file(path: str) -> Any:
    """The open file. Raises ValueError if HDF5 cannot read it."""
    h5py = needed("h5py", f"{path} (HDF5)")
    with suppress(ImportError):  # more compressions, if the user has them
        importlib.import_module("hdf5plugin")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5: it is damaged, cut off or another format ({error})") from error


class Hdf5Archive(ArrayFile):
    """The arrays of one HDF5 file by their paths; "table.a" is the column a of a compound array "table"."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected an HDF5 file")
        self.path, self.entries, self.ignored, self.about = path, {}, {}, {}
        self.handle = Handle(open_file, str(path))
        file = self.handle.get()
        start = path.open("rb").read(128)
        self.matlab = start.startswith(b"MATLAB 7.3")
        self.about["format"] = "MATLAB 7.3" if self.matlab else "HDF5"
        self._walk(file, "", set())

    def _walk(self, group: Any, prefix: str, above: set[Any]) -> None:
        h5py = needed("h5py", f"{self.path} (HDF5)")
        info = h5py.h5o.get_info(group.id)
        place = (info.fileno, info.addr)
        if place in above:
            return  # a link back to a group above
        for name in group:
            full = f"{prefix}{name}"
            if self.matlab and name in ("#refs#", "#subsystem#"):
                continue
            try:
                found = group[name]
            except (KeyError, OSError):
                link = group.get(name, getlink=True)
                target = f" to {link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else ""
                self.ignored[full] = f"a broken link{target}"
                continue
            if isinstance(found, h5py.Group):
                self._walk(found, f"{full}/", above | {place})
            elif isinstance(found, h5py.Dataset):
                self._add(full, found)
            else:
                self.ignored[full] = "a named type"

    def _add(self, name: str, found: Any) -> None:
        h5py = needed("h5py", f"{self.path} (HDF5)")
        shape = found.shape
        kind = text_of(found.attrs.get("MATLAB_class", b""))
        if shape is None or "MATLAB_empty" in found.attrs:
            self.ignored[name] = "empty"
        elif kind in ("char", "cell", "function_handle") or (self.matlab and found.dtype.kind == "O"):
            self.ignored[name] = f"of MATLAB class {kind or 'object'}"
        elif not shape:
            self.ignored[name] = f"one value, {found.dtype}"
        elif "_Netcdf4Dimid" in found.attrs and text_of(found.attrs.get("NAME", "")).startswith(
            "This is a netCDF dimension but"
        ):
            self.ignored[name] = "a dimension without values"
        elif h5py.check_string_dtype(found.dtype) is not None:
            self.entries[name] = Entry(shape, np.dtype("U"), self._dims(found), text=True)
        elif found.dtype.names and not (self.matlab and set(found.dtype.names) == {"real", "imag"}):
            for column in found.dtype.names:
                base, extra = found.dtype[column].base, found.dtype[column].shape
                if base.kind in PLAIN + "c":
                    self.entries[f"{name}.{column}"] = Entry((*shape, *extra), base, refused=self._refused(found, base))
                else:
                    self.ignored[f"{name}.{column}"] = f"a column of type {base}"
        else:
            dtype = np.dtype("c16" if found.dtype["real"].itemsize == 8 else "c8") if found.dtype.names else found.dtype
            if dtype.kind not in PLAIN + "c":
                self.ignored[name] = f"of type {found.dtype}"
                return
            units = text_of(found.attrs.get("units", ""))
            scale = "CLASS" in found.attrs and text_of(found.attrs["CLASS"]) == "DIMENSION_SCALE"
            self.entries[name] = Entry(
                shape[::-1] if self.matlab else shape,
                dtype,
                self._dims(found),
                {"units": units} if units else {},
                coordinate=scale,
                refused=self._refused(found, dtype),
            )

    def _dims(self, found: Any) -> tuple[str, ...]:
        """The names of the axes: labels, or the names of the scales attached to them."""
        names = []
        with suppress(RuntimeError, OSError, KeyError):
            for dim in found.dims:
                names.append(dim.label or (dim[0].name.rsplit("/", 1)[-1] if len(dim) else ""))
        return tuple(names) if any(names) else ()

    def _refused(self, found: Any, dtype: np.dtype[Any]) -> str:
        """Why an array cannot be read, or an empty string."""
        h5py = needed("h5py", f"{self.path} (HDF5)")
        if dtype.itemsize > (16 if dtype.kind == "c" else 8):
            return f"has the type {dtype}, which kdiff does not read; save it as float64"
        plist = found.id.get_create_plist()
        for number in range(plist.get_nfilters()):
            code, _, _, label = plist.get_filter(number)
            if not h5py.h5z.filter_avail(code):
                name = FILTERS.get(code) or BUILT_IN_FILTERS.get(code) or text_of(label) or "an unknown filter"
                return f"is compressed by {name} (HDF5 filter {code}), which is not installed; type: pip install hdf5plugin"
        if found.is_virtual:
            folder = self.path.parent
            for one in found.virtual_sources():
                if one.file_name != "." and not ((folder / one.file_name).exists() or Path(one.file_name).exists()):
                    return (
                        f"is a virtual array, and its source {one.file_name} is missing (HDF5 would return its fill value "
                        f"{found.fillvalue}); put the file beside {self.path.name}"
                    )
        return ""

    def _found(self, name: str) -> tuple[Any, str | None]:
        """The array of an entry, and the column of a compound one."""
        file = self.handle.get()
        if name in file:
            return file[name], None
        name, _, column = name.rpartition(".")
        return file[name], column

    def source(self, name: str, axes: tuple[int, ...]) -> Source:
        """The stored numbers of an entry."""
        return Hdf5Source(self, name, axes)

    def text(self, name: str) -> np.ndarray:
        """The strings of an entry."""
        return np.asarray(self._found(name)[0].asstr()[...], dtype=str)

    def attribute(self, name: str, key: str) -> np.ndarray | None:
        """An attribute of the samples or of the file."""
        for found in (self._found(key)[0], self.handle.get()):
            values = np.asarray(found.attrs[name]) if name in found.attrs else None
            if values is not None and values.dtype.kind in PLAIN:
                return values.astype(values.dtype.newbyteorder("="))
        return None

    def remarks(self, name: str) -> list[str]:
        """Packing that is not applied, and parts that were never written."""
        if name not in self.entries:
            return []
        found, lines = self._found(name)[0], []
        if packed := [f"{one}={np.asarray(found.attrs[one]).tolist()}" for one in PACKING if one in found.attrs]:
            lines.append(
                f"{self.path}: {name} has the attributes {', '.join(packed)} of NetCDF, which are not applied to HDF5; type "
                "netcdf=true to read the file as NetCDF"
            )
        if not found.is_virtual and found.id.get_create_plist().get_external_count() == 0:
            expected, there, what = 1, min(1, found.id.get_storage_size()), "array"
            if found.chunks:
                expected = math.prod(-(-size // chunk) for size, chunk in zip(found.shape, found.chunks))
                there, what = found.id.get_num_chunks(), "chunks"
            if there < expected:
                lines.append(
                    f"{self.path}: {expected - there} of {expected} {what} of {name} were never written, and HDF5 returns its "
                    f"fill value {found.fillvalue} for them; check that the file is complete"
                )
        return lines


class Hdf5Source(Stored):
    """An array of an HDF5 file."""

    def __init__(self, archive: Hdf5Archive, name: str, axes: tuple[int, ...]) -> None:
        self._archive, self._name, entry = archive, name, archive.entries[name]
        found, _ = archive._found(name)
        rank = len(entry.shape)
        reverse = archive.matlab
        full = entry.shape[::-1] if reverse else entry.shape
        stored = tuple(rank - 1 - axis for axis in axes) if reverse else axes
        chunks = None if found.chunks is None else (*found.chunks, *full[len(found.chunks) :])
        self._kept: tuple[Any, Any, str | None] = (None, None, None)
        self._bytes, self._start, self._stored = self._plain(found, axes)
        self._top = len(found.shape)  # columns of compound arrays may have further axes
        beside = [one.file_name for one in found.virtual_sources()] if found.is_virtual else []
        others = {archive.path, Path(found.file.filename), *(archive.path.parent / one for one in beside if one != ".")}
        stamps = sorted(cache.stamp(one) for one in others if one.exists())  # links and virtual arrays read other files
        identity = ("hdf5", stamps, name, axes)
        super().__init__(f"{archive.path}: {name}", full, entry.dtype, chunks, stored, reverse, identity)

    def _plain(self, found: Any, axes: tuple[int, ...]) -> tuple[Handle | None, int, np.dtype[Any]]:
        """The file, the place and the type of numbers that lie in one piece, to read rows without HDF5, which is faster."""
        plain = found.chunks is None and not found.is_virtual and found.dtype.kind in "iuf" and axes == (0,)
        start = found.id.get_offset() if plain and not self._archive.matlab else None
        if start is None or found.id.get_create_plist().get_external_count() or found.file.driver != "sec2":
            return None, 0, found.dtype
        size = Path(found.file.filename).stat().st_size
        whole = found.file.userblock_size == 0 and start + found.size * found.dtype.itemsize <= size
        return (Handle(open, found.file.filename, "rb") if whole else None), start, found.dtype

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": (None, None, None)}

    def _array(self) -> tuple[Any, str | None]:
        """The open array, looked up once in each process."""
        file = self._archive.handle.get()
        if self._kept[0] is not file:
            self._kept = (file, *self._archive._found(self._name))
        return self._kept[1:]

    def slab(self, selection: tuple[slice, ...]) -> np.ndarray:
        """A part of the array, decompressed."""
        if self._bytes is not None:
            first, last, row = selection[0].start, selection[0].stop, math.prod(self.full[1:]) * self._stored.itemsize
            raw = os.pread(self._bytes.get().fileno(), (last - first) * row, self._start + first * row)
            if len(raw) == (last - first) * row:  # not at the limit of one call, 2 GB
                return np.frombuffer(raw, self._stored).reshape(last - first, *self.full[1:])
        found, column = self._array()
        try:
            values = np.asarray(found[selection[: self._top]])
        except OSError as error:
            raise ValueError(f"{self.name}: cannot be read: the file is damaged or cut off ({error})") from error
        if column is not None:
            values = values[column][(slice(None),) * self._top + selection[self._top :]]
        if values.dtype.names:  # complex numbers of MATLAB
            return np.asarray(values["real"] + 1j * values["imag"])
        return values


def text_of(value: Any) -> str:
    """An attribute as text."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
