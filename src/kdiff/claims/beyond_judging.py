"""How the study `beyond` judges a run: one distance and the copying ratio, of samples drawn in several ways.

    clean          the averaged weights, the default sampler of kdiff (20 evaluations of the network, clean last step)
    calibrated     the same with the calibration that was fitted to the run (`kdiff.training.calibrating`)
    raw, fast      controls: the raw weights, and a faster average (decay 0.99)
    euler          control: the last step is the paper's
    clamp 0.005, clamp 0.2      controls: a smaller and a larger clamp of the conversion to a velocity
    half           as clean, with as many samples as a control has: half of them

The measures have the names `distance` (`kdiff.claims.beyond_cells` says which it is) and `copying`; for calibrated samples
there is also `adopted`, 1 if `kdiff calibrate` would use the calibration.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from torch import Tensor

from kdiff.config.sampling import SAMPLERS
from kdiff.config.training import TrainConfig
from kdiff.evaluation.adoption import compare_samples
from kdiff.evaluation.frechet import frechet_distance, statistics
from kdiff.evaluation.judge import Judge
from kdiff.evaluation.neighbours import nearest_distance
from kdiff.evaluation.sliced import sliced_wasserstein
from kdiff.model import KDiff
from kdiff.run.build import load_dataset
from kdiff.run.environment import describe_environment
from kdiff.run.generate import generate
from kdiff.run.run import Run, load_run
from kdiff.training.calibrating import calibrate

DEFAULT = SAMPLERS["default"]
CONTROLS: dict[str, dict[str, Any]] = {
    "euler": {**DEFAULT, "last_step": "euler"},
    "clamp 0.005": {**DEFAULT, "min_denominator": 0.005},
    "clamp 0.2": {**DEFAULT, "min_denominator": 0.2},
}
AVERAGES: dict[str, float | str] = {"raw": "none", "fast": 0.99}
ADOPTING = 1000  # added to the seed, for the noise that decides about a calibration
SEARCHED = 500  # samples whose nearest training sample is searched for


@lru_cache(maxsize=1)
def judge_of(data: str) -> Judge:
    """The judge of some data; a worker keeps the last one, because it takes as long as a short run."""
    return Judge(load_dataset(TrainConfig(data=data)))


def distance(judge: Judge, x: Tensor) -> float:
    """The distance of samples x (N, *shape) in one number, as `kdiff.claims.beyond_cells` defines it."""
    if not x.isfinite().all():
        return math.inf
    manifold = judge.dataset.manifold
    if manifold is not None:
        inside = sliced_wasserstein(manifold.coordinates(x), manifold.coordinates(judge.train))
        return math.sqrt(manifold.plane_dim * inside**2 + manifold.distance(x).square().mean().item())
    if judge.classifier:
        return frechet_distance(statistics(judge.features(x)), judge.heldout_reference)
    return sliced_wasserstein(x, judge.heldout)


def copying(judge: Judge, x: Tensor) -> float:
    """The median distance of samples to the nearest training sample over that of held-out data; NaN where that is 0."""
    if not x.isfinite().all() or not judge.heldout_distance > 0:
        return math.nan
    return nearest_distance(x[:SEARCHED], judge.searched).median().item() / judge.heldout_distance


def floor(judge: Judge) -> float:
    """The distance between the training data and the held-out data, by the same measure."""
    if judge.dataset.manifold is not None:
        return distance(judge, judge.heldout)
    return distance(judge, judge.train)


def _drawn(run: Run, model: KDiff, num: int, seed: int, options: dict[str, Any]) -> Tensor:
    return generate(model, num, run.shape, run.given, seed, **options)[0]


def _judged(run: Run, num: int, seed: int, calibrated: bool, controls: bool) -> dict[str, Any]:
    judge = judge_of(str(run.config.data))
    target = run.model.target.describe()
    found: dict[str, dict[str, float]] = {}

    def add(name: str, model: KDiff, options: dict[str, Any], count: int) -> None:
        x = _drawn(run, model, count, seed, options)
        found[name] = {"distance": distance(judge, x), "copying": copying(judge, x)}

    run.model.calibration = None  # of a run that was judged before
    add("clean", run.model, DEFAULT, num)
    if controls:
        few = max(2, num // 2)
        add("half", run.model, DEFAULT, few)
        for name, options in CONTROLS.items():
            add(name, run.model, options, few)
        for name, decay in AVERAGES.items():
            other = load_run(run.folder, ema=decay).model
            other.calibration = None
            add(name, other, DEFAULT, few)
    if calibrated:
        calibrate(run, judge.dataset)
        calibration = run.model.calibration
        assert calibration
        add("calibrated", run.model, DEFAULT, num)
        # As `kdiff calibrate` decides, but with other noise than ours, and nothing is written beside the weights.
        closer = compare_samples(run, judge.dataset, calibration, seed=ADOPTING + seed).closer
        found["calibrated"]["adopted"] = float(closer)
    return {
        "k": target.position,
        "target_state": target.scalars,
        "num_samples": num,
        "seed": seed,
        "data": run.data["fingerprint"],
        "classifier": judge.classifier and {"accuracy": judge.classifier.accuracy, "weights": judge.classifier.digest},
        "environment": describe_environment(),
        "floor": floor(judge),
        "samplers": {},
        "figures": found,
    }


def clean(run: Run, num: int, seed: int) -> dict[str, Any]:
    """The distance of samples of the default sampler, and nothing else."""
    return _judged(run, num, seed, calibrated=False, controls=False)


def with_calibration(run: Run, num: int, seed: int) -> dict[str, Any]:
    """The same, and that of the calibrated run."""
    return _judged(run, num, seed, calibrated=True, controls=False)


def with_controls(run: Run, num: int, seed: int) -> dict[str, Any]:
    """The same, and all controls."""
    return _judged(run, num, seed, calibrated=True, controls=True)
