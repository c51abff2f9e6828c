"""Targets by name: `noise`, `0.9`, `learned(rate=1)`, or a class path."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from kdiff.config.parts import Spec, is_number, parse, resolve
from kdiff.targets.asymflow import AsymFlow
from kdiff.targets.constant import FixedK, LearnedK
from kdiff.targets.directed import LearnedDirections
from kdiff.targets.self_consistent import SelfConsistent
from kdiff.targets.spectral import Spectral
from kdiff.targets.target import Target
from kdiff.targets.two_ended import TwoEndedK
from kdiff.targets.varied import GeneralTarget, LearnedKOfTime, LearnedPair
from kdiff.targets.wiener import Wiener

TARGETS: dict[str, Callable[..., Target]] = {
    "noise": partial(FixedK, k=0.0),
    "velocity": partial(FixedK, k=0.5),
    "data": partial(FixedK, k=1.0),
    "fixed": FixedK,
    "learned": LearnedK,
    "paper": partial(LearnedK, init=0.5, rate=1.0),
    "learned_pair": LearnedPair,
    "learned_of_time": LearnedKOfTime,
    "two_ended": TwoEndedK,
    "spectral": Spectral,
    "learned_directions": LearnedDirections,
    "asymflow": AsymFlow,
    "wiener": Wiener,
    "self_consistent": SelfConsistent,
    "general": GeneralTarget,
}


def find_target(spec: Spec, **given: Any) -> Callable[[], Target]:
    """A function that builds the target named by `spec`; `kdiff.config.parts.resolve` describes `given` and the errors."""
    also = "a number (a fixed k), or a class path (package.module.Class)"
    return resolve("target", spec, TARGETS, given, _number, also, of=Target)


def _number(name: str) -> Callable[..., Target] | None:
    return partial(FixedK, k=float(name)) if is_number(name) else None


def fixed_k(spec: Spec) -> float | None:
    """The k of a target that is a fixed k and nothing else, such as noise, 0.9 or "fixed(k=0.9)"; None for any other target.

    It is None too if the target has a weighting of its own.
    """
    part = parse(spec)
    if "weighting" in part.options:  # its loss is not that of the other fixed k
        return None
    factory = TARGETS.get(part.name) or _number(part.name)
    if getattr(factory, "func", factory) is not FixedK:
        return None
    make: Any = find_target(part)
    given = inspect.signature(FixedK).bind(*make.args, **make.keywords).arguments
    return FixedK(given["k"]).k if given.keys() == {"k"} else None


def as_target(target: Target | Spec) -> Target:
    """The given target, or the target that a name or a number stands for (see `find_target`)."""
    return target if isinstance(target, Target) else find_target(target)()
