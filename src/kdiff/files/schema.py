"""What a JSON file must hold. A schema is plain data, and `problem` says where a value differs from it.

    int, float, str, bool            a value of this type; float also accepts whole numbers
    None                             null
    (A, B)                           A or B
    [A]                              a list of A
    [A, B]                           a list of two values, A and B (likewise for more)
    {"a": A, "b?": B, ...: C}        an object with the entry a, perhaps the entry b, and further entries C (without ... any)
    Numbers                          a number, or a list of numbers, nested or not
    object                           any value

`kdiff.files.atomic.read_json` takes a schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", None: "null"}


class Numbers:
    """The schema of a number, or of a list of numbers, nested or not."""


def problem(value: Any, schema: Any, place: str = "") -> str:
    """Where and how a value differs from a schema; an empty text if it does not. `place` is the name of the value."""
    here = place or "its content"
    if schema is object:
        return ""
    if isinstance(schema, tuple):
        found = [problem(value, each, place) for each in schema]
        deeper = [text for text in found if text and not text.startswith(f"{here} is ")]
        return "" if "" in found else deeper[0] if deeper else f"{here} is {_shown(value)}; expected {_expected(schema)}"
    if schema is Numbers:
        if _is(value, float) or (isinstance(value, list) and value and not any(problem(item, Numbers) for item in value)):
            return ""
        return f"{here} is {_shown(value)}; expected numbers"
    if isinstance(schema, list):
        if isinstance(value, list) and (len(schema) == 1 or len(schema) == len(value)):
            kinds = schema if len(schema) > 1 else schema * len(value)
            return next((text for i, item in enumerate(value) if (text := problem(item, kinds[i], f"{place}[{i}]"))), "")
    elif isinstance(schema, dict):
        if isinstance(value, dict):
            return _entries(value, schema, place)
    elif _is(value, schema):
        return ""
    return f"{here} is {_shown(value)}; expected {_expected(schema)}"


def _entries(value: Mapping[str, Any], schema: Mapping[Any, Any], place: str) -> str:
    """Where and how an object differs from the schema of an object."""
    inside = f"{place}." if place else ""
    known = {key.removesuffix("?"): each for key, each in schema.items() if key is not ...}
    for key in schema:
        if key is not ... and not key.endswith("?") and key not in value:
            return f"{inside}{key} is missing"
    for key, item in value.items():
        if text := problem(item, known.get(key, schema.get(..., object)), f"{inside}{key}"):
            return text
    return ""


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _expected(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(map(_expected, schema))
    if isinstance(schema, list):
        return "a list" if len(schema) == 1 else f"a list of {len(schema)}"
    return "an object" if isinstance(schema, dict) else NAMES.get(schema, "numbers")


def _shown(value: Any) -> str:
    """A value in a message, not longer than a few words."""
    if isinstance(value, list | dict):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    text = "null" if value is None else repr(value)
    return text if len(text) < 40 else f"{text[:40]}…"
