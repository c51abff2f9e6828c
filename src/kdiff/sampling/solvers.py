"""The solvers by name. Each is called as `solver(velocity, z, times, callback=None) -> z`; see `kdiff.sampling.walk`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from kdiff.config.parts import Part, parse, resolve
from kdiff.sampling.adams import AdamsBashforth
from kdiff.sampling.adaptive import Dopri5
from kdiff.sampling.multistep import DataMultistep
from kdiff.sampling.runge_kutta import euler, heun, midpoint, rk4
from kdiff.sampling.stochastic import EulerMaruyama
from kdiff.sampling.walk import Solver

# Each entry returns a solver when it is called.
SOLVERS: dict[str, Callable[..., Solver]] = {
    "euler": lambda: euler,
    "heun": lambda: heun,
    "midpoint": lambda: midpoint,
    "rk4": lambda: rk4,
    "ab2": partial(AdamsBashforth, order=2),
    "ab3": partial(AdamsBashforth, order=3),
    "ab4": partial(AdamsBashforth, order=4),
    "dpmpp_2m": DataMultistep,
    "dopri5": Dopri5,
    "sde": EulerMaruyama,
}
CALLERS = ("path", "indices")  # options of solvers that text cannot set: the model's path and the numbers of the samples


def find_solver(solver: str | Part | Solver, **known: Any) -> Solver:
    """A solver by name, with options in brackets ("dopri5(rtol=1e-6)"); a function is returned unchanged.

    Args:
        solver: a name in `SOLVERS`; the class path of a function with the signature of `Solver`, or of a class of such
            functions, as in "my_package.solvers.Mine(damp=0.5)"; or the function itself.
        known: values that the caller knows and a solver may need (path, seed, indices). They fill the fields that are not set.

    Raises:
        ValueError: the name or an option is unknown.
    """
    found: Any = solver
    if isinstance(solver, str | Part):
        part = parse(solver)
        if wrong := [name for name in CALLERS if name in part.options]:
            raise ValueError(f"{part}: {', '.join(wrong)} cannot be set by text, and is that of the model; leave it out")
        given = {name: known.get(name) for name in CALLERS}
        form = "a function of velocity, z, times and callback"
        found = resolve("solver", part, SOLVERS, given, also=f"the class path of {form}", first="velocity")()
        if not callable(found):
            raise ValueError(f"solver is {part}, which makes a {type(found).__name__}; expected {form}")
    fields = vars(found) if dataclasses.is_dataclass(found) else {}
    unset = {name: known[name] for name, value in fields.items() if value is None and name in known}
    return dataclasses.replace(found, **unset) if unset else found
