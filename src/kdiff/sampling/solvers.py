"""The solvers by name: each called as `solver(velocity, z, times, callback=None) -> z`; see `kdiff.sampling.base`."""

from __future__ import annotations

import dataclasses
from typing import Any

from kdiff.sampling.adams import AdamsBashforth
from kdiff.sampling.adaptive import Dopri5
from kdiff.sampling.base import Solver
from kdiff.sampling.multistep import DataMultistep
from kdiff.sampling.runge_kutta import euler, heun, midpoint, rk4
from kdiff.sampling.spec import read_spec
from kdiff.sampling.stochastic import EulerMaruyama

SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "rk4": rk4,
    "ab2": AdamsBashforth(2),
    "ab3": AdamsBashforth(3),
    "ab4": AdamsBashforth(4),
    "dpmpp_2m": DataMultistep(),
    "dopri5": Dopri5(),
    "sde": EulerMaruyama(),
}


def find_solver(solver: str | Solver, **known: Any) -> Solver:
    """A solver by name, with options in brackets ("dopri5(rtol=1e-6)"); a function is returned as it is.

    Args:
        solver: a name of `SOLVERS`, or a function of their signature.
        known: what the caller knows and a solver may need (path, seed, indices), for those of its fields that are not set.

    Raises:
        ValueError: an unknown name or option.
    """
    options: dict[str, Any] = {}
    if isinstance(solver, str):
        text = solver
        name, values, options = read_spec(text)
        if name not in SOLVERS:
            raise ValueError(f"no solver is called {name!r}; expected one of {', '.join(SOLVERS)}, or a function")
        solver = SOLVERS[name]
        # In words there are numbers and names alone: a path and samples' numbers come from the caller.
        own = {field: value for field, value in _fields(solver).items() if field not in ("path", "indices")}
        odd = [
            field for field, value in options.items() if field in own and isinstance(value, str) != isinstance(own[field], str)
        ]
        if values or odd or options.keys() - own.keys():
            wanted = ", ".join(own) or "no option"
            raise ValueError(f"{name} cannot be built from {text!r}: it takes {wanted}, as in dopri5(rtol=1e-6)")
    unset = [name for name, value in _fields(solver).items() if value is None]
    options = {name: known[name] for name in unset if name in known} | options
    return dataclasses.replace(solver, **options) if options else solver  # type: ignore[type-var]


def _fields(solver: Solver) -> dict[str, Any]:
    """The settings of a solver that is a dataclass; a plain function has none."""
    return vars(solver) if dataclasses.is_dataclass(solver) else {}
