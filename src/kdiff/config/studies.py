"""The settings of comparisons, sweeps, estimates and claims. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from kdiff.config.parts import Part, PartField, parse
from kdiff.config.plain import PRECISIONS, Precision, check_choices, check_least
from kdiff.config.recipes import chosen_recipe, without_weighting
from kdiff.config.sampling import SAMPLERS
from kdiff.config.training import LoopConfig, ModelConfig

USUAL = ("velocity(weighting=none)", "data(weighting=none)", "paper", "learned")


@dataclass
class CompareConfig(LoopConfig, ModelConfig):
    """Settings for a comparison of prediction targets.

    Args:
        targets: The targets to compare: noise, velocity, data, learned, paper, fixed values of k, "learned(init=0.5)",
            or any other target of `kdiff train`, such as spectral. If left out: velocity and data as they are usually
            trained, the paper's learned k, and learned k under the recipe.
        grid: The number of further fixed values of k to compare, evenly spaced from 0 to 1; 0 adds none.
        seeds: The number of seeds with which each target is trained. They are counted upwards from --seed.
        num_samples: The number of samples that are drawn from each run to judge it.
        exact: true also computes, for the runs of the first seed, the floor: the figure that an exact denoiser of the training
            data reaches through the same sampler.
        sampler: How the runs are judged: default is the default sampler of 20 evaluations, and beside it the paper's for those
            targets whose samples it changes (k above 0.95 or below 0.05). paper is the paper's sampler of 99 evaluations for
            all, with its own last step and with one that returns the data prediction, as in the claims of the paper.
        workers: The number of runs that are trained at the same time, each on one thread.
    """

    targets: list[Part] = field(default_factory=lambda: [*map(parse, USUAL)])
    grid: int = 0
    seeds: int = 3
    num_samples: int = 5000
    exact: bool = True
    sampler: Literal["default", "paper"] = "default"
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, sampler=("default", "paper"))
        self.targets = [*map(parse, self.targets)]
        chosen_recipe(self.recipe, self.loss_space)
        for target in self.targets:
            without_weighting(target)
        check_least(self, seeds=1, num_samples=1, workers=1)
        if self.grid < 0 or self.grid == 1:
            raise ValueError(f"grid is {self.grid}; expected 0 (none) or at least 2: values of k from 0 to 1, both included")


@dataclass
class ReproduceConfig:
    """Settings for reproducing a claim; the claim itself fixes what is run.

    Args:
        workers: The number of runs that are trained at the same time, each on one thread.
        only: One or more patterns for CELL/TARGET/seed_N, such as "H4*" or "*/learned/*". Only the runs that match one of them
            are done, and the report is about all finished runs. This is for claims that can be reproduced in pieces: beyond.
    """

    workers: int = 2
    only: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_least(self, workers=1)


@dataclass
class EstimateConfig:
    """Settings for an estimate of the best k before training.

    Args:
        data: The data: a name (digits, …), a file or a folder; options stand in brackets, as in "spiral(ambient_dim=32)".
        patch_size: The side, in pixels, of the patches into which images are cut. 0 takes the divisor of the image's side that
            is nearest to a quarter of it.
        timesteps: The distribution of the time t that you train with: uniform or "logit_normal(mean=-0.8, std=0.8)".
        noise_scale: The standard deviation of the noise that you train with.
        rank: Also computes the best k for a network whose output has only this many dimensions. 0 leaves this out.
        max_points: The largest number of samples, and of patches, that are looked at.
        neighbours: The number of neighbours of each point in those estimates of the intrinsic dimension d that use distances.
            Fewer neighbours need fewer points, but make the estimate less certain.
        seed: The seed of all random choices, such as which samples and patches are looked at.
    """

    data: PartField = PartField("digits")
    patch_size: int = 0
    timesteps: PartField = PartField("uniform")
    noise_scale: float = 1.0
    rank: int = 0
    max_points: int = 10000
    neighbours: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, patch_size=0, rank=0, max_points=100, neighbours=3, seed=0)
        if not (math.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise ValueError(f"noise_scale is {self.noise_scale}; expected a positive number (1 for noise of variance 1)")


@dataclass
class SweepConfig:
    """Settings for sampling from a run in several ways: every option with several values is varied, in all combinations.

    Args:
        guidance: One or more scales of classifier-free guidance; 1 means no guidance.
        guidance_interval: One or more intervals of time, as in "[[0, 1], [0.2, 0.9]]". Guidance acts only while low < t < high
            (from t = 0 on if low is 0).
        ema: One or more decays of the averaged weights, or none for the raw weights. If left out, the first decay of the run.
        solver: One or more solvers, named as for kdiff sample.
        steps: One or more numbers of steps of the solver.
        times: One or more grids of times, named as for kdiff sample.
        last_step: data, euler or both. data ends with the data prediction. euler leaves noise behind where k is near 1.
        num_samples: The number of samples for each setting. All settings use the same noise and classes.
        seed: The seed of the noise.
        checkpoint: The step of the checkpoint to use. If left out, the newest checkpoint.
        calibrated: Use the calibration that the run has adopted for these weights (kdiff calibrate). false leaves it out. It is
            left out too if another one of the averages has none.
        precision: The precision of the run's network: no is float32, bf16 is bfloat16, fp16 is float16; auto is the faster one
            of no and bf16 on this machine. Conversions and solvers stay in float32.
        features: The features by which images are ranked: inception (FID) or dinov2 (FD-DINOv2), as for kdiff evaluate. If left
            out, samples are ranked by their distance to the training data: the Fréchet distance in the features of the data's
            own classifier, or the sliced Wasserstein distance if the data have no labels.
        feature_weights: Used with --features only: the weights of that network, as for kdiff evaluate.
        reference: Used with --features only: what samples are compared with: a folder or .npz file of images, a .npz file of
            statistics, or a run, which stands for its training data. If left out, the training data of RUN. The features of
            images are computed again for every sweep; statistics save that time.
        autoencoder: Used with --features only, for a run on latents: the place of their autoencoder, if it has moved since the
            latents were encoded.
    """

    guidance: list[float] = field(default_factory=lambda: [1.0])
    guidance_interval: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 1.0)])
    ema: list[float | str] | None = None
    solver: list[str] = field(default_factory=lambda: [SAMPLERS["default"]["solver"]])
    steps: list[int] = field(default_factory=lambda: [SAMPLERS["default"]["steps"]])
    times: list[str] = field(default_factory=lambda: ["uniform"])
    last_step: list[Literal["data", "euler"]] = field(default_factory=lambda: ["data"])
    num_samples: int = 1000
    seed: int = 0
    checkpoint: int | None = None
    calibrated: bool = True
    precision: Precision = "no"
    features: Literal["inception", "dinov2"] | None = None
    feature_weights: str | None = None
    reference: str | None = None
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        check_choices(self, precision=PRECISIONS)
        given = [name for name in ("feature_weights", "reference", "autoencoder") if getattr(self, name) is not None]
        if given and self.features is None:
            raise ValueError(
                f"{', '.join(given)} go with --features; without it samples are ranked by their distance to the run's own "
                "training data. Add --features inception, or leave them out"
            )
        self.solver, self.times = ([str(parse(each)) for each in values] for values in (self.solver, self.times))
        for name in ("guidance", "guidance_interval", "solver", "steps", "times", "last_step"):
            values = getattr(self, name)
            if not values or len({str(value) for value in values}) < len(values):
                raise ValueError(f"{name} is {values}; expected one or more different values, as in --{name} A B C")
        if self.num_samples < 20:
            raise ValueError(f"num_samples is {self.num_samples}; expected at least 20 (ten groups of 2), better 1000")
