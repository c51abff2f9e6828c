"""File formats, one function each, which returns a `kdiff.data.opened.Opened`. Each format needs the library of its field.

The library of a format is imported when a file of this format is opened. If it is not installed, the error names the command
that installs it (`needed`).
"""

from __future__ import annotations

import importlib
from typing import Any

# Package on import: the extra of kdiff that installs it.
EXTRAS = {
    "h5py": "hdf5",
    "zarr": "zarr",
    "xarray": "netcdf",
    "pyarrow": "parquet",
    "tifffile": "tiff",
    "imagecodecs": "tiff",
    "webdataset": "webdataset",
    "datasets": "datasets",
}


def needed(package: str, for_what: str) -> Any:
    """The module of this name. Raises ImportError with the command that installs it; `for_what` is such as "sim.h5 (HDF5)"."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        top = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise ImportError(
            f"{for_what} needs the package {top}, which is not installed; type: pip install 'kdiff[{EXTRAS[top]}]'"
        ) from None
