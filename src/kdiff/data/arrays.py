"""Data from array files: .npy, .npz and .safetensors. Nothing is ever unpickled.

One array holds the samples, of shape (N, D), (N, C, H, W) or similar. An optional second array holds their labels, (N,). Large
.npy files are mapped into memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kdiff.data import opened
from kdiff.data.arranged import Stacked
from kdiff.data.checks import to_numpy
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.declared import Declared, check_declared, declared_arrays
from kdiff.data.label_hints import warn_of_siblings, warn_of_unused
from kdiff.files import cache

Array = np.ndarray | Tensor
DATA_KEY, LABEL_KEY = "x", "y"
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z")
LAYOUTS = ("channels_first", "channels_last")
MAPPED_BYTES = 2**24  # .npy files above this size are mapped into memory

T = TypeVar("T")


def load_array(
    path: str | Path,
    key: str | Sequence[str] = DATA_KEY,
    label_key: str = LABEL_KEY,
    labels: str | Path | None = None,
    normalise: str | None = None,
    value_range: tuple[float, float] | None = None,
    num_classes: int | None = None,
    layout: str | None = None,
    flip: bool = False,
    condition: str | Sequence[str] | Mapping[str, str] | None = None,
    missing: str = "refuse",
) -> Dataset:
    """The data set in a file. Its name is the name of the file.

    In .npz and .safetensors files, `key` names the samples and `label_key` the labels. Several arrays, as in key=[u, v], become
    the channels of one sample (`kdiff.data.arranged.Stacked`). If there is no array under the default
    `key`, the only other array of numbers of rank 2 or more is taken; without an array under the default `label_key` there are
    no labels, and a warning names the arrays that look like labels. For a .npy file, `labels` is the path of a second .npy
    file. The default of `normalise` (see `make_dataset`) is range if `value_range` is given or for uint8 of rank 3 or more
    (images, with (0, 255)), else features for rank 2, channels for several arrays and standard for others of a higher rank.

    Images are (N, C, H, W). `layout` channels_last says that they are (N, H, W, C), and they are transposed; channels_first
    says that they are (N, C, H, W) although they look different. Arrays (N, H, W) of type uint8 are grey images and become
    (N, 1, H, W). With `flip`, training mirrors images at random.

    `condition` names further arrays (N, ...) of the file, each a condition; a mapping gives their kinds, as in
    condition={params: vector} (`kdiff.data.condition`). `missing` says what happens to NaN (`kdiff.data.missing`).

    Raises FileNotFoundError for a missing file. Raises ValueError for another ending, a folder, a file that cannot be read,
    arrays of Python objects, keys that are missing or ambiguous, images of type uint8 that look like (N, H, W, C) without a
    `layout`, and everything that `make_dataset` refuses.
    """
    path = checked_path(path)
    keys: list[str] = []
    if path.suffix.lower() == ".npy":
        if (key, label_key) != (DATA_KEY, LABEL_KEY):
            raise ValueError(f"{path}: a .npy file holds one array and has no keys; give its labels with labels=PATH.npy")
        raw = _read(path, "")
        if condition is not None:
            raise ValueError(f"{path}: a .npy file holds one array; save samples and conditions together by np.savez")
        given: dict[str, Array] = {}
        y = None if labels is None else _read(_labels_path(labels), "")
        if y is None and raw.ndim:
            warn_of_siblings(path, len(raw))
    else:
        if labels is not None:
            raise ValueError(f"{path}: labels=PATH is for .npy files; name the array of labels in this file with label_key")
        there = _attempted(path, lambda: declared_arrays(path))
        names = [condition] if isinstance(condition, str) else list(condition or [])
        if unknown := [name for name in names if name not in there]:
            raise ValueError(f"{path}: no condition under {unknown[0]!r}; the file holds {_listing(there)}")
        given = {name: _read(path, name) for name in names}
        keys = _data_keys(path, {name: one for name, one in there.items() if name not in names}, key, label_key)
        if label_key not in there and label_key != LABEL_KEY:
            raise ValueError(f"{path}: no labels under {label_key!r}; the file holds {_listing(there)}")
        y = _read(path, label_key) if label_key in there else None
        if y is None and there[keys[0]].shape:
            unused = {name: one for name, one in there.items() if name not in (*names, *keys[1:])}
            warn_of_unused(path, unused, keys[0], lambda name: to_numpy(name, _read(path, name)))
        raw = _stacked(path, keys) if len(keys) > 1 else _read(path, keys[0], samples=True)
    if normalise is None:
        several = len(keys) > 1 and raw.ndim > 2 and value_range is None
        normalise, value_range = ("channels", None) if several else _default_normalisation(raw, value_range)
    x, identity = _channels_first(path, raw, layout), ("array", cache.stamp(path), key, layout)
    kinds = {name: kind for name, kind in condition.items() if kind} if isinstance(condition, Mapping) else {}
    return make_dataset(
        path.stem,
        x,
        y,
        normalise,
        value_range,
        num_classes=num_classes,
        flip=flip,
        identity=identity,
        conditions=given,
        condition_kinds=kinds,
        missing=missing,
        about={"variables": keys} if len(keys) > 1 else None,
    )


def _channels_first(path: Path, raw: Array, layout: str | None) -> Array:
    """Images as (N, C, H, W), without copying; other arrays unchanged."""
    if layout is not None and (layout not in LAYOUTS or raw.ndim != 4):
        raise ValueError(
            f"{path}: layout must be one of {', '.join(LAYOUTS)}, for images of rank 4; found layout={layout!r} and shape "
            f"{tuple(raw.shape)}"
        )
    images = raw.dtype in (np.uint8, torch.uint8)
    if images and raw.ndim == 3:
        return raw[:, None]
    if layout == "channels_last":
        return raw.permute(0, 3, 1, 2) if isinstance(raw, Tensor) else np.moveaxis(raw, -1, 1)
    if images and raw.ndim == 4 and layout is None and raw.shape[-1] in (1, 3, 4) and min(raw.shape[1:3]) > 4:
        raise ValueError(
            f"{path}: images are expected as (N, C, H, W), found {tuple(raw.shape)}, which looks like (N, H, W, C); give "
            "layout='channels_last' to have them transposed (or 'channels_first' if they are right as they are)"
        )
    if raw.ndim == 4 and layout is None and raw.shape[-1] in (1, 3, 4) and min(raw.shape[1:3]) > 4:
        channels, height, width = raw.shape[1:]
        warnings.warn(
            f"{path}: shape {tuple(raw.shape)} looks like (N, H, W, C), and it is read as {channels} channels of {height} × "
            f"{width}; give layout='channels_last' to have it transposed, or 'channels_first' if it is right as it is",
            stacklevel=3,
        )
    return raw


def checked_path(path: str | Path) -> Path:
    """The path of an existing file with a known ending; errors as for `load_array`."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, expected a file ending in {', '.join(READERS)}; kdiff.data.load and load_folder read folders "
            "of images"
        )
    if not path.exists():
        raise FileNotFoundError(f"no data file at {path}; expected a file ending in {', '.join(READERS)}")
    if path.suffix.lower() not in READERS:
        unpack = "; unpack an archive first, and name the folder" if path.suffix.lower() in ARCHIVES else ""
        raise ValueError(
            f"{path}: cannot read data from a file ending in {path.suffix!r}; accepted endings: {', '.join(READERS)}{unpack}"
        )
    return path


def _labels_path(labels: str | Path) -> Path:
    path = checked_path(labels)
    if path.suffix.lower() != ".npy":
        raise ValueError(f"labels must be the path of a .npy file, found {path}; or keep data and labels together in one .npz")
    return path


def _data_keys(path: Path, there: dict[str, Declared], key: str | Sequence[str], label_key: str) -> list[str]:
    names = [key] if isinstance(key, str) else list(key)
    absent = [name for name in names if name not in there]
    if names and not absent:
        return names
    candidates = [name for name, one in there.items() if name != label_key and len(one.shape) >= 2 and one.kind in "iuf"]
    if names == [DATA_KEY] and len(candidates) == 1:
        return candidates
    found = f"no array under {absent[0]!r}" if absent else "key is an empty list"
    raise ValueError(f"{path}: {found}; name the samples with key=…; the file holds {_listing(there)}")


def _stacked(path: Path, keys: Sequence[str]) -> np.ndarray:
    """Several arrays as the channels of one sample."""
    parts = [opened.Array(name, to_numpy(f"{path}: {name}", _read(path, name, samples=True))) for name in keys]
    if rows := [part.name for part in parts if not part.ndim]:
        raise ValueError(f"{path}: {rows[0]!r} is one number; expected an array with a row for each sample")
    return Stacked(f"{path}: {', '.join(keys)}", parts).read(np.arange(len(parts[0])))


def _listing(there: dict[str, Declared]) -> str:
    return ", ".join(f"{name!r} {one}" for name, one in there.items()) or "no arrays"


def _default_normalisation(raw: Array, value_range: tuple[float, float] | None) -> tuple[str, tuple[float, float] | None]:
    if value_range is not None:
        return "range", value_range
    if raw.dtype in (np.uint8, torch.uint8) and raw.ndim >= 3:
        return "range", (0.0, 255.0)
    return ("features" if raw.ndim == 2 else "standard"), None


def _attempted(path: Path, work: Callable[[], T]) -> T:
    """The result of reading a file. Raises ValueError for a file that is damaged or of another format."""
    try:
        return work()
    # For a damaged file, zip, zlib, NumPy's header parser and safetensors each raise their own kind of error.
    except Exception as error:
        if "Object arrays cannot be loaded" in str(error) or "Python objects in dtype" in str(error):
            raise ValueError(
                f"{path}: holds an array of Python objects (dtype object), which only unpickling could read; "
                "stack the samples into one array of numbers and save that array"
            ) from error
        raise ValueError(
            f"{path}: cannot be read as {path.suffix.lower()}: the file is damaged, cut off or of another format "
            f"({type(error).__name__}: {error})"
        ) from error


def _read(path: Path, key: str, samples: bool = False) -> Array:
    """The array of this name. Raises ValueError for a file that is damaged, and, with `samples`, for hopeless samples."""
    if path.suffix.lower() == ".npz":
        check_declared(path, key, samples)
    return _attempted(path, lambda: READERS[path.suffix.lower()](path, key))


def _read_npy(path: Path, key: str) -> Array:
    if path.stat().st_size > MAPPED_BYTES:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path, key: str) -> Array:
    with np.load(path, allow_pickle=False) as file:
        return file[key]


def _read_safetensors(path: Path, key: str) -> Array:
    from safetensors import safe_open

    # Through torch, because NumPy has no bfloat16.
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key)


READERS: dict[str, Callable[[Path, str], Array]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}
