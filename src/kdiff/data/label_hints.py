"""Arrays that look like labels: which option takes them, and what makes them whole numbers (N,), one per sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kdiff.data.declared import SUFFIX, Declared, declared_arrays

SMALL = 2**22  # values of an array that is read to find out whether it holds labels
TEXT = "np.unique(y, return_inverse=True)[1]"
SIBLINGS = 100  # .npy files in a folder that are looked at


def conversion(y: np.ndarray) -> str | None:
    """The expression that turns y into labels: "y" if it may hold labels as it is, None if it does not hold labels."""
    if y.ndim == 1:
        if y.dtype.kind in "iu":
            return "y"
        if y.dtype.kind in "USO":
            return TEXT
        whole = y.dtype.kind == "b" or (y.dtype.kind == "f" and bool((y == np.round(y)).all()))
        return "y.astype('int64')" if whole else None
    if y.ndim != 2 or y.dtype.kind not in "iufb":
        return None
    if y.shape[1] == 1:
        inner = conversion(y[:, 0])
        return inner and inner.replace("y", "y[:, 0]", 1)
    one_hot = bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())
    return "y.argmax(1)" if one_hot else None


def warn_of_unused(
    path: Path, there: Mapping[str, Declared], samples: str, read: Callable[[str], np.ndarray], option: str = "label_key"
) -> None:
    """Warn of arrays in a file that look like labels of the samples, and name the option that takes them."""
    shape = there[samples].shape
    found = []
    for name, one in there.items():
        if name == samples or not one.shape or one.shape[0] != shape[0] or len(one.shape) > 2 or np.prod(one.shape) > SMALL:
            continue
        # Whole numbers need not be read, and Python objects cannot be, because they are pickles.
        form = {"i": "y", "u": "y", "O": TEXT}.get(one.kind) if len(one.shape) == 1 else None
        if form is None and one.kind in "iufbUS":
            form = conversion(read(name))
        if form is not None:
            found.append((name, one, form))
    if not found:
        return
    listed = ", ".join(f"{name!r} {one}" for name, one, _ in found)
    name, _, form = found[0]
    first = "" if form == "y" else f", once it is saved as {form}"
    warnings.warn(
        f"{path}: no labels are used, but the file holds {listed} beside the samples {samples!r}; if it holds classes, give "
        f"{option}={name!r}{first}",
        stacklevel=4,
    )


def warn_of_siblings(path: Path, count: int) -> None:
    """Warn of .npy files in the same folder that hold a whole number for each of the `count` samples."""
    for other in sorted(path.parent.glob(f"*{SUFFIX}"))[:SIBLINGS]:
        try:
            one = declared_arrays(other)[""]
        except Exception:  # a damaged file raises many kinds of errors, and it is not the one that is read
            continue
        if one.shape == (count,) and one.kind in "iu":
            warnings.warn(f"{path}: no labels are used; if {other} holds the classes, give labels={str(other)!r}", stacklevel=4)
            return
