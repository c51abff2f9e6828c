"""Which function opens a path: by its ending, or by what a folder holds. Formats are imported when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from kdiff.data.opened import Opened

# Endings, the module of `kdiff.data.formats`, its function, and what the file is called.
BY_ENDING = (
    ((".h5", ".hdf5", ".he5"), "hdf5", "open_hdf5"),
    ((".mat",), "matlab", "open_matlab"),
    ((".zarr", ".zarr.zip"), "zarr_store", "open_zarr"),
    ((".nc", ".nc4", ".cdf"), "netcdf", "open_netcdf"),
    ((".parquet", ".pq", ".arrow", ".feather", ".ipc", ".csv", ".tsv", ".csv.gz", ".tsv.gz"), "columns", "open_columns"),
    ((".tif", ".tiff", ".btf", ".tf8"), "tiff", "open_tiff"),
    ((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"), "tar_shards", "open_tar_shards"),
    ((".zip",), "dataset_zip", "open_dataset_zip"),
)


def opener_of(name: str) -> Callable[..., Opened] | None:
    """The function that opens what is at this path, called as opener(path, **options); None for paths of other readers.

    Tar shards may be a pattern with braces or wildcards. Other paths need not exist: the function says that they do not.
    """
    lower = name.lower().rstrip("/")
    for endings, module, function in BY_ENDING:
        if lower.endswith(endings):
            return _function(module, function)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    if _function("hf_dataset", "is_hf_dataset")(folder):
        return _function("hf_dataset", "open_hf_dataset")
    if _function("zarr_store", "is_zarr")(folder):
        return _function("zarr_store", "open_zarr")
    files = {file.suffix.lower() for file in folder.iterdir() if file.is_file()}
    if ".tar" in files and _function("tar_shards", "is_tar_shards")(folder):
        return _function("tar_shards", "open_tar_shards")
    table = files & {".parquet", ".pq"} or any(is_partition(entry) for entry in folder.iterdir())
    return _function("columns", "open_columns") if table else None


def is_partition(folder: Path) -> bool:
    """Whether a folder named like year=2024 holds Parquet files at any depth."""
    return "=" in folder.name and folder.is_dir() and any(file.suffix == ".parquet" for file in folder.rglob("*.parquet"))


def _function(module: str, name: str) -> Any:
    return getattr(import_module(f"kdiff.data.formats.{module}"), name)
