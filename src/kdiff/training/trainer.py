"""Run a training from its configuration: data, model, loop and run folder; then load the run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdiff.config.sampling import Sampling, sampler_options
from kdiff.config.training import TrainConfig
from kdiff.data import Dataset, principal_directions
from kdiff.files.atomic import write_json
from kdiff.files.tensors import check_storable
from kdiff.latent.autoencoder import decoder
from kdiff.model import KDiff
from kdiff.run.averages import EMA
from kdiff.run.build import build_model, load_dataset
from kdiff.run.checkpoint import list_checkpoints
from kdiff.run.contents import read_data
from kdiff.run.folder import (
    check_begun,
    check_place,
    network_of,
    nothing_to_resume,
    precision_of,
    prepare_folder,
    recipe_of,
)
from kdiff.run.given import check_guided, describe_conditions, rate_of
from kdiff.run.lock import check_held, locked
from kdiff.run.metrics import check_tensorboard
from kdiff.run.precision_choice import PrecisionChoice
from kdiff.run.processes import join_processes
from kdiff.run.run import Run, load_run
from kdiff.training.choosing import choose_network, faster_precision, timed
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective
from kdiff.training.optimiser import check_places, check_trainable, places
from kdiff.training.start import as_text as describe_start
from kdiff.training.start import find_source, start_from

MAX_DIRECTIONS_DIMENSION = 4096


def train_run(
    config: TrainConfig,
    folder: Path,
    resume: bool = False,
    progress: str | None = None,
    on_sample: Callable[[Run], None] | None = None,
) -> Run:
    """Train as configured into a run folder, and load the result.

    Args:
        config: the configuration.
        folder: the run folder; created if it does not exist.
        resume: continue from the newest whole checkpoint in `folder`; a finished run is only loaded.
        progress: the title of the progress bar; None for no bar.
        on_sample: called with the present run every `sample_every` steps. That run has its own model with the averaged
            weights. When a run is resumed, `on_sample` is called again for the step it resumes from. It is not called for the
            last step, whose run is returned. With `on_sample`, a run on latents needs their autoencoder.

    Raises:
        ValueError: the data or the configuration are wrong (nothing is written then); the folder holds a run and `resume` is
            False; `resume` is True and the folder's run has other settings or other data; another process trains there; the
            folder is inside a run folder, or holds something else.
        Stopped: SIGTERM or Ctrl-C arrived while training, and the current step is saved. See `fit` for other failures.
    """
    processes = join_processes()
    main = processes.is_main_process
    check_place(folder)
    if main and resume and progress and (nothing := nothing_to_resume(folder)):
        print(nothing, file=sys.stderr)
    if main and (folder / "config.yaml").exists():
        with locked(folder):
            check_begun(folder, resume)  # an occupied folder is refused before the data are read, which may take long
    config = replace(config, recipe=recipe_of(config, folder, resume), network=network_of(config, folder, resume))
    config = replace(config, precision=precision_of(config, folder, resume))
    source = None if resume and list_checkpoints(folder / "checkpoints") else config.start_from
    if source is not None:
        find_source(source)
    if config.tensorboard:
        check_tensorboard()
    dataset = load_dataset(config)
    _check_expected(config, dataset)
    if on_sample and main and "latents" in dataset.about:
        autoencoder = dataset.about["latents"]["autoencoder"]
        decoder(autoencoder["source"], autoencoder["identity"])
    config, chosen = choose_network(config, dataset.shape, dataset.num_classes)
    made, specs = (dataset.moments, dataset.samples), [each.spec for each in dataset.conditions.values()]
    model = build_model(config, config.target, dataset.shape, dataset.num_classes, config.seed, *made, conditions=specs)
    _try_out(model, dataset, config)
    faster = None
    if config.precision == "auto":
        faster = precision_for(config, model, dataset)
        config = replace(config, precision=faster.precision)
        if progress and main:
            print(faster, file=sys.stderr)
    if chosen and progress and main:
        chosen = timed(chosen, config, dataset.shape, dataset.num_classes)
        print(chosen.as_text(config, len(dataset.part(config.train_on)[0])), file=sys.stderr)
    if specs and progress and main:
        print(describe_conditions(model, specs), file=sys.stderr)
    start = None if source is None else start_from(model, config, *dataset.part("train"), dataset)
    if start and progress and main:
        print(describe_start(start), file=sys.stderr)
    with locked(folder) if main else nullcontext():
        if main:
            chose = asdict(faster) if faster else None
            prepare_folder(config, dataset, folder, resume, processes.num_processes, chose)
            if start:
                write_json(folder / "start.json", start)
            if not (folder / "target.json").exists():
                write_json(folder / "target.json", asdict(model.target.describe()))
        processes.wait_for_everyone()
        if not (resume and (folder / "finished.json").exists()):
            directions = None
            if config.split_loss and dataset.dimension <= MAX_DIRECTIONS_DIMENSION:
                directions = principal_directions(dataset.part("train")[0])
            objective = DiffusionObjective(model, directions)
            x = dataset.part(config.train_on, augment=True)[0]
            conditions = {**dataset.conditions_of(config.train_on), **dataset.mask_of(config.train_on)}
            show = partial(_show, on_sample, config, dataset, model, folder) if on_sample and config.sample_every else None
            fitted = fit(objective, x, conditions, config, folder=folder, resume=resume, progress=progress, after_step=show)
            if main:
                write_json(folder / "finished.json", {"seconds": fitted.seconds, "last": fitted.metrics})
            processes.wait_for_everyone()
        return load_run(folder, calibrated=False)


def precision_for(config: TrainConfig, model: KDiff, dataset: Dataset, threads: int | None = None) -> PrecisionChoice:
    """The faster precision to train this model in here; `threads` as for `faster_precision`."""
    x, conditions = dataset.part(config.train_on)[0], {**dataset.conditions_of(config.train_on)}
    facts = str(config.network), dataset.shape, dataset.num_classes, [each.spec for each in dataset.conditions.values()]
    return faster_precision(DiffusionObjective(model), x, conditions, config, *facts, threads=threads)


def _check_expected(config: TrainConfig, dataset: Dataset) -> None:
    if config.expects is None:
        return
    wanted, number = config.expects, len(dataset.part(config.train_on)[0])
    found = (list(dataset.shape), dataset.num_classes, number if wanted.num_samples else 0)
    other = wanted.conditions and wanted.specs != [each.spec for each in dataset.conditions.values()]
    if other or found != (wanted.shape, wanted.num_classes, wanted.num_samples):
        raise ValueError(
            f"the data {config.data!r} have samples of shape {list(dataset.shape)}, {dataset.num_classes} classes and {number} "
            f"samples to train on; the configuration expects {wanted}. Prepare the expected data. To use other data, change "
            "`expects` (num_samples 0 allows any number) or leave it out (--expects null)"
        )


def _try_out(model: KDiff, dataset: Dataset, config: TrainConfig) -> None:
    sampling = config.sampling
    model.target.check_signs(dataset.shape)
    check_trainable(model)
    check_storable(model.state_dict())
    before = places(model)
    x, y = dataset.part("train")
    conditions: dict[str, Any] = {name: values[:2] for name, values in dataset.conditions_of("train").items()}
    with torch.no_grad():
        model.eval().predict(x[:2], torch.rand(2), **conditions)
        check_places(model, before, "when it was called")
        if sampling != Sampling():
            if sampling.guidance != 1 and dataset.conditions:
                check_guided(model, sampling.guide_on, "the run")
            elif sampling.guidance != 1 and y is not None and rate_of(model, "y") in (0, 1):
                raise ValueError(
                    f"sampling.guidance is {sampling.guidance:g}, but with null_rate {rate_of(model, 'y'):g} the model never "
                    'sees both a class and "no class", so it cannot be guided; expected a null_rate such as 0.1, or guidance 1'
                )
            # Sampling options that do not fit are refused now, before training, and not at the first picture.
            model.sample(torch.randn(x[:2].shape), **{**sampler_options(sampling), "steps": 2}, **conditions)


def _show(
    on_sample: Callable[[Run], None], config: TrainConfig, dataset: Dataset, model: KDiff, folder: Path, step: int, ema: EMA
) -> None:
    """Every `sample_every` steps before the last, call `on_sample` with the present run and its averaged weights."""
    if step % config.sample_every == 0 and step < config.steps:
        specs = [each.spec for each in dataset.conditions.values()]
        averaged = build_model(config, config.target, dataset.shape, dataset.num_classes, conditions=specs)
        averaged.to(next(model.parameters()).device).load_state_dict({**model.state_dict(), **ema.averages[config.ema[0]]})
        check_held(folder)
        data = read_data(folder)
        on_sample(Run(folder, config, data, averaged.eval(), step, f"ema {config.ema[0]:g}"))
