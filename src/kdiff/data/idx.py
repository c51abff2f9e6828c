"""Images in IDX files, the format of MNIST and of similar data (Fashion-MNIST, Kuzushiji-MNIST, EMNIST).

    images   00 00 08 03 | N | rows | columns | N · rows · columns bytes      sizes are big-endian 32-bit numbers
    labels   00 00 08 01 | N | N bytes

08 means bytes, and 03 or 01 is the number of axes (LeCun, Cortes and Burges, The MNIST database). Files may be gzipped.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.declared import memory
from kdiff.files import cache

IMAGES = re.compile(r"(?P<stem>.+)-images[-.]idx3-ubyte(\.gz)?")
LABELS = re.compile(r"(?P<stem>.+)-labels[-.]idx1-ubyte(\.gz)?")
FASHION_FILES = "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, t10k-images-… and t10k-labels-…"
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PIECE = 2**24  # bytes that are read at once
DATASETS = ("/usr/share/datasets", "/usr/local/share/datasets")


def fashion(part: str = "all") -> Dataset:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 grey images (1, 28, 28) of 10 classes of clothes, in [−1, 1].

    With `part` "train" these are only the 60,000 images of the training files. In both cases kdiff draws the three parts of the
    data set by its own rule. The files are looked for in $KDIFF_DATA/fashion-mnist and in the folder of Debian's package.

    Raises FileNotFoundError, which says where to get the files, if neither place has them, and everything that `load_idx`
    raises.
    """
    data = os.environ.get("KDIFF_DATA")
    places = [Path(root) / "fashion-mnist" for root in ([data] if data else []) + list(DATASETS)]
    for place in places:
        if idx_files(place):
            dataset = load_idx(place, part)
            return replace(dataset, name="fashion", about={"class_names": list(FASHION_CLASSES)})
    raise FileNotFoundError(
        f"Fashion-MNIST was not found in {', '.join(map(str, places))}; install it (Debian, Ubuntu: apt-get install "
        f"dataset-fashion-mnist), or set KDIFF_DATA to a folder and put {FASHION_FILES} into its folder fashion-mnist"
    )


def idx_files(path: Path) -> dict[str, tuple[Path, Path | None]]:
    """The pairs of image and label files in a folder by their common stem, training first; x is preferred to x.gz."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for file in sorted(path.iterdir(), reverse=True) if path.is_dir() else []:
        for pattern, files in ((IMAGES, images), (LABELS, labels)):
            if match := pattern.fullmatch(file.name):
                files[match["stem"]] = file
    return {stem: (images[stem], labels.get(stem)) for stem in sorted(images, key=lambda stem: ("train" not in stem, stem))}


def load_idx(path: str | Path, part: str = "all") -> Dataset:
    """The images (1, H, W) in a folder of IDX files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-… or similar.

    Training and test files are joined; part="train" takes only the training files. Values 0 … 255 are mapped to [−1, 1].
    Without label files the images have no labels.

    Raises FileNotFoundError for a folder without IDX images. Raises ValueError for another `part`, more than two pairs of
    files, labels for some of the images only, images of two sizes, files that `read_idx` refuses or that do not match, and
    everything that `make_dataset` refuses.
    """
    path = Path(path).expanduser()
    if part not in ("train", "all"):
        raise ValueError(f"part must be train or all, found {part!r}")
    pairs = idx_files(path)
    if not pairs:
        raise FileNotFoundError(f"no IDX images in {path}; expected files named like train-images-idx3-ubyte or …-ubyte.gz")
    if len(pairs) > 2:
        raise ValueError(
            f"{path} holds {len(pairs)} sets of IDX images ({', '.join(pairs)}), expected one for training and one for "
            "testing; put the files that belong together into a separate folder"
        )
    if part == "train":
        pairs = {stem: pair for stem, pair in pairs.items() if "train" in stem}
        if not pairs:
            raise ValueError(f"{path} holds no training images, only {', '.join(idx_files(path))}; use part='all'")
    unlabelled = [stem for stem, (_, labels) in pairs.items() if labels is None]
    if unlabelled and len(unlabelled) < len(pairs):
        raise ValueError(f"{path} holds no labels for {unlabelled[0]}: expected {unlabelled[0]}-labels-idx1-ubyte (or .gz)")
    images, labels = zip(*(_read_pair(*pair) for pair in pairs.values()))
    if len({array.shape[1:] for array in images}) > 1:
        found = ", ".join(f"{pair[0].name} {array.shape[1:]}" for pair, array in zip(pairs.values(), images))
        raise ValueError(f"{path} holds images of two sizes: {found}; put them into separate folders")
    y = None if unlabelled else np.concatenate(labels)
    key = ("idx", [cache.stamp(file) for pair in pairs.values() for file in pair if file])
    return make_dataset(path.resolve().name, np.concatenate(images)[:, None], y, "range", (0, 255), identity=key)


def _read_pair(images: Path, labels: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    x = read_idx(images, axes=3)
    y = None if labels is None else read_idx(labels, axes=1)
    if y is not None and len(x) != len(y):
        raise ValueError(f"{images} holds {len(x)} images but {labels} {len(y)} labels; they do not belong together")
    return x, y


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array in an IDX file with this number of axes; the file is gzipped if its name ends in .gz.

    No more is decompressed than the header declares. Raises ValueError, which names the file, for a damaged gzip file, another
    magic number, a number of bytes that differs from the header, and more bytes than this machine has memory.
    """
    expected, start = bytes([0, 0, 8, axes]), 4 + 4 * axes
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(start)
            if head[:4] != expected:
                raise ValueError(
                    f"{path}: begins with {head[:4].hex(' ') or 'nothing'}, expected {expected.hex(' ')}: it is no IDX file of "
                    f"bytes with {axes} axes"
                )
            sizes: Sequence[int] = struct.unpack(f">{axes}I", head[4:]) if len(head) == start else ()
            need = f"{' × '.join(map(str, sizes))} values need {start + math.prod(sizes)}" if sizes else f"header needs {start}"
            content = bytearray()
            while sizes and (piece := file.read(min(PIECE, math.prod(sizes) - len(content)))):
                content += piece
                if len(content) > memory() / 2:
                    raise ValueError(f"{path}: its {need} bytes, and this machine has {memory():.0f} bytes of memory")
            more = len(file.read(1))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or cut off, cannot be decompressed ({error}); fetch it again") from error
    if not sizes or more or len(content) < math.prod(sizes):
        found = f"{len(head) + len(content)} bytes" if not more else f"more than {len(head) + len(content)} bytes"
        wrong = "has too many bytes" if more else "is cut off"
        raise ValueError(f"{path}: holds {found}, but its {need}; it {wrong}, fetch it again")
    return np.frombuffer(content, np.uint8).reshape(sizes)
