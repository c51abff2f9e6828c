"""Parts of a run named in text: `learned`, `0.9`, `learned(rate=1)`, {name: MLP, width: 512}, `my_package.nets.Net(depth=3)`.

YAML files, the command line, Python and the labels of tables all use these forms. `parse` reads a form. `resolve` finds the
object that it names and checks the options. A part is a network, a target, a path, a law of times, a solver, a grid of times,
data, or weights to start from. Each room keeps the table of its own short names. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdiff.config.values import Misfit, fitted, said, simple


class Part:
    """A name (a short one or a class path), options, and values without a name, as in `shifted(0.3)`."""

    __slots__ = ("name", "options", "values")

    def __init__(self, name: str, options: Mapping[str, Any] | None = None, values: Sequence[Any] = ()) -> None:
        self.name, self.options, self.values = name, dict(options or {}), list(values)

    def __str__(self) -> str:
        inside = [*map(repr, self.values), *(f"{key}={value!r}" for key, value in self.options.items())]
        return f"{self.name}({', '.join(inside)})" if inside else self.name

    def __repr__(self) -> str:
        return f"Part({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.as_tuple() == other.as_tuple()

    def __hash__(self) -> int:
        return hash(str(self))

    def as_tuple(self) -> tuple[str, dict[str, Any], list[Any]]:
        """The name, the options and the values."""
        return self.name, self.options, self.values

    def plain(self) -> float | str | dict[str, Any]:
        """The part as YAML and JSON write it: a number, a name, or a mapping with the options."""
        if self.values or "name" in self.options:  # in a mapping an option called name would take the part's own place
            return str(self)
        if self.options:
            return {"name": self.name, **self.options}
        return float(self.name) if is_number(self.name) else self.name


CLASS_PATH = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")
TEXTS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\bclass\b""")
Spec = Part | float | str | dict[str, Any]  # a part, or one of its written forms


def parse(spec: Spec) -> Part:
    """A part from any of its written forms, where a number names a fixed k. Raises ValueError for anything else."""
    if isinstance(spec, Part):
        return spec
    if isinstance(spec, bool) or not isinstance(spec, int | float | str | Mapping):
        raise ValueError(f"{spec!r} names no part; expected a name, a number, name(option=value) or {{name: …, option: …}}")
    if isinstance(spec, Mapping):
        if not isinstance(spec.get("name"), str):
            raise ValueError(f"{dict(spec)} has no name; expected {{name: …, option: value, …}}")
        return Part(spec["name"], {key: value for key, value in spec.items() if key != "name"})
    if not is_number(spec):
        return _parse_call(str(spec).strip())
    number = float(spec)
    short = f"{number:g}"
    # Six digits if they give the number exactly, otherwise all digits: 0.9999999 is not 1.
    return Part(short if float(short) == number else repr(number))


def _fitted(value: Any) -> Any:
    """A written form of a part as it is, once it is known to be one; for `kdiff.config.values`."""
    if value is None or isinstance(value, bool | list | tuple):
        raise Misfit("a name, a number, name(option=value) or {name: …, option: …}")
    parse(value)
    return value


class PartField:
    """A field of a configuration that accepts any written form of a part and holds the parsed part.

    It is a descriptor, written in a dataclass as `data: PartField = PartField("digits")`.
    """

    fitted = staticmethod(_fitted)

    def __init__(self, default: Spec) -> None:
        self.default = parse(default)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Part:
        part: Part = self.default if config is None else config.__dict__[self.name]
        return part

    def __set__(self, config: Any, value: Spec) -> None:
        config.__dict__[self.name] = parse(value)


class OptionalPartField:
    """A `PartField` for a part that may be left out; its default is None."""

    fitted = staticmethod(lambda value: None if value is None else _fitted(value))

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Part | None:
        return None if config is None else config.__dict__[self.name]

    def __set__(self, config: Any, value: Spec | None) -> None:
        config.__dict__[self.name] = None if value is None else parse(value)


def is_number(text: Any) -> bool:
    """Whether `text` is a number, or text that can be read as one."""
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _parse_call(text: str) -> Part:
    name, arguments = text, ""
    if text.endswith(")") and "(" in text:
        name, _, arguments = text[:-1].partition("(")
    try:
        if not name.strip():
            raise ValueError("no name")
        return Part(name.strip(), *_arguments(arguments))
    except (SyntaxError, ValueError):
        raise ValueError(
            f"cannot read {text!r}; expected name(option=value, …) with plain values, as in learned(rate=10)"
        ) from None


def _arguments(text: str) -> tuple[dict[str, Any], list[Any]]:
    """The options and values that stand between the brackets of a call."""
    # A bare `class` is a keyword of Python.
    text = TEXTS.sub(lambda found: "'class'" if found[0] == "class" else found[0], text)
    call = ast.parse(f"f({text})", mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise ValueError("the text is not the arguments of one call")
    names = [item.arg for item in call.keywords if item.arg]
    if len(set(names)) < len(call.keywords):
        raise ValueError("an option has no name, or is given twice")
    return {name: _literal(item.value) for name, item in zip(names, call.keywords)}, [_literal(item) for item in call.args]


def _literal(node: ast.expr) -> Any:
    """A literal, or YAML's true, false or null. Any other bare word is text: embedding=curved, key=[u, v], {params: vector}."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "null": None}.get(node.id, node.id)
    if isinstance(node, ast.List):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict) and all(node.keys):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values) if key}
    return ast.literal_eval(node)


def resolve(
    kind: str,
    spec: Spec,
    known: Mapping[str, Callable[..., Any]],
    given: Mapping[str, Any] | None = None,
    other: Callable[[str], Callable[..., Any] | None] = lambda name: None,
    also: str = "a class path (package.module.Class)",
    near: Iterable[str] = (),
    first: str | None = None,
    of: type | None = None,
) -> Callable[[], Any]:
    """The object that `spec` names, ready to be called without arguments. Its options are checked against its signature.

    Args:
        kind: the kind of part, for messages: "network", "solver", …
        spec: the part.
        known: the short names and what each stands for.
        given: values that the caller knows (the shape of the data, …); those that the signature accepts are passed on.
        other: finds names that are neither short names nor class paths (a number, a file), and returns None for all others.
        also: the forms that are accepted besides short names, for messages.
        near: further names that the user may have meant, for messages.
        first: a function whose first argument has this name is the object itself, and not a function that returns the object.
        of: what a class path must lead to, a subclass of this class; anything that returns the object if left out.

    Raises:
        ValueError: the name is unknown, or an option is unknown, missing, fixed by the name, or text in place of a number.
    """
    part = parse(spec)
    factory = known.get(part.name) or other(part.name)
    if factory is None and CLASS_PATH.fullmatch(part.name):
        factory = import_attribute(part.name)
        if of is not None and not (inspect.isclass(factory) and issubclass(factory, of)):
            raise ValueError(f"{part.name} is {_what(factory)}; expected the class path of a subclass of {of.__name__}")
    if factory is None:
        close = difflib.get_close_matches(part.name, [*known, *near], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no {kind} is called {part.name!r}{hint}. Known: {', '.join(known)}; or {also}")
    return _bound(part, factory, given or {}, first)


def _what(found: Any) -> str:
    """What an imported object is, for messages."""
    if inspect.isclass(found):
        return f"the class {found.__name__}"
    return "a function" if inspect.isroutine(found) else f"an object of the class {type(found).__name__}"


def _bound(part: Part, factory: Callable[..., Any], given: Mapping[str, Any], first: str | None) -> Callable[[], Any]:
    """factory(*values, **given, **options), refused unless these arguments fit the signature."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        raise ValueError(f"{part.name} is {factory!r}; expected a class, or a function that returns the object") from None
    if first is not None and next(iter(signature.parameters), None) == first:
        if part.options or part.values:
            raise ValueError(f"{part} has options, but {part.name} is a function that takes none; leave them out")
        return lambda: factory
    fixed = factory.keywords if isinstance(factory, partial) else {}
    if twice := fixed.keys() & part.options.keys():
        raise ValueError(f"{part} gives {', '.join(twice)} twice: the name {part.name!r} already sets it")
    parameters = {name: p for name, p in signature.parameters.items() if name not in fixed}
    listed = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    free = [name for name in listed if name not in given]
    its = f"its options are {', '.join(free)}" if free else "it takes none"
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if anything else [option for option in part.options if option not in listed]
    if unknown:
        close = difflib.get_close_matches(unknown[0], free, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{part.name} has no option {', '.join(unknown)}{hint}; {its}")
    named = {key: value for key, value in given.items() if key in listed} | part.options
    values = list(part.values)
    for place, (name, p) in enumerate(parameters.items()):
        # Values without a name belong to the first arguments that the caller does not give.
        if place < len(values) and name in given and p.kind is p.POSITIONAL_OR_KEYWORD:
            values.insert(place, named.pop(name))
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD][len(values) :]
    needed = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY or name in positional]
    missing = [name for name in needed if parameters[name].default is inspect.Parameter.empty and name not in named]
    if missing:
        raise ValueError(f"{part.name} needs a value for {', '.join(missing)}; {its}")
    try:
        arguments = signature.bind(*values, **named)
    except TypeError as error:
        raise ValueError(f"the arguments of {part} do not fit: {error}; {its}") from None
    for name, value in arguments.arguments.items():
        several = parameters[name].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if several or (name in given and name not in part.options):
            continue
        try:
            arguments.arguments[name] = fitted(value, simple(parameters[name].annotation))
        except Misfit as error:
            example = f"{part.name}({name}={'true' if 'true' in str(error) else 1})"
            raise ValueError(f"{name} of {part.name} is {said(value)}; expected {error}, as in {example}") from None
    return partial(factory, *arguments.args, **arguments.kwargs)


def import_attribute(path: str) -> Any:
    """The object at "package.module:attribute" or "package.module.attribute". Raises ValueError if it cannot be imported."""
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # If a part of the name itself is missing, the user misspelled it. Otherwise the imported module lacks another one.
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"cannot import {path!r}: there is no module {error.name!r}; is its folder on PYTHONPATH?"
            ) from error
        raise ValueError(f"cannot import {path!r}: importing {module} failed: {error}") from error
    except Exception as error:
        raise ValueError(f"cannot import {path!r}: importing {module} failed: {type(error).__name__}: {error}") from error
    if not hasattr(imported, attribute):
        close = difflib.get_close_matches(attribute, vars(imported), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"cannot import {path!r}: module {module!r} has no {attribute!r}{hint}")
    return getattr(imported, attribute)


def data_name(data: Spec) -> str:
    """The name of the data, of their file, or of the function that makes them. Folders are named after it."""
    name = parse(data).name
    function = CLASS_PATH.fullmatch(name) and not Path(name).exists()
    return re.split("[.:]", name)[-1] if function else Path(name).stem.rstrip(".") or "data"


def slug(text: str) -> str:
    """A label, changed into a file name."""
    return re.sub(r"[^\w.=+-]+", "_", text).strip("_")
