"""The same numbers in .npz, HDF5, Zarr 2 and 3, NetCDF and MATLAB files are the same data set: rows, split and fingerprint."""

from __future__ import annotations

import numpy as np
import pytest

from kdiff.data import make_dataset
from kdiff.data.assembling import assemble
from kdiff.data.formats.finding import opener_of

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr", minversion="3")
xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(size=(50, 2, 6, 6)).astype(np.float32)
PARAMS = RNG.normal(size=(50, 2)).astype(np.float32)


def write_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("fields", data=FIELDS.astype(">f4"), chunks=(7, 2, 6, 6), compression="gzip")
        file["params"] = PARAMS


def write_zarr(path):
    group = zarr.open_group(path, mode="w", zarr_format=2 if "2" in path.name else 3)
    group.create_array("fields", data=FIELDS, chunks=(9, 1, 6, 6))
    group.create_array("params", data=PARAMS)


def write_nc(path):
    xarray.Dataset({"fields": (("n", "c", "y", "x"), FIELDS), "params": (("n", "p"), PARAMS)}).to_netcdf(path, engine="netcdf4")


def write_mat(path):
    from scipy.io import savemat

    savemat(path, {"fields": FIELDS, "params": PARAMS})


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.h5", write_h5), ("a2.zarr", write_zarr), ("a3.zarr", write_zarr), ("a.nc", write_nc), ("a.mat", write_mat)],
)  # fmt: skip
def test_the_same_numbers_are_the_same_data(tmp_path, name, write):
    write(tmp_path / name)
    opener = opener_of(str(tmp_path / name))
    assert opener is not None
    opened = opener(tmp_path / name, key="fields", condition="params")
    rows = np.concatenate(list(opened.x.chunks()))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, FIELDS)
    params = opened.conditions["params"].read(np.arange(50))
    mine = make_dataset("a", rows, normalise="standard", conditions={"params": params})
    plain = make_dataset("a", FIELDS, normalise="standard", conditions={"params": PARAMS})
    assert mine.fingerprint == plain.fingerprint
    assert (mine.split == plain.split).all()
    assert opened.x.identity is not None
    assembled = assemble("a", opened)
    assert assembled.fingerprint == plain.fingerprint
    assert assembled.x.equal(plain.x)
    assert assembled.conditions["params"].values.equal(plain.conditions["params"].values)
