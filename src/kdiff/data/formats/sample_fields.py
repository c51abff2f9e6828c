"""Labels and numbers in the small members of a sample of tar shards: .cls, .txt and the fields of .json."""

from __future__ import annotations

import json
from typing import Any

from kdiff.data.formats.members import Archive


def class_of(archive: Archive, name: str, field: str | None) -> int | str:
    """The label in a member: a field of .json, or a whole number or a name in any other member, such as .cls or .txt.

    Raises ValueError for other values.
    """
    if field is not None:
        value = field_of(archive, name, field)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"{name}: the field {field!r} is {value!r}; a label is a whole number or a name")
        return value
    text = _text(archive, name).strip()
    try:
        return int(text)
    except ValueError:
        if name.endswith(".cls") or not text or "\n" in text:
            raise ValueError(f"{name} holds {text[:40]!r}; expected a whole number, the label") from None
        return text


def value_of(archive: Archive, name: str, field: str) -> Any:
    """The number, or the nested list of numbers, in a field of .json; null is NaN, no condition. ValueError otherwise."""
    value = field_of(archive, name, field)

    def numbers(one: Any) -> Any:
        if isinstance(one, list):
            return [numbers(each) for each in one]
        if one is None:
            return float("nan")
        if isinstance(one, bool) or not isinstance(one, int | float):
            raise ValueError(f"{name}: the field {field!r} holds {one!r}; a condition is a number or a list of numbers")
        return one

    return numbers(value)


def field_of(archive: Archive, name: str, field: str) -> Any:
    """The field of .json; "meta.size" is the field size of the field meta. Raises ValueError if it is missing."""
    try:
        content = json.loads(_text(archive, name))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read as .json ({error}); write it again") from error
    value = content
    for part in [field] if isinstance(content, dict) and field in content else field.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{name} has no field {field!r}; it has {there or 'none'}")
        value = value[part]
    return value


def _text(archive: Archive, name: str) -> str:
    try:
        return archive.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} holds no text of UTF-8 ({error}); write it again") from error
