"""Data by name, from a file or folder, or from a function of the user.

load("spiral", ambient_dim=512)        load("images.npz", normalise="standard")
load("photos/", size=64)               load("mine.data.make(size=64)")
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.config.parts import Part, Spec, parse, resolve
from kdiff.data.arrays import READERS, load_array
from kdiff.data.assembling import reader_of
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.font import glyphs
from kdiff.data.formats.finding import BY_ENDING, opener_of
from kdiff.data.idx import fashion, idx_files, load_idx
from kdiff.data.image_folder import load_folder
from kdiff.data.latents import is_latent_folder, load_latents
from kdiff.data.photos import photo_patches
from kdiff.data.toys import gaussian, gaussian_mixture, moons, sphere, spiral


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1797 images (1, 8, 8) of 10 classes, values 0 … 16 mapped to [−1, 1]."""
    from sklearn.datasets import load_digits

    raw, labels = load_digits(return_X_y=True)
    images = np.asarray(raw).reshape(-1, 1, 8, 8)
    return make_dataset("digits", images, np.asarray(labels), normalise="range", value_range=(0, 16), num_classes=10)


SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion": fashion,
    "glyphs": glyphs,
    "photo_patches": photo_patches,
    "spiral": spiral,
    "moons": moons,
    "gaussian": gaussian,
    "gaussian_mixture": gaussian_mixture,
    "sphere": sphere,
}


def load(source: Spec | Path, **options: Any) -> Dataset:
    """The data set that `source` names: a name in `SOURCES`, else the path of a file or folder, else the path of a function.

    Options may stand in brackets, as in "spiral(ambient_dim=16)". They and `options` go to the source: to the function of that
    name; to `load_array` for a file; to `load_idx` for a folder of IDX files, to `load_latents` for a folder that kdiff encode
    made, and to `load_folder` for other folders; or to the user's function, which must return a `Dataset` (built by
    `make_dataset`). A name is preferred to a file of the same name; `./name` is always a path. The path of an existing file may
    have brackets.

    Raises FileNotFoundError for a missing file. Raises ValueError for an unknown name, an option that the source does not have
    or that is given twice, a function that cannot be imported, and everything that the source refuses. Raises TypeError for a
    function that returns anything but a `Dataset`.
    """
    is_path = isinstance(source, str | Path) and Path(source).expanduser().exists()
    part = Part(str(source)) if is_path or isinstance(source, Path) else parse(source)
    if twice := part.options.keys() & options.keys():
        raise ValueError(f"{part} gives {', '.join(twice)}, which is also given as an option; give it once")
    name = part.name
    path = Path(name).expanduser()
    there = list(path.parent.iterdir()) if path.parent.is_dir() else []
    # A path such as latents/fashion is not a misspelt name of a source.
    near = (
        [entry.name for entry in there if entry.suffix.lower() in (*READERS, *OPENED) or entry.is_dir()]
        if path.name == name
        else []
    )
    result = resolve("data", Part(name, {**part.options, **options}, part.values), SOURCES, None, _reader, FORMS, near)()
    if not isinstance(result, Dataset):
        raise TypeError(
            f"{name} must return a kdiff.data.Dataset, found {type(result).__name__}; build one with kdiff.data.make_dataset"
        )
    return result


OPENED = tuple(ending for endings, _, _ in BY_ENDING for ending in endings)
FORMS = (
    f"the path of a file ending in {', '.join((*READERS, *OPENED))}, "
    f"of a folder of images or of latents that kdiff encode wrote, or a "
    "function package.module.function that returns a kdiff.data.Dataset"
)


def _reader(name: str) -> Callable[..., Dataset] | None:
    """The function that reads the file or folder of this name; None for a name that is no path."""
    path = Path(name).expanduser()
    pattern = any(mark in name for mark in "{*?[") and "/" in name
    if (path.exists() or pattern or name.lower().endswith(OPENED)) and (opener := opener_of(name)) is not None:
        return reader_of(opener, name if pattern else path)
    if path.is_dir():
        reader = load_idx if idx_files(path) else load_latents if is_latent_folder(path) else load_folder
        return partial(reader, path)
    if path.exists():
        return partial(load_array, path)
    if "/" in name or "\\" in name or path.suffix.lower() in READERS:
        there = list(path.parent.iterdir()) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, [entry.name for entry in there], n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise FileNotFoundError(f"{name!r}: no such file or folder{hint}; expected one of {', '.join(SOURCES)}, or {FORMS}")
    return None
