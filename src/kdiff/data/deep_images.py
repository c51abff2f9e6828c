"""Image files with more than 8 bits per channel, or any number of channels, as arrays (C, H, W) of their own type.

    PNG, PGM, PPM, AVIF     uint16, with 0 black and 65535 white; 10 and 12 bits are stretched to 16
    TIFF                    the type of the file: whole numbers or floats, any number of channels

Pillow reads the colours of such files at 8 bits, so PNG and AVIF are decoded by imagecodecs, and TIFF by tifffile.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from kdiff.data.decoding import Content
from kdiff.data.formats import needed
from kdiff.data.formats.tiff import opened_file
from kdiff.data.formats.tiff_axes import CHANNEL

WHITE = 65535
TIFF_ENDINGS = (".tif", ".tiff")
GREY = np.array([299, 587, 114]) / 1000  # of red, green and blue, as in Pillow
# Orientation in a TIFF file: whether rows and columns are exchanged, and then rows and columns are reversed.
TURNS = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
NETPBM = re.compile(rb"P([56])\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s")

T = TypeVar("T")


class DeepHeader(NamedTuple):
    """Facts of an image that are known before it is decoded: width and height, upright; channels without alpha; type."""

    size: tuple[int, int]
    channels: int
    dtype: str


def tried_deep(read: Callable[[Path | Content], T], path: Path | Content) -> T | str:
    """What `read` finds in the file, or why it cannot be read. Raises ImportError if a package is missing."""
    try:
        return read(path)
    except ImportError:
        raise
    except Exception as error:  # damaged files raise many kinds
        return " ".join(f"{type(error).__name__}: {error}".split())


def deep_header(path: Path | Content) -> DeepHeader:
    """The header of an image. Raises ValueError for files of several pages, and for images of 8 bits that are no TIFF."""
    if path.suffix.lower() in TIFF_ENDINGS:
        with opened_file(path) as tif:
            page, axes = _single(tif)
            size, channels = (int(page.shape[axes.index("X")]), int(page.shape[axes.index("Y")])), _channels(page, axes)
            turned = TURNS[_orientation(page)][0]
            return DeepHeader(size[::-1] if turned else size, channels, str(_type(page)))
    with path.open("rb") as file:
        start = file.read(2**16)
    if start.startswith(b"\x89PNG"):
        if start[24] != 16:
            raise ValueError(f"{start[24]} bits per channel, expected 16 like the other images")
        return DeepHeader(
            (int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")), 3 if start[25] & 2 else 1, "uint16"
        )
    if match := NETPBM.match(start):
        kind, width, height, top = map(int, match.groups())
        if top < 256:
            raise ValueError(f"values up to {top}, expected more than 8 bits like the other images")
        return DeepHeader((width, height), 3 if kind == 6 else 1, "uint16")
    if b"av1C" in start and _avif_bits(start) > 8:
        with path.open("rb") as file, Image.open(file) as image:
            return DeepHeader(image.size, 3, "uint16")
    raise ValueError("8 bits per channel, or another format, expected more like the other images")


def decode_deep(path: Path | Content) -> np.ndarray:
    """The image (C, H, W), upright. Transparent pixels become white. Raises ValueError for a damaged file."""
    if path.suffix.lower() in TIFF_ENDINGS:
        return _tiff(path)
    content = path.read_bytes()
    if content.startswith(b"\x89PNG"):
        return _opaque(_channels_first(needed("imagecodecs", f"{path} (PNG of 16 bits)").png_decode(content)))
    if match := NETPBM.match(content):
        _, width, height, top = map(int, match.groups())
        channels = 3 if content[1:2] == b"6" else 1
        count = width * height * channels
        if len(content) - match.end() < 2 * count:
            raise ValueError("the file is cut off")
        raw = np.frombuffer(content, ">u2", count, match.end()).astype(np.float64)
        return _stretched(raw.reshape(height, width, channels).transpose(2, 0, 1), top)
    raw = needed("imagecodecs", f"{path} (AVIF of more than 8 bits)").avif_decode(content)
    values = _opaque(_stretched(_channels_first(raw), 2 ** _avif_bits(content[: 2**16]) - 1))
    return values if len(values) == 3 else values.repeat(3, 0)


def to_mode(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey as three equal channels, or colours as one; other images unchanged. In the type of the image."""
    if len(image) == channels:
        return image
    if len(image) == 1:
        return image.repeat(channels, 0)
    return _rounded(np.tensordot(GREY, image.astype(np.float64), 1)[None], image.dtype)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square, scaled to size × size, in the type of the image; as in `kdiff.data.decoding`."""
    height, width = image.shape[1:]
    left, top = max(0, width - height) / 2, max(0, height - width) / 2
    box = (left, top, width - left, height - top)
    pages = [Image.fromarray(page.astype(np.float32)).resize((size, size), Image.Resampling.LANCZOS, box) for page in image]
    return _rounded(np.stack([np.asarray(page) for page in pages]), image.dtype)


def _rounded(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(values.astype(np.float64)), ends.min, ends.max).astype(dtype)


def _stretched(values: np.ndarray, top: int) -> np.ndarray:
    """Values 0 … top as uint16 0 … 65535."""
    return np.rint(values * (WHITE / top)).astype(np.uint16)


def _channels_first(values: np.ndarray) -> np.ndarray:
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def _opaque(image: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """The image (C, H, W) without its last channel if that is alpha (2 or 4 channels), before white."""
    if len(image) not in (2, 4):
        return image
    white = float(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else 1.0
    colour, alpha = image[:-1].astype(np.float64), image[-1:] / white
    over = colour if premultiplied else colour * alpha
    return _rounded(over + white * (1 - alpha), image.dtype)


def _avif_bits(start: bytes) -> int:
    facts = start.partition(b"av1C")[2]
    flags = facts[2] if len(facts) > 2 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _single(tif: Any) -> tuple[Any, str]:
    """The only page of a TIFF file and its axes."""
    series = tif.series[0]
    if len(tif.series) > 1 or len(series.pages) > 1:
        found = f"{len(tif.series)} series" if len(tif.series) > 1 else f"{len(series.pages)} pages ({series.axes})"
        raise ValueError(f"{found} in a file, expected one image; give volumes=True if each file is a volume")
    page = series.keyframe
    axes = "".join("C" if letter in CHANNEL else letter for letter in page.axes)
    if sorted(axes) not in (["X", "Y"], ["C", "X", "Y"]) or page.dtype is None or page.dtype.kind not in "iuf":
        raise ValueError(f"axes {page.axes} and type {page.dtype}, expected rows, columns and channels of numbers")
    if page.photometric.name == "PALETTE":
        raise ValueError("a palette of more than 8 bits; convert it to RGB")
    return page, axes


def _type(page: Any) -> np.dtype[Any]:
    return np.dtype(page.dtype.newbyteorder("="))


def _alpha(page: Any) -> str:
    """Whether the last channel is alpha: ASSOCALPHA, UNASSALPHA or an empty text."""
    count = page.samplesperpixel
    extra = [one.name for one in page.extrasamples or ()]
    colours = {"RGB": 3, "MINISBLACK": 1}.get(page.photometric.name)
    return extra[-1] if len(extra) == 1 and extra[-1].endswith("ALPHA") and count - 1 == colours else ""


def _channels(page: Any, axes: str) -> int:
    return int(page.shape[axes.index("C")] if "C" in axes else 1) - bool(_alpha(page))


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in TURNS else 1


def _tiff(path: Path | Content) -> np.ndarray:
    with opened_file(path) as tif:
        page, axes = _single(tif)
        values = page.asarray()
        values = values.astype(_type(page), copy=False)
        image = values[None] if "C" not in axes else np.moveaxis(values, axes.index("C"), 0)
        if page.photometric.name == "MINISWHITE" and image.dtype.kind == "u":
            image = np.iinfo(image.dtype).max - image
        if alpha := _alpha(page):
            image = _opaque(image, alpha == "ASSOCALPHA")
        transposed, rows, columns = TURNS[_orientation(page)]
    image = image.swapaxes(1, 2) if transposed else image
    return np.ascontiguousarray(image[:, :: -1 if rows else 1, :: -1 if columns else 1])
