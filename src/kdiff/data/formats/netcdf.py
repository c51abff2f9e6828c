"""NetCDF 3 and 4 (also CDF 5) by xarray, with the engines netcdf4, h5netcdf or scipy; also Zarr that xarray wrote.

    value = raw · scale_factor + add_offset, and NaN where raw is missing

xarray only reads the raw numbers. kdiff unpacks them, because libraries differ. `kdiff.data.formats.packing` has the rules.
Times stay numbers, with their units in the description.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.arranged import Stored
from kdiff.data.formats import needed
from kdiff.data.formats.array_file import ArrayFile, Entry, Names, choice
from kdiff.data.formats.handles import Handle, folder_stamp
from kdiff.data.formats.named_arrays import open_array_files
from kdiff.data.formats.packing import Packing
from kdiff.data.opened import Opened, Source
from kdiff.files import cache

ENGINES = {"netcdf4": "netCDF4", "h5netcdf": "h5netcdf", "scipy": "scipy", "zarr": "zarr"}
HDF5, CLASSIC = b"\x89HDF\r\n\x1a\n", b"CDF"
ATTRIBUTES_SHOWN = ("title", "institution", "source", "Conventions")


def open_netcdf(
    path: str | Path,
    key: Names | None = None,
    sample_axis: int | str = 0,
    condition: Names | dict[str, str] | None = None,
    label_key: str | None = None,
    labels: str | bool | None = None,
    window: Any = None,
    time_axis: int | str | None = None,
    engine: str | None = None,
) -> Opened:
    """The data of a NetCDF file, or of all files of a pattern. `kdiff.data.formats.array_file` has the options.

    `sample_axis` may be the name of a dimension, as in sample_axis=time. `engine` is the library that xarray uses: netcdf4,
    h5netcdf, scipy (NetCDF 3 only) or zarr; None takes the first that is installed and reads the file.
    Raises FileNotFoundError for a missing file. Raises ValueError for a file that is damaged or of another format, names that
    are missing or ambiguous, and shapes that do not belong together.
    """
    asked = choice(window, labels, label_key, key=key, sample_axis=sample_axis, condition=condition, time_axis=time_axis)
    return open_array_files(path, lambda file: NetcdfArchive(file, engine), asked)


def engine_of(path: Path, given: str | None) -> str:
    """The engine for a file. Raises ValueError for a file of another format, and ImportError if no engine is installed."""
    if given is not None and given not in ENGINES:
        raise ValueError(f"{path}: engine is {given!r}; expected one of {', '.join(ENGINES)}")
    if path.is_dir():
        usable = ["zarr"]
    else:
        with path.open("rb") as file:
            start = file.read(8)
        if start == HDF5:
            usable = ["netcdf4", "h5netcdf"]
        elif start[:3] == CLASSIC and start[3:4] in (b"\x01", b"\x02", b"\x05"):
            usable = ["netcdf4"] if start[3:4] == b"\x05" else ["netcdf4", "scipy"]
        else:
            raise ValueError(f"{path}: is no NetCDF file: it begins with {start!r}; expected {CLASSIC!r} or {HDF5!r}")
    if given is not None and given not in usable:
        raise ValueError(f"{path}: the engine {given} does not read this file; expected one of {', '.join(usable)}")
    for one in usable if given is None else [given]:
        if importlib.util.find_spec(ENGINES[one]) is not None:
            return one
    raise ImportError(
        f"{path} needs the package {ENGINES[usable[0]]}, which is not installed; type: pip install 'kdiff[netcdf]'"
    )


class _Open:
    """The groups of an open file by path, with raw numbers."""

    def __init__(self, path: str, engine: str) -> None:
        xarray = needed("xarray", f"{path} (NetCDF)")
        options: dict[str, Any] = {
            "engine": engine,
            "mask_and_scale": False,
            "decode_times": False,
            "decode_timedelta": False,
            "decode_coords": False,
            "cache": False,
        }
        if engine == "zarr":
            options["chunks"] = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if engine != "scipy" and hasattr(xarray, "open_groups"):
                    self.groups = {name.strip("/"): one for name, one in xarray.open_groups(path, **options).items()}
                else:
                    self.groups = {"": xarray.open_dataset(path, **options)}
        except Exception as error:
            message = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path}: cannot be read by xarray with the engine {engine}: the file is damaged, cut off or another format "
                f"({type(error).__name__}: {message})"
            ) from error

    def close(self) -> None:
        """Close all groups."""
        for one in self.groups.values():
            one.close()


class NetcdfArchive(ArrayFile):
    """The variables of one file by their paths."""

    def __init__(self, path: Path, engine: str | None) -> None:
        self.path, self.entries, self.ignored = path, {}, {}
        chosen = engine_of(path, engine)
        self.handle = Handle(_Open, str(path), chosen)
        groups = self.handle.get().groups
        self.about = {"format": "Zarr by xarray" if chosen == "zarr" else "NetCDF"}
        top = groups.get("")
        if top is not None:
            self.about.update({name: str(top.attrs[name]) for name in ATTRIBUTES_SHOWN if name in top.attrs})
        self.packings: dict[str, Packing] = {}
        coordinates = {}
        for group, data in groups.items():
            for name, variable in data.variables.items():
                full = f"{group}/{name}" if group else str(name)
                self._add(full, str(name), variable)
                if full in self.entries and self.entries[full].coordinate and not self.entries[full].text:
                    coordinates[full] = self._ends(full, variable)
        if coordinates:
            self.about["coordinates"] = coordinates

    def _add(self, full: str, name: str, variable: Any) -> None:
        dtype, shape = variable.dtype, tuple(variable.shape)
        dims = tuple(str(dim) for dim in variable.dims)
        if not shape:
            self.ignored[full] = f"one value, {dtype}"
        elif dtype.kind in "OUST":
            text = dtype.kind != "O" or variable.attrs.get("dtype") is None
            self.entries[full] = Entry(shape, np.dtype("U"), dims, text=text, coordinate=dims == (name,))
        elif dtype.kind not in "iuf":
            self.ignored[full] = f"of type {dtype}"
        else:
            packing = self.packings[full] = Packing.of(f"{self.path}: {full}", dtype, variable.attrs)
            facts = {one: str(variable.attrs[one]) for one in ("units", "long_name", "calendar") if one in variable.attrs}
            self.entries[full] = Entry(shape, packing.dtype, dims, facts, coordinate=dims == (name,))

    def _ends(self, full: str, variable: Any) -> dict[str, Any]:
        """First and last value of a coordinate, with units."""
        entry, length = self.entries[full], len(variable)
        ends = self.packings[full].unpack(np.asarray(variable[:: max(1, length - 1)].values)) if length else np.zeros(0)
        return {"length": length, "ends": ends[[0, -1]].tolist() if length else [], **entry.facts}

    def variable(self, name: str) -> Any:
        """The xarray variable of an entry, not read yet."""
        group, _, short = name.rpartition("/")
        return self.handle.get().groups[group].variables[short]

    def source(self, name: str, axes: tuple[int, ...]) -> Source:
        """The unpacked numbers of an entry, with NaN for what is missing."""
        return NetcdfSource(self, name, axes)

    def text(self, name: str) -> np.ndarray:
        """The strings of an entry."""
        values = np.asarray(self.variable(name).values)
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)

    def attribute(self, name: str, key: str) -> np.ndarray | None:
        """An attribute of the samples or of the file."""
        group, _, _ = key.rpartition("/")
        for attributes in (self.variable(key).attrs, self.handle.get().groups[group].attrs):
            values = np.asarray(attributes[name]) if name in attributes else None
            if values is not None and values.dtype.kind in "iuf":
                return values
        return None

    def remarks(self, name: str) -> list[str]:
        """What was unpacked by rules in which libraries differ."""
        return self.packings[name].remarks if name in self.packings else []


class NetcdfSource(Stored):
    """A variable of a NetCDF file."""

    def __init__(self, archive: NetcdfArchive, name: str, axes: tuple[int, ...]) -> None:
        self._archive, self._name = archive, name
        variable = archive.variable(name)
        chunks = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
        if chunks is not None and len(chunks) != len(variable.shape):
            chunks = None
        seen = folder_stamp(archive.path) if archive.path.is_dir() else cache.stamp(archive.path)
        identity = None if seen is None else ("netcdf", seen, name, axes)
        super().__init__(
            f"{archive.path}: {name}", variable.shape, archive.entries[name].dtype, chunks, axes, identity=identity
        )

    def slab(self, selection: tuple[slice, ...]) -> np.ndarray:
        """A part of the variable, unpacked."""
        try:
            raw = np.asarray(self._archive.variable(self._name)[selection].values)
        except Exception as error:
            message = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.name}: cannot be read: the file is damaged or cut off ({type(error).__name__}: {message})"
            ) from error
        return self._archive.packings[self._name].unpack(raw)
