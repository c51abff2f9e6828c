"""Sets of images in the form that the judging networks take: uint8 (N, C, H, W) with C = 1 or 3, a batch at a time.

    byte = round(255 (x - low) / (high - low)), clipped to 0 ... 255

A model's samples are floats and a folder's images are bytes. Images that are compared must be rounded in the same way, so this
is the only place that rounds them. Data that were scaled from 0 ... 255 to [-1, 1] become exactly the same bytes again. Which
values are black and white is known only for data with a value_range. For other data the extremes of the training part are
taken, with a warning, and such images are not compared with images from elsewhere.

Images come from a folder, from a `.npz` in the layout of ADM's evaluation (Dhariwal and Nichol, 2021; `arr_0` uint8
N x H x W x 3), from a data set, or from a run (`kdiff.evaluation.image_shards`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.config.parts import parse, resolve
from kdiff.data import Normalisation, Samples
from kdiff.data.image_folder import image_names, read_images

SAMPLES = "arr_0"
USUAL = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))  # values of black and white
STRETCH = 1e-3  # of the range, a quarter of a byte: extremes so near to a usual range are that range


@dataclass(frozen=True)
class Images:
    """A set of images.

    Attributes:
        count: N.
        shape: (C, H, W).
        read: `read(size)` yields all images in order, as uint8 tensors (n, C, H, W) with n up to `size`.
        facts: facts for the stamp of a result.
    """

    count: int
    shape: tuple[int, int, int]
    read: Callable[[int], Iterator[Tensor]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def quantise(x: Tensor, low: float, high: float) -> Tensor:
    """Images as bytes: `low` becomes 0, `high` 255, halves are rounded to even, values beyond are clipped.

    Raises:
        ValueError: values that are not finite.
    """
    if not x.isfinite().all():
        broken = int((~x.flatten(1).isfinite().all(1)).sum())
        raise ValueError(f"{broken} of {len(x)} images have values that are not finite (NaN or infinite)")
    return ((x.float() - low) * (255 / (high - low))).round_().clamp_(0, 255).to(torch.uint8)


def value_range(data: Mapping[str, Any]) -> tuple[float, float]:
    """Black and white of normalised images, from the facts of their data: [-1, 1], or the extremes of the training part."""
    if data["normalisation"]["kind"] == "range":
        return -1.0, 1.0
    return float(data["min"]), float(data["max"])


def guessed_range(data: Mapping[str, Any]) -> tuple[str, bool]:
    """One line on black and white of normalised images if they are guessed, else "", and whether the guess is a usual range.

    If the extremes of the training part are 0 and 255, 0 and 1, or −1 and 1, nothing is stretched.
    """
    normalisation = Normalisation.from_description(data["normalisation"])
    if normalisation.kind == "range":
        return "", True
    said, usual = f"the extremes of the data after normalisation by {normalisation.kind!r}, which changes the colours", False
    if normalisation.shift.numel() == 1:
        extremes = normalisation.undo(torch.tensor(value_range(data))).flatten().tolist()
        said = "{:.6g} and {:.6g}, the extremes of the training part".format(*extremes)
        usual = any(max(abs(a - b) for a, b in zip(extremes, pair)) < STRETCH * (pair[1] - pair[0]) for pair in USUAL)
    return f"{data['name']} has no value_range, so black and white are taken as {said}", usual


def check_ranges(judged: Mapping[str, Any] | None, reference: Mapping[str, Any] | None, against: str) -> list[str]:
    """Warnings about guessed values of black and white in images that are compared.

    Args:
        judged: the facts of the data that the judged samples are normalised by; None for images that are bytes already.
        reference: the same for the reference.
        against: what the judged images are compared with, for the message.

    Raises:
        ValueError: black and white are guessed for one side, not as a usual range, and the other side does not share the guess.
    """
    guesses = dict(guessed_range(data) for data in (judged, reference) if data)
    guesses.pop("", None)
    same = ("fingerprint", "normalisation", "min", "max")
    shared = judged is not None and reference is not None and all(judged[key] == reference[key] for key in same)
    for note, usual in guesses.items():
        if not (shared or usual):
            raise ValueError(
                f"{note}. Such images cannot be compared with {against}: train on data with the two values that are black and "
                'white, as in --data "images.npz(value_range=[0, 255])", or turn samples of kdiff sample into bytes (uint8) '
                "and judge these"
            )
    more = "compare the figures only with those of the same data" if shared else "give the data a value_range if this is wrong"
    return [f"{note}: {more}" for note, usual in guesses.items() if not (shared and usual)]


def check_image_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape, if it is that of an image, (1 or 3, H, W); else ValueError."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"{name}: samples of shape {tuple(shape)} are not images with 1 or 3 channels, which image features need; kdiff "
            "evaluate RUN without --features and --reference judges samples of any shape"
        )
    return (shape[0], shape[1], shape[2])


def data_images(name: str, x: Samples, low: float, high: float, facts: Mapping[str, Any]) -> Images:
    """Normalised images (N, C, H, W) of a data set, as bytes."""
    shape = check_image_shape(name, tuple(x.shape[1:]))
    return Images(len(x), shape, lambda size: (quantise(chunk, low, high) for chunk in x.split(size)), facts)


def open_images(source: str) -> Images:
    """The images in a folder or a `.npz`; only what tells their number and shape is read now.

    Args:
        source: a path; `photos(size=64)` crops and scales every image of a folder to 64 x 64.

    Raises:
        FileNotFoundError: nothing at that path.
        ValueError: fewer than 2 images, images of several sizes, an unknown option, a file that is damaged, or one of another
            kind or type.
    """
    part = parse(source)
    path = Path(part.name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no folder of images and no .npz at {path}")
    if not path.is_dir() and path.suffix != ".npz":
        raise ValueError(f"{path} is neither a folder of images nor a .npz{pickle_hint(path)}")
    read = partial(_folder if path.is_dir() else _npz, path)
    images: Images = resolve("set of images", part, {part.name: read})()
    if images.count < 2:
        raise ValueError(f"{path} holds {images.count} image; expected at least 2, and thousands for a reliable figure")
    return images


def pickle_hint(path: Path) -> str:
    """An addition to an error message, for a file that is a pickle."""
    if path.suffix not in (".pkl", ".pickle"):
        return ""
    return (
        "; pickles, such as EDM2's statistics, can run code and are not read: if you trust the file, load it yourself and save "
        "its mean and covariance by np.savez(file, mu=…, sigma=…), or make statistics with --save-statistics"
    )


def _folder(path: Path, size: int | None = None) -> Images:
    names = image_names(path)
    pixels, unreadable, _ = read_images(path, names, size)
    facts = {"images": str(path), **({"size": size} if size else {}), **({"unreadable": len(unreadable)} if unreadable else {})}

    def read(batch: int) -> Iterator[Tensor]:
        for start in range(0, len(pixels), batch):
            yield torch.from_numpy(np.array(pixels[start : start + batch]))

    count, channels, height, width = pixels.shape
    return Images(count, (channels, height, width), read, facts)


def _npz(path: Path) -> Images:
    with opened_npz(path) as archive:
        if f"{SAMPLES}.npy" not in archive.namelist():
            raise ValueError(
                f"{path} holds {', '.join(name.removesuffix('.npy') for name in archive.namelist()) or 'nothing'}; expected "
                f"images as {SAMPLES}, uint8 N×H×W×3, as np.savez(file, images) writes them"
            )
        with archive.open(f"{SAMPLES}.npy") as file:
            shape, order, dtype = _header(path, file)
    if dtype != np.uint8:
        raise ValueError(
            f"{path}: {SAMPLES} is {dtype}, expected uint8 from 0 to 255; convert images x in [-1, 1] by "
            "np.clip(np.round(127.5 * x + 127.5), 0, 255).astype(np.uint8)"
        )
    if len(shape) != 4 or shape[3] not in (1, 3) or order:
        raise ValueError(
            f"{path}: {SAMPLES} has shape {shape}{' in Fortran order' if order else ''}, expected N×H×W×3; "
            "convert N×3×H×W by np.ascontiguousarray(images.transpose(0, 2, 3, 1))"
        )
    count, height, width, channels = shape

    def read(batch: int) -> Iterator[Tensor]:
        # A piece at a time: np.load would read all images at once, and fifty thousand may not fit into memory.
        with opened_npz(path) as archive, archive.open(f"{SAMPLES}.npy") as file:
            _header(path, file)
            for start in range(0, count, batch):
                n = min(batch, count - start)
                try:
                    raw = file.read(n * height * width * channels)
                except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                    raise ValueError(f"{path} is damaged ({error}); create it again") from None
                if len(raw) < n * height * width * channels:
                    raise ValueError(f"{path} is cut short: it ends before image {start + n} of {count}; create it again")
                pixels = np.frombuffer(raw, np.uint8).reshape(n, height, width, channels)
                yield torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())

    return Images(count, (channels, height, width), read, {"images": str(path)})


def opened_npz(path: Path) -> zipfile.ZipFile:
    """A `.npz`, opened; a damaged file raises ValueError."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error}); if it is damaged, create it again") from None


def _header(path: Path, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type of an array in .npy format; the file then stands at the first value."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, order, dtype = read(file)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: {SAMPLES} is damaged ({error}); create it again") from None
    return shape, order, dtype
