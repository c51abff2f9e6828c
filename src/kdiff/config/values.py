"""Values of settings as their types ask, whoever wrote them: 1e2 is a whole number, and "true" in quotes is true.

YAML reads `no`, `off`, `yes` and `on` as truth values, and 1e2 as a number with a fraction; a key without a value is None.
YAML files, recorded configurations and the options of parts all pass through here, so that a value of the wrong type is refused
where it is given, and not where it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import numbers
import operator
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS = {False: ("no", "off", "false"), True: ("yes", "on", "true")}  # what YAML reads as a truth value


SIMPLE: dict[str, Any] = {"int": int, "float": float, "bool": bool, "None": types.NoneType, "Sequence[int]": list[int]}


class Misfit(ValueError):
    """A value of another type than its hint; the text says what was expected."""


def fitted(value: Any, hint: Any, name: str = "value") -> Any:
    """The value, converted if it only looks different from its type. A hint that is not known here accepts every value.

    A class with a static method `fitted` says itself what it accepts.

    Raises:
        Misfit: the value is of another type.
        ValueError: the value holds another one that is; the message names it, after `name`.
    """
    if isinstance(hint, type) and hint in _PLAIN:
        return _PLAIN[hint](value)
    if own := getattr(hint, "fitted", None):
        return own(value)
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(value, inside, name)
    if origin is Literal:
        return _choice(value, inside)
    if origin is list:
        if value is None or (isinstance(value, Mapping) and inside[0] in _PLAIN):
            raise Misfit("a list in square brackets")
        # One value is a list of one.
        return [_entry(item, inside[0], "a list") for item in (value if isinstance(value, list | tuple) else [value])]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise Misfit("names with values in braces, such as {name: 0.1}")
        return {str(key): _entry(item, inside[1], "names with values") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(inside):
            raise Misfit(f"{len(inside)} values in square brackets")
        return type(value)(_entry(item, kind, "values") for item, kind in zip(value, inside))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else fitted_fields(value, hint, f"{name}.")
    return value


def fitted_fields(values: Any, kind: type, before: str = "") -> dict[str, Any]:
    """The values of fields of a dataclass, each as the type of its field. Names that are no fields keep their values.

    Raises:
        ValueError: a value is of another type; the message says which (with `before` in front of its name), what was found and
            what was expected.
    """
    if not isinstance(values, Mapping):
        raise Misfit(f"keys and values, such as {dataclasses.fields(kind)[0].name}: …")
    hints, found = get_type_hints(kind), dict[str, Any]()
    for name, value in values.items():
        try:
            found[name] = fitted(value, hints[name], f"{before}{name}") if name in hints else value
        except Misfit as error:
            default = "; leave it out for the default" if value is None else ""
            raise ValueError(f"{before}{name} is {said(value)}; expected {error}{default}") from None
        except ValueError as error:
            nested = str(error).startswith(f"{before}{name}.")
            raise ValueError(str(error) if nested else f"{before}{name}: {error}") from None
    return found


def simple(annotation: Any) -> Any:
    """The type in an annotation of a signature, as text or not, if it is made of the names in `SIMPLE`; else None."""
    words = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    kinds = [SIMPLE.get(word.strip()) for word in words.split("|")]
    return None if None in kinds else functools.reduce(operator.or_, kinds)


def said(value: Any) -> str:
    """A value, for messages."""
    if isinstance(value, bool):
        *others, word = WORDS[value]
        return f"{word} (YAML reads {' and '.join(others)} as {word})"
    return "empty" if value is None else repr(value)


def _entry(item: Any, hint: Any, of: str) -> Any:
    try:
        return fitted(item, hint)
    except Misfit as error:
        raise Misfit(f"{of}, each {error}") from None


def _one_of(value: Any, inside: tuple[Any, ...], name: str) -> Any:
    if value is None and type(None) in inside:
        return None
    expected = []
    for kind in inside:
        if kind is type(None):
            continue
        try:
            return fitted(value, kind, name)
        except Misfit as error:
            expected.append(str(error))
    raise Misfit(" or ".join(expected))


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    if isinstance(value, bool) and value not in choices:
        value = next((word for word in WORDS[value] if word in choices), value)
    if value not in choices:
        raise Misfit(" or ".join(filter(None, [", ".join(map(str, choices[:-1])), str(choices[-1])])))
    return value


def _number(value: Any, expected: str = "a number") -> Any:
    for kind in (int, float) if isinstance(value, str) else ():
        with contextlib.suppress(ValueError):
            if math.isfinite(number := kind(value)):
                return number
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise Misfit(expected)
    return value


def _whole(value: Any) -> int:
    number = _number(value, "a whole number")
    if not isinstance(number, numbers.Integral) and not float(number).is_integer():
        raise Misfit("a whole number")
    return int(number)


def _truth(value: Any) -> bool:
    if isinstance(value, bool | int) and value in (0, 1):
        return bool(value)
    for truth, words in WORDS.items():
        if isinstance(value, str) and value.lower() in words:
            return truth
    raise Misfit("true or false")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Misfit("text, in quotes if it looks like a number")
    return value


_PLAIN = {int: _whole, float: _number, bool: _truth, str: _text}
