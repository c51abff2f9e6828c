"""The configurations of comparisons, sweeps, estimates and claims. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from kdiff.components import REGISTRY, Spec, parse
from kdiff.evaluation.config import SampleConfig
from kdiff.training.config import LoopConfig, ModelConfig


@dataclass
class CompareConfig(LoopConfig, ModelConfig):
    """A comparison of prediction targets.

    Args:
        targets: noise, velocity, data, learned, fixed values of k, or "learned(init=0.5, rate=1)".
        grid: fixed values of k besides, this many, evenly spaced from 0 to 1; 0 for none.
        seeds: how many, counted from `seed`.
        num_samples: drawn from each run to judge it.
        exact: compute the floor of an exact denoiser too, with the first seed's runs.
        workers: runs at a time, one thread each.
    """

    targets: list[Spec] = field(default_factory=lambda: ["noise", "velocity", "data", "learned"])
    grid: int = 0
    seeds: int = 3
    num_samples: int = 5000
    exact: bool = True
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seeds", "num_samples", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.grid < 0 or self.grid == 1:
            raise ValueError(f"grid is {self.grid}; expected 0 (none) or at least 2: values of k from 0 to 1, both included")


def fixed_k(target: Spec) -> float | None:
    """The k of a target that is a fixed k and nothing else: noise, 0.9, "fixed(k=0.9)". None for any other target."""
    component = parse(target)
    path, given = REGISTRY["target"].get(component.name, ("", {}))
    options = {**given, **component.options}
    if path == REGISTRY["target"]["fixed"][0] and options.keys() == {"k"}:
        return fixed_k(options["k"])
    try:
        return None if options else float(component.name)
    except ValueError:
        return None


def with_grid(targets: Sequence[Spec], grid: int) -> list[Spec]:
    """Targets and a grid of fixed k: the fixed ones in order of k, then the others. A k that has a name already keeps it.

    The grid's values are rounded to four digits: thirds are 0.3333 and 0.6667.
    """
    if not grid:
        return list(targets)
    given = [(fixed_k(target), target) for target in targets]
    known = {k for k, _ in given}
    points = [round(i / (grid - 1), 4) for i in range(grid)]
    fixed: list[tuple[float, Spec]] = [(k, target) for k, target in given if k is not None]
    fixed += [(k, k) for k in points if k not in known]
    fixed.sort(key=lambda pair: pair[0])
    return [*(target for _, target in fixed), *(target for k, target in given if k is None)]


@dataclass
class ReproduceConfig:
    """How a claim is reproduced; what is run is fixed by the claim.

    Args:
        workers: runs at a time, one thread each.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; expected at least 1")


@dataclass
class EstimateConfig:
    """What is looked at before training.

    Args:
        data: a name (digits, spiral, …) or a file; options as in "spiral(ambient_dim=32)".
        patch_size: side of an image's patches; near a quarter of the image's if left out.
        timesteps: the law of t that you train with.
        noise_scale: the standard deviation of the noise that you train with.
        rank: also what a network with an output of so many dimensions would do; 0 for none.
        max_points: samples, and patches, that are looked at.
        neighbours: of each point, in the estimates of d that go by distances; fewer need fewer points, and scatter more.
        seed: of what is drawn.
    """

    data: Spec = "digits"
    patch_size: int = 0
    timesteps: Spec = "uniform"
    noise_scale: float = 1.0
    rank: int = 0
    max_points: int = 10000
    neighbours: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in {"patch_size": 0, "rank": 0, "max_points": 100, "neighbours": 3, "seed": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}")
        if not (math.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise ValueError(f"noise_scale is {self.noise_scale}; expected a positive number, 1 for noise of variance 1")


@dataclass
class SweepConfig:
    """Ways to sample from a run; every option with several values is varied, all combinations.

    What is left out is as the run's configuration says under `sampling`, as for kdiff sample.

    Args:
        guidance: scales of classifier-free guidance; 1 is none.
        guidance_interval: guide while low < t < high, "[[0, 1], [0.2, 0.9]]".
        ema: decays of the averaged weights, and none for the raw ones; the first configured if left out.
        solver: as for kdiff sample.
        steps: of the solver.
        times: where the steps are, as for kdiff sample.
        last_step: data or euler.
        num_samples: of each setting, the same noise and classes for all.
        seed: of the noise.
        checkpoint: step of the checkpoint; the newest if left out.
        features: rank images by inception (FID) or dinov2 (FD-DINOv2), as kdiff evaluate finds them; by the distance to the
            training data in the features of their own classifier if left out, without labels the sliced Wasserstein distance.
        feature_weights: with features, as for kdiff evaluate.
        reference: with features, what to compare with: a folder or .npz of images, a .npz of statistics, or a run, whose own
            data are meant; the run's own if left out. Of images features are found anew each time: statistics save that.
        autoencoder: with features, of a run on latents, where their autoencoder lies now, if it has moved.
    """

    guidance: list[float] = field(default_factory=lambda: [1.0])
    guidance_interval: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 1.0)])
    ema: list[float | str] | None = None
    solver: list[str] = field(default_factory=lambda: [SampleConfig.solver])
    steps: list[int] = field(default_factory=lambda: [SampleConfig.steps])
    times: list[str] = field(default_factory=lambda: ["uniform"])
    last_step: list[Literal["data", "euler"]] = field(default_factory=lambda: ["data"])
    num_samples: int = 1000
    seed: int = 0
    checkpoint: int | None = None
    features: Literal["inception", "dinov2"] | None = None
    feature_weights: str | None = None
    reference: str | None = None
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("feature_weights", "reference", "autoencoder") if getattr(self, name) is not None]
        if given and self.features is None:
            raise ValueError(
                f"{', '.join(given)} go with --features; without it samples are ranked by their distance to the run's own "
                "training data. Add --features inception, or leave them out"
            )
        for name in ("guidance", "guidance_interval", "solver", "steps", "times", "last_step"):
            values = getattr(self, name)
            if not values or len({str(value) for value in values}) < len(values):
                raise ValueError(f"{name} is {values}; expected one or more different values, as in --{name} A B C")
        if self.num_samples < 20:
            raise ValueError(f"num_samples is {self.num_samples}; expected at least 20, for ten groups, and better a thousand")
