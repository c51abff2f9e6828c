"""What an array declares is compared with the file, and with the memory, before it is decompressed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdiff.data import declared, load, load_array
from kdiff.data.declared import Declared, check_declared, declared_arrays
from kdiff.evaluation import reference

RNG = np.random.default_rng(0)


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_names_shapes_and_types_of_every_format(tmp_path: Path) -> None:
    arrays = {"x": RNG.random((5, 2), np.float32), "y": np.arange(5), "b": np.zeros(5, np.uint8), "t": np.zeros(3, bool)}
    expected = {
        "x": Declared((5, 2), "float32", "f"),
        "y": Declared((5,), "int64", "i"),
        "b": Declared((5,), "uint8", "u"),
        "t": Declared((3,), "bool", "b"),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    save_file({**{name: torch.from_numpy(array) for name, array in arrays.items()}}, tmp_path / "c.safetensors")
    np.save(tmp_path / "d.npy", arrays["x"])
    for name in ("a.npz", "b.npz", "c.safetensors"):
        assert declared_arrays(tmp_path / name) == expected
    assert declared_arrays(tmp_path / "d.npy") == {"": expected["x"]}
    save_file({"x": torch.zeros(5, 2, dtype=torch.bfloat16)}, tmp_path / "e.safetensors")
    assert declared_arrays(tmp_path / "e.safetensors") == {"x": Declared((5, 2), "bfloat16", "f")}


def test_other_files_in_the_zip_are_no_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=RNG.random((30, 2)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "about these data")
    assert len(load(tmp_path / "a.npz").x) == 30
    with pytest.raises(ValueError, match=r"no array under 'README\.txt'.*the file holds 'x' \(30, 2\) float64$"):
        load(tmp_path / "a.npz", key="README.txt")


@pytest.mark.parametrize("shape", [(10**9, 10**6), (31, 2), (29, 2)])
def test_a_header_that_does_not_fit_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header(shape) + RNG.random((30, 2), np.float32).tobytes())
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(
        ValueError, match=r"'x' is declared as .* float32, \d+ bytes, but 240 bytes are there; the file is damaged"
    ):
        load_array(tmp_path / "a.npz")


def test_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=RNG.random((300, 20)))
    monkeypatch.setattr(declared, "memory", lambda: 47999.0)
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(ValueError, match=r"'x' is declared as \(300, 20\) float64, .* GB, and this machine has .* of memory"):
        load(tmp_path / "a.npz")
    assert declared.memory() == 47999
    monkeypatch.undo()
    assert declared.memory() > 2**26


def test_statistics_of_a_reference_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", header((10**6, 10**6)) + bytes(64))
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(ValueError, match=r"mu cannot be read \(.*is declared as .*, but 64 bytes are there"):
        reference._array(tmp_path / "a.npz", "mu")


class TestEqualSamples:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(declared, "PIECE", 2**20)

    @pytest.mark.parametrize("different", [1, 2])
    def test_only_a_piece_of_them_is_decompressed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, different: int
    ) -> None:
        rows = RNG.random((different, 50), np.float32)
        np.savez_compressed(tmp_path / "a.npz", x=np.tile(rows, (60_000 // different, 1)))
        read, original = [0], zipfile.ZipExtFile.read

        def counted(self: zipfile.ZipExtFile, size: int | None = -1) -> bytes:
            content = original(self, size)
            read[0] += len(content)
            return content

        monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
        what = "are equal" if different == 1 else "hold only 2 different ones"
        with pytest.raises(ValueError, match=rf"the first [\d,]+ of the 60,000 samples under 'x' {what} \("):
            load(tmp_path / "a.npz")
        assert read[0] < 3 * 2**20  # of 12 MB

    @pytest.mark.parametrize("what", ["few nonzero", "late", "labels"])
    def test_data_that_compress_well_are_read(self, tmp_path: Path, what: str) -> None:
        x = np.zeros((20_000, 60), np.float32)
        if what == "labels":
            x[:] = RNG.random((20_000, 60))
        else:
            x[:, 0] = np.maximum(np.arange(20_000), 2000 if what == "late" else 0)
        y = np.zeros(20_000, np.int64)
        np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
        assert load(tmp_path / "a.npz", normalise="none").x.shape == x.shape

    def test_labels_may_be_equal(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "a.npz", y=np.zeros(10**6, np.int64))
        check_declared(tmp_path / "a.npz", "y", samples=False)
