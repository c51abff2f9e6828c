"""A run folder while it is written: begun or gone on with, by one process at a time, with nothing half-written left.

    config.yaml         the resolved configuration
    environment.json    versions, machine, precision, threads, when it began; the same of each time it was resumed
    data.json           what the data was
    .lock               held by the process that trains
    warnings.log        what was also said on stderr, with the time

The lock is the kernel's and goes with the process, however that ends; the file stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from kdiff.data import Dataset
from kdiff.evaluation.config import Sampling
from kdiff.files import read_json, remove_leftovers, write_json, write_text
from kdiff.training.build import describe_environment
from kdiff.training.checkpoint import list_checkpoints, set_damaged_aside
from kdiff.training.config import CHANGEABLE, LoopConfig, TrainConfig, as_dict, from_dict


@contextlib.contextmanager
def locked(folder: Path, doing: str = "training") -> Iterator[None]:
    """Hold a run folder, made if it is not there, for this process alone; leftovers of killed ones are removed first.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is {doing} in {folder}; wait for it, stop it (Ctrl-C or SIGTERM: it saves and leaves), or "
            "choose another folder by --out"
        ) from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def warn(folder: Path, message: str) -> None:
    """Warn on stderr and in the folder's warnings.log."""
    warnings.warn(message, stacklevel=2)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # What is warned of may be a full disk.
    with contextlib.suppress(OSError), (folder / "warnings.log").open("a", encoding="utf-8") as file:
        file.write(f"{now} {message}\n")


def prepare_folder(config: LoopConfig, dataset: Dataset, folder: Path, resume: bool) -> None:
    """Write what a run is into its folder, config.yaml last; or see that the run that is there may go on.

    Raises:
        ValueError: a run is there and none is to be resumed, or one with other settings, of other data or with more steps.
    """
    resolved = yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)
    check_begun(folder, resume)
    if (folder / "config.yaml").exists():
        _check_resumable(config, dataset, folder)
    description = dataset.describe()
    labels = dataset.part(getattr(config, "train_on", "train"))[1]
    description["class_counts"] = None if labels is None else torch.bincount(labels, minlength=dataset.num_classes).tolist()
    # Of a finished run nothing more is made, on no other machine and at no other time; its settings may still change.
    if not (folder / "finished.json").exists():
        environment, made = folder / "environment.json", describe_environment()
        began = read_json(environment) if resume and environment.exists() else None
        write_json(environment, {**began, "resumed": [*began.get("resumed", []), made]} if began else made)
    write_json(folder / "data.json", description)
    write_text(folder / "config.yaml", resolved)


def check_begun(folder: Path, resume: bool) -> None:
    """Raises ValueError for a folder in which a run is that is not to be gone on with."""
    if (folder / "config.yaml").exists() and not resume:
        raise ValueError(f"{folder} already holds a run; go on with it by --resume, or choose another folder by --out")


def _check_resumable(config: LoopConfig, dataset: Dataset, folder: Path) -> None:
    """Refuse to go on with other settings or other data, or to fewer steps than there are. Reopen a run that is to go on."""
    wanted = yaml.safe_load(yaml.safe_dump(as_dict(config), sort_keys=False))  # as a file has it: lists, not tuples
    there = as_dict(read_run_config(folder, type(config)))
    differing = [key for key, value in wanted.items() if value != there[key] and key not in CHANGEABLE]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings: {', '.join(differing)}; only {', '.join(CHANGEABLE)} may differ on "
            "resuming"
        )
    fingerprint = read_json(folder / "data.json")["fingerprint"]
    if fingerprint != dataset.fingerprint:
        raise ValueError(
            f"the data {wanted['data']!r} has changed since {folder} was begun: fingerprint {dataset.fingerprint}, begun with "
            f"{fingerprint}; start anew in another folder"
        )
    reached = [step_of(path) for path in list_checkpoints(folder / "checkpoints")[-1:]]
    if reached and reached[0] > wanted["steps"]:
        raise ValueError(f"{folder} has reached step {reached[0]}; steps is {wanted['steps']}, expected no fewer")
    finished = folder / "finished.json"
    if there["steps"] != wanted["steps"]:
        finished.unlink(missing_ok=True)
    elif finished.exists() and (problem := set_damaged_aside(folder / "checkpoints")):
        warn(folder, problem)
        finished.unlink()


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, by its folder's name."""
    return int(checkpoint.name.removeprefix("step_"))


def read_run_config(folder: Path, kind: type) -> Any:
    """The configuration of the run in a folder.

    Raises:
        ValueError: no run folder, or a config.yaml that is damaged or of another kind of run.
    """
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml; make one with kdiff train") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{folder / 'config.yaml'} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{folder / 'config.yaml'} is damaged: expected a mapping of fields")
    try:
        return from_dict(kind, values)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.yaml'}: {error}") from None


def sampling_of(folder: str) -> dict[str, Any]:
    """How a run is sampled from, where its configuration says otherwise than usual: fields of `Sampling`. Empty of no run."""
    if not (Path(folder) / "config.yaml").exists():
        return {}
    usual, own = dataclasses.asdict(Sampling()), dataclasses.asdict(read_run_config(Path(folder), TrainConfig).sampling)
    said = {name for name, value in own.items() if value != usual[name]}
    # Steps belong to their solver.
    return {name: own[name] for name in own if name in (said | {"solver", "steps"} if said & {"solver", "steps"} else said)}
