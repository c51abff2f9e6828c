"""A folder whose images all have more than 8 bits per channel, or other numbers of channels than 1 and 3: none is rounded.

Such images are decoded once and kept in the cache like others (`kdiff.data.image_folder`), in the type that the files have.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdiff.data.decoding import tried
from kdiff.data.deep_images import TIFF_ENDINGS, WHITE, DeepHeader, decode_deep, deep_header, scaled, to_mode, tried_deep
from kdiff.data.progress import shown
from kdiff.files import cache

CHANNELS = {"RGB": 3, "L": 1}
AT_ONCE = 16  # images that wait to be written

logger = logging.getLogger(__name__)


def is_deep(path: Path) -> bool:
    """Whether an image is deeper than Pillow reads, or a TIFF that Pillow does not read."""
    found = tried(lambda image: None, path)
    tiff = path.suffix.lower() in TIFF_ENDINGS
    return isinstance(found, str) and (found.startswith("more than 8 bits") or (tiff and "UnidentifiedImage" in found))


def read_deep_images(
    path: Path, names: Sequence[str], size: int | None, channels: str | None
) -> tuple[np.ndarray, dict[str, str], tuple[Any, ...]] | None:
    """The images of a folder without images of 8 bits, (N, C, H, W), mapped into memory; None for other folders.

    With channels="all", TIFF files of 8 bits are read here too, with every channel.
    With them come the names of unreadable images with the reasons, and a value whose `repr` differs for different contents.
    Raises ValueError for images of different sizes without `size`, types or numbers of channels.
    """
    everything = channels == "all"
    if not (everything or is_deep(path / names[0])):
        _warn_of_what_is_lost(path, names[0])
        return None
    channels = None if everything else channels
    key = ("deep", size, channels, [cache.stamp(path / name) for name in names])
    stem = cache.entry("images", *key)
    found = _kept(stem)
    if found is None:
        with cache.alone(stem):
            found = _kept(stem) or _decode_all(path, names, size, channels, stem)
    if found is None and everything:
        raise ValueError(
            f"{path}: channels='all' is for TIFF files and images of more than 8 bits per channel, and some images are others; "
            "leave it out"
        )
    return None if found is None else (*found, key)


def _warn_of_what_is_lost(path: Path, name: str) -> None:
    """Warn if Pillow reads fewer channels than a TIFF file has, or one page of several."""

    def counts(image: Image.Image) -> tuple[int, int, int]:
        if image.format != "TIFF":
            return 0, 0, 1
        samples = int(image.tag_v2.get(277, 1))  # type: ignore[attr-defined]
        return samples, len(image.getbands()), getattr(image, "n_frames", 1)

    found = tried(counts, path / name)
    if isinstance(found, str):
        return
    if found[2] > 1:
        warnings.warn(
            f"{path}: {name} has {found[2]} pages, and only the first is read; give volumes=True if each file is a volume, or "
            "name one file to take its pages as samples",
            stacklevel=4,
        )
    if found[0] > found[1]:
        warnings.warn(
            f"{path}: {name} has {found[0]} channels, and only {found[1]} of them are read; give channels='all' to read all",
            stacklevel=4,
        )


def range_of(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """The values of black and white, which are known for images of 8 and 16 bits alone."""
    return {"uint8": (0.0, 255.0), "uint16": (0.0, float(WHITE))}.get(str(dtype))


def _kept(stem: Path) -> tuple[np.ndarray, dict[str, str]] | None:
    notes, pixels = cache.kept(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
    return None if notes is None or pixels is None or len(pixels) != notes["count"] else (pixels, notes["unreadable"])


def _decode_all(
    path: Path, names: Sequence[str], size: int | None, channels: str | None, stem: Path
) -> tuple[np.ndarray, dict[str, str]] | None:
    """Decode the images into the cache; None if some have 8 bits."""
    files, cores = [path / name for name in names], os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        headers = dict(zip(names, pool.map(partial(tried_deep, deep_header), files)))
    refused = [name for name, header in headers.items() if isinstance(header, str)]
    if any(tried(lambda image: None, path / name) is None for name in refused):
        return None  # a mixed folder, in which deep images are left out and named
    logger.info("reading %d images from %s; this happens once, they are kept in %s", len(names), path, stem.parent)
    unreadable = {name: header for name, header in headers.items() if isinstance(header, str)}
    shape, dtype = common_deep_form(path, headers, size, channels)

    def one(name: str) -> np.ndarray | str:
        image = tried_deep(decode_deep, path / name)
        if isinstance(image, str):
            return image
        image = to_mode(image, shape[0])
        image = scaled(image, size) if size else image
        return image if image.shape == shape and image.dtype == dtype else f"it changed while it was read: {image.shape}"

    def images() -> Iterator[np.ndarray]:
        good = [name for name in names if name not in unreadable]
        with ThreadPoolExecutor(cores) as pool:
            for start in range(0, len(good), AT_ONCE):
                some = good[start : start + AT_ONCE]
                for name, image in zip(some, pool.map(one, some)):
                    if isinstance(image, str):
                        unreadable[name] = image
                    else:
                        yield image

    count = cache.write_images(stem.with_suffix(".npy"), shape, shown(images(), len(names), f"decoding {path}"), dtype)
    if not count:
        raise ValueError(f"{path}: none of its {len(names)} images can be read, e.g. {names[0]}: {unreadable[names[0]]}")
    cache.keep(stem.with_suffix(".json"), {"unreadable": unreadable, "count": count})
    return _kept(stem)


def common_deep_form(
    path: Path | str, headers: dict[str, DeepHeader | str], size: int | None, channels: str | None
) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """The shape (C, H, W) and the type that all images get; ValueError if there is none."""
    found = [header for header in headers.values() if isinstance(header, DeepHeader)]
    if not found:
        name, reason = next(iter(headers.items()))
        raise ValueError(f"{path}: none of its {len(headers)} images can be read, e.g. {name}: {reason}")
    sizes, counts, types = (Counter(getattr(one, fact) for one in found) for fact in ("size", "channels", "dtype"))
    if size is None and len(sizes) > 1:
        listing = _few([f"{width}×{height} ({count})" for (width, height), count in sizes.most_common()])
        raise ValueError(
            f"{path} holds images of {len(sizes)} sizes, width × height (images): {listing}; give size, "
            f"e.g. size={min(min(pair) for pair in sizes)}, to crop and scale them all to squares"
        )
    if len(types) > 1:
        listing = _few([f"{one} ({count})" for one, count in types.most_common()])
        raise ValueError(f"{path} holds images of {len(types)} types (images): {listing}; convert them to one type")
    if (len(counts) > 1 or channels) and not set(counts) <= {1, 3}:
        listing = _few([f"{one} ({count})" for one, count in counts.most_common()])
        if len(counts) > 1:
            raise ValueError(f"{path} holds images of different numbers of channels (images): {listing}; convert them to one")
        raise ValueError(f"{path} holds images of {listing} channels, and channels={channels!r} is for 1 and 3; leave it out")
    number = CHANNELS[channels] if channels else max(counts)
    width, height = (size, size) if size else found[0].size
    return (number, height, width), np.dtype(found[0].dtype)


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
