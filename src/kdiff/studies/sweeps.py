"""Which way of sampling from a trained model is best: every combination of guidance, interval, weights, solver and steps.

All settings start from the same noise and classes, and are ranked by the distance of all samples to the training data: the
Fréchet distance in the features of the data's own classifier, or without labels the sliced Wasserstein distance. On request,
images are ranked by FID or FD-DINOv2, to any reference (`kdiff.evaluation.image_evaluation.FeatureDistance`). To say how
certain the ranking is, the samples are divided into ten groups, and every distance d is also computed without each group,

    p_g = 10 d − 9 d(without group g),        δ_g = p_g(this setting) − p_g(best setting)

which is the jackknife (`kdiff.evaluation.frechet.jackknife_frechet`), paired over settings by the noise that they share. A
setting is significantly worse if the mean of δ is above 0 with 95 % confidence for all settings together (Student's t,
`kdiff.studies.paired`). With few samples few settings are significantly worse, so a recommended cheap setting must be shown to
be as good: it is the cheapest setting whose own interval of δ ends below a tenth of the best distance.

    OUT/sweep.csv        a line per setting; sweep.json: the same with all that produced it; sweep.png
    OUT/settings/        a file for each finished setting: an interrupted sweep continues with the next. Without --out it is
                         RUN/sweeps/settings, for all sweeps, so that another sweep does not sample a setting again

The best of many settings, chosen by their samples, looks better than it is: judge it again by `kdiff evaluate` with another
--seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kdiff.config.evaluation import EvaluateConfig
from kdiff.config.plain import as_dict
from kdiff.config.studies import SweepConfig
from kdiff.data import Dataset
from kdiff.evaluation.image_evaluation import FeatureDistance
from kdiff.evaluation.image_shards import weights_digest
from kdiff.evaluation.judge import Judge
from kdiff.files.atomic import read_json, write_json, write_text
from kdiff.model import KDiff
from kdiff.run.environment import describe_environment
from kdiff.run.folder import sampling_of
from kdiff.run.generate import generate
from kdiff.run.lock import check_held, locked
from kdiff.run.precision_choice import run_in
from kdiff.run.run import Run, calibrate_alike, load_run
from kdiff.studies.sweep_result import OPTIONS, SETTING, Setting, Sweep, as_plain, shown, summarise

GROUPS = 10
FIXED = ("guidance_rescale", "guidance_channels", "guide_on")  # taken from the run's configuration
BATCH = 250


class JudgedDistance:
    """The distance to the data that a run was trained on, by `Judge.distance`, for many sets of samples in turn.

    Attributes:
        name: name of the distance.
        stamp: what identifies the distance: settings that were judged by another one are sampled again.
        facts: further facts for the result.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.judge = Judge(dataset)
        self.name = self.judge.main_measure
        self.stamp = {"classifier": self.judge.classifier and self.judge.classifier.digest}
        self.facts: dict[str, Any] = {}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The part of samples x (n, *shape) that the distance needs: all of x."""
        return x

    def leave_out(self, parts: Sequence[torch.Tensor]) -> tuple[float, list[float]]:
        """The distance of the samples in all parts, and without each part in turn."""
        value = self.judge.distance(torch.cat([*parts]))
        return value, [self.judge.distance(torch.cat([*parts[:g], *parts[g + 1 :]])) for g in range(len(parts))]


Distance = JudgedDistance | FeatureDistance


def combinations(config: SweepConfig, emas: Sequence[float | str]) -> list[dict[str, Any]]:
    """Every combination of options once: without guidance its interval does not count, and dopri5 chooses its own steps."""
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
    """Sample from a run in every way, judge each, and write the result; returns the result and its folder.

    Args:
        folder: folder of the run.
        config: the options to vary.
        out: folder for the result; RUN/sweeps/step_…_seed_… with the name of the features and a digest of the settings if left
            out.
        progress: label of the progress bar; None for no bar.

    Raises:
        ValueError: guidance for a model without labels, an average that the run does not have, an unknown solver or grid; and
            all errors of `FeatureDistance`, of other types too. All come before anything is sampled.
    """
    used = config.calibrated
    first = load_run(folder, config.checkpoint, config.ema[0] if config.ema else None, calibrated=used)
    runs = {ema: load_run(folder, config.checkpoint, ema, calibrated=used) for ema in config.ema or first.config.ema[:1]}
    calibrate_alike(first, *runs.values())
    precision = run_in(config.precision, first, *runs.values(), batch=BATCH)
    for scale in config.guidance:
        first.check_guidance(scale, guide_on=first.config.sampling.guide_on)
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
    # Earlier results, which have no precision, stay those of float32.
    stamp |= distance.stamp | ({} if precision == "no" else {"precision": precision})
    how: dict[str, Any] = {"desc": progress, "total": len(settings) * GROUPS, "unit": "group", "disable": not progress}
    with locked(out, "sweeping", first.place), tqdm(**how) as bar:
        done = [_setting(runs[options["ema"]], distance, options, stamp, (out, kept), bar) for options in settings]
        found = summarise(done, distance.name)
        check_held(out)
        _write(found, config, {**stamp, **distance.facts}, first, out)
    return found, out


def _distance(config: SweepConfig, run: Run) -> Distance:
    if config.features is None:
        return JudgedDistance(run.dataset())
    names = ("features", "feature_weights", "reference", "autoencoder")
    given = {name: getattr(config, name) for name in names}
    return FeatureDistance(run, EvaluateConfig(num_samples=config.num_samples // GROUPS * GROUPS, **given))


def _sampler(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "ema"}


def _try(run: Run, options: dict[str, Any]) -> None:
    """Draw one sample, in two steps at most unless all times are listed, so that options that cannot work are refused."""
    generate(run.model, 1, run.shape, run.given, **{**_sampler(options), "steps": min(2, options["steps"])})


def _setting(
    run: Run, distance: Distance, options: dict[str, Any], stamp: dict[str, Any], places: tuple[Path, Path], bar: Any
) -> Setting:
    """The result of a setting: read from its file, or sampled and judged now. `places`: the folders of sweep and settings."""
    out, folder = places
    facts = {"options": options, "weights": run.weights, "weights_digest": weights_digest(run.model), **stamp}
    path = folder / f"{hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()}.json"
    if path.exists():
        bar.update(GROUPS)
        schema = {**SETTING, "groups": [(float, None)] * GROUPS, "seconds": float}
        read = read_json(path, schema, "remove it, and the setting is sampled again")
        found = {name: read[name] for name in Setting.__dataclass_fields__}
        # JSON has no infinity.
        far = {"value": found["value"] or math.inf, "groups": [value or math.inf for value in found["groups"]]}
        return Setting(**{**found, **far})
    started, size = time.perf_counter(), stamp["num_samples"] // GROUPS
    parts: list[torch.Tensor] = []
    with counted(run.model) as count:
        for group in range(GROUPS):
            how = {"seed": stamp["seed"], "start": group * size, "batch_size": BATCH, **_sampler(options)}
            parts.append(distance.features(generate(run.model, size, run.shape, run.given, **how)[0]))
            bar.update()
    bar.set_postfix_str(f"last: {shown(options['solver'])}, {options['steps']} steps, guidance {options['guidance']:g}")
    value, without = distance.leave_out(parts)
    pseudo = [GROUPS * value - (GROUPS - 1) * left for left in without]
    setting = Setting(options, count["samples"] / (GROUPS * size), value, pseudo, time.perf_counter() - started)
    check_held(out)
    folder.mkdir(exist_ok=True)
    write_json(path, {**as_plain(setting), **facts})
    return setting


@contextmanager
def counted(model: KDiff) -> Iterator[dict[str, int]]:
    """Count the samples that the network is evaluated for, in the body of the with statement."""
    count = {"samples": 0}

    def add(module: Any, inputs: tuple[Any, ...]) -> None:
        count["samples"] += len(inputs[0])

    handle = model.network.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


def _write(found: Sweep, config: SweepConfig, stamp: dict[str, Any], run: Run, out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*OPTIONS, "evaluations", "value", *(f"group_{i}" for i in range(GROUPS)), "seconds", "close"])
    for setting in found.settings:
        options = [shown(setting.options[name]) for name in OPTIONS]
        numbers = [setting.evaluations, setting.value, *setting.groups, round(setting.seconds, 2)]
        writer.writerow([*options, *numbers, setting in found.close])
    write_text(out / "sweep.csv", text.getvalue())
    facts = {"run": str(run.folder), "k": run.model.target.describe().position, **stamp, "calibrated": run.calibrated}
    facts["precision"] = run.model.precision
    facts |= {"measure": found.measure}
    result = {**facts, "config": as_dict(config), "best": found.best.options, "cheapest_as_good": found.cheap.options}
    result["settings"] = [as_plain(setting) | {"close": setting in found.close} for setting in found.settings]
    write_json(out / "sweep.json", {**result, "environment": describe_environment()})
