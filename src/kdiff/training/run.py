"""A run folder: everything that a training run was and left, in files that anything can read.

    config.yaml         the resolved configuration
    environment.json    versions, machine, precision, threads
    data.json           what the data was: shape, classes, normalisation, fingerprint
    metrics.jsonl       a line per logging interval
    start.json          of a run that begins with other weights (start_from): which, and how far their velocity was changed
    finished.json       the last line of metrics, and the seconds since training was last resumed; there once it is done
    checkpoints/        see `kdiff.training.checkpoint`
    samples/            what was sampled from it
    tensorboard/        the metrics as TensorBoard's events, if asked for

Sampling and evaluation read target, path, shape, normalisation and classes from here, never from flags.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.data import Dataset, Normalisation, principal_directions
from kdiff.data.latents import read_manifest
from kdiff.evaluation.config import Sampling, sampler_options
from kdiff.files import read_json, write_json
from kdiff.model import KDiff
from kdiff.training.build import build_model, describe_environment, load_dataset
from kdiff.training.checkpoint import (
    DamagedCheckpoint,
    check_checkpoint,
    ema_file,
    list_checkpoints,
    load_tensors,
    load_weights,
)
from kdiff.training.config import TrainConfig
from kdiff.training.ema import EMA
from kdiff.training.encode import decoder
from kdiff.training.folder import check_begun, locked, prepare_folder, read_run_config, step_of
from kdiff.training.generate import generate
from kdiff.training.loop import fit, join_processes
from kdiff.training.metrics import check_tensorboard, read_metrics
from kdiff.training.objective import DiffusionObjective
from kdiff.training.start import as_text as describe_start
from kdiff.training.start import find_source, start_from

MAX_DIRECTIONS_DIMENSION = 4096
__all__ = ["Run", "build_model", "describe_environment", "load_dataset", "load_run", "train_run"]


@dataclass
class Run:
    """A run read back: its model with the weights of a checkpoint, and all that describes it.

    `autoencoder`, of a run on latents, is where their autoencoder lies now: where it lay when they were encoded, if left out.
    """

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    model: KDiff
    step: int
    weights: str
    autoencoder: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return tuple(self.data["shape"])

    @property
    def normalisation(self) -> Normalisation:
        """What was done to the data, and is undone in `sample`."""
        return Normalisation.from_description(self.data["normalisation"])

    @property
    def class_counts(self) -> list[int] | None:
        """Training samples per class; None without labels."""
        return self.data["class_counts"]

    @property
    def latents(self) -> dict[str, Any] | None:
        """Of a run on latents: their autoencoder, and shape and normalisation of the images. None of any other."""
        return self.data.get("latents")

    def decode(self, x: Tensor) -> Tensor:
        """The images in [−1, 1], (N, C, H, W), of latents x in the data's own units, which `sample` gives.

        Raises:
            ValueError, FileNotFoundError: no run on latents; their autoencoder is not to be found, or is another one.
        """
        if self.latents is None:
            raise ValueError(f"{self.folder} was not trained on latents: there is nothing to decode")
        return decoder(*self.latents_autoencoder()).decode(x)

    def latents_autoencoder(self) -> tuple[str, str]:
        """Of a run on latents: where their autoencoder lies, as far as is known, and its identity."""
        assert self.latents is not None
        wanted = self.latents["autoencoder"]
        try:
            # kdiff encode may have written down another place since.
            now = read_manifest(Path(self.latents["folder"]))["autoencoder"]
        except (OSError, ValueError):  # the latents are elsewhere, or none any more: samples do not need them
            now = wanted
        return self.autoencoder or (now if now["identity"] == wanted["identity"] else wanted)["source"], wanted["identity"]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder / "metrics.jsonl")

    def sample(self, num: int, seed: int = 0, last_step: str = "data", **options: Any) -> tuple[Tensor, Tensor | None]:
        """Samples in the data's own units and their labels; `options` as for `KDiff.sample`, like `kdiff sample`'s."""
        self.check_guidance(options.get("guidance", 1), options.get("guidance_model"))
        x, y = generate(self.model, num, self.shape, self.class_counts, seed, last_step=last_step, **options)
        return self.normalisation.undo(x), y

    def check_guidance(self, scale: float, weaker: KDiff | None = None) -> None:
        """Raises ValueError for guidance of a run that knows no "no class" to guide away from."""
        if scale != 1 and weaker is None and not self.class_counts:
            raise ValueError(
                f"{self.folder} was trained without labels: there is no guidance but by a weaker model (--guidance-run); leave "
                "--guidance out"
            )

    def dataset(self) -> Dataset:
        """The data it was trained on, loaded again.

        Raises:
            ValueError: the data has changed since.
        """
        dataset = load_dataset(self.config)
        if dataset.fingerprint != self.data["fingerprint"]:
            raise ValueError(
                f"the data {self.config.data!r} is not what {self.folder} was trained on: fingerprint {dataset.fingerprint}, "
                f"trained on {self.data['fingerprint']}"
            )
        return dataset


def train_run(
    config: TrainConfig,
    folder: Path,
    resume: bool = False,
    progress: str | None = None,
    on_sample: Callable[[Run], None] | None = None,
) -> Run:
    """Train as configured into a run folder, and read the result back.

    Args:
        config: the configuration.
        folder: the run folder, made if it is not there.
        resume: go on from the newest whole checkpoint in `folder`; a finished run is read back as it is.
        progress: what the progress bar is called; None for no bar.
        on_sample: called with the run as it stands, a model of its own with the averaged weights, every `sample_every` steps
            before the last (again for the one gone on from); for the last there is the run that is returned. Whoever wants
            samples of latents wants to see them: their autoencoder must then be there.

    Raises:
        ValueError: bad data or configuration, before anything is written; a folder that already holds a run (without
            `resume`) or another run, or one of other data (with it), or one in which another process trains.
        Stopped: SIGTERM or Ctrl-C while training, when the step in hand is saved; see `fit` for this and other failures.
    """
    main = join_processes().is_main_process
    if main and (folder / "config.yaml").exists():
        with locked(folder):
            check_begun(folder, resume)  # at once, as another process is refused, before the data are read
    beginning = not (resume and list_checkpoints(folder / "checkpoints"))
    if config.start_from is not None and beginning:
        find_source(config.start_from)
    if config.tensorboard:
        check_tensorboard()
    dataset = load_dataset(config)
    _check_expected(config, dataset)
    if on_sample and main and "latents" in dataset.about:
        autoencoder = dataset.about["latents"]["autoencoder"]
        decoder(autoencoder["source"], autoencoder["identity"])
    model = build_model(config, config.target, dataset.shape, dataset.num_classes, config.seed)
    _try_out(model, dataset, config.sampling)
    start = None
    if config.start_from is not None and beginning:
        start = start_from(model, config, *dataset.part("train"))
        if progress and main:
            print(describe_start(start), file=sys.stderr)
    with locked(folder) if main else nullcontext():
        return _train(config, dataset, model, folder, resume, progress, on_sample, start)


def _check_expected(config: TrainConfig, dataset: Dataset) -> None:
    if config.expects is None:
        return
    wanted, number = config.expects, len(dataset.part(config.train_on)[0])
    found = (list(dataset.shape), dataset.num_classes, number if wanted.num_samples else 0)
    if found != (wanted.shape, wanted.num_classes, wanted.num_samples):
        raise ValueError(
            f"the data {config.data!r} have samples of shape {list(dataset.shape)}, {dataset.num_classes} classes and {number} "
            f"samples to train on; the configuration expects {wanted}. Prepare them as it says, or, for other data than it was "
            "made for, change `expects` (a num_samples of 0 is any number) or leave it out (--expects null)"
        )


def _try_out(model: KDiff, dataset: Dataset, sampling: Sampling) -> None:
    x, y = dataset.part("train")
    conditions: dict[str, Any] = {} if y is None else {"y": y[:2]}
    with torch.no_grad():
        model.eval().predict(x[:2], torch.rand(2), **conditions)
        if sampling != Sampling():
            # What cannot be sampled so is refused now, and not at the first picture.
            model.sample(torch.randn(x[:2].shape), **{**sampler_options(sampling), "steps": 2}, **conditions)


def _train(
    config: TrainConfig,
    dataset: Dataset,
    model: KDiff,
    folder: Path,
    resume: bool,
    progress: str | None,
    on_sample: Callable[[Run], None] | None,
    start: dict[str, Any] | None,
) -> Run:
    processes = join_processes()
    if processes.is_main_process:
        prepare_folder(config, dataset, folder, resume)
        if start:
            write_json(folder / "start.json", start)
    processes.wait_for_everyone()
    if resume and (folder / "finished.json").exists():
        return load_run(folder)
    data = read_json(folder / "data.json")

    def sample(step: int, ema: EMA) -> None:
        if on_sample and config.sample_every and step % config.sample_every == 0 and step < config.steps:
            averaged = build_model(config, config.target, dataset.shape, dataset.num_classes)
            averaged.to(next(model.parameters()).device).load_state_dict({**model.state_dict(), **ema.averages[config.ema[0]]})
            on_sample(Run(folder, config, data, averaged.eval(), step, f"ema {config.ema[0]:g}"))

    directions = None
    if config.split_loss and dataset.dimension <= MAX_DIRECTIONS_DIMENSION:
        directions = principal_directions(dataset.part("train")[0])
    objective = DiffusionObjective(model, directions)
    x, y = dataset.part(config.train_on, augment=True)
    fitted = fit(objective, x, y, config, folder=folder, resume=resume, progress=progress, after_step=sample)
    if processes.is_main_process:
        write_json(folder / "finished.json", {"seconds": fitted.seconds, "last": fitted.metrics})
    processes.wait_for_everyone()
    return load_run(folder)


def load_run(folder: str | Path, checkpoint: int | None = None, ema: float | str | None = None) -> Run:
    """Read a run folder.

    Args:
        folder: as written by `kdiff train`.
        checkpoint: the step to read; the newest if left out, and no older one in its place if that is damaged: figures are to
            be of what they are taken for.
        ema: which averaged weights: a decay; the first configured if left out; "none" for the raw weights. k belongs to them.

    Raises:
        ValueError: not a run folder, no such checkpoint or decay, damaged files, or weights that do not fit the network.
    """
    folder = Path(folder)
    config = read_run_config(folder, TrainConfig)
    data = read_json(folder / "data.json")
    checkpoints = {step_of(path): path for path in list_checkpoints(folder / "checkpoints")}
    if not checkpoints:
        raise ValueError(f"{folder} has no checkpoint yet; let kdiff train reach one (checkpoint_every), or --resume it")
    step = max(checkpoints) if checkpoint is None else checkpoint
    if step not in checkpoints:
        raise ValueError(f"{folder} has no checkpoint of step {step}; it has: {', '.join(map(str, checkpoints))}")
    try:
        check_checkpoint(checkpoints[step])
    except DamagedCheckpoint as error:
        raise ValueError(f"{error}; {_remedy(checkpoints, step)}") from None
    decay = config.ema[0] if ema is None else ema
    if decay == "none":
        name, weights = "model.safetensors", "raw"
    elif isinstance(decay, str) or decay not in config.ema:
        raise ValueError(f"{folder} has no averages with decay {decay}; it has: {', '.join(map(str, config.ema))}, or none")
    else:
        name, weights = ema_file(decay), f"ema {decay:g}"
    model = build_model(config, config.target, tuple(data["shape"]), data["num_classes"])
    load_weights(model, load_tensors(checkpoints[step] / name), checkpoints[step] / name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Run(folder, config, data, model.to(device).eval(), step, weights)


def _remedy(checkpoints: dict[int, Path], damaged: int) -> str:
    """What to do about a damaged checkpoint."""
    for step in sorted(set(checkpoints) - {damaged}, reverse=True):
        try:
            check_checkpoint(checkpoints[step])
        except ValueError:
            continue
        return f"checkpoint {step} is whole: read that one (--checkpoint {step}), or train on from it (kdiff train … --resume)"
    return "no other checkpoint of this run is whole: restore one from a copy, or train anew"
