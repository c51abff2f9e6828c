"""A run folder: everything that a training run was and left, in files that anything can read.

    config.yaml         the resolved configuration
    environment.json    versions, machine, precision, threads
    data.json           what the data was: shape, classes, normalisation, fingerprint
    metrics.jsonl       a line per logging interval
    checkpoints/        see `kdiff.training.checkpoint`
    samples/            what was sampled from it

Sampling and evaluation read target, path, shape, normalisation and classes from here, never from flags.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from torch import Tensor

import kdiff.data
from kdiff.components import build, parse
from kdiff.data import Dataset, Normalisation, principal_directions
from kdiff.files import read_json, write_json, write_text
from kdiff.model import KDiff
from kdiff.sampling.noise import mix_seed
from kdiff.training.checkpoint import check_checkpoint, ema_file, list_checkpoints, load_tensors, load_weights
from kdiff.training.config import ModelConfig, TrainConfig, as_dict, from_dict
from kdiff.training.generate import generate
from kdiff.training.loop import fit
from kdiff.training.metrics import read_metrics
from kdiff.training.objective import DiffusionObjective

PACKAGES = ("kdiff", "torch", "numpy", "accelerate", "safetensors", "scikit-learn")
MAX_DIRECTIONS_DIMENSION = 4096


def describe_environment() -> dict[str, Any]:
    """What a result depends on besides its configuration."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "packages": versions,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine(),
    }


def load_dataset(config: ModelConfig) -> Dataset:
    """The data that a configuration names."""
    component = parse(config.data)
    return kdiff.data.load(component.name, **component.options)


def build_model(config: ModelConfig, target: Any, shape: tuple[int, ...], num_classes: int, seed: int = 0) -> KDiff:
    """The model that a configuration describes; the same seed gives the same initial weights, whatever the target.

    A network of the user's own is called as Network(shape=…, num_classes=…, **options), as far as its signature has these.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed))
        network = build("network", config.network, num_classes=num_classes, **_size(shape))
    return KDiff(
        network,
        build("target", target),
        build("path", config.path),
        build("timesteps", config.timesteps),
        null={"y": num_classes} if num_classes else None,
        null_rate=config.null_rate if num_classes else 0.0,
    )


def _size(shape: tuple[int, ...]) -> dict[str, Any]:
    """What a network may want to know of the samples, whichever way its signature puts it."""
    return {"shape": shape, **({"channels": shape[0], "image_size": shape[1:]} if len(shape) == 3 else {})}


@dataclass
class Run:
    """A run read back: its model with the weights of a checkpoint, and all that describes it."""

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    model: KDiff
    step: int
    weights: str

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

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder / "metrics.jsonl")

    def sample(self, num: int, seed: int = 0, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Samples in the data's own units and their labels; `options` as for `KDiff.sample`."""
        x, y = generate(self.model, num, self.shape, self.class_counts, seed, **options)
        return self.normalisation.undo(x), y

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


def train_run(config: TrainConfig, folder: Path, resume: bool = False, progress: str | None = None) -> Run:
    """Train as configured into a run folder, and read the result back.

    Args:
        config: the configuration.
        folder: the run folder, made if it is not there.
        resume: go on from the newest checkpoint in `folder`; a finished run is read back as it is.
        progress: what the progress bar is called; None for no bar.

    Raises:
        ValueError: bad data or configuration, before anything is written; a folder that already holds a run (without
            `resume`) or another run, or one of other data (with it).
    """
    dataset = load_dataset(config)
    x, y = dataset.part("train")
    model = build_model(config, config.target, dataset.shape, dataset.num_classes, config.seed)
    with torch.no_grad():
        model.eval().predict(x[:2], torch.rand(2), **({} if y is None else {"y": y[:2]}))
    processes = PartialState()
    if processes.is_main_process:
        _prepare_folder(config, dataset, folder, resume)
    processes.wait_for_everyone()
    if resume and (folder / "finished.json").exists():
        return load_run(folder)
    directions = principal_directions(x) if dataset.dimension <= MAX_DIRECTIONS_DIMENSION else None
    fitted = fit(DiffusionObjective(model, directions), x, y, config, folder=folder, resume=resume, progress=progress)
    if processes.is_main_process:
        write_json(folder / "finished.json", {"seconds": fitted.seconds, "last": fitted.metrics})
    processes.wait_for_everyone()
    return load_run(folder)


def _prepare_folder(config: TrainConfig, dataset: Dataset, folder: Path, resume: bool) -> None:
    resolved = yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)
    if (folder / "config.yaml").exists():
        if not resume:
            raise ValueError(f"{folder} already holds a run; go on with it by --resume, or choose another folder by --out")
        _check_resumable(yaml.safe_load(resolved), dataset, folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = dataset.describe()
    labels = dataset.part("train")[1]
    description["class_counts"] = None if labels is None else torch.bincount(labels, minlength=dataset.num_classes).tolist()
    write_json(folder / "environment.json", describe_environment())
    write_json(folder / "data.json", description)
    write_text(folder / "config.yaml", resolved)


def _check_resumable(wanted: dict[str, Any], dataset: Dataset, folder: Path) -> None:
    """Refuse to go on with other settings or other data, or to fewer steps than there are."""
    there = as_dict(_read_config(folder))
    differing = [key for key, value in wanted.items() if value != there[key] and key != "steps"]
    if differing:
        raise ValueError(f"{folder} holds a run with other settings: {', '.join(differing)}; only steps may differ on resuming")
    fingerprint = read_json(folder / "data.json")["fingerprint"]
    if fingerprint != dataset.fingerprint:
        raise ValueError(
            f"the data {wanted['data']!r} has changed since {folder} was begun: fingerprint {dataset.fingerprint}, begun with "
            f"{fingerprint}; start anew in another folder"
        )
    reached = [check_checkpoint(path, digests=False)["step"] for path in list_checkpoints(folder / "checkpoints")[-1:]]
    if reached and reached[0] > wanted["steps"]:
        raise ValueError(f"{folder} has reached step {reached[0]}; steps is {wanted['steps']}, expected no fewer")
    if there["steps"] != wanted["steps"]:
        (folder / "finished.json").unlink(missing_ok=True)


def _read_config(folder: Path) -> TrainConfig:
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml; make one with kdiff train") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{folder / 'config.yaml'} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{folder / 'config.yaml'} is damaged: expected a mapping of fields")
    try:
        return from_dict(TrainConfig, values)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.yaml'}: {error}") from None


def load_run(folder: str | Path, checkpoint: int | None = None, ema: float | str | None = None) -> Run:
    """Read a run folder.

    Args:
        folder: as written by `kdiff train`.
        checkpoint: the step to read; the newest if left out.
        ema: which averaged weights: a decay; the first configured if left out; "none" for the raw weights. k belongs to them.

    Raises:
        ValueError: not a run folder, no such checkpoint or decay, damaged files, or weights that do not fit the network.
    """
    folder = Path(folder)
    config = _read_config(folder)
    data = read_json(folder / "data.json")
    checkpoints = {int(path.name.removeprefix("step_")): path for path in list_checkpoints(folder / "checkpoints")}
    if not checkpoints:
        raise ValueError(f"{folder} has no checkpoint yet; let kdiff train reach one (checkpoint_every), or --resume it")
    step = max(checkpoints) if checkpoint is None else checkpoint
    if step not in checkpoints:
        raise ValueError(f"{folder} has no checkpoint of step {step}; it has: {', '.join(map(str, checkpoints))}")
    check_checkpoint(checkpoints[step])
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
