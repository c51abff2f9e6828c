"""Naming a part of a run in text: `learned`, `0.9`, `learned(rate=1)`, {name: MLP, width: 512}, `my_package.nets.Net(depth=3)`.

The same few forms serve YAML files, the command line and the labels of tables. Parsing needs no torch; building imports the
part's class and checks the options against its signature.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Spec = float | str | dict[str, Any]  # as written in a configuration

# A network of a published size, FAMILY-SIZE/PATCH: "JiT-B/16". Which there are is for `kdiff.networks.published` to say.
PUBLISHED = re.compile(r"\w[\w-]*-\w+/\w+")
# What short names stand for: "module:attribute", and options that the name already fixes.
REGISTRY: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "network": {
        "MLP": ("kdiff.networks.mlp:MLP", {}),
        "Linear": ("kdiff.networks.linear:Linear", {}),
        "LowRankLinear": ("kdiff.networks.linear:LowRankLinear", {}),
        "JiT": ("kdiff.networks.jit:JiT", {}),
        "DiT": ("kdiff.networks.dit:DiT", {}),
        "LightningDiT": ("kdiff.networks.dit:LightningDiT", {}),
        "UViT": ("kdiff.networks.uvit:UViT", {}),
    },
    "target": {
        "noise": ("kdiff.target:FixedK", {"k": 0.0}),
        "velocity": ("kdiff.target:FixedK", {"k": 0.5}),
        "data": ("kdiff.target:FixedK", {"k": 1.0}),
        "fixed": ("kdiff.target:FixedK", {}),
        "learned": ("kdiff.target:LearnedK", {}),
        "learned_pair": ("kdiff.target:LearnedPair", {}),
        "learned_of_time": ("kdiff.target:LearnedKOfTime", {}),
        "general": ("kdiff.target:GeneralTarget", {}),
    },
    "path": {
        "linear": ("kdiff.path:LinearPath", {}),
        "variance_preserving": ("kdiff.path:VariancePreservingPath", {}),
    },
    "timesteps": {
        "uniform": ("kdiff.timesteps:Uniform", {}),
        "logit_normal": ("kdiff.timesteps:LogitNormal", {}),
    },
}


@dataclass(frozen=True)
class Component:
    """A name (short, or a class path) and options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


def parse(spec: Spec | Component) -> Component:
    """A component from any of its written forms; a number is a fixed k.

    Raises:
        ValueError: text that is none of them, or a mapping without `name`.
    """
    if isinstance(spec, Component):
        return spec
    if isinstance(spec, bool) or not isinstance(spec, int | float | str | Mapping):
        raise ValueError(f"{spec!r} names nothing; expected a name, a number, name(option=value) or {{name: …, option: …}}")
    if isinstance(spec, Mapping):
        if not isinstance(spec.get("name"), str):
            raise ValueError(f"{dict(spec)} has no name; expected {{name: …, option: value, …}}")
        return Component(spec["name"], {key: value for key, value in spec.items() if key != "name"})
    if not _is_number(spec):
        return _parse_call(str(spec).strip())
    number = float(spec)
    short = f"{number:g}"
    # Six digits where they say it all, else every digit: 0.9999999 is not 1.
    return Component(short if float(short) == number else repr(number))


def _parse_call(text: str) -> Component:
    name, arguments = text, ""
    if text.endswith(")") and "(" in text:
        name, _, arguments = text[:-1].partition("(")
    try:
        if not name.strip():
            raise ValueError("no name")
        return Component(name.strip(), _options(arguments))
    except (SyntaxError, ValueError):
        raise ValueError(
            f"cannot read {text!r}; expected name(option=value, …) with plain values, as in learned(rate=10)"
        ) from None


def _options(arguments: str) -> dict[str, Any]:
    call = ast.parse(f"f({arguments})", mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
        raise ValueError("not keyword arguments")
    names = [item.arg for item in call.keywords if item.arg]
    if len(set(names)) < len(call.keywords):
        raise ValueError("an option without a name, or one twice")
    return {name: _literal(item.value) for name, item in zip(names, call.keywords)}


def _literal(node: ast.expr) -> Any:
    """A literal, with YAML's true, false and null; other bare words are strings, so that embedding=curved needs no quotes."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "null": None}.get(node.id, node.id)
    return ast.literal_eval(node)


def import_attribute(path: str) -> Any:
    """The object at "package.module:attribute" or "package.module.attribute".

    Raises:
        ValueError: no such module or attribute, saying which part is missing.
    """
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise ValueError(f"cannot import {path!r}: expected package.module.Class")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {path!r}: {error}; is its package installed or on PYTHONPATH?") from error
    if not hasattr(imported, attribute):
        raise ValueError(f"cannot import {path!r}: module {module!r} has no {attribute!r}")
    return getattr(imported, attribute)


def build(kind: str, spec: Spec | Component, **given: Any) -> Any:
    """The object that `spec` names: REGISTRY[kind], or a class path.

    Args:
        kind: "network", "target", "path" or "timesteps".
        spec: what is wanted.
        given: what the caller knows (the shape of the data, …), passed on as far as the signature has room for it.

    Raises:
        ValueError: an unknown name, an unknown option, or a value that the class refuses.
    """
    component = parse(spec)
    known = REGISTRY[kind]
    fixed: dict[str, Any] = {}
    if component.name in known:
        path, fixed = known[component.name]
        factory = import_attribute(path)
    elif kind == "target" and _is_number(component.name):
        factory, fixed = import_attribute(known["fixed"][0]), {"k": float(component.name)}
    elif kind == "network" and PUBLISHED.fullmatch(component.name):
        factory, fixed = import_attribute("kdiff.networks:published"), {"architecture": component.name}
    elif "." in component.name:
        factory = import_attribute(component.name)
    else:
        close = difflib.get_close_matches(component.name, known, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        sizes = ", a published size ('JiT-B/16')" if kind == "network" else ""
        raise ValueError(
            f"no {kind} is called {component.name!r}{hint}. Known: {', '.join(known)}{sizes}, or a class path (a.b.Class)"
        )
    twice = fixed.keys() & component.options.keys()
    if twice:
        raise ValueError(f"{component} gives {', '.join(twice)} twice: the name {component.name!r} says it already")
    return call_checked(component.name, factory, {**fixed, **component.options}, given)


def call_checked(name: str, factory: Callable[..., Any], options: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """factory(**given, **options), refusing options that its signature does not have.

    Raises:
        ValueError: an unknown option, naming those that exist, or whatever is wrong with a value, naming the component.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {factory!r}; expected a class, or a function that returns the object") from None
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [option for option in options if option not in parameters]
    if unknown and not anything:
        free = [option for option in parameters if option not in given]
        raise ValueError(f"{name} has no option {', '.join(map(repr, unknown))}; it has: {', '.join(free) or 'none'}")
    fitting = {key: value for key, value in given.items() if key in parameters}
    try:
        return factory(**{**fitting, **options})
    except TypeError as error:
        raise ValueError(f"{name} cannot be built from {dict(options)}: {error}") from error


def _is_number(text: Spec) -> bool:
    try:
        float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
