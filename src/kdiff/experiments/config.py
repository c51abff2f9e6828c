"""The configuration of a comparison. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdiff.components import Spec
from kdiff.training.config import LoopConfig, ModelConfig


@dataclass
class CompareConfig(LoopConfig, ModelConfig):
    """A comparison of prediction targets.

    Args:
        targets: noise, velocity, data, learned, fixed values of k, or "learned(init=0.5, rate=1)".
        seeds: how many, counted from `seed`.
        num_samples: drawn from each run to judge it.
        exact: compute the floor of an exact denoiser too, with the first seed's runs.
        workers: runs at a time, one thread each.
    """

    targets: list[Spec] = field(default_factory=lambda: ["noise", "velocity", "data", "learned"])
    seeds: int = 3
    num_samples: int = 5000
    exact: bool = True
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seeds", "num_samples", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
