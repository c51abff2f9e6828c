"""TIFF stacks by their axes: what tifffile writes comes back sample by sample, and what is ambiguous is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

tifffile = pytest.importorskip("tifffile")

from kdiff.data.formats.tiff import Pages, open_tiff  # noqa: E402
from kdiff.data.opened import Array  # noqa: E402

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 2**16, (12, 8, 9)).astype(np.uint16)
BANDS = RNG.normal(size=(12, 5, 8, 9)).astype(np.float32)
COLOUR = RNG.integers(0, 256, (12, 8, 9, 3)).astype(np.uint8)
DEEP = RNG.normal(size=(6, 2, 3, 8, 9)).astype(np.float32)
ROWS = np.array([3, 0, 5, 3])


def written(path: Path, values: np.ndarray, **options) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(path, values, **options)
    return path


CASES = {
    "plain": (GREY, {}, GREY[:, None]),
    "big endian": (GREY, {"byteorder": ">"}, GREY[:, None]),
    "BigTIFF": (GREY, {"bigtiff": True}, GREY[:, None]),
    "compressed": (GREY, {"compression": "zlib", "predictor": True}, GREY[:, None]),
    "compressed, big endian, without metadata": (
        GREY,
        {"compression": "zlib", "byteorder": ">", "metadata": None},
        GREY[:, None],
    ),
    "tiled": (GREY, {"tile": (16, 16)}, GREY[:, None]),
    "float64": (GREY / 7, {}, GREY[:, None] / 7),
    "signed": (GREY.view(np.int16), {}, GREY.view(np.int16)[:, None]),
    "bits": (GREY > 2**15, {}, (GREY > 2**15)[:, None]),
    "colour": (COLOUR, {"photometric": "rgb"}, COLOUR.transpose(0, 3, 1, 2)),
    "planes of colour": (
        COLOUR.transpose(0, 3, 1, 2),
        {"photometric": "rgb", "planarconfig": "separate"},
        COLOUR.transpose(0, 3, 1, 2),
    ),
    "ImageJ": (BANDS, {"imagej": True, "metadata": {"axes": "TCYX"}}, BANDS),
    "ImageJ, depth": (DEEP.swapaxes(1, 2), {"imagej": True, "metadata": {"axes": "TZCYX"}}, DEEP),
    "OME": (BANDS, {"ome": True, "metadata": {"axes": "TCYX"}}, BANDS),
    "OME, compressed": (BANDS, {"ome": True, "metadata": {"axes": "TCYX"}, "compression": "zlib"}, BANDS),
    "axes": (BANDS, {"metadata": {"axes": "TCYX"}, "photometric": "minisblack"}, BANDS),
}


@pytest.mark.parametrize("case", CASES)
def test_what_tifffile_writes_comes_back(tmp_path: Path, case: str) -> None:
    values, options, expected = CASES[case]
    several = case == "ImageJ, depth"
    opened = open_tiff(written(tmp_path / "a.tif", values, **options), sample_axis="T" if several else None)
    x = opened.x
    assert x.shape == expected.shape
    assert opened.value_range == ((0, 255) if expected.dtype == np.uint8 else None)
    assert x.dtype == (np.uint8 if expected.dtype == bool else expected.dtype)
    read = x.read(ROWS)
    assert read.dtype == x.dtype
    assert read.dtype.isnative
    assert np.array_equal(read, expected[ROWS])
    assert np.array_equal(np.concatenate(list(x.chunks())), expected)


def test_a_file_in_one_piece_is_mapped_and_others_are_read_by_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_tiff(written(tmp_path / "a.tif", GREY)).x
    assert isinstance(plain, Array)
    assert isinstance(plain.values.base, np.memmap)
    pages = open_tiff(written(tmp_path / "b.tif", GREY, compression="zlib")).x
    assert isinstance(pages, Pages)
    read, original = [], tifffile.TiffPage.asarray
    monkeypatch.setattr(
        tifffile.TiffPage, "asarray", lambda self, *args, **kw: (read.append(self.index), original(self, *args, **kw))[1]
    )
    monkeypatch.setattr(
        tifffile.TiffFrame, "asarray", lambda self, *args, **kw: (read.append(self.index), self.aspage().asarray())[1]
    )
    assert np.array_equal(pages.read(np.array([7, 2])), GREY[[7, 2], None])
    assert {7, 2} == set(np.ravel(read).tolist())


class TestAxes:
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_the_axis_of_the_samples_by_letter_or_number(self, tmp_path: Path, compression: str | None) -> None:
        path = written(tmp_path / "a.ome.tif", DEEP, metadata={"axes": "TCZYX"}, compression=compression)
        with pytest.raises(ValueError, match=r"'TCZYX' of shape \(6, 2, 3, 8, 9\).*give sample_axis='T', or sample_axis='Z'"):
            open_tiff(path)
        assert np.array_equal(open_tiff(path, sample_axis="t").x.read(ROWS), DEEP[ROWS])
        assert np.array_equal(open_tiff(path, sample_axis=0).x.read(ROWS), DEEP[ROWS])
        planes = DEEP.transpose(1, 0, 2, 3, 4)  # the axis T is taken as channels
        opened = open_tiff(path, sample_axis=1)
        assert np.array_equal(opened.x.read(np.array([1])), planes[1:2])
        assert opened.remarks == [f"{path}: the axis T of 6 is taken as channels"]
        with pytest.raises(ValueError, match="at most one depth Z and one axis of channels"):
            open_tiff(path, sample_axis="Z")
        for wrong, message in (("Q", "names 0 of them"), (7, "is none of them"), ("Y", "is inside an image")):
            with pytest.raises(ValueError, match=message):
                open_tiff(path, sample_axis=wrong)

    def test_pages_of_a_volume_are_said_to_be_samples(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.tif", BANDS, imagej=True, metadata={"axes": "ZCYX"})
        opened = open_tiff(path)
        assert np.array_equal(opened.x.read(ROWS), BANDS[ROWS])
        assert "each page along Z is a sample" in opened.remarks[0]
        assert opened.about == {"axes": "ZCYX"}

    def test_labels(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.tif", GREY)
        np.save(tmp_path / "y.npy", np.arange(12) % 3)
        assert open_tiff(path, labels=tmp_path / "y.npy").y.read(ROWS).tolist() == (ROWS % 3).tolist()
        with pytest.raises(ValueError, match=r"labels is True; expected the path of a \.npy file"):
            open_tiff(path, labels=True)


class TestRefused:
    def test_one_image(self, tmp_path: Path) -> None:
        for values in (GREY[0], COLOUR[0]):
            with pytest.raises(ValueError, match="it is one image, and a data set has many; name a folder of images"):
                open_tiff(written(tmp_path / "a.tif", values))

    def test_several_series(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as writer:
            writer.write(GREY, photometric="minisblack")
            writer.write(BANDS[:, :2], photometric="minisblack", metadata={"axes": "TCYX"})
        with pytest.raises(ValueError, match=r"the file has 2 series.*0 QYX \(12, 8, 9\) uint16, 1 TCYX .*; give key=0"):
            open_tiff(path)
        assert np.array_equal(open_tiff(path, key=1).x.read(ROWS), BANDS[ROWS, :2])
        with pytest.raises(ValueError, match="no series 5; the file has 0 QYX"):
            open_tiff(path, key=5)

    def test_damaged_files(self, tmp_path: Path) -> None:
        """tifffile reads a file that is cut off as a shorter one, and only its log says so."""
        for options in ({}, {"compression": "zlib", "metadata": None}, {"metadata": None}, {"ome": True}):
            path = written(tmp_path / "a.tif", GREY, **options)
            content = path.read_bytes()
            for size in (0, 5, 100, len(content) // 2, len(content) - 200):
                path.write_bytes(content[:size])
                with pytest.raises(ValueError, match="cannot be read"):
                    open_tiff(path).x.read(np.arange(12))
                assert path.stat().st_size == size  # mapping a file may make it longer
        path.write_bytes(b"II*\0 not a picture")
        with pytest.raises(ValueError, match="the file is damaged, cut off or of another format"):
            open_tiff(path)
        with pytest.raises(FileNotFoundError):
            open_tiff(tmp_path / "none.tif")

    def test_other_numbers(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="the values are complex64; expected integers or floats"):
            open_tiff(written(tmp_path / "a.tif", GREY.astype(np.complex64)))


class TestVolumes:
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_files_are_samples_and_folders_classes(self, tmp_path: Path, compression: str | None) -> None:
        for i, volume in enumerate(DEEP):
            folder = tmp_path / "ab"[i % 2]
            folder.mkdir(exist_ok=True)
            written(folder / f"{i}.tif", volume[0], metadata={"axes": "ZYX"}, photometric="minisblack", compression=compression)
        (tmp_path / "a" / "notes.txt").write_text("…")
        opened = open_tiff(tmp_path)
        order = [0, 2, 4, 1, 3, 5]
        assert opened.x.shape == (6, 1, 3, 8, 9)
        assert np.array_equal(opened.x.read(np.arange(6)), DEEP[order][:, :1])
        assert (opened.classes, opened.y.read(np.arange(6)).tolist()) == (["a", "b"], [0, 0, 0, 1, 1, 1])
        assert opened.remarks == [f"{tmp_path}: 1 files that are no TIFF are left out"]
        assert open_tiff(tmp_path, labels=False).y is None

    def test_volumes_of_another_shape_are_named(self, tmp_path: Path) -> None:
        for i in range(3):
            written(tmp_path / f"{i}.tif", DEEP[i, 0, : 3 - i // 2], metadata={"axes": "ZYX"}, photometric="minisblack")
        x = open_tiff(tmp_path).x
        with pytest.raises(ValueError, match=r"2.tif has the axes 'ZYX', shape \(2, 8, 9\).*expected 'ZYX', \(3, 8, 9\)"):
            x.read(np.arange(3))
        with pytest.raises(ValueError, match="leave sample_axis out"):
            open_tiff(tmp_path, sample_axis="Z")
