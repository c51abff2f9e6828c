"""Images from a folder: a class per sub-folder, all brought to one size, decoded once and kept.

    photos/cats/1.jpg, photos/dogs/2.png   →   uint8 (N, C, H, W), classes cats 0, dogs 1

With `size`, the largest centred square of an image is scaled to size × size, which is to scale its shorter side and crop the
centre. Decoded images lie in the cache (`kdiff.data.cache`) under a hash of the files' names, sizes and times of change, and
are mapped into memory from there: the next start decodes nothing, and folders larger than memory can be trained on.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from kdiff.data import cache
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.progress import shown

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHANNELS = {"RGB": 3, "L": 1}
PART_NAMES = {"train", "training", "val", "valid", "validation", "test"}
TURNED = ("JPEG", "MPO", "TIFF", "WEBP")  # formats in which cameras note how to turn an image
GREY = ("1", "L", "LA")
DEEP = ("I", "F")  # modes, and beginnings of modes, of more than 8 bits per channel
AT_ONCE_BYTES = 2**26

logger = logging.getLogger(__name__)


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: str | None = None,
    flip: bool = False,
    corrupt: str = "list",
    labels: bool = True,
) -> Dataset:
    """The images in a folder and its sub-folders, in the order of their names, values 0 … 255 brought to [−1, 1].

    The classes are the sub-folders that hold images, by name; without any, with a single one, or with labels=False there are
    none. `size` crops and scales every image to size × size; without it they must all have one size. `channels` RGB or L
    (grey); by default L if all images are grey. Cameras' notes on orientation are obeyed, transparent pixels become white, of
    an animation the first picture is taken. `flip`: training mirrors images at random. Files that cannot be read are left out,
    counted in a warning and listed under "unreadable" in the description (corrupt="list"), or refused (corrupt="error").

    Raises FileNotFoundError for a missing folder; ValueError for a folder without images, images beside class folders, folders
    named like parts of a data set, mixed sizes without `size`, unreadable files if asked to, and all that `make_dataset`
    refuses; OSError if the cache cannot be written.
    """
    path = Path(path).expanduser()
    names = image_names(path)
    classes, ids = _classes(path, names) if labels else ([], None)
    pixels, unreadable, key = read_images(path, names, size, channels, corrupt)
    y = None if ids is None else np.array([i for i, name in zip(ids, names) if name not in unreadable])
    about: dict[str, Any] = {"class_names": classes} if classes else {}
    if unreadable:
        about["unreadable"] = list(unreadable)
    return make_dataset(
        path.resolve().name,
        pixels,
        y,
        normalise="range",
        value_range=(0, 255),
        num_classes=len(classes) or None,
        flip=flip,
        about=about,
        identity=key,
    )


def read_images(
    path: Path, names: Sequence[str], size: int | None = None, channels: str | None = None, corrupt: str = "list"
) -> tuple[np.ndarray, dict[str, str], tuple[Any, ...]]:
    """The images in a folder with these names, decoded as `load_folder` says; from the cache, if they were before.

    Returns the pixels of those that can be read, uint8 (N, C, H, W), mapped into memory; the names of those that cannot, and
    why; and a value whose `repr` tells any two contents of the folder apart.
    """
    _check_options(size, channels, corrupt)
    # Labels do not count: they follow from the names.
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


def _check_options(size: int | None, channels: str | None, corrupt: str) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise TypeError(f"size must be a whole number of pixels, found {size!r}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, found {size}")
    if channels is not None and channels not in CHANNELS:
        raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, found {channels!r}")
    if corrupt not in ("list", "error"):
        raise ValueError(f"corrupt must be list or error, found {corrupt!r}")


def image_names(path: Path) -> list[str]:
    """The image files below a folder as sorted relative names; what is hidden is left out, and no folder is read twice."""
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
    """The names of the classes, and the class of every image; none and None if there is nothing to tell apart."""
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops) - {""})
    beside = tops.count("")
    if classes and beside:
        raise ValueError(
            f"{path} holds {beside} images beside the folders {_few(classes)}: every image needs a class, or none; move them "
            "into a folder, or give labels=False to take no classes from folders"
        )
    if len(classes) > 1 and {name.lower() for name in classes} <= PART_NAMES:
        raise ValueError(
            f"{path} holds the folders {_few(classes)}, which look like parts of a data set, not classes: name one of them, "
            f"{path / classes[0]}, or give labels=False to take all images without classes"
        )
    if len(classes) < 2:
        return [], None
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[top] for top in tops]


def _kept(stem: Path, count: int) -> tuple[dict[str, Any], np.ndarray] | None:
    """What `_decode_all` returned for this many images, from the cache; None if it is not there or not whole."""
    notes, pixels = cache.read_json(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
    if notes is None or pixels is None or len(pixels) + len(notes["unreadable"]) != count:
        return None
    return notes, pixels


def _decode_all(
    path: Path, names: Sequence[str], size: int | None, channels: str | None, stem: Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Decode into the cache: what there is to know of it, and the pixels, mapped into memory."""
    logger.info("reading %d images from %s, once; they are kept in %s", len(names), path, stem.parent)
    unreadable: dict[str, str] = {}
    file = stem.with_suffix(".npy")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        headers = list(shown(pool.map(_header, (path / name for name in names)), len(names), f"looking through {path}"))
        mode, shape = _common_form(path, dict(zip(names, headers)), size, channels)

        def images() -> Iterator[np.ndarray]:
            step = max(1, AT_ONCE_BYTES // math.prod(shape))
            for start in range(0, len(names), step):
                some = names[start : start + step]
                for name, image in zip(some, pool.map(lambda name: _decode(path / name, mode, size, shape), some)):
                    if isinstance(image, str):
                        unreadable[name] = image
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
    """Mode and shape (C, H, W) that all images are brought to; ValueError if there is none."""
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


def _header(path: Path) -> Header | str:
    """Width and height the right way up, and whether the image is grey; or why it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(DEEP):
                return f"more than 8 bits per channel (mode {image.mode}); convert it to 8 bits"
            width, height = image.size
            return (height, width) if _orientation(image) > 4 else (width, height), image.mode in GREY
    # Damaged files raise nearly anything: OSError, SyntaxError, struct.error, ValueError, …
    except Exception as error:
        return _reason(error)


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(0x0112, 1)) if image.format in TURNED else 1


def _decode(path: Path, mode: str, size: int | None, shape: tuple[int, ...]) -> np.ndarray | str:
    """The image as uint8 (C, H, W), or why it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(DEEP):
                return f"more than 8 bits per channel (mode {image.mode}); convert it to 8 bits"
            if size:
                image.draft(None, (2 * size, 2 * size))  # JPEG can be decoded at ½, ¼ or ⅛ of its size, much faster
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
    except Exception as error:
        return _reason(error)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return pixels if pixels.shape == shape else f"its size changed while it was read: {pixels.shape}, expected {shape}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _report(path: Path, unreadable: dict[str, str], count: int, corrupt: str) -> None:
    text = f"{path}: {len(unreadable)} of {count} images cannot be read"
    listing = _few([f"{name} ({reason})" for name, reason in unreadable.items()], "; ")
    if corrupt == "error":
        raise ValueError(f"{text}: {listing}. Repair or remove them, or leave them out with corrupt='list'")
    warnings.warn(f"{text} and are left out: {listing}", stacklevel=3)


def _few(items: Sequence[str], separator: str = ", ") -> str:
    """The first five, and how many more."""
    more = [f"and {len(items) - 5} more"] if len(items) > 5 else []
    return separator.join([*items[:5], *more])
