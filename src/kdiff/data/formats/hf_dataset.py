"""Hugging Face data sets from disk, as `datasets.Dataset.save_to_disk` writes them. Nothing is downloaded, and no code is run.

    dataset_info.json, state.json, data-00000-of-00002.arrow, …      one data set
    dataset_dict.json, train/, test/                                 several, of which `split` names one

Columns of numbers, lists and Array2D … Array5D are read as in other tables. Images are decoded from the bytes in the data set.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdiff.data.decoding import GREY, header, pixels_of
from kdiff.data.formats import needed
from kdiff.data.formats.arrow_tables import Table, WholeTable
from kdiff.data.formats.arrow_values import arrow
from kdiff.data.formats.columns import Names, open_table
from kdiff.data.opened import Opened, Source
from kdiff.files import cache

ONE, SEVERAL = "state.json", "dataset_dict.json"
CHANNELS = {"RGB": 3, "L": 1}


def is_hf_dataset(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / SEVERAL).is_file() or ((path / ONE).is_file() and (path / "dataset_info.json").is_file())


def open_hf_dataset(
    path: str | Path,
    split: str | None = None,
    columns: Names | None = None,
    labels: str | bool | None = None,
    condition: Names | Mapping[str, str] | None = None,
    key: Names | None = None,
    label_key: str | None = None,
    as_number: Names = (),
    size: int | None = None,
    channels: str | None = None,
) -> Opened:
    """The data set in a folder. `split` names one of several, such as train.

    `columns` (also called `key`), `labels` (also called `label_key`), `condition` and `as_number` are those of `open_columns`.
    By default the samples are the only column of images, else all columns of numbers; the labels are the only column of
    ClassLabel, and labels=False says that there are none. `size` crops and scales images to size × size; `channels` is RGB
    or L (grey).

    Raises FileNotFoundError for a missing folder. Raises ValueError for a damaged data set, a split that is missing or not
    given, columns that are ambiguous or hold sound or film, and everything that `open_columns` refuses.
    """
    path = _split(Path(path).expanduser(), split)
    package = needed("datasets", f"{path} (Hugging Face data set)")
    try:
        dataset = package.load_from_disk(str(path))
        features = dict(dataset.features)
    except Exception as error:  # OSError, ArrowInvalid, KeyError, TypeError, …
        if isinstance(error, IndexError) and not list(path.glob("*.arrow")):
            raise ValueError(f"{path}: the data set has no rows; expected a sample in each row") from None
        raise ValueError(
            f"{path}: cannot be read as a Hugging Face data set: it is damaged or cut off ({_line(error)})"
        ) from error
    chosen = key if columns is None else columns
    labelled = label_key if labels is None else labels
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    assumed = labelled is None and len(classes) == 1
    if assumed:
        labelled = classes[0]
    if chosen is None and images:
        if len(images) > 1:
            raise ValueError(f"{path}: the data set has the images {', '.join(images)}; give key={images[0]!r}")
        chosen = images[0]
    named = [chosen] if isinstance(chosen, str) else list(chosen or ())
    for name in named:
        if kinds.get(name) in ("Audio", "Video", "Pdf", "Nifti"):
            raise ValueError(
                f"{path}: the column {name!r} is {kinds[name]}, which kdiff does not read; save it as arrays first"
            )
    table = _HfTable(dataset)
    identity = ("datasets", [cache.stamp(file) for file in sorted(path.iterdir())], size, channels, as_number)
    samples = None
    if named and named[0] in images:
        if len(named) > 1:
            raise ValueError(
                f"{path}: one column of images makes the samples, found {', '.join(named)}; give key={images[0]!r}"
            )
        samples = ImageColumn(path, table, named[0], size, channels, identity)
        chosen = named[0]
    elif size is not None or channels is not None:
        raise ValueError(f"{path}: size and channels are for images, and the samples are {', '.join(named) or 'numbers'}")
    opened = open_table(str(path), table, chosen, labelled, condition, as_number, identity, samples)
    opened.value_range = None if samples is None else (0.0, 255.0)
    if labelled in classes:
        opened.classes = list(features[str(labelled)].names)
    if assumed:
        opened.remarks.append(f"{path}: the labels are the column {labelled}; give labels=False to leave them out")
    return opened


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _split(path: Path, split: str | None) -> Path:
    """The folder of one data set."""
    if not path.is_dir():
        raise FileNotFoundError(f"no folder at {path}; expected one that datasets.Dataset.save_to_disk wrote")
    if not is_hf_dataset(path):
        raise ValueError(f"{path} has no {ONE} and {SEVERAL}; expected a folder that datasets.Dataset.save_to_disk wrote")
    if not (path / SEVERAL).is_file():
        if split is not None:
            raise ValueError(f"{path} is one data set without splits, and split={split!r} is given; leave it out")
        return path
    try:
        splits = list(json.loads((path / SEVERAL).read_text(encoding="utf-8"))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / SEVERAL} is damaged ({_line(error)}); save the data set again") from None
    if split not in splits:
        found = "" if split is None else f", and {split!r} is none of them"
        raise ValueError(
            f"{path} has the splits {', '.join(splits)}{found}; give split={splits[0]!r}" if splits else f"{path} is empty"
        )
    return path / str(split)


class _HfTable(Table):
    """A data set of Hugging Face as a table, with its own order of rows (`select`, `shuffle`)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.schema = dataset, dataset.features.arrow_schema

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> Any:
        """These rows of these columns."""
        return self.dataset.with_format("arrow", columns=list(columns))[rows.tolist()]

    def missing(self, column: str) -> bool:
        """Whether entries are missing."""
        return WholeTable(self.dataset.data.table).missing(column)


class ImageColumn(Source):
    """Images as uint8 (N, C, H, W), decoded when they are read."""

    decoded = True

    def __init__(self, path: Path, table: Table, column: str, size: int | None, channels: str | None, identity: object) -> None:
        if channels not in (None, *CHANNELS):
            raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, found {channels!r}")
        self.path, self.table, self.column, self.size, self.asked = path, table, column, size, channels
        self.name, self.identity, self.dtype = f"{path}: {column}", (identity, column), np.dtype("uint8")
        self.mode = channels or "RGB"
        if not len(table):
            raise ValueError(f"{path}: the data set has no rows")
        first = self._image(0, self._stored(np.array([0]))[0])
        if channels is None and first[1]:
            self.mode = "L"
            first = self._image(0, self._stored(np.array([0]))[0])
        self.shape = (len(table), *first[0].shape)

    def _stored(self, rows: np.ndarray) -> list[dict[str, Any] | None]:
        values = self.table.take(rows, [self.column])[self.column]
        if isinstance(values.type, arrow().BaseExtensionType):
            values = arrow().chunked_array([chunk.storage for chunk in values.chunks])
        return list(values.to_pylist())

    def _image(self, row: int, stored: dict[str, Any] | None) -> tuple[np.ndarray, bool]:
        """The pixels of an image, and whether it is grey. Raises ValueError for one that cannot be read."""
        where = f"{self.name}: the image in row {row}"
        content = None if stored is None else stored["bytes"]
        if content is None:
            content = self._file(where, None if stored is None else stored["path"])
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"it has more than 8 bits per channel (mode {image.mode}); save it as an array")
                grey = image.mode in GREY
                header(image, self.size)
                return pixels_of(image, self.mode, self.size), grey
        except Exception as error:  # damaged images raise many kinds
            raise ValueError(f"{where} cannot be read: {_line(error)}") from error

    def _file(self, where: str, path: str | None) -> bytes:
        """The content of a file inside the folder of the data set; no other is read."""
        if path is None:
            raise ValueError(f"{where} is missing; remove this row")
        file = (self.path / path).resolve()
        if not file.is_relative_to(self.path.resolve()) or not file.is_file():
            raise ValueError(
                f"{where} is outside the data set ({path}), and only images inside are read; save the data set again, which "
                "puts the images into it"
            )
        return file.read_bytes()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These images, decoded."""
        values = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, (row, stored) in enumerate(zip(rows.tolist(), self._stored(rows))):
            image, grey = self._image(row, stored)
            if self.mode == "L" and self.asked is None and not grey:
                raise ValueError(
                    f"{self.name}: the image in row {row} has colours, and the first one is grey; give channels='RGB'"
                )
            if image.shape != self.shape[1:]:
                raise ValueError(
                    f"{self.name}: the image in row {row} has {image.shape[2]}×{image.shape[1]} pixels, and the first one has "
                    f"{self.shape[3]}×{self.shape[2]}; give size={min(*image.shape[1:], *self.shape[2:])}"
                )
            values[place] = image
        return values
