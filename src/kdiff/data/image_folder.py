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

from kdiff.data import dataset_tool
from kdiff.data.checks import check_whole
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.decoding import Header, decode, header, threads_for, tried
from kdiff.data.progress import shown
from kdiff.files import cache

READ = "png jpg jpeg jpe jfif webp avif bmp gif tif tiff ppm pgm pbm pnm"
NOT_READ = "heic heif hif jp2 j2k jpx jxl jxr tga exr hdr psd svg ico apng raw dng cr2 cr3 nef arw orf rw2 pcx dds qoi dcm"
ENDINGS, OTHER_ENDINGS = (tuple(f".{ending}" for ending in text.split()) for text in (READ, NOT_READ))
CHANNELS = {"RGB": 3, "L": 1}
PART_NAMES = {"train", "training", "val", "valid", "validation", "test"}
AT_ONCE_BYTES = 2**26  # of decoded and scaled images that wait to be written
PIXELS_AT_ONCE = 2**26  # that are decoded, besides one larger image; they take about 0.5 GB

logger = logging.getLogger(__name__)


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: str | None = None,
    flip: bool = False,
    corrupt: str = "list",
    labels: bool = True,
) -> Dataset:
    """The images in a folder and its sub-folders, in the order of their names, with values 0 … 255 mapped to [−1, 1].

    The classes are the names of the sub-folders that hold images, in the order of the alphabet, or of the numbers if all names
    are whole numbers. There are no classes with labels=False or fewer than two such sub-folders. In a folder that the dataset
    tool of StyleGAN or EDM made, labels come from its dataset.json. `size` crops and scales every image to size × size; without
    `size`, all images must have one size. `channels` is RGB or L (grey); by default L if all images are grey. The recorded
    orientation is applied, transparent pixels become white, and the first picture of an animation is taken. With `flip`,
    training mirrors images at random. Files that cannot be read are left out, counted in a warning and listed under
    "unreadable" in the description (corrupt="list"), or they raise an error (corrupt="error").

    Raises FileNotFoundError for a missing folder. Raises ValueError for a folder without images, images beside class folders,
    folders named like parts of a data set, a dataset.json that is damaged or lists other images, mixed sizes without `size`,
    unreadable files with corrupt="error", and everything that `make_dataset` refuses. Raises OSError if the cache cannot be
    written.
    """
    path = Path(path).expanduser()
    names = image_names(path)
    classes, ids = _labels(path, names) if labels else ([], None)
    pixels, unreadable, key = read_images(path, names, size, channels, corrupt)
    y = None if ids is None else np.array([i for i, name in zip(ids, names) if name not in unreadable])
    about: dict[str, Any] = {"class_names": classes} if classes else {}
    if unreadable:
        about["unreadable"] = list(unreadable)
    # The classes of dataset.json have no names, and some of them may have no image here.
    count = len(classes) or (max(1, max(ids) + 1) if ids else None)
    name = path.resolve().name
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
    key = ("folder 2", size, channels, [cache.stamp(path / name) for name in names])
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
    names, others, seen, left_out = [], 0, set(), Counter[str]()
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
                if file.lower().endswith(OTHER_ENDINGS) and not file.startswith("."):
                    left_out[Path(file).suffix.lower()] += 1
    if not names:
        found = f"{others} other files" if others else "nothing"
        raise ValueError(f"{path} holds no images: expected files ending in {', '.join(ENDINGS)}, found {found}")
    if left_out:
        listing = ", ".join(f"{ending} ({count})" for ending, count in left_out.most_common())
        warnings.warn(
            f"{path}: {left_out.total()} pictures are left out, because kdiff does not read {listing}; convert them to .png",
            stacklevel=3,
        )
    return sorted(names)


def _labels(path: Path, names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The names of the classes, if the images have classes with names, and the class of every image or None."""
    if dataset_tool.has_labels(path):
        return [], dataset_tool.read_labels(path, names)
    classes, ids = _classes(path, names)
    if classes and dataset_tool.look_like_chunks(names):
        warnings.warn(
            f"{path}: the folders {_few(classes)} look like chunks of numbered images, and they are taken as classes; give "
            "labels=False if they are no classes",
            stacklevel=3,
        )
    return classes, ids


def _classes(path: Path, names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The names of the classes and the class of every image; an empty list and None if there are fewer than two classes."""
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops) - {""})
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)  # 1, 2, 10
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
    notes, pixels = cache.kept(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
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
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        files = [path / name for name in names]
        find = partial(tried, partial(header, size=size))
        headers = dict(zip(names, list(shown(pool.map(find, files), len(files), f"looking through {path}"))))
    mode, shape = _common_form(path, headers, size, channels)
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
    notes = {"unreadable": unreadable}
    cache.keep(stem.with_suffix(".json"), notes)
    pixels = cache.read_images(file)
    if pixels is None:
        raise OSError(f"{file} was written but cannot be read; set KDIFF_CACHE to another folder")
    return notes, pixels


def _common_form(
    path: Path, headers: dict[str, Header | str], size: int | None, channels: str | None
) -> tuple[str, tuple[int, int, int]]:
    """The mode and the shape (C, H, W) that all images get; ValueError if there is none."""
    found = [each for each in headers.values() if not isinstance(each, str)]
    if not found:
        name, reason = next(iter(headers.items()))
        raise ValueError(f"{path}: none of its {len(headers)} images can be read, e.g. {name}: {reason}")
    sizes = Counter(each.size for each in found)
    if size is None and len(sizes) > 1:
        listing = _few([f"{width}×{height} ({count})" for (width, height), count in sizes.most_common()])
        raise ValueError(
            f"{path} holds images of {len(sizes)} sizes, width × height (images): {listing}; give size, "
            f"e.g. size={min(min(pair) for pair in sizes)}, to crop and scale them all to squares"
        )
    mode = channels or ("L" if all(each.grey for each in found) else "RGB")
    width, height = (size, size) if size else found[0].size
    return mode, (CHANNELS[mode], height, width)


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
