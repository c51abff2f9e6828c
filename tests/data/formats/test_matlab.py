"""MATLAB files: shapes are those that MATLAB shows, in version 7.3 (HDF5, reversed on disk) and in older versions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

h5py = pytest.importorskip("h5py")

from kdiff.data.formats.matlab import open_matlab  # noqa: E402

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(size=(40, 6, 5))
LABELS = np.arange(40) % 3
ROWS = np.array([5, 39, 0, 5, 23])


def written_73(path, **arrays):
    """A file laid out like MATLAB's version 7.3: a block of 512 bytes before HDF5, axes reversed, the class as attribute."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["#refs#/a"] = np.zeros((3, 3, 3))
        file["note"] = np.array([[104], [105]], np.uint16)
        file["note"].attrs["MATLAB_class"] = np.bytes_("char")
        pair = np.zeros((4, 40), [("real", "f8"), ("imag", "f8")])
        pair["imag"] = 1
        file["wave"] = pair
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def written_5(path, **arrays):
    savemat(path, {**arrays, "note": "hi", "one": 3.0, "cells": np.array([1, "a"], object)})
    return path


@pytest.mark.parametrize("write", [written_73, written_5])
def test_shapes_are_those_of_matlab(tmp_path, write):
    path = write(tmp_path / "a.mat", fields=FIELDS, labels=LABELS[:, None], row=LABELS[None].astype(float))
    opened = open_matlab(path, key="fields", label_key="labels")
    assert opened.x.shape == (40, 6, 5)
    np.testing.assert_array_equal(opened.x.read(ROWS), FIELDS[ROWS])
    np.testing.assert_array_equal(opened.y.read(ROWS), LABELS[ROWS])
    path = write(tmp_path / "b.mat", fields=np.moveaxis(FIELDS, 0, 2), labels=LABELS[None])
    opened = open_matlab(path, key="fields", sample_axis=-1, label_key="labels")
    np.testing.assert_array_equal(opened.x.read(ROWS), FIELDS[ROWS])
    np.testing.assert_array_equal(opened.y.read(ROWS), LABELS[ROWS])
    with pytest.raises(ValueError, match=r"no array 'note' can be used \(note is of MATLAB class char\)"):
        open_matlab(path, key="note")


def test_complex_numbers_of_version_73(tmp_path):
    opened = open_matlab(written_73(tmp_path / "a.mat"), key="wave")
    assert opened.x.shape == (40, 2, 4)
    np.testing.assert_array_equal(opened.x.read(ROWS)[:, 1], np.ones((5, 4)))


@pytest.mark.parametrize("version", ["4", "5"])
def test_older_versions_compressed_and_big_endian(tmp_path, version):
    savemat(tmp_path / "a.mat", {"x": FIELDS[:, 0].astype(">f8")}, format=version, do_compression=version == "5")
    np.testing.assert_array_equal(open_matlab(tmp_path / "a.mat").x.read(ROWS), FIELDS[ROWS, 0])


def test_damaged_files_are_refused(tmp_path):
    path = written_5(tmp_path / "a.mat", x=FIELDS)
    (tmp_path / "cut.mat").write_bytes(path.read_bytes()[:2000])
    (tmp_path / "text.mat").write_text("hello")
    (tmp_path / "empty.mat").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.mat: cannot be read as a MATLAB file"):
            open_matlab(tmp_path / f"{name}.mat")
