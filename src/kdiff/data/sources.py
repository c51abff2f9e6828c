"""Data by name, by file or folder, or by a function of the user's own.

load("spiral", ambient_dim=512)        load("images.npz", normalise="standard")
load("photos/", size=64)               load("mine.data.make")
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.arrays import READERS, load_array
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.folder import load_folder
from kdiff.data.font import glyphs
from kdiff.data.idx import fashion, idx_files, load_idx
from kdiff.data.latents import is_latent_folder, load_latents
from kdiff.data.photos import photo_patches
from kdiff.data.toys import gaussian, gaussian_mixture, moons, sphere, spiral


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1797 images (1, 8, 8) of 10 classes, values 0 … 16 brought to [−1, 1]."""
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


def load(source: str | Path, **options: Any) -> Dataset:
    """The data set that `source` names: a name in `SOURCES`, else a path to a file or folder, else the class path of a
    function.

    `options` go to the source: the toy's parameters, those of `load_array` for a file, of `load_idx` for a folder that holds
    IDX files, of `load_latents` for one that kdiff encode made and of `load_folder` for any other, those of the user's
    function, which must return a `Dataset` (built by `make_dataset`). A name wins over a file of the same name; `./name` is a
    path.

    Raises TypeError for an option the source does not have or a function that returns something else, FileNotFoundError
    for a missing file, ValueError for a name that is not known, a function that cannot be imported, and all that the
    source itself refuses.
    """
    name = str(source)
    if name in SOURCES:
        return _call(name, SOURCES[name], options)
    path = Path(name).expanduser()
    if path.is_dir():
        reader = load_idx if idx_files(path) else load_latents if is_latent_folder(path) else load_folder
        return _call(name, partial(reader, path), options)
    if path.exists() or path.suffix.lower() in READERS:
        if not path.exists():
            raise FileNotFoundError(_unknown(name, "no such file"))
        return _call(name, partial(load_array, path), options)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        result = _call(name, _imported(name), options)
        if not isinstance(result, Dataset):
            raise TypeError(
                f"{name} must return a kdiff.data.Dataset, found {type(result).__name__}; "
                "build one with kdiff.data.make_dataset"
            )
        return result
    if "/" in name or "\\" in name:
        raise FileNotFoundError(_unknown(name, "no such file or folder"))
    raise ValueError(_unknown(name, "not a known data source, and no file or folder is called so"))


def _call(name: str, function: Callable[..., Dataset], options: dict[str, Any]) -> Dataset:
    """Call with the options checked first, so that a TypeError from inside the function is not taken for a wrong one."""
    parameters = inspect.signature(function).parameters
    valid = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_any else [option for option in options if option not in valid]
    if unknown:
        listing = f"its options are {', '.join(valid)}" if valid else "it takes none"
        raise TypeError(f"{name} has no option {', '.join(unknown)}{_nearest(unknown[0], valid)}; {listing}")
    missing = [p.name for p in parameters.values() if p.name in valid and p.default is p.empty and p.name not in options]
    if missing:
        raise TypeError(f"{name} needs a value for {', '.join(missing)}")
    return function(**options)


def _imported(name: str) -> Callable[..., Dataset]:
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only a missing part of the name itself is the user's misspelling; another module missing is the fault of theirs.
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            hint = f"and no module {error.name!r} can be imported (is the folder that holds it on PYTHONPATH?)"
            raise ValueError(_unknown(name, f"not a known data source or a file, {hint}")) from error
        raise ValueError(f"{name}: importing {module_name} failed: {error}") from error
    except Exception as error:
        raise ValueError(f"{name}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        found = "has no" if function is None else "has no function"
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{name}: {module_name} {found} {attribute!r}{_nearest(attribute, names)}")
    return function


def _unknown(name: str, problem: str) -> str:
    path = Path(name).expanduser()
    there = list(path.parent.iterdir()) if path.parent.is_dir() else []
    beside = [entry.name for entry in there if entry.suffix.lower() in READERS or entry.is_dir()]
    # A path is not a misspelt name of a source: latents/fashion is not fashion.
    hint = _nearest(path.name, beside) or ("" if path.name != name else _nearest(name, list(SOURCES)))
    return (
        f"{name!r}: {problem}{hint}; data are named by one of {', '.join(SOURCES)}, by the path of a file ending in "
        f"{', '.join(READERS)}, of a folder of images or of latents that kdiff encode wrote, or by a function "
        "package.module.function that returns a kdiff.data.Dataset"
    )


def _nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
