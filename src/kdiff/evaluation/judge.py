"""Judging samples against the training data, every figure beside its floor.

    frechet               Fréchet distance in the features of the data's own classifier (labelled data), in per cent of the
                          total variance of the training part's features
    frechet_heldout       the same distance to the held-out set, which copies of training samples gain nothing in
    sliced_wasserstein    sliced 2-Wasserstein distance, normalised units; for data on a known manifold, in its plane
    mmd                   of vectors: squared maximum mean discrepancy, in the whole space; about 0 for equal laws, below too
    off_manifold          root-mean-square distance off a known manifold
    copying               median distance to the nearest training sample, over that of held-out data: 1 fresh, 0 copied

Finite sets of equal law still differ, and the fewer samples the more. So a figure comes twice: for all samples, and as the mean
over groups as large as the held-out set, which is what the held-out set's own figure, the floor, compares with. The held-out
set is that part of the data, or, with labels, as much of it as has the class proportions of training, which samples have too.
A second floor is an exact denoiser of the training samples through the same sampler, as many samples as were judged: what the
sampler's steps and clamp cost a perfect network (which copies: it says nothing of new samples).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kdiff.components import parse
from kdiff.data import Dataset
from kdiff.evaluation.classifier import TrainedClassifier, dataset_classifier
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.evaluation.frechet import frechet_distance, grouped_frechet, statistics
from kdiff.evaluation.mmd import KernelDistance
from kdiff.evaluation.neighbours import nearest_distance
from kdiff.evaluation.sliced import sliced_wasserstein
from kdiff.model import KDiff
from kdiff.training.generate import generate_ends
from kdiff.training.run import Run, describe_environment

# The paper's sampler, and the same with a last step that returns the data prediction.
SAMPLER: dict[str, Any] = {"solver": "heun", "steps": 50}
LAST_STEPS: dict[str, Literal["euler", "data"]] = {"paper": "euler", "clean": "data"}
# Of larger parts, that many samples drawn at random: files are often sorted.
MAX_REFERENCE = 5000  # training samples to compare with; held-out samples
MAX_POINTS = 2000  # training samples of the exact denoiser
MAX_KERNEL = 2000  # training samples that a kernel compares with
MAX_SEARCHED = 100_000  # training samples among which neighbours are looked for


@dataclass(frozen=True)
class Figure:
    """A measured value: of all samples; mean and standard deviation over groups of them (NaN for a single group)."""

    value: float
    grouped: float
    spread: float
    groups: int


class Judge:
    """Measures samples of one data set; normalised values throughout."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        train, labels = dataset.part("train")
        self.train = train[drawn(len(train), MAX_REFERENCE, labels)]
        self.searched = train[drawn(len(train), MAX_SEARCHED, labels)]
        self.heldout = matched_heldout(dataset)
        self.classifier: TrainedClassifier | None = dataset_classifier(dataset) if dataset.y is not None else None
        if self.classifier:
            features = self.classifier.network.features(self.train)
            self.feature_scale = 10 / features.double().var(dim=0).sum().sqrt().item()
            self.reference = statistics(features * self.feature_scale)
            self.heldout_reference = statistics(self._features(self.heldout))
        self.kernel = KernelDistance(train[drawn(len(train), MAX_KERNEL, labels)]) if len(dataset.shape) == 1 else None
        self.heldout_distance = nearest_distance(self.heldout, self.searched).median().item()

    def _features(self, x: Tensor) -> Tensor:
        """Of the classifier, scaled so that those of the training part have a total variance of 100."""
        assert self.classifier
        return self.classifier.network.features(x) * self.feature_scale

    @property
    def group_size(self) -> int:
        """Samples per group: as many as are held out."""
        return len(self.heldout)

    def measure(self, x: Tensor) -> dict[str, Figure]:
        """All measures of samples x (N, *shape).

        Raises:
            ValueError: fewer samples than one group, or samples that are not finite.
        """
        if len(x) < self.group_size:
            raise ValueError(
                f"{len(x)} samples were given; at least {self.group_size} are needed to compare with as many held-out ones"
            )
        if not x.isfinite().all():
            raise ValueError(f"{(~x.flatten(1).isfinite().all(1)).sum()} of {len(x)} samples are not finite numbers")
        figures = {}
        if self.classifier:
            features = self._features(x)
            for name, reference in (("frechet", self.reference), ("frechet_heldout", self.heldout_reference)):
                value = frechet_distance(statistics(features), reference)
                figures[name] = Figure(value, *grouped_frechet(features, reference, self.group_size))
        manifold = self.dataset.manifold
        place: Callable[[Tensor], Tensor] = manifold.coordinates if manifold else lambda x: x.flatten(1)
        there = place(self.train)
        figures["sliced_wasserstein"] = self._grouped(lambda group: sliced_wasserstein(group, there), place(x))
        if self.kernel:
            figures["mmd"] = self._grouped(self.kernel, x)
        if manifold:
            figures["off_manifold"] = self._grouped(lambda group: group.square().mean().sqrt().item(), manifold.distance(x))
        if self.heldout_distance > 0:
            ratios = nearest_distance(x, self.searched) / self.heldout_distance
            figures["copying"] = self._grouped(lambda group: group.median().item(), ratios)
        return figures

    def _grouped(self, measure: Callable[[Tensor], float], x: Tensor) -> Figure:
        """A measure of all rows of x, and of groups of them."""
        groups = len(x) // self.group_size
        values = torch.tensor([measure(group) for group in x[: groups * self.group_size].split(self.group_size)])
        spread = values.std().item() if groups > 1 else math.nan
        return Figure(measure(x), values.mean().item(), spread, groups)

    @property
    def main_measure(self) -> str:
        """What `distance` gives."""
        if self.classifier:
            return "Fréchet distance"
        return "√(p SW² + off²)" if self.dataset.manifold else "sliced Wasserstein distance"

    def distance(self, x: Tensor) -> float:
        """How far samples x (N, *shape) are from the training data, in one number; infinitely if they are not finite.

        With labels the Fréchet distance; on a known manifold over a plane of p dimensions, √(p SW² + off²) of the sliced
        distance in the plane and the distance off it (see `kdiff.experiments.quality`); else the sliced Wasserstein distance.
        """
        if not x.isfinite().all():
            return math.inf
        if self.classifier:
            return frechet_distance(statistics(self._features(x)), self.reference)
        manifold = self.dataset.manifold
        if manifold is None:
            return sliced_wasserstein(x.flatten(1), self.train.flatten(1))
        inside = sliced_wasserstein(manifold.coordinates(x), manifold.coordinates(self.train))
        return math.sqrt(manifold.plane_dim * inside**2 + manifold.distance(x).square().mean().item())

    def floor(self) -> dict[str, Figure]:
        """The held-out set, measured like samples; its distance to itself is replaced by that of the training samples to it."""
        figures = self.measure(self.heldout)
        if self.classifier:
            value = frechet_distance(self.reference, self.heldout_reference)
            figures["frechet_heldout"] = Figure(value, value, math.nan, 1)
        return figures

    def exact_floors(
        self, run: Run, num_samples: int, seed: int = 0, progress: str | None = None
    ) -> dict[str, dict[str, Figure]]:
        """Samples of an exact denoiser of (up to 2,000 of) the training samples, with the run's target, under each sampler."""
        points, labels = self.dataset.part("train")
        rows = drawn(len(points), MAX_POINTS, labels)
        points, labels = points[rows], None if labels is None else labels[rows]
        model = run.model
        denoiser = ExactDenoiser(points, model.target, model.path, labels, model.noise_scale)
        exact = KDiff(denoiser, model.target, model.path, noise_scale=model.noise_scale)
        # A learned target lies where the run's model does, and the points must lie there too.
        exact.to(next(run.model.parameters()).device)
        ends, how = [*LAST_STEPS.values()], {**SAMPLER, "progress": progress}
        samples = generate_ends(exact, ends, num_samples, run.shape, run.class_counts, seed, **how)
        return {name: self.measure(x) for name, x in zip(LAST_STEPS, samples)}


def drawn(num: int, limit: int, labels: Tensor | None = None) -> Tensor:
    """The rows of up to `limit` of `num` samples, drawn at random once and for all, with labels in their proportions.

    All of them, in order, if they fit.
    """
    if num <= limit:
        return torch.arange(num)
    rows = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    return (rows if labels is None else rows[in_turn(labels[rows])])[:limit]


def in_turn(labels: Tensor) -> Tensor:
    """An order of rows in which every run of them has about the class proportions of all."""
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()
        position[rows] = (torch.arange(len(rows)) + 0.5).double() / len(rows)
    return position.argsort(stable=True)


def evaluation_table(result: dict[str, Any]) -> str:
    """What `evaluate` returned, as text: a line per sampler and measure, with the floors beside it."""
    lines = [
        (
            "sampler",
            "measure",
            f"{result['num_samples']} samples",
            "exact denoiser",
            f"groups of {result['group_size']}",
            "held out",
        )
    ]
    for sampler, judged in result["samplers"].items():
        for measure, figure in judged["figures"].items():
            exact = judged.get("exact", {}).get(measure, {}).get("value")
            grouped = f"{figure['grouped']:.4g}" + ("" if math.isnan(figure["spread"]) else f" ± {figure['spread']:.2g}")
            heldout = f"{result['heldout'][measure]['value']:.4g}"
            lines.append(
                (sampler, measure, f"{figure['value']:.4g}", "" if exact is None else f"{exact:.4g}", grouped, heldout)
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def matched_heldout(dataset: Dataset) -> Tensor:
    """The held-out part; with labels, the largest part of it in the class proportions of training, classes in turn.

    No more than `MAX_REFERENCE` samples.
    Chance proportions would weigh more in the Fréchet distance than anything that samples get wrong.
    """
    x, y = dataset.part("heldout")
    labels = dataset.part("train")[1]
    if y is None or labels is None:
        return x[drawn(len(x), MAX_REFERENCE)]
    share = torch.bincount(labels, minlength=dataset.num_classes).double() / len(labels)
    there = torch.bincount(y, minlength=dataset.num_classes)
    total = min((int(there[c]) / float(share[c]) for c in range(len(share)) if share[c] > 0), default=0.0)
    kept = [torch.nonzero(y == c).flatten()[: round(total * float(share[c]))] for c in range(len(share))]
    if sum(map(len, kept)) < 2 * len(share):
        raise ValueError(
            f"{dataset.name} holds out {there.tolist()} samples per class, training has the shares "
            f"{[round(s, 3) for s in share.tolist()]}: too few to hold out a set of the same proportions"
        )
    rows = torch.cat(kept)
    return x[rows[in_turn(y[rows])][:MAX_REFERENCE]]


def evaluate(
    run: Run,
    judge: Judge,
    num_samples: int = 5000,
    seed: int = 0,
    guidance: float = 1.0,
    exact: bool = True,
    progress: str | None = None,
) -> dict[str, Any]:
    """Everything measured of a run under each sampler, stamped with what produced it.

    Args:
        run: what to sample from.
        judge: of the data it was trained on.
        num_samples: at least as many as are held out are drawn.
        seed: of the samples' noise.
        guidance: scale of classifier-free guidance.
        exact: compute the exact denoiser's floor too (without guidance; it takes as long as sampling, or longer).
        progress: what the bars are called; None for none.
    """
    num_samples = max(num_samples, judge.group_size)
    run.check_guidance(guidance)
    if run.config.train_on == "all":
        warnings.warn(f"{run.folder} was trained on all of its data: what is called held out here was not", stacklevel=2)
    result: dict[str, Any] = {
        "run": str(run.folder),
        "step": run.step,
        "weights": run.weights,
        "target": str(parse(run.config.target)),
        "k": getattr(run.model.target, "k", None),
        "num_samples": num_samples,
        "group_size": judge.group_size,
        "seed": seed,
        "guidance": guidance,
        "data": run.data["fingerprint"],
        "classifier": judge.classifier and {"accuracy": judge.classifier.accuracy, "weights": judge.classifier.digest},
        "environment": describe_environment(),
        "heldout": {name: vars(figure) for name, figure in judge.floor().items()},
        "samplers": {},
    }
    samples = generate_ends(
        run.model,
        [*LAST_STEPS.values()],
        num_samples,
        run.shape,
        run.class_counts,
        seed,
        **SAMPLER,
        guidance=guidance,
        progress=progress,
    )
    floors = judge.exact_floors(run, num_samples, seed, progress and f"{progress}: exact denoiser") if exact else {}
    for (name, last_step), x in zip(LAST_STEPS.items(), samples):
        result["samplers"][name] = {
            "options": {**SAMPLER, "last_step": last_step, "guidance": guidance},
            "figures": {measure: vars(figure) for measure, figure in judge.measure(x).items()},
        }
        if exact:
            result["samplers"][name]["exact"] = {measure: vars(figure) for measure, figure in floors[name].items()}
    return result
