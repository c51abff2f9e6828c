"""NetCDF: values equal those of xarray and netCDF4 where they agree, and the stated rule where they do not."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

xarray = pytest.importorskip("xarray")
netcdf4 = pytest.importorskip("netCDF4")
pytest.importorskip("h5netcdf")

from kdiff.data.formats.hdf5 import open_hdf5  # noqa: E402
from kdiff.data.formats.netcdf import open_netcdf  # noqa: E402

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(size=(40, 2, 6, 5)).astype(np.float32)
PARAMS = RNG.normal(size=(40, 2))
ROWS = np.array([5, 39, 0, 5, 23])
ALL = np.arange(40)


def dataset():
    return xarray.Dataset(
        {
            "u": (("time", "y", "x"), FIELDS[:, 0], {"units": "m s-1"}),
            "v": (("time", "y", "x"), FIELDS[:, 1], {"units": "m s-1"}),
            "params": (("time", "p"), PARAMS),
        },
        coords={"time": ("time", np.arange(40.0), {"units": "hours since 2000-01-01"}), "y": np.arange(6.0)},
        attrs={"title": "A test"},
    )


@pytest.mark.parametrize(
    ("engine", "form"),
    [("netcdf4", "NETCDF4"), ("netcdf4", "NETCDF3_CLASSIC"), ("netcdf4", "NETCDF3_64BIT_DATA"), ("scipy", "NETCDF3_64BIT"),
     ("h5netcdf", "NETCDF4"), ("netcdf4", "NETCDF4_CLASSIC")],
)  # fmt: skip
def test_every_format_and_engine(tmp_path, engine, form):
    packed = {"u": {"zlib": True, "chunksizes": (7, 6, 5)}} if form.startswith("NETCDF4") else {}
    dataset().to_netcdf(tmp_path / "a.nc", engine=engine, format=form, encoding=packed)
    readers = {
        "NETCDF3_64BIT": ["netcdf4", "scipy"],
        "NETCDF3_CLASSIC": ["netcdf4", "scipy"],
        "NETCDF3_64BIT_DATA": ["netcdf4"],
    }
    for reader in [None, *readers.get(form, ["netcdf4", "h5netcdf"])]:
        opened = open_netcdf(tmp_path / "a.nc", ["u", "v"], "time", ["params", "time"], engine=reader)
        np.testing.assert_array_equal(opened.x.read(ROWS), FIELDS[ROWS])
        assert opened.x.dtype == np.float32
        np.testing.assert_array_equal(opened.conditions["params"].read(ROWS), PARAMS[ROWS])
        np.testing.assert_array_equal(opened.conditions["time"].read(ROWS), ROWS)
        assert opened.about["units"] == {"u": "m s-1", "v": "m s-1"}
        assert opened.about["coordinates"]["time"] == {"length": 40, "ends": [0.0, 39.0], "units": "hours since 2000-01-01"}
        assert (opened.about["title"], opened.about["dimensions"]) == ("A test", ["y", "x"])
    if packed:
        assert opened.x.sources[0].block == 7


def variable(path, raw, dtype=None, fill=None, **attributes):
    """A NetCDF file with one variable of these raw numbers, written without packing."""
    with netcdf4.Dataset(path, "w") as file:
        file.set_auto_maskandscale(False)
        file.createDimension("n", len(raw))
        file.createDimension("d", raw.shape[1])
        one = file.createVariable("x", dtype or raw.dtype, ("n", "d"), fill_value=fill)
        one.set_auto_maskandscale(False)
        one.setncatts(attributes)
        one[:] = raw
    return path


def by_xarray(path):
    with xarray.open_dataset(path, decode_times=False) as data:
        return data["x"].values


def by_netcdf4(path):
    with netcdf4.Dataset(path) as file:
        return np.ma.filled(np.ma.asarray(file["x"][:], dtype=np.float64), np.nan)


RAW = RNG.integers(-100, 100, (40, 3)).astype(np.int16)
F4, F8 = np.float32, np.float64


@pytest.mark.parametrize(
    ("raw", "fill", "attributes"),
    [
        (RAW, -99, {"scale_factor": F8(0.01), "add_offset": F8(273.15)}),
        (RAW, -99, {"scale_factor": F4(0.01), "add_offset": F4(273.15)}),
        (RAW, None, {"scale_factor": F8(0.01), "missing_value": np.int16(7)}),
        (RAW.astype(np.int32) * 10**6, -99, {"scale_factor": F4(0.01), "add_offset": F4(2)}),
        (RAW.astype(np.int8), -99, {"scale_factor": F4(0.5), "add_offset": F4(3)}),
        (RAW.astype(np.int8), -1, {"_Unsigned": "true", "scale_factor": F8(0.5), "add_offset": F8(1)}),
        (RAW.astype(np.float32), 7.0, {}),
        (RAW.astype(">f8"), None, {"missing_value": F8(7)}),
        (RAW.astype(np.float32), F4(1e20), {"missing_value": F4(1e20), "scale_factor": F4(2), "add_offset": F4(0.1)}),
    ],
)
def test_values_equal_those_of_both_libraries(tmp_path, raw, fill, attributes):
    path = variable(tmp_path / "a.nc", raw, fill=fill, **attributes)
    mine, other = open_netcdf(path).x, by_xarray(path)
    assert mine.dtype == other.dtype
    np.testing.assert_array_equal(mine.read(ALL), other)
    np.testing.assert_allclose(mine.read(ALL), by_netcdf4(path), rtol=2e-7 if mine.dtype == F4 else 1e-7)


@pytest.mark.parametrize("attributes", [{"valid_range": np.array([-50, 50], np.int16)}, {"valid_min": np.int16(-50)}])
def test_the_valid_range_is_applied_as_by_netcdf4_and_not_by_xarray(tmp_path, attributes):
    path = variable(tmp_path / "a.nc", RAW, scale_factor=F8(0.5), **attributes)
    opened = open_netcdf(path)
    np.testing.assert_array_equal(opened.x.read(ALL), by_netcdf4(path))
    assert not np.isnan(by_xarray(path)).any()
    assert np.isnan(opened.x.read(ALL)).any()
    assert any("outside the valid range" in line and "xarray keeps them" in line for line in opened.remarks)


def test_a_valid_range_of_floats_for_packed_integers_is_in_unpacked_values(tmp_path):
    path = variable(tmp_path / "a.nc", RAW, scale_factor=F8(0.01), valid_range=np.array([-0.5, 0.5]))
    found = open_netcdf(path).x.read(ALL)
    np.testing.assert_array_equal(np.isnan(found), np.abs(RAW * 0.01) > 0.5)
    with pytest.warns(UserWarning, match="cannot be safely cast"):  # netCDF4 leaves the range out
        assert not np.isnan(by_netcdf4(path)).any()


def test_default_fill_values_are_missing_in_floats_and_packed_numbers(tmp_path):
    raw = RAW.astype(np.float32)
    raw[3, 1] = netcdf4.default_fillvals["f4"]
    path = variable(tmp_path / "a.nc", raw)
    assert np.argwhere(np.isnan(open_netcdf(path).x.read(ALL))).tolist() == [[3, 1]]
    np.testing.assert_array_equal(open_netcdf(path).x.read(ALL), by_netcdf4(path))
    assert not np.isnan(by_xarray(path)).any()
    raw = RAW.copy()
    raw[3, 1] = netcdf4.default_fillvals["i2"]
    path = variable(tmp_path / "b.nc", raw, scale_factor=F8(0.5))
    np.testing.assert_array_equal(open_netcdf(path).x.read(ALL), by_netcdf4(path))
    path = variable(tmp_path / "c.nc", raw)  # plain integers stay what they are
    found = open_netcdf(path).x
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found.read(ALL), raw)


def test_several_missing_values_and_a_fill_value_of_another_type(tmp_path):
    path = variable(tmp_path / "a.nc", RAW, missing_value=np.array([1, 2], np.int16))
    found = open_netcdf(path).x
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found.read(ALL)), (RAW == 1) | (RAW == 2))
    path = variable(tmp_path / "b.nc", np.where(RAW == 1, 1e20, RAW).astype(np.float32), missing_value=F8(1e20))
    np.testing.assert_array_equal(np.isnan(open_netcdf(path).x.read(ALL)), RAW == 1)
    with pytest.raises(ValueError, match="scale_factor is 'two'"):
        open_netcdf(variable(tmp_path / "c.nc", RAW, scale_factor="two"))


def test_groups_labels_text_and_hdf5(tmp_path):
    with netcdf4.Dataset(tmp_path / "a.nc", "w") as file:
        group = file.createGroup("run")
        for name, size in (("n", 40), ("d", 3), ("letters", 1)):
            group.createDimension(name, size)
        group.createVariable("x", "f4", ("n", "d"))[:] = RAW
        group.createVariable("kind", str, ("n",))[:] = np.array(["b", "a"] * 20, object)
        group.createVariable("mark", "S1", ("n", "letters"))[:] = np.array(["q", "p"] * 20, "S1")[:, None]
        group.createVariable("label", "i4", ("n",))[:] = np.arange(40) % 4
    for key, classes in (("run/kind", ["a", "b"]), ("run/mark", ["p", "q"]), ("run/label", None)):
        opened = open_netcdf(tmp_path / "a.nc", label_key=key)
        np.testing.assert_array_equal(opened.x.read(ROWS), RAW[ROWS])
        assert opened.classes == classes
        np.testing.assert_array_equal(opened.y.read(ROWS), ROWS % 4 if classes is None else 1 - ROWS % 2)
    np.testing.assert_array_equal(open_hdf5(tmp_path / "a.nc").x.read(ROWS), RAW[ROWS])


def test_windows_by_the_names_of_axes(tmp_path):
    many = FIELDS.reshape(10, 4, 2, 6, 5)
    data = xarray.Dataset({"f": (("time", "run", "c", "y", "x"), many.swapaxes(0, 1)), "speed": ("run", PARAMS[:10, 0])})
    data.to_netcdf(tmp_path / "a.nc")
    opened = open_netcdf(tmp_path / "a.nc", sample_axis="run", time_axis="time", window=[2, 1], condition="speed")
    np.testing.assert_array_equal(opened.x.read(np.arange(4)), many[[0, 0, 1, 1], [2, 3, 2, 3]])
    np.testing.assert_array_equal(opened.conditions["past"].read(np.array([3])), many[1, 1:3].reshape(1, 4, 6, 5))
    np.testing.assert_array_equal(opened.conditions["speed"].read(np.arange(4)), PARAMS[[0, 0, 1, 1], 0])


def test_variables_with_axes_in_another_order_are_not_stacked(tmp_path):
    square = FIELDS[:, 0, :5]
    xarray.Dataset({"u": (("time", "y", "x"), square), "v": (("time", "x", "y"), square)}).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(ValueError, match="v has the axes x, y, and u has y, x"):
        open_netcdf(tmp_path / "a.nc", ["u", "v"])


def test_damaged_and_wrong_files_are_refused(tmp_path):
    dataset().to_netcdf(tmp_path / "a.nc")
    (tmp_path / "cut.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"cut\.nc: cannot be read by xarray"):
        open_netcdf(tmp_path / "cut.nc")
    (tmp_path / "text.nc").write_text("hello")
    (tmp_path / "empty.nc").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.nc: is no NetCDF file"):
            open_netcdf(tmp_path / f"{name}.nc")
    with pytest.raises(FileNotFoundError):
        open_netcdf(tmp_path / "no.nc")
    with pytest.raises(ValueError, match="does not read this file"):
        open_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(ValueError, match="several arrays could be the samples"):
        open_netcdf(tmp_path / "a.nc")


def _child(source, queue):
    queue.put(source.read(ROWS))


def test_a_forked_process_opens_the_file_itself(tmp_path):
    dataset().to_netcdf(tmp_path / "a.nc")
    x = open_netcdf(tmp_path / "a.nc", key="u").x
    x.read(ROWS)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(x, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(), FIELDS[ROWS, 0])
    child.join()
