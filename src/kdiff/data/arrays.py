"""Data from array files: .npy, .npz and .safetensors. Nothing is ever unpickled.

One array holds the samples, (N, D), (N, C, H, W) or alike, and another one, if there is one, their labels, (N,). Large .npy
files are mapped into memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdiff.data import cache
from kdiff.data.dataset import Dataset, make_dataset

Array = np.ndarray | Tensor
DATA_KEY, LABEL_KEY = "x", "y"
LAYOUTS = ("channels_first", "channels_last")
MAPPED_BYTES = 2**24  # .npy files above this size are mapped into memory


def load_array(
    path: str | Path,
    key: str = DATA_KEY,
    label_key: str = LABEL_KEY,
    labels: str | Path | None = None,
    normalise: str | None = None,
    value_range: tuple[float, float] | None = None,
    num_classes: int | None = None,
    layout: str | None = None,
    flip: bool = False,
) -> Dataset:
    """The data set in a file, named after it.

    .npz and .safetensors: `key` names the samples (if it is left at its default and absent, the only other array of
    numbers of rank 2 or more serves), `label_key` the labels (absent by default: no labels). .npy: `labels` is the path
    of a second .npy. `normalise` (see `make_dataset`) defaults to range if a `value_range` is given; else, for uint8 of
    rank 3 or more (images), to range with (0, 255); else to features for rank 2 and to standard for more.

    Images are (N, C, H, W); `layout` channels_last says that they are (N, H, W, C) instead and turns them, channels_first that
    they are right although they look otherwise. Arrays (N, H, W) of type uint8 are grey images and become (N, 1, H, W).
    `flip` has training mirror images at random.

    Raises FileNotFoundError for a missing file, and ValueError for another ending, a folder, a file that cannot be
    read, arrays of Python objects, keys that are not there or cannot be told apart, images of type uint8 that look like
    (N, H, W, C) without a `layout`, and all that `make_dataset` refuses.
    """
    path = checked_path(path)
    if path.suffix.lower() == ".npy":
        if (key, label_key) != (DATA_KEY, LABEL_KEY):
            raise ValueError(f"{path}: a .npy file holds one array and has no keys; give its labels by labels=PATH.npy")
        raw: Array = _read(path)[""]
        y: Array | None = None if labels is None else _read(_labels_path(labels))[""]
    else:
        if labels is not None:
            raise ValueError(f"{path}: labels=PATH is for .npy files; here name the array of labels in the file by label_key")
        arrays = _read(path, (key, label_key))
        raw = arrays[_data_key(path, arrays, key, label_key)]
        y = arrays.get(label_key)
        if y is None and label_key != LABEL_KEY:
            raise ValueError(f"{path}: no labels under {label_key!r}; the file holds {_listing(_read(path))}")
    if normalise is None:
        normalise, value_range = _default_normalisation(raw, value_range)
    return make_dataset(
        path.stem,
        _channels_first(path, raw, layout),
        y,
        normalise=normalise,
        value_range=value_range,
        num_classes=num_classes,
        flip=flip,
        identity=("array", cache.stamp(path), key, layout),
    )


def _channels_first(path: Path, raw: Array, layout: str | None) -> Array:
    """Images as (N, C, H, W), without copying; what are none as they are."""
    if layout is not None and (layout not in LAYOUTS or raw.ndim != 4):
        raise ValueError(
            f"{path}: layout is one of {', '.join(LAYOUTS)}, for images of rank 4; found layout={layout!r} and shape "
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
            "layout='channels_last' to have them turned (or 'channels_first' if they are right as they are)"
        )
    return raw


def checked_path(path: str | Path) -> Path:
    """The path, if a file with a known ending lies there; errors as `load_array`."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, expected a file ending in {', '.join(READERS)}; folders of images are read by "
            "kdiff.data.load and load_folder"
        )
    if not path.exists():
        raise FileNotFoundError(f"no data file at {path}; expected a file ending in {', '.join(READERS)}")
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"{path}: cannot read data from a file ending in {path.suffix!r}; accepted endings: {', '.join(READERS)}"
        )
    return path


def _labels_path(labels: str | Path) -> Path:
    path = checked_path(labels)
    if path.suffix.lower() != ".npy":
        raise ValueError(f"labels must be the path of a .npy file, found {path}; or keep data and labels together in one .npz")
    return path


def _data_key(path: Path, arrays: dict[str, Array], key: str, label_key: str) -> str:
    if key in arrays:
        return key
    candidates = [name for name, array in arrays.items() if name != label_key and array.ndim >= 2 and _is_number(array)]
    if key == DATA_KEY and len(candidates) == 1:
        return candidates[0]
    raise ValueError(f"{path}: no array under {key!r}; name the samples by key=…; the file holds {_listing(arrays)}")


def _is_number(array: Array) -> bool:
    if isinstance(array, Tensor):
        return array.dtype != torch.bool and not array.dtype.is_complex
    return array.dtype.kind in "iuf"


def _listing(arrays: dict[str, Array]) -> str:
    return ", ".join(f"{name!r} {tuple(array.shape)} {array.dtype}" for name, array in arrays.items()) or "no arrays"


def _default_normalisation(raw: Array, value_range: tuple[float, float] | None) -> tuple[str, tuple[float, float] | None]:
    if value_range is not None:
        return "range", value_range
    if raw.dtype in (np.uint8, torch.uint8) and raw.ndim >= 3:
        return "range", (0.0, 255.0)
    return ("features" if raw.ndim == 2 else "standard"), None


def _read(path: Path, wanted: tuple[str, ...] = ()) -> dict[str, Array]:
    """Arrays by key: the wanted ones if the first of these is in the file, else all."""
    try:
        return READERS[path.suffix.lower()](path, wanted)
    # Zip, zlib, NumPy's header parser and safetensors each raise errors of their own for a damaged file.
    except Exception as error:
        if "Object arrays cannot be loaded" in str(error) or "Python objects in dtype" in str(error):
            raise ValueError(
                f"{path}: holds an array of Python objects (dtype object), which only unpickling could read; "
                "stack the samples to one array of numbers and save that"
            ) from error
        raise ValueError(
            f"{path}: cannot be read as {path.suffix.lower()}: the file is damaged, cut off or of another format "
            f"({type(error).__name__}: {error})"
        ) from error


def _read_npy(path: Path, wanted: tuple[str, ...]) -> dict[str, Array]:
    if path.stat().st_size > MAPPED_BYTES:
        return {"": np.asarray(np.lib.format.open_memmap(path, mode="r"))}
    with path.open("rb") as file:
        return {"": np.lib.format.read_array(file, allow_pickle=False)}


def _read_npz(path: Path, wanted: tuple[str, ...]) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in _chosen(list(file.files), wanted)}


def _read_safetensors(path: Path, wanted: tuple[str, ...]) -> dict[str, Array]:
    from safetensors import safe_open

    # Through torch, because NumPy has no bfloat16.
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in _chosen(list(file.keys()), wanted)}


def _chosen(keys: list[str], wanted: tuple[str, ...]) -> list[str]:
    return [key for key in wanted if key in keys] if wanted and wanted[0] in keys else keys


READERS: dict[str, Callable[[Path, tuple[str, ...]], dict[str, Array]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}
