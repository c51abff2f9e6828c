"""Configurations as plain data, for YAML and JSON, and back; and the checks that several configurations share."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from kdiff.config.parts import Part
from kdiff.config.values import fitted_fields

# The precision of a network: float32, bfloat16, float16, or the faster one of float32 and bfloat16 on this machine.
Precision = Literal["no", "bf16", "fp16", "auto"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain data. A part becomes a number, a name or a mapping."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.plain()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """A configuration of the class `kind` from plain data.

    Raises ValueError if `values` has a key that is no field, or a value of another type than its field.
    """
    fields = {f.name for f in dataclasses.fields(kind)}
    unknown = set(values) - fields
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}; expected some of: {', '.join(sorted(fields))}")
    return kind(**fitted_fields(values, kind))


def check_least(config: Any, **least: float) -> None:
    """Raise ValueError for the first of these fields that is below its least value."""
    for name, low in least.items():
        if getattr(config, name) < low:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {low}")


def check_choices(config: Any, **choices: tuple[str, ...]) -> None:
    """Raise ValueError for the first of these fields whose value is none of its choices."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name} is {getattr(config, name)!r}; expected {' or '.join(known)}")
