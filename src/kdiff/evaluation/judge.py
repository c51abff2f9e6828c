"""Judge samples against the training data, every figure beside its floors.

    frechet               Fréchet distance in the features of the data's own classifier (labelled data), in per cent of the
                          total variance of the training part's features
    frechet_heldout       the same distance to the held-out set; copies of training samples do not lower it
    sliced_wasserstein    sliced 2-Wasserstein distance, normalised units; for data on a known manifold, in its plane
    mmd                   for vectors: squared maximum mean discrepancy, in the whole space; for equal distributions about 0,
                          and also below
    off_manifold          root-mean-square distance from a known manifold
    copying               median distance to the nearest training sample over that of held-out data: 1 if new, 0 if copied

Finite sets from the same distribution differ, and small sets differ more. So each figure is given twice: for all samples, and
as the mean over groups as large as the held-out set. Only the mean over groups compares with the held-out set's own figure,
the first floor. The held-out set is the held-out part of the data or, with labels, as much of it as has the class proportions
of training, which the samples have too. If classes are small, the held-out samples are weighted instead (see
`kdiff.evaluation.subsets`), every figure of theirs is a weighted one, and a group has as many samples as would be as exact
with equal weights. The second floor is an exact denoiser of the training samples through the same
sampler, with as many samples (`kdiff.evaluation.judged_samplers`). It copies, so it says nothing about new samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from kdiff.data import Dataset
from kdiff.evaluation.classifier import TrainedClassifier, dataset_classifier
from kdiff.evaluation.frechet import frechet_distance, grouped_frechet, statistics
from kdiff.evaluation.judged_samplers import PAPER, Figure, Samplers, draw_each, exact_floors, samplers_for
from kdiff.evaluation.mmd import KernelDistance
from kdiff.evaluation.neighbours import nearest_distance
from kdiff.evaluation.sliced import SlicedDistance
from kdiff.evaluation.subsets import MAX_REFERENCE, drawn, matched_heldout, most_rows
from kdiff.run.environment import describe_environment
from kdiff.run.run import Run
from kdiff.sampling.finite import check_finite

# From larger parts, this many samples are drawn at random, because files are often sorted.
MAX_KERNEL = 2000  # training samples for the kernel
MAX_SEARCHED = 100_000  # training samples that are searched for neighbours


class Judge:
    """Measures samples of one data set; all values are normalised."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        train, labels = dataset.part("train")
        self.train = train[drawn(len(train), most_rows(train, MAX_REFERENCE), labels)]
        self.searched = train[drawn(len(train), most_rows(train, MAX_SEARCHED), labels)]
        self.held_out = matched_heldout(dataset)
        self.heldout, weights = self.held_out.x, self.held_out.weights
        self.classifier: TrainedClassifier | None = dataset_classifier(dataset) if dataset.y is not None else None
        if self.classifier:
            features = self.classifier.network.features(self.train)
            self.feature_scale = 10 / features.double().var(dim=0).sum().sqrt().item()
            self.reference = statistics(features * self.feature_scale)
            self.heldout_reference = statistics(self.features(self.heldout), weights)
        self.kernel = KernelDistance(train[drawn(len(train), MAX_KERNEL, labels)]) if len(dataset.shape) == 1 else None
        manifold = dataset.manifold
        self.place: Callable[[Tensor], Tensor] = manifold.coordinates if manifold else lambda x: x.flatten(1)
        self.sliced = SlicedDistance(self.place(self.train))
        self.heldout_distance = _median(nearest_distance(self.heldout, self.searched), weights)

    def features(self, x: Tensor) -> Tensor:
        """Features of the classifier, scaled so that those of the training part have a total variance of 100."""
        assert self.classifier
        return self.classifier.network.features(x) * self.feature_scale

    @property
    def group_size(self) -> int:
        """Samples in a group: as many as are held out, or as many of equal weight as are as exact as the weighted ones."""
        return self.held_out.equal_count

    def measure(self, x: Tensor) -> dict[str, Figure]:
        """All measures of samples x (N, *shape).

        Raises:
            ValueError: fewer samples than one group, or samples that are not finite.
        """
        if len(x) < self.group_size:
            raise ValueError(f"{len(x)} samples were given; at least {self.group_size} are needed, as many as are held out")
        if not x.isfinite().all():
            raise ValueError(f"{(~x.flatten(1).isfinite().all(1)).sum()} of {len(x)} samples are not finite numbers")
        return self._figures(x, None)

    def _figures(self, x: Tensor, weights: Tensor | None) -> dict[str, Figure]:
        """All measures of samples x (N, *shape), which have these weights (N,) if any; weighted samples are a single group."""
        figures = {}
        if self.classifier:
            features = self.features(x)
            for name, reference in (("frechet", self.reference), ("frechet_heldout", self.heldout_reference)):
                value = frechet_distance(statistics(features, weights), reference)
                grouped = (value, math.nan, 1) if weights is not None else grouped_frechet(features, reference, self.group_size)
                figures[name] = Figure(value, *grouped)
        manifold = self.dataset.manifold
        figures["sliced_wasserstein"] = self._grouped(self.sliced, self.place(x), weights)
        if self.kernel:
            figures["mmd"] = self._grouped(self.kernel, x, weights)
        if manifold:
            figures["off_manifold"] = self._grouped(_root_mean_square, manifold.distance(x), weights)
        if self.heldout_distance > 0:
            ratios = nearest_distance(x, self.searched) / self.heldout_distance
            figures["copying"] = self._grouped(_median, ratios, weights)
        return figures

    def _grouped(self, measure: Callable[[Tensor, Tensor | None], float], x: Tensor, weights: Tensor | None) -> Figure:
        """A measure of all rows of x, and of groups of them; of all weighted rows if there are weights."""
        if weights is not None:
            value = measure(x, weights)
            return Figure(value, value, math.nan, 1)
        groups = len(x) // self.group_size
        values = torch.tensor([measure(group, None) for group in x[: groups * self.group_size].split(self.group_size)])
        spread = values.std().item() if groups > 1 else math.nan
        return Figure(measure(x, None), values.mean().item(), spread, groups)

    @property
    def main_measure(self) -> str:
        """Name of the distance that `distance` returns."""
        if self.classifier:
            return "Fréchet distance"
        return "√(p SW² + off²)" if self.dataset.manifold else "sliced Wasserstein distance"

    def distance(self, x: Tensor) -> float:
        """The distance of samples x (N, *shape) from the training data, in one number; infinite if they are not finite.

        With labels, this is the Fréchet distance. On a known manifold over a plane of p dimensions it is √(p SW² + off²), from
        the sliced distance in the plane and the distance off it (see `kdiff.claims.quality`); else the sliced Wasserstein
        distance.
        """
        if not x.isfinite().all():
            return math.inf
        if self.classifier:
            return frechet_distance(statistics(self.features(x)), self.reference)
        manifold, inside = self.dataset.manifold, self.sliced(self.place(x))
        if manifold is None:
            return inside
        return math.sqrt(manifold.plane_dim * inside**2 + manifold.distance(x).square().mean().item())

    def floor(self) -> dict[str, Figure]:
        """The held-out set, measured like samples; frechet_heldout is here the distance of the training samples to it."""
        figures = self._figures(self.heldout, self.held_out.weights)
        if self.classifier:
            value = frechet_distance(self.reference, self.heldout_reference)
            figures["frechet_heldout"] = Figure(value, value, math.nan, 1)
        return figures

    def exact_floors(
        self, run: Run, num_samples: int, seed: int = 0, progress: str | None = None, samplers: Samplers = PAPER
    ) -> dict[str, dict[str, Figure]]:
        """Figures of an exact denoiser of (up to 2,000) training samples, with the run's target, under each sampler."""
        facts = self.classifier and self.classifier.digest, self.group_size, len(self.train), len(self.searched)
        how = num_samples, run.class_counts, seed
        return exact_floors(self.dataset, run.model, samplers, *how, self.measure, facts, progress)


def _median(x: Tensor, weights: Tensor | None) -> float:
    """The smallest value at which half of all samples (N,), or half of their weight, is reached."""
    if weights is None:
        return x.median().item()
    order = x.argsort()
    reached = weights.to(x.device)[order].cumsum(0) >= 0.5 - 1e-9
    return x[order][int(reached.int().argmax())].item()


def _root_mean_square(x: Tensor, weights: Tensor | None) -> float:
    return (x.square().mean() if weights is None else (weights.to(x.device) * x.square()).sum()).sqrt().item()


def evaluation_table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as text: a line per sampler and measure, with the floors beside it."""
    num, size = result["num_samples"], result["group_size"]
    lines = [("sampler", "measure", f"{num} samples", "exact denoiser", f"groups of {size}", "held-out data")]
    for sampler, judged in result["samplers"].items():
        for measure, figure in judged["figures"].items():
            exact = judged.get("exact", {}).get(measure, {}).get("value")
            grouped = f"{figure['grouped']:.4g}" + ("" if math.isnan(figure["spread"]) else f" ± {figure['spread']:.2g}")
            heldout = f"{result['heldout'][measure]['value']:.4g}"
            value, floor = f"{figure['value']:.4g}", "" if exact is None else f"{exact:.4g}"
            lines.append((sampler, measure, value, floor, grouped, heldout))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def evaluate(
    run: Run,
    judge: Judge,
    num_samples: int = 5000,
    seed: int = 0,
    guidance: float = 1.0,
    exact: bool = True,
    progress: str | None = None,
    more: Callable[[dict[str, Tensor]], dict[str, Any]] | None = None,
    sampler: Literal["paper", "default"] = "paper",
) -> dict[str, Any]:
    """Everything measured of a run under each sampler, with all that produced it.

    Args:
        run: the run to sample from.
        judge: the judge of the data that the run was trained on.
        num_samples: samples to draw; at least as many as are held out.
        seed: seed of the samples' noise.
        guidance: scale of classifier-free guidance.
        exact: compute the exact denoiser's floor too (without guidance; it takes as long as sampling, or longer).
        progress: label of the progress bars; None for none.
        more: measures the same samples, by sampler; what it returns is added to the result.
        sampler: the samplers to judge by, as `samplers_for` says.

    Raises:
        ValueError: guidance for a run that has not learned "no class".
        RuntimeError: samples that are not finite.
    """
    num_samples = max(num_samples, judge.group_size)
    run.check_guidance(guidance)
    if run.config.train_on == "all":
        warnings.warn(f"{run.folder} was trained on all of its data, and so on what is called held out here", stacklevel=2)
    target = run.model.target.describe()
    result: dict[str, Any] = {
        "run": str(run.folder),
        "step": run.step,
        "weights": run.weights,
        "calibrated": run.calibrated,
        "precision": run.model.precision,
        "target": str(run.config.target),
        "k": target.position,
        "target_state": target.scalars,
        "num_samples": num_samples,
        "group_size": judge.group_size,
        "heldout_set": judge.held_out.facts,
        "seed": seed,
        "guidance": guidance,
        "data": run.data["fingerprint"],
        "classifier": judge.classifier and {"accuracy": judge.classifier.accuracy, "weights": judge.classifier.digest},
        "environment": describe_environment(),
        "heldout": {name: vars(figure) for name, figure in judge.floor().items()},
        "samplers": {},
    }
    samplers = samplers_for(run.model, run.shape, sampler)
    how = num_samples, run.shape, run.given, seed
    samples = draw_each(run.model, samplers, *how, guidance=guidance, progress=progress)
    for x in samples.values():
        check_finite(x, f"samples of {run.folder}")
    said = progress and f"{progress}: exact denoiser"
    floors = judge.exact_floors(run, num_samples, seed, said, samplers) if exact else {}
    for name, x in samples.items():
        result["samplers"][name] = {
            "options": {**samplers[name], "guidance": guidance},
            "figures": {measure: vars(figure) for measure, figure in judge.measure(x).items()},
        }
        if exact:
            result["samplers"][name]["exact"] = {measure: vars(figure) for measure, figure in floors[name].items()}
    return {**result, **more(samples)} if more else result
