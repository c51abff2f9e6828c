"""Is a calibration used? Only if samples are closer to held-out data with it than without it, beyond chance.

The least mean-square error is not the closest law of samples, so the samples decide. They are drawn twice from the same noise
and labels, without and with the calibration, as `kdiff sample` draws them, in groups; each group is compared with other rows of
the held-out part. With SW the sliced Wasserstein distance,

    d_g = log(SW(calibrated, held out) / SW(plain, held out))        group g

and the calibration is adopted if the upper end of Student's 95 % interval of the mean of d_g is below 0. Common noise, common
rows and common directions make the two distances of a group fluctuate together, so that small differences show.

SW is taken where differences matter: in the features of the data's own classifier for labelled data; for images without labels
in the features of two layers of random convolutions, because in pixels the strong directions hide the weak ones; for data on a
known manifold together with the distance from it, √(p SW² + off²); for all else in the samples' own coordinates.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from kdiff.config.sampling import sampler_options
from kdiff.data import Dataset
from kdiff.data.progress import shown
from kdiff.data.samples import is_image
from kdiff.evaluation.classifier import dataset_classifier
from kdiff.evaluation.sliced import sliced_wasserstein
from kdiff.evaluation.subsets import matched_heldout
from kdiff.run.calibrations import calibration_place, save_calibration
from kdiff.run.environment import describe_environment
from kdiff.run.generate import generate
from kdiff.run.run import Run
from kdiff.sampling.noise import mix_seed
from kdiff.targets.calibration import Calibration
from kdiff.training.calibrating import calibrate, squared_errors

GROUPS, SIZE = 8, 256  # groups of samples, and samples in each
LEAST = 2  # held-out rows in a group
JUDGING = 1  # mixed into the seed: a calibration is judged with other noise than the noise that it is found with
LEVEL = 0.975  # of Student's distribution: a two-sided interval of 95 %

Distance = Callable[[Tensor, Tensor, Tensor | None, int], float]  # of samples to rows with weights, by the directions of a seed


@dataclass(frozen=True)
class Comparison:
    """Distances of samples to held-out data, group by group, without and with a calibration; `measure` is their name."""

    measure: str
    plain: list[float]
    calibrated: list[float]

    @property
    def interval(self) -> tuple[float, float, float]:
        """The mean of log(calibrated / plain), and its 95 % interval; infinite if samples are not finite or a distance is 0."""
        if not all(0 < value < math.inf for value in [*self.plain, *self.calibrated]):
            return math.inf, -math.inf, math.inf
        logs = [math.log(after / before) for before, after in zip(self.plain, self.calibrated)]
        mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
        reach = float(stdtrit(len(logs) - 1, LEVEL)) * error
        return mean, mean - reach, mean + reach

    @property
    def closer(self) -> bool:
        """Whether the calibrated samples are closer, beyond chance."""
        return self.interval[2] < 0

    def __str__(self) -> str:
        if not all(map(math.isfinite, self.plain)):
            return "samples without it are not finite, so nothing can be said"
        if not all(map(math.isfinite, self.calibrated)):
            return "samples with it are not finite"
        if self.plain == self.calibrated:
            return f"samples are as far from held-out data with it as without it, by the {self.measure}"
        if not all([*self.plain, *self.calibrated]):
            return f"the {self.measure} to held-out data is 0 in some groups, so no ratio of distances can be judged"
        mean, low, high = (100 * math.expm1(value) for value in self.interval)
        how = "closer to" if high < 0 else "farther from" if low > 0 else "neither closer to nor farther from"
        change = f"{mean:+.1f} %, 95 % interval {low:+.1f} to {high:+.1f} %"
        return f"samples are {how} held-out data ({change}) by the {self.measure}"


@torch.no_grad()
def compare_samples(
    run: Run, dataset: Dataset, calibration: Calibration, size: int = SIZE, seed: int = 0, progress: str | None = None
) -> Comparison:
    """Distances of a run's samples to held-out data, without and with a calibration; the run's model is left as it is.

    Args:
        run: the run.
        dataset: its data.
        calibration: the calibration to be judged.
        size: samples in each of the 8 groups.
        seed: the seed of noise and labels.
        progress: the name of the progress bars; None for none.

    Raises:
        ValueError: fewer than 16 held-out rows.
    """
    held = matched_heldout(dataset)
    if len(held.x) < LEAST * GROUPS:
        raise ValueError(f"{len(held.x)} held-out samples cannot judge a calibration; expected at least {LEAST * GROUPS}")
    name, distance = _distance(dataset)
    order = torch.arange(len(held.x))
    if dataset.y is None:  # rows with labels are in an order in which every part has the same proportions
        order = torch.randperm(len(order), generator=torch.Generator().manual_seed(0))
    rows = order.tensor_split(GROUPS)
    found, options = list[list[float]](), sampler_options(run.config.sampling)
    used = run.model.calibration
    try:
        for each in (None, calibration):
            run.model.calibration = each
            named = f"{progress}: {'plain' if each is None else 'calibrated'} samples"
            found.append([])
            for group in shown(range(GROUPS), GROUPS, named, unit="group") if progress else range(GROUPS):
                x, _ = generate(run.model, size, run.shape, run.given, seed, start=group * size, **options)
                near = rows[group]
                weights = None if held.weights is None else held.weights[near] / held.weights[near].sum()
                finite = bool(x.isfinite().all())
                found[-1].append(distance(x, held.x[near], weights, group) if finite else math.inf)
    finally:
        run.model.calibration = used
    return Comparison(name, *found)


def calibrate_run(
    run: Run, dataset: Dataset | None = None, seed: int = 0, progress: str | None = None, **options: Any
) -> dict[str, Any]:
    """Find the calibration of a run, judge it, and write it beside the weights; the run's model has it if it is adopted.

    Args:
        run: a run from `load_run`; a calibration that its weights have is replaced.
        dataset: the run's data, if they are loaded already.
        seed: the seed of rows, noise and samples.
        progress: the name of the progress bars; None for none.
        options: `knots`, `samples` and `directions` of `fit_calibration`, and `size` of `compare_samples`.

    The result is what is written to calibration.json: "adopted" and "why", "folds" (by which share the squared error of v of
    each unseen fold fell), "errors" (the mean square error of the data prediction on held-out rows at some times), "distances"
    and "seconds".

    Raises:
        ValueError: the data have changed, or are too few.
        FolderReplaced: the run folder was removed or replaced since the run was read.
    """
    began, size = time.perf_counter(), options.pop("size", SIZE)
    dataset = run.dataset() if dataset is None else dataset
    if run.config.train_on == "all":
        warnings.warn(f"{run.folder} was trained on all of its data, and so on what is called held out here", stacklevel=2)
    folds = calibrate(run, dataset, progress, seed=seed, **options).tolist()
    fitted = time.perf_counter() - began
    calibration = run.model.calibration
    assert calibration is not None
    plain = {name: value for name, value in options.items() if name != "directions"}  # their basis is named beside them
    facts: dict[str, Any] = {"seed": seed, **plain, "data": run.data["fingerprint"], "target": str(run.config.target)}
    facts["precision"] = run.model.precision
    held = dataset.part("heldout")[0], dataset.conditions_of("heldout")
    judging = mix_seed(seed, JUDGING)
    facts |= {"folds": folds, "errors": squared_errors(run.model, *held, seed=judging)}
    adopted, why = False, "no correction lowers the error of samples that it was not found on"
    if calibration.h.any():
        judged = compare_samples(run, dataset, calibration, size, judging, progress)
        mean, low, high = judged.interval
        adopted = judged.closer
        facts["distances"] = {**asdict(judged), "log_ratio": mean, "low": low, "high": high, "samples": GROUPS * size}
        facts["sampler"] = sampler_options(run.config.sampling)
        why = str(judged)
    facts |= {"why": why, "environment": describe_environment()}
    facts["seconds"] = {"fit": fitted, "all": time.perf_counter() - began}
    place = calibration_place(run.folder, run.step, run.weights)
    run.place.check(place)
    save_calibration(place, calibration, adopted, run.step, run.weights, run.weights_digest, facts)
    if not adopted:
        run.model.calibration = None
    return {"place": str(place), "adopted": adopted, **facts}


def _distance(dataset: Dataset) -> tuple[str, Distance]:
    """The distance by which samples of these data are judged, and its name."""

    def within(place: Callable[[Tensor], Tensor]) -> Distance:
        return lambda x, rows, weights, seed: sliced_wasserstein(place(rows), place(x), seed=seed, weights=weights)

    if dataset.y is not None:
        return "sliced Wasserstein distance in the features of the data's classifier", within(
            dataset_classifier(dataset).network.features
        )
    manifold = dataset.manifold
    if manifold is not None:
        inside = within(manifold.coordinates)

        def off(x: Tensor, rows: Tensor, weights: Tensor | None, seed: int) -> float:
            away = manifold.distance(x).square().mean().item()
            return math.sqrt(manifold.plane_dim * inside(x, rows, weights, seed) ** 2 + away)

        return "√(p SW² + off²), with the sliced Wasserstein distance in the plane and the distance off it", off
    if is_image(dataset.shape):
        return "sliced Wasserstein distance in features of random convolutions", within(RandomFeatures(dataset.shape[0]))
    return "sliced Wasserstein distance", within(lambda x: x.flatten(1))


class RandomFeatures(nn.Module):
    """256 features of images (N, C, H, W) from two layers of convolutions, whose weights are drawn from a fixed seed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 32, 5, stride=2, padding=2),
                nn.GELU(),
                nn.Conv2d(32, 64, 5, stride=2, padding=2),
                nn.GELU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
            )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The features (N, 256) of the images."""
        return torch.cat([self.body(part) for part in x.float().split(64)])
