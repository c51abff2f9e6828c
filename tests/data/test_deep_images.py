"""Images of 16 bits, floats and any number of channels: every value comes back, and 8-bit folders stay what they were."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")

from kdiff.data import load, load_folder  # noqa: E402
from kdiff.data.deep_images import TURNS, decode_deep, deep_header, scaled, to_mode  # noqa: E402

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 2**16, (30, 6, 8)).astype(np.uint16)
COLOUR = RNG.integers(0, 2**16, (30, 6, 8, 3)).astype(np.uint16)
BANDS = RNG.normal(size=(30, 6, 8, 5)).astype(np.float32)


def tiff(path: Path, values: np.ndarray, **options) -> None:
    tifffile.imwrite(path, values, **{"photometric": "minisblack", "planarconfig": "contig", **options})


def png(path: Path, values: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(values))


def ppm(path: Path, values: np.ndarray) -> None:
    kind = b"P6" if values.ndim == 3 else b"P5"
    path.write_bytes(kind + b"\n# a comment\n8 6 65535\n" + values.astype(">u2").tobytes())


def back(data) -> np.ndarray:
    return data.normalisation.undo(data.x[:]).numpy()


@pytest.mark.parametrize("values", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(("ending", "write"), [(".png", png), (".tif", tiff), (".ppm", ppm)])
def test_16_bits_come_back(tmp_path: Path, ending: str, write, values: np.ndarray) -> None:
    for i, image in enumerate(values):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        write(tmp_path / "ab"[i % 2] / f"{i:02}{ending}", image)
    order = [*range(0, 30, 2), *range(1, 30, 2)]
    expected = (values[..., None] if values.ndim == 3 else values).transpose(0, 3, 1, 2)[order]
    data = load(tmp_path)
    assert data.normalisation.describe() == {"kind": "range", "shift": 32767.5, "scale": 32767.5}
    assert np.array_equal(np.rint(back(data)), expected)
    assert (data.num_classes, data.y.tolist()) == (2, [0] * 15 + [1] * 15)
    again = load(tmp_path)  # from the cache
    assert torch.equal(again.x, data.x)
    assert again.fingerprint == data.fingerprint


def test_floats_and_many_channels(tmp_path: Path) -> None:
    for i, image in enumerate(BANDS):
        tiff(tmp_path / f"{i:02}.tif", image, compression="zlib", byteorder=">")
    data = load(tmp_path)
    assert data.shape == (5, 6, 8)
    assert data.normalisation.describe()["kind"] == "standard"
    assert np.allclose(back(data), BANDS.transpose(0, 3, 1, 2), atol=1e-6)
    assert load(tmp_path, size=4).shape == (5, 4, 4)
    with pytest.raises(ValueError, match=r"holds images of 5 \(30\) channels, and channels='RGB' is for 1 and 3"):
        load(tmp_path, channels="RGB")


def test_eight_bits_in_five_channels(tmp_path: Path) -> None:
    bands = RNG.integers(0, 256, (20, 6, 8, 5)).astype(np.uint8)
    for i, image in enumerate(bands):
        tiff(tmp_path / f"{i:02}.tif", image)
    data = load(tmp_path)
    assert np.array_equal(np.rint(back(data)), bands.transpose(0, 3, 1, 2))
    assert data.normalisation.describe()["scale"] == 127.5


def test_channels_that_pillow_leaves_out_are_said(tmp_path: Path) -> None:
    bands = RNG.integers(0, 256, (20, 6, 8, 4)).astype(np.uint8)
    for i, image in enumerate(bands):
        tiff(tmp_path / f"{i:02}.tif", image, photometric="rgb", extrasamples=["unspecified"])
    with pytest.warns(UserWarning, match=r"00\.tif has 4 channels, and only 3 of them are read; give channels='all'"):
        assert np.array_equal(np.rint(back(load(tmp_path))), bands.transpose(0, 3, 1, 2)[:, :3])
    assert np.array_equal(np.rint(back(load(tmp_path, channels="all"))), bands.transpose(0, 3, 1, 2))
    Image.fromarray(bands[0, :, :, :3]).save(tmp_path / "z.png")
    with pytest.raises(ValueError, match="channels='all' is for TIFF files and images of more than 8 bits"):
        load(tmp_path, channels="all")


def test_one_coloured_image_makes_all_of_them_so(tmp_path: Path) -> None:
    for i in range(20):
        png(tmp_path / f"{i:02}.png", GREY[i] if i else COLOUR[0])
    assert np.array_equal(np.rint(back(load(tmp_path)))[5], np.stack([GREY[5]] * 3))
    grey = np.rint(back(load(tmp_path, channels="L")))
    assert np.abs(grey[0, 0] - COLOUR[0] @ [0.299, 0.587, 0.114]).max() <= 0.5 + 1e-6


class TestMixed:
    def test_deep_images_among_others_are_left_out_and_named(self, tmp_path: Path) -> None:
        for i in range(20):
            Image.fromarray((GREY[i] // 256).astype(np.uint8)).save(tmp_path / f"{i:02}.png")
        expected = load(tmp_path).fingerprint
        png(tmp_path / "z.png", GREY[0])
        for name in ("z.png", "00.png"):  # the last one, and the first one
            (tmp_path / "z.png").rename(tmp_path / "20.png") if name == "00.png" else None
            with pytest.warns(
                UserWarning, match="1 of 21 images cannot be read and are left out: .*more than 8 bits per channel"
            ):
                assert load(tmp_path).fingerprint == expected
        (tmp_path / "20.png").rename(tmp_path / "-.png")
        with pytest.warns(UserWarning, match="more than 8 bits per channel"):
            assert load(tmp_path).fingerprint == expected

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (BANDS[0, :, :, 0], r"holds images of 2 types \(images\): uint16 \(20\), float32 \(1\); convert them to one type"),
            (GREY[0, :5], r"images of 2 sizes, width × height \(images\): 8×6 \(20\), 8×5 \(1\); give size"),
            (COLOUR[0][..., [0, 1, 2, 0, 1]], r"different numbers of channels \(images\): 1 \(20\), 5 \(1\)"),
        ],
    )
    def test_others_are_refused(self, tmp_path: Path, other: np.ndarray, message: str) -> None:
        for i in range(20):
            tiff(tmp_path / f"{i:02}.tif", GREY[i])
        tiff(tmp_path / "z.tif", other)
        with pytest.raises(ValueError, match=message):
            load(tmp_path)

    def test_damaged_images_are_left_out_and_named(self, tmp_path: Path) -> None:
        for i in range(20):
            png(tmp_path / f"{i:02}.png", COLOUR[i])
        content = (tmp_path / "03.png").read_bytes()
        (tmp_path / "03.png").write_bytes(content[: len(content) // 2])
        for _ in range(2):
            with pytest.warns(UserWarning, match=r"1 of 20 images cannot be read and are left out: 03\.png \(PngError"):
                assert len(load(tmp_path).x) == 19
        with pytest.raises(ValueError, match=r"03\.png"):
            load_folder(tmp_path, corrupt="error")

    def test_stacks_are_not_cut_to_their_first_page(self, tmp_path: Path) -> None:
        for i in range(12):
            tifffile.imwrite(tmp_path / f"{i:02}.tif", GREY[i : i + 4], photometric="minisblack")
        with pytest.raises(ValueError, match=r"4 pages \(QYX\) in a file, expected one image"):
            load(tmp_path)

    def test_stacks_of_8_bits_are_said_to_be_cut_and_volumes_are_read_whole(self, tmp_path: Path) -> None:
        volumes = RNG.integers(0, 256, (20, 4, 6, 8)).astype(np.uint8)
        for i, volume in enumerate(volumes):
            (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
            path = tmp_path / "ab"[i % 2] / f"{i:02}.tif"
            tifffile.imwrite(path, volume, photometric="minisblack", metadata={"axes": "ZYX"})
        order = [*range(0, 20, 2), *range(1, 20, 2)]
        with pytest.warns(UserWarning, match=r"a/00\.tif has 4 pages, and only the first is read; give volumes=True"):
            assert np.array_equal(np.rint(back(load(tmp_path)))[:, 0], volumes[order][:, 0])
        data = load(tmp_path, volumes=True)
        assert np.array_equal(np.rint(back(data))[:, 0], volumes[order])
        assert (data.num_classes, data.describe()["class_names"], data.describe()["axes"]) == (2, ["a", "b"], "ZYX")
        assert load(tmp_path, volumes=True, labels=False).y is None
        with pytest.raises(ValueError, match="leave them out with volumes=True"):
            load(tmp_path, volumes=True, size=4)


class TestOneImage:
    def test_transparent_pixels_become_white(self, tmp_path: Path) -> None:
        alpha = np.full((6, 8, 1), 65535, np.uint16)
        alpha[0], alpha[1] = 0, 32768
        for values in (COLOUR[0], GREY[0][..., None]):
            expected = np.rint(values * (alpha / 65535) + 65535 * (1 - alpha / 65535)).transpose(2, 0, 1)
            image = np.concatenate([values, alpha], -1)
            png(tmp_path / "a.png", image)
            tiff(
                tmp_path / "a.tif",
                image,
                photometric="rgb" if len(values[0, 0]) == 3 else "minisblack",
                extrasamples=["unassalpha"],
            )
            for name in ("a.png", "a.tif"):
                assert np.array_equal(decode_deep(tmp_path / name), expected)
                assert deep_header(tmp_path / name).channels == len(expected)
            over = np.concatenate([np.rint(values * (alpha / 65535)).astype(np.uint16), alpha], -1)
            tiff(
                tmp_path / "b.tif",
                over,
                photometric="rgb" if len(values[0, 0]) == 3 else "minisblack",
                extrasamples=["assocalpha"],
            )
            assert np.abs(decode_deep(tmp_path / "b.tif") - expected).max() <= 1

    @pytest.mark.parametrize("turned", TURNS)
    def test_orientation_is_that_of_pillow(self, tmp_path: Path, turned: int) -> None:
        values = (GREY[0] // 256).astype(np.uint8)
        tiff(tmp_path / "8.tif", values, extratags=[(274, "H", 1, turned, True)], metadata=None)
        tiff(tmp_path / "16.tif", values.astype(np.uint16), extratags=[(274, "H", 1, turned, True)], metadata=None)
        with (tmp_path / "8.tif").open("rb") as file, Image.open(file) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(decode_deep(tmp_path / "16.tif")[0], expected)
        assert deep_header(tmp_path / "16.tif").size == expected.shape[::-1]

    def test_values_of_10_and_12_bits_are_stretched(self, tmp_path: Path) -> None:
        raw = RNG.integers(0, 1024, (16, 16, 3)).astype(np.uint16)
        (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(raw, level=100, bitspersample=10))
        assert np.array_equal(decode_deep(tmp_path / "a.avif"), np.rint(raw.transpose(2, 0, 1) * (65535 / 1023)))
        assert deep_header(tmp_path / "a.avif") == ((16, 16), 3, "uint16")
        (tmp_path / "a.pgm").write_bytes(b"P5 16 16 1023\n" + raw[..., 0].astype(">u2").tobytes())
        assert np.array_equal(decode_deep(tmp_path / "a.pgm")[0], np.rint(raw[..., 0] * (65535 / 1023)))

    def test_scaling_is_that_of_8_bits(self) -> None:
        values = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
        box = (5, 0, 25, 20)
        expected = np.asarray(Image.fromarray(values).resize((7, 7), Image.Resampling.LANCZOS, box))
        found = scaled(values[None].astype(np.uint16) * 257, 7)[0]
        assert np.abs(np.rint(found / 257) - expected).max() <= 1
        assert scaled(values[None].astype(np.float32), 7).dtype == np.float32
        assert scaled(np.array([[[0, 65535], [65535, 0]]], np.uint16), 9).dtype == np.uint16  # overshoots are cut

    def test_modes(self) -> None:
        assert np.array_equal(to_mode(GREY[:1], 3), np.repeat(GREY[:1], 3, 0))
        white = np.full((3, 2, 2), 65535, np.uint16)
        assert (to_mode(white, 1) == 65535).all()


def test_without_imagecodecs_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        png(tmp_path / f"{i:02}.png", COLOUR[i])
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(ImportError, match=r"pip install 'kdiff\[tiff\]'"):
        load(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if not name.endswith(".png")]
