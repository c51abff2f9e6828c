"""YAML files of settings: each key once, and whatever is wrong in one line, with the file and the line.

Numbers such as 1e2 and 1e-5, which YAML 1.1 takes for text, are numbers. Whole numbers that YAML 1.1 reads in another base than
ten (010 is 8, and 1:30 is 90) are refused. Dates are text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdiff.config.recipes import EARLIER, EARLIER_NETWORK
from kdiff.config.values import Misfit, fitted, fitted_fields, said

FLOAT, INT, TIMESTAMP, MERGE, MAP, SEQ = (
    f"tag:yaml.org,2002:{name}" for name in ("float", "int", "timestamp", "merge", "map", "seq")
)
NUMBER = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
)
NOT_PLAIN = [f"tag:yaml.org,2002:{name}" for name in ("binary", "omap", "pairs", "set")]
OTHER_BASE = re.compile(r"[-+]?(?:0[0-9_]+|[0-9_]+(?::[0-9]+)+)")


def read_settings(path: Path, kind: type, fields: Sequence[str], others: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a YAML file, each of the type of its field.

    Args:
        path: the file.
        kind: the dataclass of the settings.
        fields: the names of its fields; those of a field in a field have a point, as in "sampling.steps".
        others: the names and types of further options.

    Raises:
        ValueError: the file is not valid YAML, or no mapping; a key is given twice, or is no option; or a value has another
            type. The message names the file, and the line or the key.
    """
    found: dict[str, Any] = {}
    given = _read_mapping(path)
    if "recipe" in fields and (path.parent / "data.json").is_file():  # the file of a run folder, maybe older than recipes
        found |= {"recipe": EARLIER, "network": EARLIER_NETWORK}
    for key, value in given.items():
        if not isinstance(key, str):
            raise ValueError(f"{path}: a key is {said(key)}; expected the name of an option")
        parent, dot, rest = key.partition(".")
        if key not in fields and key not in others:
            close = difflib.get_close_matches(key.replace("-", "_"), [*fields, *others], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            below = f"; write {parent}: {{name: …, {rest}: …}}" if dot and parent in fields else hint
            raise ValueError(f"{path}: no option is called {key!r}{below}")
        if dot and parent in given:
            raise ValueError(f"{path}: {key} is given together with {parent}; expected one of them")
        try:
            if key in others:
                found[key] = fitted(value, others[key])
            elif dot:
                inner = fitted_fields({parent: {rest: value}}, kind)[parent]
                found[parent] = {**found.get(parent, {}), **inner}
            else:
                found |= fitted_fields({key: value}, kind)
        except Misfit as error:
            raise ValueError(f"{path}: {key} is {said(value)}; expected {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return found


def _read_mapping(path: Path) -> dict[Any, Any]:
    try:
        found = load_yaml(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"{found!r:.60}"
        raise ValueError(f"{path} holds {what}; expected keys and values, such as steps: 1000")
    return found


def load_yaml(text: str, name: object) -> Any:
    """The value of YAML text; `name` stands for the text in messages. Raises ValueError unless it is YAML of plain values."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{name}: {line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                line = key.start_mark.line + 1
                if key.value in seen:
                    again = f"{key.value} is given twice, here and in line {seen[key.value]}; expected each key once"
                    raise yaml.constructor.ConstructorError(None, None, again, key.start_mark)
                seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: Any) -> Any:
        is_mapping = isinstance(node, yaml.MappingNode)
        return self.construct_mapping(node, deep=True) if is_mapping else self.construct_sequence(node, deep=True)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        found = int(self.construct_yaml_int(node))
        if OTHER_BASE.fullmatch(node.value):
            other = f"YAML reads {node.value} as {found}; write {found}, or the number without the leading 0"
            raise yaml.constructor.ConstructorError(None, None, other, node.start_mark)
        return found


_Loader.yaml_constructors = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag not in NOT_PLAIN}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (FLOAT, TIMESTAMP)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(FLOAT, NUMBER, list("-+0123456789."))
_Loader.add_constructor(INT, _Loader.construct_decimal)
# Built at once, unlike in SafeLoader, so that a value that contains itself is refused.
_Loader.add_constructor(MAP, _Loader.construct_whole)
_Loader.add_constructor(SEQ, _Loader.construct_whole)
