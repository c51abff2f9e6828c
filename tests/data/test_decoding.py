"""Image files one by one: how deep they are, and how many pixels are decoded at once."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from kdiff.data import decoding, image_folder, load
from kdiff.data.decoding import header, tried

RNG = np.random.default_rng(0)
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour types: grey, colour, grey with alpha, colour with alpha


def png(colour: int, depth: int) -> bytes:
    """A 4×4 PNG of a colour type."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + RNG.bytes(4 * PNG_CHANNELS[colour] * depth // 8) for _ in range(4))
    facts = struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", facts) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(channels: int, depth: int) -> bytes:
    """A 2×2 TIFF without compression."""
    content, start = RNG.bytes(4 * channels * depth // 8), 8 + 2 + 9 * 12 + 4
    depths = struct.pack(f"<{channels}H", *[depth] * channels)
    place = start if channels > 2 else depth
    entries = {256: 2, 257: 2, 258: place, 259: 1, 262: 2 if channels > 2 else 1, 273: start + len(depths), 277: channels}
    entries |= {278: 2, 279: len(content)}
    listed = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, channels if tag == 258 else 1, value)
        for tag, value in entries.items()
    )
    return b"II*\0" + struct.pack("<IH", 8, 9) + listed + bytes(4) + depths + content


def ppm(kind: str, high: int) -> bytes:
    return f"{kind} 4 4 {high}\n".encode() + RNG.bytes(16 * (3 if kind == "P6" else 1) * (2 if high > 255 else 1))


DEEP = {
    **{f"{colour}.png": png(colour, 16) for colour in PNG_CHANNELS},
    "1.tif": tiff(1, 16),
    "3.tif": tiff(3, 16),
    "6.ppm": ppm("P6", 65535),
    "6b.ppm": ppm("P6", 1023),
    "5.pgm": ppm("P5", 65535),
}
PLAIN = {
    **{f"{colour}.png": png(colour, 8) for colour in PNG_CHANNELS},
    "3.tif": tiff(3, 8),
    "6.ppm": ppm("P6", 255),
    "5.pgm": ppm("P5", 15),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_per_channel_are_told(tmp_path: Path, name: str) -> None:
    """Pillow reads most of these at 8 bits without a word."""
    (tmp_path / name).write_bytes(DEEP[name])
    found = tried(lambda image: image.mode, tmp_path / name)
    assert found.startswith("more than 8 bits per channel (")
    assert found.endswith("convert it to 8 bits")


@pytest.mark.parametrize("name", PLAIN)
def test_8_bits_or_fewer_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PLAIN[name])
    assert tried(lambda image: image.load() is not None, tmp_path / name) is True


def test_16_bits_per_pixel_are_not_deep(tmp_path: Path) -> None:
    """A BMP of 5, 6 and 5 bits per channel."""
    content = bytes(2 * 4 * 4)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 3, len(content), 0, 0, 0, 0)
    path = tmp_path / "a.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 66 + len(content), 0, 0, 66) + info + masks + content)
    assert tried(lambda image: image.tile[0][3][0], path) == "BGR;16"


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_and_other_names_of_jpeg(tmp_path: Path) -> None:
    for i in range(30):
        pixels = Image.fromarray(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        pixels.save(tmp_path / f"{i}{('.avif', '.jfif', '.jpe')[i % 3]}", ("AVIF", "JPEG", "JPEG")[i % 3])
    assert load(tmp_path).x.shape == (30, 3, 8, 8)
    file = io.BytesIO()
    pixels.save(file, "AVIF")
    content = bytearray(file.getvalue())
    content[content.index(b"av1C") + 6] |= 0x40  # what a file of 10 bits says, in both places
    depths = content.index(b"pixi") + 9
    content[depths : depths + 3] = b"\n\n\n"
    (tmp_path / "deep.avif").write_bytes(content)
    assert tried(lambda image: image.mode, tmp_path / "deep.avif").startswith("more than 8 bits per channel (10 or 12 bits")


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for i in range(30):
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
    for name in ("a.HEIC", "b.heic", "c.jp2", "notes.txt", ".hidden.heic"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"3 pictures are left out, because kdiff does not read \.heic \(2\), \.jp2 \(1\)"):
        load(tmp_path)


class TestPixelsAtOnce:
    @pytest.mark.parametrize(
        ("pixels", "expected"),
        [([12] * 100, 8), ([30] * 100, 3), ([200] * 100, 1), ([5] * 95 + [900] * 5, 8), ([5] * 94 + [50] * 6, 2), ([], 8)],
    )
    def test_the_number_of_threads(self, pixels: list[int], expected: int) -> None:
        threads = decoding.threads_for(pixels, 100, 8)
        assert threads == expected
        assert threads == 1 or sum(each * threads > 100 for each in pixels) <= 0.05 * len(pixels)

    def test_folders_decode_no_more_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sides = {f"{i:02}.png": (30, 20) for i in range(60)} | {"20.png": (90, 80), "21.png": (100, 80), "22.png": (90, 70)}
        for name, side in sides.items():
            Image.fromarray(RNG.integers(0, 256, (*side, 3)).astype(np.uint8)).save(tmp_path / name)
        original, lock, now, counts = decoding.decode, threading.Lock(), list[int](), list[list[int]]()

        def counted(image: Image.Image, **options: object) -> np.ndarray:
            pixels = image.size[0] * image.size[1]
            with lock:
                now.append(pixels)
                counts.append(list(now))
            try:
                return original(image, **options)
            finally:
                with lock:
                    now.remove(pixels)

        monkeypatch.setattr(image_folder, "decode", counted)
        monkeypatch.setattr(image_folder.os, "cpu_count", lambda: 16)
        monkeypatch.setattr(image_folder, "PIXELS_AT_ONCE", 1300)
        assert len(load(tmp_path, size=4).x) == len(counts) == 60
        for held in counts:
            large = [pixels for pixels in held if pixels > 650]
            assert len(large) <= 1
            assert sum(held) - sum(large) <= 1300

    def test_jpeg_counts_as_it_is_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        Image.fromarray(np.zeros((400, 800, 3), np.uint8)).save(path)
        with Image.open(path) as image:
            assert header(image, 16) == ((800, 400), False, 50 * 100)
        with Image.open(path) as image:
            assert header(image, None) == ((800, 400), False, 400 * 800)

    def test_a_file_that_grew_is_not_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(path)
        known = decoding.Header((4, 4), False, 16)
        found = tried(lambda image: decoding.decode(image, known, "RGB", None), path)
        assert found == "ValueError: it changed while it was read: 5×6, expected 4×4"


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_turned_tiff_files_are_read_upright(tmp_path: Path, turned: int, compression: str | None) -> None:
    """Pillow 13 scrambles uncompressed ones of orientation 5 to 8 if it opens them by name (findings/)."""
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif, compression=compression)
    ways = (Image.Transpose(way) for way in (0, 3, 1, 5, 4, 6, 2))
    expected = dict(enumerate((Image.fromarray(pixels).transpose(way) for way in ways), 2)).get(turned, Image.fromarray(pixels))
    known = tried(lambda image: header(image, None), tmp_path / "a.tif")
    assert known.size == expected.size
    found = tried(lambda image: decoding.decode(image, known, "L", None), tmp_path / "a.tif")
    assert np.array_equal(found[0], np.asarray(expected))
