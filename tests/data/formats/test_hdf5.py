"""HDF5 by h5py: what the library writes is read row by row, and what cannot be read or known is refused with what to type."""

from __future__ import annotations

import gc
import multiprocessing
import pickle

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from kdiff.data.formats.hdf5 import open_hdf5  # noqa: E402

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(size=(40, 2, 6, 5)).astype(np.float32)
PARAMS = RNG.normal(size=(40, 2))
ROWS = np.array([5, 39, 0, 5, 23])


def written(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", "<f2", ">i2", "u1", "?"])
@pytest.mark.parametrize(
    "options", [{}, {"chunks": (7, 2, 3, 5), "compression": "gzip", "shuffle": True}, {"compression": "lzf"}]
)
def test_rows_of_every_layout_and_type(tmp_path, dtype, options):
    values = (FIELDS * 10).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/er/fields", data=values, **options)
    x = open_hdf5(tmp_path / "a.h5").x
    assert (x.shape, x.dtype) == (values.shape, values.dtype.newbyteorder("="))
    np.testing.assert_array_equal(x.read(ROWS), values[ROWS])
    assert x.block == (7 if "chunks" in options else x.block)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_versions_of_the_format(tmp_path, libver):
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        file.create_dataset("x", data=FIELDS, chunks=(3, 2, 6, 5), maxshape=(None, 2, 6, 5))
    np.testing.assert_array_equal(open_hdf5(tmp_path / "a.h5").x.read(ROWS), FIELDS[ROWS])


def test_conditions_labels_and_what_is_not_used(tmp_path):
    path = written(tmp_path / "a.h5", x=FIELDS, run__params=PARAMS, y=np.arange(40) % 3, other=PARAMS, kind=["b", "a"] * 20)
    with h5py.File(path, "a") as file:
        file["x"].attrs["viscosity"] = PARAMS[:, 0]
    opened = open_hdf5(path, condition=["run/params", "viscosity"])
    np.testing.assert_array_equal(opened.conditions["params"].read(ROWS), PARAMS[ROWS])
    np.testing.assert_array_equal(opened.conditions["viscosity"].read(ROWS), PARAMS[ROWS, 0])
    np.testing.assert_array_equal(opened.y.read(ROWS), ROWS % 3)
    assert any(
        "other (40, 2) float64" in line and "kind (40,) text" in line and "condition=" in line for line in opened.remarks
    )
    named = open_hdf5(path, label_key="kind", condition={"run/params": "vector"})
    assert (named.classes, named.kinds) == (["a", "b"], {"params": "vector"})
    np.testing.assert_array_equal(named.y.read(np.arange(3)), [1, 0, 1])
    assert open_hdf5(path, labels=False).y is None


def test_samples_are_chosen_or_asked_for(tmp_path):
    path = written(tmp_path / "a.h5", u=FIELDS[:, 0], v=FIELDS[:, 1], note="text", one=3.0)
    with pytest.raises(ValueError, match=r"several arrays.*u \(40, 6, 5\) float32.*note \(one value.*key=u.*key=\[u, v\]"):
        open_hdf5(path)
    both = open_hdf5(path, key=["u", "v"])
    np.testing.assert_array_equal(both.x.read(ROWS), FIELDS[ROWS])
    assert both.about["variables"] == ["u", "v"]
    with pytest.raises(ValueError, match="no array 'w'"):
        open_hdf5(path, key="w")
    only = written(tmp_path / "b.h5", fields=FIELDS, params=PARAMS)
    assert open_hdf5(only).x.shape == FIELDS.shape


def test_another_axis_of_samples(tmp_path):
    path = written(tmp_path / "a.h5", x=np.moveaxis(FIELDS, 0, 2), params=PARAMS.T, more=PARAMS)
    opened = open_hdf5(path, sample_axis=2, condition=["params", "more"])
    np.testing.assert_array_equal(opened.x.read(ROWS), FIELDS[ROWS])
    for name in ("params", "more"):
        np.testing.assert_array_equal(opened.conditions[name].read(ROWS), PARAMS[ROWS])
    with pytest.raises(ValueError, match=r"shape \(2, 6, 40, 5\).*sample_axis=4"):
        open_hdf5(path, key="x", sample_axis=4)
    with pytest.raises(ValueError, match="axes have no names"):
        open_hdf5(path, key="x", sample_axis="time")
    with pytest.raises(ValueError, match=r"more has the shape \(40, 2\)"):
        open_hdf5(path, key="x", sample_axis=3, condition="more")


def test_axes_have_names_by_labels_and_scales(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["time"] = np.moveaxis(FIELDS, 0, 1), np.arange(40.0)
        file["time"].make_scale("time")
        file["x"].dims[1].attach_scale(file["time"])
    opened = open_hdf5(tmp_path / "a.h5", sample_axis="time", condition="time")
    np.testing.assert_array_equal(opened.x.read(ROWS), FIELDS[ROWS])
    np.testing.assert_array_equal(opened.conditions["time"].read(ROWS), ROWS)


def test_columns_of_a_table(tmp_path):
    table = np.zeros(40, [("a", ">f4"), ("b", "f8", (2,)), ("name", "S3")])
    table["a"], table["b"] = PARAMS[:, 0], PARAMS
    path = written(tmp_path / "a.h5", table=table)
    np.testing.assert_array_equal(open_hdf5(path, key="table.b").x.read(ROWS), PARAMS[ROWS])
    joined = open_hdf5(path, key=["table.a", "table.b"]).x
    np.testing.assert_allclose(joined.read(ROWS), np.c_[PARAMS[:, 0], PARAMS][ROWS], rtol=1e-6)
    with pytest.raises(ValueError, match=r"table\.name is a column of type"):
        open_hdf5(path, key="table.name")


def test_complex_numbers_are_two_channels_and_say_so(tmp_path):
    path = written(tmp_path / "a.h5", x=FIELDS[:, 0] + 1j * FIELDS[:, 1])
    opened = open_hdf5(path)
    np.testing.assert_array_equal(opened.x.read(ROWS), FIELDS[ROWS])
    assert any("real and the imaginary part" in line for line in opened.remarks)


def test_links_and_virtual_arrays(tmp_path):
    written(tmp_path / "part.h5", x=FIELDS)
    layout = h5py.VirtualLayout(FIELDS.shape, "f4")
    layout[:] = h5py.VirtualSource("part.h5", "x", FIELDS.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("part.h5", "x")
        file["soft"] = h5py.SoftLink("/linked")
        file["loop/back"] = h5py.SoftLink("/")
        file["gone"] = h5py.ExternalLink("nowhere.h5", "x")
        file.create_virtual_dataset("virtual", layout)
    for key in ("linked", "soft", "virtual"):
        np.testing.assert_array_equal(open_hdf5(tmp_path / "a.h5", key=key).x.read(ROWS), FIELDS[ROWS])
    with pytest.raises(ValueError, match=r"gone is a broken link to nowhere.h5:x"):
        open_hdf5(tmp_path / "a.h5", key="gone")
    before = [open_hdf5(tmp_path / "a.h5", key=key).x.identity for key in ("linked", "virtual")]
    gc.collect()  # closes the files
    written(tmp_path / "part.h5", x=FIELDS, more=PARAMS)
    assert all(open_hdf5(tmp_path / "a.h5", key=key).x.identity != one for key, one in zip(("linked", "virtual"), before))
    (tmp_path / "part.h5").unlink()
    with pytest.raises(ValueError, match=r"source part\.h5 is missing"):
        open_hdf5(tmp_path / "a.h5", key="virtual")


def test_values_that_were_never_written_are_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", FIELDS.shape, "f4", chunks=(10, 2, 6, 5))[:25] = FIELDS[:25]
        file["x"].attrs["scale_factor"] = 0.1
        file.create_dataset("z", FIELDS.shape, "f4")
    remarks = open_hdf5(tmp_path / "a.h5").remarks
    assert any("1 of 4 chunks of x were never written" in line for line in remarks)
    assert any("scale_factor=0.1" in line and "netcdf=true" in line for line in remarks)
    assert any("1 of 1 array of z" in line for line in open_hdf5(tmp_path / "a.h5", key="z").remarks)


def test_a_missing_filter_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((10, 4))
        plist.set_filter(32013, h5py.h5z.FLAG_OPTIONAL)
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((40, 4)), plist)
    with pytest.raises(ValueError, match=r"compressed by zfp \(HDF5 filter 32013\).*pip install hdf5plugin"):
        open_hdf5(tmp_path / "a.h5")


def test_damaged_empty_and_wrong_files_are_refused(tmp_path):
    path = written(tmp_path / "a.h5", x=FIELDS)
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}.h5: cannot be read as HDF5") as caught:
            open_hdf5(tmp_path / f"{name}.h5")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no file at"):
        open_hdf5(tmp_path / "no.h5")
    with pytest.raises(ValueError, match="no array of two axes or more"):
        open_hdf5(written(tmp_path / "flat.h5", a=np.zeros(4)))
    with pytest.raises(ValueError, match="is empty"):
        open_hdf5(written(tmp_path / "none.h5", x=np.zeros((0, 3, 4))))
    with pytest.raises(ValueError, match=r"labels bad have the shape \(40, 2\)"):
        open_hdf5(written(tmp_path / "l.h5", x=FIELDS, bad=PARAMS), label_key="bad")


def test_several_files(tmp_path):
    for number in range(3):
        written(tmp_path / f"{number}.h5", x=FIELDS[number * 10 : number * 10 + 10], p=PARAMS[number * 10 : number * 10 + 10])
    opened = open_hdf5(tmp_path / "*.h5", condition="p")
    np.testing.assert_array_equal(opened.x.read(np.arange(30)), FIELDS[:30])
    np.testing.assert_array_equal(opened.conditions["p"].read(np.array([29, 3])), PARAMS[[29, 3]])
    written(tmp_path / "3.h5", z=FIELDS)
    with pytest.raises(ValueError, match=r"would give samples z, and .* gives samples x"):
        open_hdf5(tmp_path / "*.h5")


def test_windows_of_one_series_and_of_many(tmp_path):
    path = written(tmp_path / "a.h5", x=FIELDS, force=PARAMS)
    opened = open_hdf5(path, window=[2, 1], condition="force")
    sample, past = opened.x.read(ROWS % 20), opened.conditions["past"].read(ROWS % 20)
    start = [int(np.flatnonzero((one[:2] == FIELDS).all((1, 2, 3)))[0]) for one in past]
    np.testing.assert_array_equal(past[:, 2:], FIELDS[np.add(start, 1)])
    np.testing.assert_array_equal(sample, FIELDS[np.add(start, 2)])
    np.testing.assert_array_equal(opened.conditions["force"].read(ROWS % 20), PARAMS[np.add(start, 2)])
    assert opened.groups.shape == (len(opened.x),)
    many = FIELDS.reshape(10, 4, 2, 6, 5)
    path = written(tmp_path / "b.h5", x=many, speed=PARAMS[:10])
    opened = open_hdf5(path, window=[2, 1], time_axis=1, condition="speed", key="x")
    assert opened.x.shape == (20, 2, 6, 5)
    np.testing.assert_array_equal(opened.x.read(np.arange(4)), many[[0, 0, 1, 1], [2, 3, 2, 3]])
    np.testing.assert_array_equal(opened.conditions["speed"].read(np.arange(4)), PARAMS[[0, 0, 1, 1]])
    np.testing.assert_array_equal(opened.groups.read(np.arange(4)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="give window"):
        open_hdf5(path, time_axis=1)


def _child(source, queue):
    queue.put(source.read(ROWS))


def test_other_processes_open_the_file_themselves(tmp_path):
    x = open_hdf5(written(tmp_path / "a.h5", x=FIELDS)).x
    x.read(ROWS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(x)).read(ROWS), FIELDS[ROWS])
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(x, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(), FIELDS[ROWS])
    child.join()
    np.testing.assert_array_equal(x.read(ROWS), FIELDS[ROWS])
