"""One image file as pixels: its header first, then uint8 (C, H, W), upright, without transparency, cropped and scaled.

The numbers of pixels in the headers decide how many threads decode at once (`threads_for`), so memory does not grow with the
number of cores.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

TURNED = ("JPEG", "MPO", "TIFF", "WEBP", "AVIF")  # formats in which cameras record the orientation of an image
GREY = ("1", "L", "LA")
DEEP = ("I", "F")  # modes with more than 8 bits per channel begin with these letters
# Pillow reads these as 8 bits per channel: "RGB;16B" in PNG and TIFF. "BGR;16" is 16 bits per pixel.
DEEP_RAW = re.compile(r"(?!BGR).*;16[BLNS]?")

T = TypeVar("T")


class Header(NamedTuple):
    """Facts of an image that are known before it is decoded.

    - `size`: width and height, upright.
    - `grey`: whether it has no colour.
    - `pixels`: how many are decoded.
    """

    size: tuple[int, int]
    grey: bool
    pixels: int


class Content:
    """An image file that is part of an archive: a name and bytes, with what readers of images need of a path."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content, self.suffix = name, content, PurePosixPath(name).suffix

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The bytes as a file."""
        return io.BytesIO(self.content)

    def read_bytes(self) -> bytes:
        """The bytes."""
        return self.content


def threads_for(pixels: Sequence[int], limit: int, cores: int) -> int:
    """How many threads decode images with these numbers of pixels, so that they hold at most `limit` at once.

    Images with more than limit / threads pixels, at most 5 % of all, do not count: they need another thread of their own.
    A thread keeps the memory of the largest image that it has decoded, so it is not enough that threads wait for each other.
    """
    usual = sorted(pixels)[math.ceil(0.95 * len(pixels)) - 1] if pixels else 0
    return max(1, min(cores, limit // max(1, usual)))


def tried(read: Callable[[Image.Image], T], path: Path | str) -> T | str:
    """What `read` finds in the image, or why the image cannot be read."""
    try:
        # Opened by its name, an uncompressed TIFF of orientation 5 to 8 is mapped and read in rows of the wrong length.
        with open(path, "rb") as file, Image.open(file) as image:
            if found := depth_of(image, path):
                return f"more than 8 bits per channel ({found}); convert it to 8 bits"
            return read(image)
    # Damaged files raise many kinds of errors: OSError, SyntaxError, struct.error, ValueError, …
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def depth_of(image: Image.Image, file: Path | str | bytes) -> str:
    """How the file, which is given by its path or its bytes, holds more than 8 bits per channel; empty if it does not."""
    if image.mode.startswith(DEEP):
        return f"mode {image.mode}"
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(each, str) and DEEP_RAW.fullmatch(each) for each in arguments):
            return f"{arguments[0]}"
        if tile[0] == "ppm" and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return f"values up to {arguments[-1]}"
    if image.format == "AVIF":
        _, box, facts = _start(file).partition(b"av1C")
        if box and len(facts) > 2 and facts[2] & 0x40:
            return "10 or 12 bits of AVIF"
    return ""


def _start(file: Path | str | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[: 2**16]
    with open(file, "rb") as opened:
        return opened.read(2**16)


def header(image: Image.Image, size: int | None) -> Header:
    """The header of an image that is to be scaled to size × size, which is set to be decoded no larger than needed."""
    (width, height), grey = _stored_size(image), image.mode in GREY
    upright = (height, width) if _orientation(image) > 4 else (width, height)
    if size:
        image.draft(None, (2 * size, 2 * size))  # JPEG can be decoded at ½, ¼ or ⅛ of its size, which is much faster
    return Header(upright, grey, math.prod(image.size))


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in the file. For TIFF, Pillow's `size` is already upright, in newer versions."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return int(tags[256]), int(tags[257])
    return image.size


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(0x0112, 1)) if image.format in TURNED else 1


def decode(image: Image.Image, known: Header, mode: str, size: int | None) -> np.ndarray:
    """The image as uint8 (C, H, W). Raises ValueError if its header is no longer the one that is known."""
    now = header(image, size)
    if now != known:
        raise ValueError(f"it changed while it was read: {now.size[0]}×{now.size[1]}, expected {known.size[0]}×{known.size[1]}")
    return pixels_of(image, mode, size)


def pixels_of(image: Image.Image, mode: str, size: int | None) -> np.ndarray:
    """The image, whose header was read, as uint8 (C, H, W)."""
    upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    if upright.mode != mode:  # without this, a second copy of the image
        upright = upright.convert(mode)
    if size:
        width, height = upright.size
        left, top = max(0, width - height) / 2, max(0, height - width) / 2
        upright = upright.resize((size, size), Image.Resampling.LANCZOS, (left, top, width - left, height - top))
    pixels = np.asarray(upright)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
