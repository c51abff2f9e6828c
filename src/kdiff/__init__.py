"""kdiff: diffusion and flow models whose prediction target is learned (k-Diff, arXiv 2601.21419).

The public names below, and rooms such as `kdiff.networks`, are imported on first use, so that `kdiff --help` needs no torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdiff.config import moved

__version__ = "0.2.0"

if TYPE_CHECKING:
    from kdiff.data import load as load_data
    from kdiff.model import KDiff
    from kdiff.path import GaussianPath, LinearPath, VariancePreservingPath
    from kdiff.run.run import load_run
    from kdiff.sampling import LogitNormal, Uniform, draw_noise
    from kdiff.targets import FixedK, GeneralTarget, LearnedK, Target, to_data, to_noise, to_velocity

# Rooms and files, and the public names that each holds.
_PLACES = {
    "data": "load_data",
    "model": "KDiff",
    "path": "GaussianPath LinearPath VariancePreservingPath",
    "run.run": "load_run",
    "sampling": "LogitNormal Uniform draw_noise",
    "targets": "FixedK GeneralTarget LearnedK Target to_data to_noise to_velocity",
}
_HOME = {name: f"kdiff.{place}" for place, names in _PLACES.items() for name in names.split()}

__all__ = ["FixedK", "GaussianPath", "GeneralTarget", "KDiff", "LearnedK", "LinearPath", "LogitNormal", "Target", "Uniform"]
__all__ += ["VariancePreservingPath", "draw_noise", "load_data", "load_run", "to_data", "to_noise", "to_velocity"]
_ROOMS = sorted({"model", "path", *(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))})

moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), "load" if name == "load_data" else name)
    elif name in _ROOMS or f"kdiff.{name}" in moved.MODULES:
        value = importlib.import_module(f"kdiff.{name}")
    else:
        raise AttributeError(f"module 'kdiff' has no attribute {name!r}; it has: {', '.join(sorted([*_HOME, *_ROOMS]))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_ROOMS])
