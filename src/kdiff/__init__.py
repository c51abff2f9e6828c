"""kdiff: diffusion and flow models whose prediction target is learned (k-Diff, arXiv 2601.21419).

The public names below are loaded on first use, so that `kdiff --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdiff.data import load as load_data
    from kdiff.model import KDiff
    from kdiff.path import GaussianPath, LinearPath, VariancePreservingPath
    from kdiff.sampling import draw_noise
    from kdiff.target import FixedK, GeneralTarget, LearnedK, Target, to_data, to_noise, to_velocity
    from kdiff.timesteps import LogitNormal, Uniform
    from kdiff.training.run import load_run

_HOME = {
    "KDiff": "kdiff.model",
    "Target": "kdiff.target",
    "FixedK": "kdiff.target",
    "LearnedK": "kdiff.target",
    "GeneralTarget": "kdiff.target",
    "to_velocity": "kdiff.target",
    "to_data": "kdiff.target",
    "to_noise": "kdiff.target",
    "GaussianPath": "kdiff.path",
    "LinearPath": "kdiff.path",
    "VariancePreservingPath": "kdiff.path",
    "Uniform": "kdiff.timesteps",
    "LogitNormal": "kdiff.timesteps",
    "draw_noise": "kdiff.sampling",
    "load_data": "kdiff.data",
    "load_run": "kdiff.training.run",
}

__all__ = [
    "FixedK",
    "GaussianPath",
    "GeneralTarget",
    "KDiff",
    "LearnedK",
    "LinearPath",
    "LogitNormal",
    "Target",
    "Uniform",
    "VariancePreservingPath",
    "draw_noise",
    "load_data",
    "load_run",
    "to_data",
    "to_noise",
    "to_velocity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdiff' has no attribute {name!r}; it has: {', '.join(sorted(_HOME))}")
    module = importlib.import_module(_HOME[name])
    value = getattr(module, "load" if name == "load_data" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
