"""Labels of the images in a folder that the dataset tool of StyleGAN or EDM made (Karras et al., 2020 and 2022).

00000/img00000000.png, 00000/img00000001.png, …, 00001/img00010000.png, …       numbered images in chunks, not in classes
dataset.json      {"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 9], …]}     or {"labels": null}
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "dataset.json"
FORM = '{"labels": [["00000/img00000000.png", 6], …]} or {"labels": null}, as the dataset tool of StyleGAN and EDM writes'
NO_LABELS = "give labels=False for images without classes"
ELSEWHERE = f"if this {FILE} is of something else, move it out of the folder"


def has_labels(path: Path | zipfile.Path) -> bool:
    """Whether the folder has a dataset.json of the dataset tool. A JSON object without "labels" belongs to something else.

    Raises ValueError if the file is damaged.
    """
    if not (path / FILE).is_file():
        return False
    content = _content(path / FILE)
    if not isinstance(content, dict):
        warnings.warn(f"{path / FILE} is not used, because it is a {type(content).__name__}; expected {FORM}", stacklevel=4)
    return isinstance(content, dict) and "labels" in content


def read_labels(path: Path | zipfile.Path, names: Sequence[str]) -> list[int] | None:
    """The labels of the images with these names, from the dataset.json of the folder; None if it says that there are none.

    Raises ValueError for labels of another form, images without a label, and labels without an image.
    """
    file = path / FILE
    listed = _content(file)["labels"]
    if listed is None:
        return None
    if not isinstance(listed, list | dict):
        raise ValueError(f"{file}: labels is a {type(listed).__name__}; expected {FORM}")
    labels: dict[str, int] = {}
    for entry in listed.items() if isinstance(listed, dict) else listed:
        name, label = _pair(file, entry)
        if labels.setdefault(name, label) != label:
            raise ValueError(f"{file} gives {name} two labels, {labels[name]} and {label}; correct it, or {NO_LABELS}")
    there = set(names)
    for problem, found in (
        (f"{file} has no label for", [name for name in names if name not in labels]),
        (f"{file} has labels for images that are not in {path}:", [name for name in labels if name not in there]),
    ):
        if found:
            few = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise ValueError(f"{problem} {few}; make the folder and its {FILE} again, or {NO_LABELS}; {ELSEWHERE}")
    return [labels[name] for name in names]


def _content(file: Path | zipfile.Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); expected {FORM}. Make it again, or {NO_LABELS}") from None


def _pair(file: Path | zipfile.Path, entry: Any) -> tuple[str, int]:
    """The name of an image and its label."""
    name, label = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (None, None)
    if not isinstance(name, str) or isinstance(label, bool) or not isinstance(label, int):
        shown = json.dumps(entry)
        vector = "; its label is a vector, and kdiff takes one whole number" if isinstance(label, list) else ""
        found = f"{shown[:80]}{'…' if len(shown) > 80 else ''}{vector}"
        raise ValueError(f"{file} holds {found}; expected {FORM}. Correct it, or {NO_LABELS}; {ELSEWHERE}")
    return name.replace("\\", "/"), label


def look_like_chunks(names: Sequence[str]) -> bool:
    """Whether folders hold numbered images by their number, as in 00000/img00000042.png or 01000/01042.png, not by class."""
    if not names:
        return False
    for name in names:
        match = re.fullmatch(r"(\d{3,})/\D*(\d+)\.\w+", name)
        if not match:
            return False
        folder, number = match.groups()
        if not number.startswith(folder) and int(number) // 1000 * 1000 != int(folder):
            return False
    return True
