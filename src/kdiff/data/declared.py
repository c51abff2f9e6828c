"""What files of arrays declare: names, shapes and types, which are known before any array is read or decompressed.

    .npy           one header                                     .npz    a zip of .npy files
    .safetensors   one header for all tensors

A few megabytes of .npz can declare gigabytes. So sizes are compared with the file and with the memory of the machine first, and
of an array that is compressed very well a piece is looked at: if it holds equal samples, nothing is trained on it.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

SUFFIX = ".npy"  # of every array in a .npz
PIECE = 2**26  # bytes of a compressed array that are looked at
DENSE = 20  # arrays that are compressed by more than this factor are looked at
DISTINCT = 3  # different samples that every data set has
SAFE_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16", "BOOL": "bool"} | {
    f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


class Declared(NamedTuple):
    """The shape and type of an array; `kind` is NumPy's letter: i, u, f, b, c, U, O, …"""

    shape: tuple[int, ...]
    dtype: str
    kind: str

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


def declared_arrays(path: Path) -> dict[str, Declared]:
    """The arrays in a file by name; the array of a .npy file has the name "".

    Files that are damaged raise many kinds of errors.
    """
    ending = path.suffix.lower()
    if ending == SUFFIX:
        with path.open("rb") as file:
            return {"": _of(_header(file))}
    if ending == ".safetensors":
        return _tensors(path)
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            if name.endswith(SUFFIX):
                with archive.open(name) as file:
                    found[name.removesuffix(SUFFIX)] = _of(_header(file))
        return found


def _tensors(path: Path) -> dict[str, Declared]:
    from safetensors import safe_open

    found = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            dtype = SAFE_TYPES.get(part.get_dtype(), part.get_dtype())
            kind = "f" if "float" in dtype.lower() or dtype.startswith("F") else dtype[0]
            found[name] = Declared(tuple(part.get_shape()), dtype, kind)
    return found


def _of(header: tuple[tuple[int, ...], bool, np.dtype]) -> Declared:
    shape, _, dtype = header
    return Declared(shape, str(dtype), dtype.kind)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type; the file then stands at the first value."""
    read = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(file) == (1, 0) else _later
    return read(file)


_later = np.lib.format.read_array_header_2_0


def check_declared(path: Path, key: str, samples: bool) -> None:
    """Check an array of a .npz before it is decompressed; `samples` says that it holds the samples, not labels.

    Raises ValueError for a header that does not fit the file, an array larger than the memory, and samples that are all equal
    as far as a piece shows.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}{SUFFIX}") as file:
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            return  # refused where it is read
        info, start = archive.getinfo(f"{key}{SUFFIX}"), file.tell()
        size = dtype.itemsize * math.prod(shape)
        if info.file_size != start + size:
            raise ValueError(
                f"{path}: {key!r} is declared as {shape} {dtype}, {size} bytes, but {info.file_size - start} bytes are there; "
                "the file is damaged, create it again"
            )
        if size > memory():
            raise ValueError(
                f"{path}: {key!r} is declared as {shape} {dtype}, {size / 2**30:.3g} GB, and this machine has "
                f"{memory() / 2**30:.3g} GB of memory; keep fewer samples, or save images of type uint8 by np.save, because "
                ".npy files are read in pieces"
            )
        row = size // shape[0] if shape and shape[0] else 0
        if not samples or fortran or size <= PIECE or not 0 < row <= PIECE // 4 or info.compress_size * DENSE > size:
            return
        found, seen = _different(file, row)
        if found < DISTINCT:
            what = "are equal" if found == 1 else f"hold only {found} different ones"
            raise ValueError(
                f"{path}: the first {seen:,} of the {shape[0]:,} samples under {key!r} {what} ({size / 2**30:.3g} GB in "
                f"{info.compress_size / 2**20:.3g} MB of the file); give more distinct samples, or shuffle them"
            )


def _different(file: IO[bytes], row: int) -> tuple[int, int]:
    """How many different rows of bytes a piece of a file holds, counted up to DISTINCT, and how many rows were read."""
    known: list[np.ndarray] = []
    seen, many = 0, max(1, 2**20 // row)
    while seen * row < PIECE and len(known) < DISTINCT:
        rows = np.frombuffer(file.read(many * row), np.uint8).reshape(-1, row)
        if not len(rows):
            break
        new = np.ones(len(rows), bool)
        for one in known:
            new &= (rows != one).any(1)
        while new.any() and len(known) < DISTINCT:
            known.append(rows[new.argmax()])
            new &= (rows != known[-1]).any(1)
        seen += len(rows)
    return len(known), seen


def memory() -> float:
    """The bytes of memory of this machine; infinite if the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return math.inf
