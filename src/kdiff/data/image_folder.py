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
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdiff.data.checks import check_whole
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.decoding import Header, decode, header, pixels_of, threads_for, tried
from kdiff.data.deep_folder import range_of, read_deep_images
from kdiff.data.folder_names import class_labels, few, image_names
from kdiff.data.progress import shown
from kdiff.data.volumes import load_volumes
from kdiff.files import cache

CHANNELS = {"RGB": 3, "L": 1}
AT_ONCE_BYTES = 2**26  # of decoded and scaled images that wait to be written
SMALL = 2**18  # pixels of an image that is decoded as soon as its header is read
BATCH = 32  # such images that a thread takes at once
PIXELS_AT_ONCE = 2**26  # that are decoded, besides one larger image; they take about 0.5 GB

logger = logging.getLogger(__name__)


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: str | None = None,
    flip: bool = False,
    corrupt: str = "list",
    labels: bool = True,
    volumes: bool = False,
) -> Dataset:
    """The images in a folder and its sub-folders, in the order of their names, with values 0 … 255 mapped to [−1, 1].

    If all images have more than 8 bits per channel, or other numbers of channels than 1 and 3, nothing is rounded: 0 … 65535
    of 16 bits are mapped to [−1, 1], and other types are normalised by their mean and variance (`kdiff.data.deep_folder`).

    The classes are the names of the sub-folders that hold images, in the order of the alphabet, or of the numbers if all names
    are whole numbers. There are no classes with labels=False or fewer than two such sub-folders. In a folder that the dataset
    tool of StyleGAN or EDM made, labels come from its dataset.json. `size` crops and scales every image to size × size; without
    `size`, all images must have one size. `channels` is RGB, L (grey) or, for TIFF, all; by default L if all images are grey.
    The recorded orientation is applied, transparent pixels become white, and the first picture of an animation is taken. With
    `flip`, training mirrors images at random. With `volumes`, each TIFF file is one volume (`kdiff.data.volumes`). Files that
    cannot be read are left out, counted in a warning and listed under "unreadable" in the description (corrupt="list"), or
    they raise an error (corrupt="error").

    Raises FileNotFoundError for a missing folder. Raises ValueError for a folder without images, images beside class folders,
    folders named like parts of a data set, a dataset.json that is damaged or lists other images, mixed sizes without `size`,
    unreadable files with corrupt="error", and everything that `make_dataset` refuses. Raises OSError if the cache cannot be
    written.
    """
    path = Path(path).expanduser()
    if volumes:
        if size is not None or channels is not None or flip:
            raise ValueError(f"{path}: size, channels and flip are for images; leave them out with volumes=True")
        return load_volumes(path, labels)
    names = image_names(path)
    classes, ids = class_labels(path, names) if labels else ([], None)
    check_options(size, channels, corrupt)
    deep = read_deep_images(path, names, size, channels)
    pixels, unreadable, key = read_images(path, names, size, channels, corrupt) if deep is None else deep
    if deep is not None and unreadable:
        _report(path, unreadable, len(names), corrupt)
    y = None if ids is None else np.array([i for i, name in zip(ids, names) if name not in unreadable])
    about: dict[str, Any] = {"class_names": classes} if classes else {}
    if unreadable:
        about["unreadable"] = list(unreadable)
    # The classes of dataset.json have no names, and some of them may have no image here.
    count = len(classes) or (max(1, max(ids) + 1) if ids else None)
    name = path.resolve().name
    value_range = range_of(pixels.dtype)
    normalise = "standard" if value_range is None else "range"
    return make_dataset(name, pixels, y, normalise, value_range, num_classes=count, flip=flip, about=about, identity=key)


def check_options(size: int | None, channels: str | None, corrupt: str) -> None:
    """Raise ValueError or TypeError for values of options that mean nothing."""
    if size is not None:
        check_whole("size in pixels", size, 1, int)
    if channels not in (None, "all", *CHANNELS):
        raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, all, found {channels!r}")
    if corrupt not in ("list", "error"):
        raise ValueError(f"corrupt must be list or error, found {corrupt!r}")


def read_images(
    path: Path, names: Sequence[str], size: int | None = None, channels: str | None = None, corrupt: str = "list"
) -> tuple[np.ndarray, dict[str, str], tuple[Any, ...]]:
    """Decode the images with these names as `load_folder` describes, or read them from the cache.

    Returns the pixels of the readable images, uint8 (N, C, H, W), mapped into memory; the names of the unreadable ones with the
    reasons; and a value whose `repr` differs for different contents of the folder.
    """
    check_options(size, channels, corrupt)
    # Labels are no part of the key: they follow from the names.
    key = ("folder 2", size, channels, cache.stamps(path, names))
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


def _kept(stem: Path, count: int) -> tuple[dict[str, Any], np.ndarray] | None:
    """The result of `_decode_all` for this many images from the cache; None if it is missing or incomplete."""
    notes, pixels = cache.kept(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
    if notes is None or pixels is None or len(pixels) + len(notes["unreadable"]) != count:
        return None
    return notes, pixels


def _decode_all(
    path: Path, names: Sequence[str], size: int | None, channels: str | None, stem: Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Decode the images into the cache; returns the notes on them, and the pixels, mapped into memory."""
    logger.info("reading %d images from %s; this happens once, they are kept in %s", len(names), path, stem.parent)
    unreadable = _decode_at_once(path, names, size, channels, stem)
    if unreadable is not None:
        return _written(stem, unreadable)
    unreadable, file = {}, stem.with_suffix(".npy")
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        files = [path / name for name in names]
        find = partial(tried, partial(header, size=size))
        headers = dict(zip(names, list(shown(pool.map(find, files), len(files), f"looking through {path}"))))
    mode, shape = common_form(path, headers, size, channels)
    threads = threads_for([each.pixels for each in headers.values() if isinstance(each, Header)], PIXELS_AT_ONCE, cores)
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as large:

        def begun(name: str) -> Future[np.ndarray | str]:
            """The pixels of an image, or why there are none."""
            known = headers[name]
            if isinstance(known, str):
                return pool.submit(str, known)
            where = large if known.pixels * threads > PIXELS_AT_ONCE else pool
            return where.submit(tried, partial(decode, known=known, mode=mode, size=size), path / name)

        def images() -> Iterator[np.ndarray]:
            step = max(1, AT_ONCE_BYTES // math.prod(shape))
            for start in range(0, len(names), step):
                some = names[start : start + step]
                for name, future in zip(some, [begun(name) for name in some]):
                    image = future.result()
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
    return _written(stem, unreadable)


def _written(stem: Path, unreadable: dict[str, str]) -> tuple[dict[str, Any], np.ndarray]:
    """Write the notes on the images; return them, and the pixels."""
    notes, file = {"unreadable": unreadable}, stem.with_suffix(".npy")
    cache.keep(stem.with_suffix(".json"), notes)
    pixels = cache.read_images(file)
    if pixels is None:
        raise OSError(f"{file} was written but cannot be read; set KDIFF_CACHE to another folder")
    return notes, pixels


class _OtherForm(Exception):
    """An image is large, or has another form than the first one."""


def _decode_at_once(
    path: Path, names: Sequence[str], size: int | None, channels: str | None, stem: Path
) -> dict[str, str] | None:
    """Decode small images of one form into the cache, where each file is opened once; returns the unreadable ones.

    None if the first image cannot be read, or if another one is large or has another form. The form of all images is that of
    the first one: of grey images with a coloured one among them it is not, and they are decoded in two passes.
    """
    folder = os.fspath(path)
    first = tried(partial(header, size=size), f"{folder}/{names[0]}")
    if isinstance(first, str):
        return None
    mode, shape = common_form(path, {names[0]: first}, size, channels)
    unreadable: dict[str, str] = {}
    cores = os.cpu_count() or 1
    most = min(SMALL, PIXELS_AT_ONCE // cores)

    def read(image: Image.Image) -> np.ndarray | None:
        known = header(image, size)
        if known.pixels > most or (size is None and known.size != first.size) or (mode == "L" != channels and not known.grey):
            return None
        return pixels_of(image, mode, size)

    def some(chosen: Sequence[str]) -> list[np.ndarray | str | None]:
        return [tried(read, f"{folder}/{name}") for name in chosen]

    parts = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]

    def images() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(cores) as pool:
            step = max(1, AT_ONCE_BYTES // (BATCH * math.prod(shape)))
            for start in range(0, len(parts), step):
                for part, found in zip(parts[start : start + step], list(pool.map(some, parts[start : start + step]))):
                    for name, image in zip(part, found):
                        if isinstance(image, str):
                            unreadable[name] = image
                        elif image is None or image.shape != shape:
                            raise _OtherForm
                        else:
                            yield image

    try:
        if not cache.write_images(stem.with_suffix(".npy"), shape, shown(images(), len(names), f"decoding {path}")):
            return None
    except _OtherForm:
        return None
    return unreadable


def common_form(
    path: Path | str, headers: dict[str, Header | str], size: int | None, channels: str | None
) -> tuple[str, tuple[int, int, int]]:
    """The mode and the shape (C, H, W) that all images get; ValueError if there is none."""
    found = [each for each in headers.values() if not isinstance(each, str)]
    if not found:
        name, reason = next(iter(headers.items()))
        raise ValueError(f"{path}: none of its {len(headers)} images can be read, e.g. {name}: {reason}")
    sizes = Counter(each.size for each in found)
    if size is None and len(sizes) > 1:
        listing = few([f"{width}×{height} ({count})" for (width, height), count in sizes.most_common()])
        raise ValueError(
            f"{path} holds images of {len(sizes)} sizes, width × height (images): {listing}; give size, "
            f"e.g. size={min(min(pair) for pair in sizes)}, to crop and scale them all to squares"
        )
    mode = channels or ("L" if all(each.grey for each in found) else "RGB")
    width, height = (size, size) if size else found[0].size
    return mode, (CHANNELS[mode], height, width)


def _report(path: Path, unreadable: dict[str, str], count: int, corrupt: str) -> None:
    text = f"{path}: {len(unreadable)} of {count} images cannot be read"
    listing = few([f"{name} ({reason})" for name, reason in unreadable.items()], "; ")
    if corrupt == "error":
        raise ValueError(f"{text}: {listing}. Repair or remove them, or leave them out with corrupt='list'")
    warnings.warn(f"{text} and are left out: {listing}", stacklevel=3)
