"""MATLAB files: version 7.3 is HDF5 (h5py), versions 4 to 7 are read by SciPy, whole and into memory.

Shapes are those that MATLAB shows. Its matrices have two axes or more, so a column of labels is read as one axis. Samples
that are last in MATLAB are chosen by sample_axis=-1. Text, cells, structures and sparse matrices are named and left out.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.arranged import Stored
from kdiff.data.formats.array_file import ArrayFile, Entry, Names, choice
from kdiff.data.formats.hdf5 import Hdf5Archive
from kdiff.data.formats.named_arrays import open_array_files
from kdiff.data.opened import Opened, Source
from kdiff.files import cache

NUMBERS = ("double", "single", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "logical")


def open_matlab(
    path: str | Path,
    key: Names | None = None,
    sample_axis: int | str = 0,
    condition: Names | dict[str, str] | None = None,
    label_key: str | None = None,
    labels: str | bool | None = None,
    window: Any = None,
    time_axis: int | str | None = None,
) -> Opened:
    """The data of a .mat file, or of all files of a pattern. `kdiff.data.formats.array_file` has the options.

    Raises FileNotFoundError for a missing file. Raises ValueError for a file that is damaged or no .mat file, names that are
    missing or ambiguous, types that are no numbers, and shapes that do not belong together.
    """
    asked = choice(window, labels, label_key, key=key, sample_axis=sample_axis, condition=condition, time_axis=time_axis)
    return open_array_files(path, _open_one, asked)


def _open_one(path: Path) -> ArrayFile:
    with path.open("rb") as file:
        start = file.read(1024)
    if start.startswith(b"MATLAB 7.3") or start.startswith(b"\x89HDF") or b"\x89HDF\r\n" in start[512:]:
        return Hdf5Archive(path)
    return MatArchive(path)


class MatArchive(ArrayFile):
    """The matrices of a .mat file of versions 4 to 7."""

    def __init__(self, path: Path) -> None:
        from scipy.io import loadmat, whosmat

        self.path, self.entries, self.ignored, self.about = path, {}, {}, {"format": "MATLAB"}
        self._values: dict[str, np.ndarray] = {}
        try:
            listed = whosmat(path)
            for name, shape, kind in listed:
                if kind not in NUMBERS or not np.prod(shape):
                    self.ignored[name] = f"of MATLAB class {kind}" if kind not in NUMBERS else "empty"
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    values = np.asarray(loadmat(path, variable_names=[name])[name])
                values = values.reshape(-1) if values.ndim == 2 and values.shape[0] == 1 and values.size > 1 else values
                if values.size == 1:
                    self.ignored[name] = "one value"
                    continue
                self._values[name] = values
                self.entries[name] = Entry(values.shape, values.dtype)
        except Exception as error:
            raise ValueError(
                f"{path}: cannot be read as a MATLAB file: it is damaged, cut off or another format "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            ) from error

    def source(self, name: str, axes: tuple[int, ...]) -> Source:
        """The numbers of a matrix."""
        return MatSource(f"{self.path}: {name}", self._values[name], axes, ("mat", cache.stamp(self.path), name, axes))

    def text(self, name: str) -> np.ndarray:
        """No text is read."""
        raise ValueError(f"{self.path}: {name} holds text, which is not read from MATLAB files; save numbers")


class MatSource(Stored):
    """A matrix in memory."""

    def __init__(self, name: str, values: np.ndarray, axes: tuple[int, ...], identity: object) -> None:
        self._values = values
        super().__init__(name, values.shape, values.dtype, None, axes, identity=identity)

    def slab(self, selection: tuple[slice, ...]) -> np.ndarray:
        """A part of the matrix."""
        return self._values[selection]
