"""Which way of sampling from a trained model is best: every combination of guidance, interval, weights, solver and steps.

All settings start from the same noise and classes, and are ranked by the distance of all samples to the training data: the
Fréchet distance in the features of the data's own classifier, without labels the sliced Wasserstein distance. Images are ranked
by FID or FD-DINOv2, to any reference, if that is asked for (`kdiff.evaluation.score.FeatureDistance`). For what the ranking is
worth the samples are cut into ten groups and every distance d is taken without each of them,

    p_g = 10 d − 9 d(without group g),        δ_g = p_g(this setting) − p_g(best setting)

which is the jackknife (`kdiff.evaluation.frechet.jackknife_frechet`), paired over settings by the noise that they share: a
setting is told apart as worse if the mean of δ is above 0 with 95 % confidence for all settings together (Student's t,
`kdiff.experiments.paired`). With few samples that says little for a setting, so what is recommended for its price must be as
good: the cheapest setting of which the interval of δ, its own, ends below a tenth of the best distance.

    OUT/sweep.csv        a line per setting; sweep.json: the same with all that produced it; sweep.png
    OUT/settings/        a file for each setting that is done: a sweep that was cut off goes on with the next. Without an OUT of
                         one's own RUN/sweeps/settings, for all sweeps: another one does not sample it again

Choosing the best of many by their samples flatters it: judge it by `kdiff evaluate --seed` of another seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kdiff.data import Dataset
from kdiff.evaluation.config import EvaluateConfig
from kdiff.evaluation.judge import Judge
from kdiff.evaluation.score import FeatureDistance
from kdiff.evaluation.shards import weights_digest
from kdiff.experiments.claim import markdown
from kdiff.experiments.config import SweepConfig
from kdiff.experiments.paired import MARGIN, intervals
from kdiff.files import read_json, write_json, write_text
from kdiff.model import KDiff
from kdiff.training.config import as_dict
from kdiff.training.folder import locked, sampling_of
from kdiff.training.generate import generate
from kdiff.training.run import Run, describe_environment, load_run

GROUPS = 10
OPTIONS = ("ema", "solver", "times", "last_step", "steps", "guidance", "guidance_interval")
FIXED = ("guidance_rescale", "guidance_channels")  # as the run's configuration says
BATCH = 250


@dataclass(frozen=True)
class Setting:
    """A way to sample, and what came of it.

    Attributes:
        options: of `KDiff.sample`, and the weights.
        evaluations: of the network, for each sample; with guidance two at a time count as two.
        value: the distance of all samples.
        groups: p of each group, whose mean is the distance without most of what it owes to the number of samples.
        seconds: it took.
    """

    options: dict[str, Any]
    evaluations: float
    value: float
    groups: list[float]
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether all samples are finite numbers."""
        return all(map(math.isfinite, (self.value, *self.groups)))

    def label(self, names: Sequence[str]) -> str:
        """These options, for a person."""
        return ", ".join(f"{name.replace('_', ' ')} {shown(self.options[name])}" for name in names) or "as given"


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep.

    Attributes:
        settings: all, in order.
        measure: by which they are compared.
        varied: the options that were.
        best: the nearest to the data.
        close: it, and those not told apart from it as worse.
        cheap: the one of the fewest evaluations that is as good, with 95 % confidence at most 10 % farther.
    """

    settings: list[Setting]
    measure: str
    varied: list[str]
    best: Setting
    close: list[Setting]
    cheap: Setting


class JudgedDistance:
    """Distance to the data the run was trained on, by `Judge.distance`, of many sets of samples in turn.

    Attributes:
        name: what it is called.
        stamp: what tells it from others: settings that were judged by another one are sampled anew.
        facts: what else the result says of it.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.judge = Judge(dataset)
        self.name = self.judge.main_measure
        self.stamp = {"classifier": self.judge.classifier and self.judge.classifier.digest}
        self.facts: dict[str, Any] = {}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What it needs of samples x (n, *shape): all."""
        return x

    def leave_out(self, parts: Sequence[torch.Tensor]) -> tuple[float, list[float]]:
        """The distance of samples that come in these parts, and without each part."""
        value = self.judge.distance(torch.cat([*parts]))
        return value, [self.judge.distance(torch.cat([*parts[:g], *parts[g + 1 :]])) for g in range(len(parts))]


Distance = JudgedDistance | FeatureDistance


def shown(value: Any) -> str:
    """An option's value, short."""
    if isinstance(value, list | tuple):
        return f"{value[0]:g} … {value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def combinations(config: SweepConfig, emas: Sequence[float | str]) -> list[dict[str, Any]]:
    """Every combination of the options' values that differ: without guidance there is no interval, and dopri5 has no steps."""
    values = {name: getattr(config, name) for name in OPTIONS} | {"ema": list(emas)}
    found: list[dict[str, Any]] = []
    for chosen in itertools.product(*values.values()):
        options = dict(zip(values, chosen))
        options["guidance_interval"] = list(options["guidance_interval"] if options["guidance"] != 1 else (0.0, 1.0))
        if options["solver"].startswith("dopri5"):
            options["steps"] = config.steps[0]
        if options not in found:
            found.append(options)
    return found


def sweep(folder: Path, config: SweepConfig, out: Path | None = None, progress: str | None = None) -> tuple[Sweep, Path]:
    """Sample from a run in every way, judge each, and write what came of it; returns it and the folder.

    Args:
        folder: of the run.
        config: what is varied.
        out: if left out RUN/sweeps/step_…_seed_…, with the name of the features and a digest of what is varied.
        progress: what the progress bar is called; None for no bar.

    Raises:
        ValueError: guidance for a model without labels, an average that the run has not, a solver or grid that is unknown;
            and what `FeatureDistance` refuses, errors of other types too: before anything is sampled.
    """
    first = load_run(folder, config.checkpoint, config.ema[0] if config.ema else None)
    runs = {ema: load_run(folder, config.checkpoint, ema) for ema in config.ema or first.config.ema[:1]}
    for scale in config.guidance:
        first.check_guidance(scale)
    fixed = {name: value for name, value in sampling_of(str(folder)).items() if name in FIXED}
    settings = [options | (fixed if options["guidance"] != 1 else {}) for options in combinations(config, list(runs))]
    for options in settings:
        _try(runs[options["ema"]], options)
    distance = _distance(config, first)
    end = f"_{config.features}" if config.features else ""
    digest = hashlib.blake2b(repr((settings, config.num_samples, config.reference)).encode(), digest_size=4).hexdigest()
    kept = (out or folder / "sweeps") / "settings"
    out = out or folder / "sweeps" / f"step_{first.step:08d}_seed_{config.seed}{end}_{digest}"
    stamp = {"data": first.data["fingerprint"], "step": first.step, "seed": config.seed, "num_samples": config.num_samples}
    stamp |= distance.stamp
    with locked(out, "sweeping"), tqdm(desc=progress, total=len(settings) * GROUPS, unit="group", disable=not progress) as bar:
        done = [_setting(runs[options["ema"]], distance, options, stamp, kept, bar) for options in settings]
        found = summarise(done, distance.name)
        _write(found, config, {**stamp, **distance.facts}, first, out)
    return found, out


def _distance(config: SweepConfig, run: Run) -> Distance:
    if config.features is None:
        return JudgedDistance(run.dataset())
    names = ("features", "feature_weights", "reference", "autoencoder")
    given = {name: getattr(config, name) for name in names}
    return FeatureDistance(run, EvaluateConfig(num_samples=config.num_samples // GROUPS * GROUPS, **given))


def summarise(settings: list[Setting], measure: str) -> Sweep:
    """The best setting, and those that are not told apart from it as worse, the best first."""
    finite = [setting for setting in settings if setting.finite]
    if not finite:
        raise ValueError("no setting gave samples that are finite numbers; look at the run first: kdiff sample, kdiff info")
    best, *others = sorted(finite, key=lambda setting: setting.value)
    beyond = {str(i): [a - b for a, b in zip(other.groups, best.groups)] for i, other in enumerate(others)}
    close = [best, *(other for i, other in enumerate(others) if not intervals(beyond)[1][str(i)].low > 0)]
    varied = [name for name in OPTIONS if len({str(setting.options[name]) for setting in settings}) > 1]
    good = [best, *(other for i, other in enumerate(others) if intervals({"": beyond[str(i)]})[0].high < MARGIN * best.value)]
    cheap = min(good, key=lambda setting: (setting.evaluations, setting.value))
    return Sweep(settings, measure, varied, best, close, cheap)


def _sampler(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "ema"}


def _try(run: Run, options: dict[str, Any]) -> None:
    """One sample, of two steps at most where the steps are not given one by one: refuses what cannot be sampled."""
    generate(run.model, 1, run.shape, run.class_counts, **{**_sampler(options), "steps": min(2, options["steps"])})


def _setting(run: Run, distance: Distance, options: dict[str, Any], stamp: dict[str, Any], folder: Path, bar: Any) -> Setting:
    """Sample and judge, or read back."""
    facts = {"options": options, "weights": run.weights, "weights_digest": weights_digest(run.model), **stamp}
    path = folder / f"{hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()}.json"
    if path.exists():
        bar.update(GROUPS)
        found = {name: read_json(path)[name] for name in Setting.__dataclass_fields__}
        # JSON has no infinity.
        far = {"value": found["value"] or math.inf, "groups": [value or math.inf for value in found["groups"]]}
        return Setting(**{**found, **far})
    started, size = time.perf_counter(), stamp["num_samples"] // GROUPS
    parts: list[torch.Tensor] = []
    with counted(run.model) as count:
        for group in range(GROUPS):
            how = {"seed": stamp["seed"], "start": group * size, "batch_size": BATCH, **_sampler(options)}
            parts.append(distance.features(generate(run.model, size, run.shape, run.class_counts, **how)[0]))
            bar.update()
    bar.set_postfix_str(f"last: {shown(options['solver'])}, {options['steps']} steps, guidance {options['guidance']:g}")
    value, without = distance.leave_out(parts)
    pseudo = [GROUPS * value - (GROUPS - 1) * left for left in without]
    setting = Setting(options, count["samples"] / (GROUPS * size), value, pseudo, time.perf_counter() - started)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {**_plain(setting), **facts})
    return setting


def _plain(setting: Setting) -> dict[str, Any]:
    """For JSON, which has no infinity."""
    far = [value if math.isfinite(value) else None for value in (setting.value, *setting.groups)]
    return {**vars(setting), "value": far[0], "groups": far[1:]}


@contextmanager
def counted(model: KDiff) -> Iterator[dict[str, int]]:
    """How many samples the network is evaluated for, meanwhile."""
    count = {"samples": 0}

    def add(module: Any, inputs: tuple[Any, ...]) -> None:
        count["samples"] += len(inputs[0])

    handle = model.network.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


def table(found: Sweep) -> str:
    """A line per setting, the best first."""
    lines = []
    for setting in sorted(found.settings, key=lambda setting: setting.value):
        mark = "best" if setting is found.best else "not told apart" if setting in found.close else ""
        mark = f"{mark}, cheapest as good".strip(", ") if setting is found.cheap and setting is not found.best else mark
        groups = [a - b for a, b in zip(setting.groups, found.best.groups)]
        beyond = (
            f"{statistics.mean(groups):+.2g} ± {statistics.stdev(groups) / len(groups) ** 0.5:.1g}" if setting.finite else ""
        )
        options = [shown(setting.options[name]) for name in found.varied]
        lines.append([*options, f"{setting.evaluations:g}", f"{setting.value:.4g}", beyond, mark])
    header = [name.replace("_", " ") for name in found.varied]
    return markdown([*header, "evaluations", found.measure, "δ ± standard error", "from the best"], lines)


def verdict(found: Sweep) -> str:
    """The best setting in a sentence, and the cheapest that is as good."""
    best, cheap = found.best, found.cheap
    text = f"Best: {best.label(found.varied)} ({found.measure} {best.value:.4g}, {best.evaluations:g} evaluations)"
    if cheap is not best:
        text += f"; cheapest as good: {cheap.label(found.varied)} ({cheap.value:.4g}, {cheap.evaluations:g})"
    others = len(found.close) - 1
    return f"{text}. {others} of {len(found.settings) - 1} others are not told apart from the best." if others else f"{text}."


def _write(found: Sweep, config: SweepConfig, stamp: dict[str, Any], run: Run, out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*OPTIONS, "evaluations", "value", *(f"group_{i}" for i in range(GROUPS)), "seconds", "close"])
    for setting in found.settings:
        options = [shown(setting.options[name]) for name in OPTIONS]
        numbers = [setting.evaluations, setting.value, *setting.groups, round(setting.seconds, 2)]
        writer.writerow([*options, *numbers, setting in found.close])
    write_text(out / "sweep.csv", text.getvalue())
    facts = {"run": str(run.folder), "k": getattr(run.model.target, "k", None), **stamp, "measure": found.measure}
    settings = [_plain(setting) | {"close": setting in found.close} for setting in found.settings]
    result = {
        **facts,
        "config": as_dict(config),
        "best": found.best.options,
        "cheapest_as_good": found.cheap.options,
        "settings": settings,
    }
    write_json(out / "sweep.json", {**result, "environment": describe_environment()})
