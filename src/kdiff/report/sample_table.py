"""Samples of a table as CSV: the columns of the data by name, in their own units, and the label by the name of its class."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kdiff.files.atomic import new_file


def columns_of(data: Mapping[str, Any], x: Tensor) -> list[str]:
    """The names of the columns, if the data are a table and samples x are (N, columns); else an empty list."""
    names = data.get("columns")
    fits = isinstance(names, list) and x.ndim == 2 and len(names) == x.shape[1]
    return [str(name) for name in names] if fits and names else []


def write_table(path: Path, data: Mapping[str, Any], x: Tensor, y: Tensor | None, others: Mapping[str, Tensor]) -> None:
    """Write samples x (N, columns), labels y (N,) and the values of conditions (N, …) as CSV, with all digits of float32.

    Nothing is rounded: a column of whole numbers in the data has samples that are not whole. `data` describes the data set, as
    data.json does.
    """
    header, parts = columns_of(data, x), [x.float().cpu().numpy()]
    for name, values in others.items():
        flat = values.cpu().flatten(1).numpy() if values.ndim > 1 else values.cpu()[:, None].numpy()
        header += [name] if flat.shape[1] == 1 else [f"{name}_{index}" for index in range(flat.shape[1])]
        parts.append(flat)
    classes, labels = data.get("class_names") or [], None if y is None else y.tolist()
    if labels is not None:
        header.append(str(data.get("label_column") or "label"))
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for index in range(len(x)):
            row = [str(value) for part in parts for value in part[index]]
            if labels is not None:
                row.append(str(classes[labels[index]]) if labels[index] < len(classes) else str(labels[index]))
            writer.writerow(row)
