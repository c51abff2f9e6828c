"""Zarr stores of both formats: what zarr writes is read row by row, and chunks that are not stored are counted."""

from __future__ import annotations

import multiprocessing
import warnings

import numpy as np
import pytest

zarr = pytest.importorskip("zarr", minversion="3")

from kdiff.data.formats.zarr_store import is_zarr, open_zarr  # noqa: E402

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(size=(40, 2, 6, 5)).astype(np.float32)
PARAMS = RNG.normal(size=(40, 2))
ROWS = np.array([5, 39, 0, 5, 23])


def written(store, version, values=FIELDS, **options):
    group = zarr.open_group(store, mode="w", zarr_format=version)
    group.create_array("run/fields", data=values, **{"chunks": (7, *values.shape[1:]), **options})
    group.create_array("params", data=PARAMS)
    return store


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">i2", "u1", "<c8"])
def test_rows_of_both_formats_and_every_type(tmp_path, version, dtype):
    values = (FIELDS * 10).astype(dtype)
    opened = open_zarr(written(tmp_path / "a.zarr", version, values), condition="params")
    assert opened.about["format"] == f"Zarr {version}"
    expected = np.stack([values.real, values.imag], 1) if dtype == "<c8" else values
    assert opened.x.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(opened.x.read(ROWS), expected[ROWS])
    np.testing.assert_array_equal(opened.conditions["params"].read(ROWS), PARAMS[ROWS])
    assert opened.x.block == 7


@pytest.mark.parametrize("version", [2, 3])
def test_compression_consolidated_metadata_and_zip(tmp_path, version):
    codec = zarr.codecs.GzipCodec(level=1) if version == 3 else __import__("numcodecs").GZip(1)
    path = written(tmp_path / "a.zarr", version, compressors=codec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)
        store = zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="w")
        written(store, version)
        store.close()
    for one in (path, tmp_path / "a.zarr.zip"):
        assert is_zarr(one)
        np.testing.assert_array_equal(open_zarr(one).x.read(ROWS), FIELDS[ROWS])


def test_shards_single_arrays_axes_and_text(tmp_path):
    x = open_zarr(written(tmp_path / "a.zarr", 3, chunks=(2, 2, 6, 5), shards=(8, 2, 6, 5)))
    np.testing.assert_array_equal(x.x.read(ROWS), FIELDS[ROWS])
    assert not any("not stored" in line for line in x.remarks)
    zarr.create_array(tmp_path / "one.zarr", data=np.moveaxis(FIELDS, 0, 1), dimension_names=["c", "time", "y", "x"])
    np.testing.assert_array_equal(open_zarr(tmp_path / "one.zarr", sample_axis="time").x.read(ROWS), FIELDS[ROWS])
    with pytest.raises(ValueError, match="its axes are c, time, y, x"):
        open_zarr(tmp_path / "one.zarr", sample_axis="n")
    group = zarr.open_group(tmp_path / "t.zarr", mode="w")
    group.create_array("x", data=FIELDS)
    group.create_array("kind", data=np.array(["b", "a"] * 20))
    opened = open_zarr(tmp_path / "t.zarr", label_key="kind")
    assert opened.classes == ["a", "b"]
    np.testing.assert_array_equal(opened.y.read(np.arange(3)), [1, 0, 1])


@pytest.mark.parametrize("version", [2, 3])
def test_a_changed_chunk_changes_the_identity(tmp_path, version):
    path = written(tmp_path / "a.zarr", version)
    before = open_zarr(path).x.identity
    assert open_zarr(path).x.identity == before
    zarr.open_group(path)["run/fields"][3] = 1
    assert open_zarr(path).x.identity != before


@pytest.mark.parametrize("shards", [None, (20, 4)])
def test_chunks_that_are_not_stored_are_counted(tmp_path, shards):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = group.create_array("x", shape=(40, 4), dtype="f4", chunks=(10, 4), shards=shards, fill_value=-1)
    array[:20] = 1
    opened = open_zarr(tmp_path / "a.zarr")
    count = "2 of 4 chunks" if shards is None else "1 of 2 shards"
    assert any(f"{count} of x are not stored and read as the fill value -1" in line for line in opened.remarks)
    np.testing.assert_array_equal(opened.x.read(np.array([39]))[0], [-1] * 4)


def test_stores_of_xarray_keep_their_packing_until_read_as_netcdf(tmp_path):
    xarray = pytest.importorskip("xarray")
    for version in (2, 3):
        path, values = tmp_path / f"{version}.zarr", np.where(FIELDS > 1.5, np.nan, FIELDS)
        packing = {"x": {"dtype": "i2", "scale_factor": 0.001, "_FillValue": -32768}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            xarray.Dataset({"x": (("n", "c", "y", "x_"), values)}).to_zarr(path, encoding=packing, zarr_format=version)
        raw = open_zarr(path)
        assert raw.x.dtype == np.int16
        assert any("scale_factor=0.001" in line and "netcdf=true" in line for line in raw.remarks)
        found = open_zarr(path, netcdf=True, sample_axis="n").x.read(ROWS)
        np.testing.assert_allclose(found, values[ROWS], atol=0.0006)


def test_damaged_and_wrong_stores_are_refused(tmp_path):
    path = written(tmp_path / "a.zarr", 3)
    (path / "run" / "fields" / "c" / "0" / "0" / "0" / "0").write_bytes(b"xx")
    with pytest.raises(ValueError, match="a chunk is damaged"):
        open_zarr(path).x.read(ROWS)
    (path / "run" / "fields" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        open_zarr(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no Zarr store"):
        open_zarr(tmp_path / "empty")
    assert not is_zarr(tmp_path / "empty")
    (tmp_path / "b.zarr.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is no Zarr store"):
        open_zarr(tmp_path / "b.zarr.zip")
    with pytest.raises(FileNotFoundError):
        open_zarr(tmp_path / "no.zarr")


def _child(source, queue):
    queue.put(source.read(ROWS))


def test_a_forked_process_reads(tmp_path):
    x = open_zarr(written(tmp_path / "a.zarr", 3)).x
    x.read(ROWS)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(x, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(), FIELDS[ROWS])
    child.join()
