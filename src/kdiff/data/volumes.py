"""A folder of TIFF files, each of which is one volume (C, D, H, W); sub-folders are classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.formats.tiff import open_tiff


def load_volumes(path: Path, labels: bool = True) -> Dataset:
    """The volumes in a folder, in the order of their names, as `kdiff.data.formats.tiff.open_tiff` describes.

    Values of type uint8 are mapped from 0 … 255 to [−1, 1]; others are normalised by their mean and variance.
    Raises ValueError for everything that `open_tiff` and `make_dataset` refuse.
    """
    opened = open_tiff(path, labels=None if labels else False)
    for remark in opened.remarks:
        warnings.warn(remark, stacklevel=3)
    volumes = np.concatenate(list(opened.x.chunks()))
    y = None if opened.y is None else opened.y.read(np.arange(len(opened.y)))
    kind, value_range = ("range", (0.0, 255.0)) if volumes.dtype == np.uint8 else ("standard", None)
    about = {**opened.about, **({"class_names": opened.classes} if opened.classes else {})}
    count = len(opened.classes) if opened.classes else None
    return make_dataset(
        path.resolve().name, volumes, y, kind, value_range, num_classes=count, about=about, identity=opened.x.identity
    )
