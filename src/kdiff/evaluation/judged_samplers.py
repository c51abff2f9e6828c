"""The samplers by which runs are judged, and the floor that an exact denoiser reaches through each of them.

    paper      the paper's sampler: Heun, 50 steps, 99 evaluations, Euler's last step
    clean      a last step that returns the data prediction: the paper's sampler otherwise, or the default sampler

An exact denoiser of the training samples shows what the steps and the clamp of a sampler cost a perfect network. Where the
clamp does not act, the velocity of an exact denoiser is the same for every target, so its samples are too. These floors, and
those of fixed k, are computed once for a data set, a sampler, a number of samples and a seed, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kdiff.config.sampling import SAMPLERS
from kdiff.data import Dataset
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.evaluation.subsets import drawn
from kdiff.files import cache
from kdiff.model import KDiff
from kdiff.run.generate import generate, generate_ends
from kdiff.run.given import Given
from kdiff.sampling.times import uniform_times
from kdiff.targets import FixedK

# The paper's sampler, and the same with a last step that returns the data prediction.
SAMPLER: dict[str, Any] = {name: SAMPLERS["paper"][name] for name in ("solver", "steps")}
LAST_STEPS: dict[str, Literal["euler", "data"]] = {"paper": SAMPLERS["paper"]["last_step"], "clean": "data"}
PAPER = {name: {**SAMPLER, "last_step": last_step} for name, last_step in LAST_STEPS.items()}
CLEAN = {"clean": SAMPLERS["default"]}
MAX_POINTS = 2000  # training samples for the exact denoiser; from more, this many are drawn, because files are often sorted
NUMBERS = 2**22  # entries of a batch of the exact denoiser at most, but no fewer than 500 samples
VERSION = 1  # of the floors in the cache; it is raised when a measure or the exact denoiser changes

Samplers = Mapping[str, Mapping[str, Any]]  # solver, steps and last_step by name


@dataclass(frozen=True)
class Figure:
    """A measured value: of all samples; mean and standard deviation over groups of them (NaN for a single group)."""

    value: float
    grouped: float
    spread: float
    groups: int


def samplers_for(model: KDiff, shape: tuple[int, ...], sampler: Literal["paper", "default"]) -> Samplers:
    """The samplers that judge a model. `paper`: the paper's, with both last steps; their other steps are shared.

    `default`: the default sampler, which takes a fifth of the evaluations; and beside it the paper's sampler if its clamp acts
    on the model's target (k above 0.95 or below 0.05), because its samples are others then.
    """
    if sampler == "paper":
        return PAPER
    return {"paper": PAPER["paper"], **CLEAN} if _clamped(model, shape, PAPER["paper"]) else CLEAN


def draw_each(
    model: KDiff,
    samplers: Samplers,
    num: int,
    shape: tuple[int, ...],
    given: list[int] | Given | None,
    seed: int,
    **options: Any,
) -> dict[str, Tensor]:
    """Samples (num, *shape) of a model by each sampler. Samplers that differ only in their last step share the others."""
    found: dict[str, Tensor] = {}
    for names in _sharing(samplers):
        how = {**samplers[names[0]], **options}
        last_steps = [samplers[name]["last_step"] for name in names]
        if len(names) > 1:
            del how["last_step"]
            found |= zip(names, generate_ends(model, last_steps, num, shape, given, seed, **how))
        else:
            found[names[0]] = generate(model, num, shape, given, seed, **how)[0]
    return {name: found[name] for name in samplers}


def exact_floors(
    dataset: Dataset,
    model: KDiff,
    samplers: Samplers,
    num: int,
    counts: list[int] | None,
    seed: int,
    measure: Callable[[Tensor], dict[str, Figure]],
    facts: tuple[object, ...],
    progress: str | None = None,
) -> dict[str, dict[str, Figure]]:
    """Figures of an exact denoiser of (up to 2,000) training samples, with the model's target, under each sampler.

    Args:
        dataset: the data.
        model: its target, path and scale of noise are used, not its network.
        samplers: solver, steps and last step by name.
        num: the number of samples.
        counts: the number of training samples of each class, for labels in their proportions.
        seed: the seed of the noise.
        measure: the figures of samples (num, *shape).
        facts: what the figures depend on besides the data and the samples, such as a classifier.
        progress: the name of the progress bar; None shows no bar.
    """
    found: dict[str, dict[str, Figure]] = {}
    for names in _sharing(samplers):
        chosen = {name: samplers[name] for name in names}
        # The target of the exact denoiser, and whether others have the same floor.
        target, shared = model.target, isinstance(model.target, FixedK)
        if not any(_clamped(model, dataset.shape, options) for options in chosen.values()):
            target, shared = FixedK(0.5), True

        def work(chosen: Samplers = chosen, target: Any = target) -> dict[str, dict[str, list[Any]]]:
            exact = _exact_model(dataset, model, target)
            # Large batches, because the exact denoiser works label by label.
            how = {"progress": progress, "batch_size": min(5000, max(500, NUMBERS // dataset.dimension))}
            samples = draw_each(exact, chosen, num, dataset.shape, counts, seed, **how)
            return {name: {what: _plain(figure) for what, figure in measure(x).items()} for name, x in samples.items()}

        if shared:
            k, path = target.k, (type(model.path).__name__, model.noise_scale)
            key = (VERSION, *_identity(dataset), num, counts, seed, sorted((n, *o.items()) for n, o in chosen.items()), k, path)
            plain = cache.json_of(cache.entry("floors", *key, *facts), work)
        else:
            plain = work()
        found |= {name: {what: _figure(*each) for what, each in figures.items()} for name, figures in plain.items()}
    return {name: found[name] for name in samplers}


def _exact_model(dataset: Dataset, model: KDiff, target: Any) -> KDiff:
    """The exact denoiser of the training samples in the place of the network, on the model's device."""
    points, labels = dataset.part("train")
    rows = drawn(len(points), MAX_POINTS, labels)
    points, labels = points[rows], None if labels is None else labels[rows]
    denoiser = ExactDenoiser(points, target, model.path, labels, model.noise_scale)
    exact = KDiff(denoiser, target, model.path, noise_scale=model.noise_scale)
    return exact.to(next(model.parameters()).device)


def _sharing(samplers: Samplers) -> list[list[str]]:
    """The names of the samplers, those that differ only in their last step together."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, options in samplers.items():
        groups.setdefault(tuple(item for item in options.items() if item[0] != "last_step"), []).append(name)
    return list(groups.values())


def _clamped(model: KDiff, shape: tuple[int, ...], sampler: Mapping[str, Any]) -> bool:
    """Whether the clamp acts on the model's target at a time at which this sampler asks for a velocity."""
    return model.target.clamped(uniform_times(sampler["steps"])[:-1], shape, model.path)


def _identity(dataset: Dataset) -> tuple[object, ...]:
    """What tells normalised data apart: the fingerprint of the raw values, and the numbers of their normalisation."""
    numbers = torch.cat([dataset.normalisation.shift.double().flatten(), dataset.normalisation.scale.double().flatten()])
    digest = hashlib.blake2b(numbers.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    return dataset.fingerprint, dataset.normalisation.kind, digest


def _plain(figure: Figure) -> list[Any]:
    """The figure for JSON, which has no NaN."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in vars(figure).values()]


def _figure(value: float | None, grouped: float | None, spread: float | None, groups: int) -> Figure:
    value, grouped, spread = (math.nan if each is None else each for each in (value, grouped, spread))
    return Figure(value, grouped, spread, groups)
