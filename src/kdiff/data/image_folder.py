"""Images from a folder: one class per sub-folder, all scaled to one size, decoded once and kept.

    photos/cats/1.jpg, photos/dogs/2.png   →   uint8 (N, C, H, W), classes cats 0, dogs 1

With `size`, the largest centred square of an image is scaled to size × size; this crops the longer side. Decoded images are
kept in the cache (`kdiff.files.cache`) under a hash of the names, sizes and modification times of the files, and are mapped
into memory. So the next start decodes nothing, and a folder larger than memory can be used for training.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from kdiff.data.checks import check_whole
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.progress import shown
from kdiff.files import cache

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHANNELS = {"RGB": 3, "L": 1}
PART_NAMES = {"train", "training", "val", "valid", "validation", "test"}
TURNED = ("JPEG", "MPO", "TIFF", "WEBP")  # formats in which cameras record the orientation of an image
GREY = ("1", "L", "LA")
DEEP = ("I", "F")  # modes with more than 8 bits per channel begin with these letters
AT_ONCE_BYTES = 2**26

logger = logging.getLogger(__name__)

T = TypeVar("T")


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: str | None = None,
    flip: bool = False,
    corrupt: str = "list",
    labels: bool = True,
) -> Dataset:
    """The images in a folder and its sub-folders, in the order of their names, with values 0 … 255 mapped to [−1, 1].

    The classes are the names of the sub-folders that hold images. There are no classes with labels=False or fewer than two such
    sub-folders. `size` crops and scales every image to size × size; without `size`, all images must have one size. `channels`
    is RGB or L (grey); by default L if all images are grey. The recorded orientation is applied, transparent pixels become
    white, and the first picture of an animation is taken. With `flip`, training mirrors images at random. Files that cannot be
    read are left out, counted in a warning and listed under "unreadable" in the description (corrupt="list"), or they raise an
    error (corrupt="error").

    Raises FileNotFoundError for a missing folder. Raises ValueError for a folder without images, images beside class folders,
    folders named like parts of a data set, mixed sizes without `size`, unreadable files with corrupt="error", and everything
    that `make_dataset` refuses. Raises OSError if the cache cannot be written.
    """
    path = Path(path).expanduser()
    names = image_names(path)
    classes, ids = _classes(path, names) if labels else ([], None)
    pixels, unreadable, key = read_images(path, names, size, channels, corrupt)
    y = None if ids is None else np.array([i for i, name in zip(ids, names) if name not in unreadable])
    about: dict[str, Any] = {"class_names": classes} if classes else {}
    if unreadable:
        about["unreadable"] = list(unreadable)
    name, count = path.resolve().name, len(classes) or None
    return make_dataset(name, pixels, y, "range", (0, 255), num_classes=count, flip=flip, about=about, identity=key)


def read_images(
    path: Path, names: Sequence[str], size: int | None = None, channels: str | None = None, corrupt: str = "list"
) -> tuple[np.ndarray, dict[str, str], tuple[Any, ...]]:
    """Decode the images with these names as `load_folder` describes, or read them from the cache.

    Returns the pixels of the readable images, uint8 (N, C, H, W), mapped into memory; the names of the unreadable ones with the
    reasons; and a value whose `repr` differs for different contents of the folder.
    """
    if size is not None:
        check_whole("size in pixels", size, 1, int)
    if channels is not None and channels not in CHANNELS:
        raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, found {channels!r}")
    if corrupt not in ("list", "error"):
        raise ValueError(f"corrupt must be list or error, found {corrupt!r}")
    # Labels are no part of the key: they follow from the names.
    key = ("folder", size, channels, [cache.stamp(path / name) for name in names])
    stem = cache.entry("images", *key)
    found = _kept(stem, len(names))
    if found is None:
        with cache.alone(stem):
            found = _kept(stem, len(names)) or _decode_all(path, names, size, channels, stem)
    notes, pixels = found
    unreadable: dict[str, str] = notes["unreadable"]
    if unreadable:
        _report(path, unreadable, len(names), corrupt)
    return pixels, unreadable, key


def image_names(path: Path) -> list[str]:
    """The sorted relative names of the image files below a folder, without hidden files; no folder is read twice."""
    if not path.exists():
        raise FileNotFoundError(f"no folder at {path}")
    if not path.is_dir():
        raise ValueError(f"{path} is a file, expected a folder of images")
    names, others, seen = [], 0, set()
    for folder, below, files in os.walk(path, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for file in files:
            if file.lower().endswith(ENDINGS) and not file.startswith("."):
                names.append((Path(folder) / file).relative_to(path).as_posix())
            else:
                others += 1
    if not names:
        found = f"{others} other files" if others else "nothing"
        raise ValueError(f"{path} holds no images: expected files ending in {', '.join(ENDINGS)}, found {found}")
    return sorted(names)


def _classes(path: Path, names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The names of the classes and the class of every image; an empty list and None if there are fewer than two classes."""
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops) - {""})
    beside = tops.count("")
    if classes and beside:
        raise ValueError(
            f"{path} holds {beside} images beside the folders {_few(classes)}: either all images have a class or none has; "
            "move them into a folder, or give labels=False for images without classes"
        )
    if len(classes) > 1 and {name.lower() for name in classes} <= PART_NAMES:
        raise ValueError(
            f"{path} holds the folders {_few(classes)}, which look like parts of a data set, not classes; name one of them, "
            f"{path / classes[0]}, or give labels=False to take all images without classes"
        )
    if len(classes) < 2:
        return [], None
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[top] for top in tops]


def _kept(stem: Path, count: int) -> tuple[dict[str, Any], np.ndarray] | None:
    """The result of `_decode_all` for this many images from the cache; None if it is missing or incomplete."""
    notes, pixels = cache.read_json(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
    if notes is None or pixels is None or len(pixels) + len(notes["unreadable"]) != count:
        return None
    return notes, pixels


def _decode_all(
    path: Path, names: Sequence[str], size: int | None, channels: str | None, stem: Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Decode the images into the cache; returns the notes on them, and the pixels, mapped into memory."""
    logger.info("reading %d images from %s; this happens once, they are kept in %s", len(names), path, stem.parent)
    unreadable: dict[str, str] = {}
    file = stem.with_suffix(".npy")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        files = [path / name for name in names]
        headers = list(shown(pool.map(partial(_tried, _header), files), len(files), f"looking through {path}"))
        mode, shape = _common_form(path, dict(zip(names, headers)), size, channels)

        def images() -> Iterator[np.ndarray]:
            step = max(1, AT_ONCE_BYTES // math.prod(shape))
            decode = partial(_tried, partial(_decode, mode=mode, size=size))
            for start in range(0, len(names), step):
                some = slice(start, start + step)
                for name, image in zip(names[some], pool.map(decode, files[some])):
                    if isinstance(image, str):
                        unreadable[name] = image
                    elif image.shape != shape:
                        unreadable[name] = f"its size changed while it was read: {image.shape}, expected {shape}"
                    else:
                        yield image

        cache.write_images(file, shape, shown(images(), len(names), f"decoding {path}"))
    if len(unreadable) == len(names):
        file.unlink()
        raise ValueError(f"{path}: none of its {len(names)} images can be read, e.g. {names[0]}: {unreadable[names[0]]}")
    notes = {"unreadable": unreadable}
    cache.write_json(stem.with_suffix(".json"), notes)
    pixels = cache.read_images(file)
    if pixels is None:
        raise OSError(f"{file} was written but cannot be read; set KDIFF_CACHE to another folder")
    return notes, pixels


Header = tuple[tuple[int, int], bool]


def _common_form(
    path: Path, headers: dict[str, Header | str], size: int | None, channels: str | None
) -> tuple[str, tuple[int, int, int]]:
    """The mode and the shape (C, H, W) that all images get; ValueError if there is none."""
    found = [header for header in headers.values() if not isinstance(header, str)]
    if not found:
        name, reason = next(iter(headers.items()))
        raise ValueError(f"{path}: none of its {len(headers)} images can be read, e.g. {name}: {reason}")
    sizes = Counter(header[0] for header in found)
    if size is None and len(sizes) > 1:
        listing = _few([f"{width}×{height} ({count})" for (width, height), count in sizes.most_common()])
        raise ValueError(
            f"{path} holds images of {len(sizes)} sizes, width × height (images): {listing}; give size, "
            f"e.g. size={min(min(pair) for pair in sizes)}, to crop and scale them all to squares"
        )
    mode = channels or ("L" if all(grey for _, grey in found) else "RGB")
    width, height = (size, size) if size else found[0][0]
    return mode, (CHANNELS[mode], height, width)


def _tried(read: Callable[[Image.Image], T], path: Path) -> T | str:
    """What `read` finds in the image, or why the image cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(DEEP):
                return f"more than 8 bits per channel (mode {image.mode}); convert it to 8 bits"
            return read(image)
    # Damaged files raise many kinds of errors: OSError, SyntaxError, struct.error, ValueError, …
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _header(image: Image.Image) -> Header:
    """Width and height after the orientation is applied, and whether the image is grey."""
    width, height = image.size
    return (height, width) if _orientation(image) > 4 else (width, height), image.mode in GREY


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(0x0112, 1)) if image.format in TURNED else 1


def _decode(image: Image.Image, mode: str, size: int | None) -> np.ndarray:
    """The image as uint8 (C, H, W)."""
    if size:
        image.draft(None, (2 * size, 2 * size))  # JPEG can be decoded at ½, ¼ or ⅛ of its size, which is much faster
    upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    upright = upright.convert(mode)
    if size:
        width, height = upright.size
        left, top = max(0, width - height) / 2, max(0, height - width) / 2
        upright = upright.resize((size, size), Image.Resampling.LANCZOS, (left, top, width - left, height - top))
    pixels = np.asarray(upright)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _report(path: Path, unreadable: dict[str, str], count: int, corrupt: str) -> None:
    text = f"{path}: {len(unreadable)} of {count} images cannot be read"
    listing = _few([f"{name} ({reason})" for name, reason in unreadable.items()], "; ")
    if corrupt == "error":
        raise ValueError(f"{text}: {listing}. Repair or remove them, or leave them out with corrupt='list'")
    warnings.warn(f"{text} and are left out: {listing}", stacklevel=3)


def _few(items: Sequence[str], separator: str = ", ") -> str:
    """The first five items, and how many more there are."""
    more = [f"and {len(items) - 5} more"] if len(items) > 5 else []
    return separator.join([*items[:5], *more])
