"""A run folder while it is written: it is started or resumed by one process at a time, and no half-written file is left.

    environment.json    versions, machine, precision, threads and the date of the start; the same for each time it was resumed
    .lock               held by the process that trains
    warnings.log        the warnings that were also printed on stderr, with the time

The kernel releases the lock when the process ends, however it ends. The lock file stays. Further files: `kdiff.run.run`.
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

from kdiff.config.plain import as_dict, from_dict
from kdiff.config.sampling import Sampling
from kdiff.config.training import CHANGEABLE, LoopConfig, TrainConfig
from kdiff.data import Dataset
from kdiff.files.atomic import read_json, remove_leftovers, write_json, write_text
from kdiff.run.checkpoint import list_checkpoints, set_damaged_aside
from kdiff.run.environment import describe_environment


@contextlib.contextmanager
def locked(folder: Path, doing: str = "training") -> Iterator[None]:
    """Hold a run folder (made if needed) for this process alone, and clear leftovers. Raises ValueError if it is in use."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is {doing} in {folder}; wait for it, stop it (by Ctrl-C or SIGTERM, after which it saves and "
            "exits), or choose another folder by --out"
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
    # The warning may be about a full disk.
    with contextlib.suppress(OSError), (folder / "warnings.log").open("a", encoding="utf-8") as file:
        file.write(f"{now} {message}\n")


def prepare_folder(config: LoopConfig, dataset: Dataset, folder: Path, resume: bool) -> None:
    """Write the description of a run into its folder, config.yaml last; or check that the run in the folder can be resumed.

    Raises:
        ValueError: the folder holds a run although `resume` is False, or a run with other settings, other data or more steps.
    """
    resolved = yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)
    check_begun(folder, resume)
    if (folder / "config.yaml").exists():
        _check_resumable(config, dataset, folder)
    description = dataset.describe()
    labels = dataset.part(getattr(config, "train_on", "train"))[1]
    description["class_counts"] = None if labels is None else torch.bincount(labels, minlength=dataset.num_classes).tolist()
    # A finished run makes nothing more, so its environment stays as it is. Its settings may still change.
    if not (folder / "finished.json").exists():
        environment, now = folder / "environment.json", describe_environment()
        began = read_json(environment) if resume and environment.exists() else None
        write_json(environment, {**began, "resumed": [*began.get("resumed", []), now]} if began else now)
    write_json(folder / "data.json", description)
    write_text(folder / "config.yaml", resolved)


def check_begun(folder: Path, resume: bool) -> None:
    """Raise ValueError if the folder holds a run that is not to be resumed."""
    if (folder / "config.yaml").exists() and not resume:
        raise ValueError(f"{folder} already holds a run; continue it by --resume, or choose another folder by --out")


def _check_resumable(config: LoopConfig, dataset: Dataset, folder: Path) -> None:
    """Refuse other settings, other data, or fewer steps than the run has taken. Mark a run that continues as not finished."""
    wanted = yaml.safe_load(yaml.safe_dump(as_dict(config), sort_keys=False))  # lists in place of tuples, as in a file
    existing = as_dict(read_run_config(folder, type(config)))
    differing = [key for key, value in wanted.items() if value != existing[key] and key not in CHANGEABLE]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings: {', '.join(differing)}; when a run is resumed, only "
            f"{', '.join(CHANGEABLE)} may differ"
        )
    fingerprint = read_json(folder / "data.json")["fingerprint"]
    if fingerprint != dataset.fingerprint:
        raise ValueError(
            f"the data {wanted['data']!r} have changed since the run in {folder} began: their fingerprint is "
            f"{dataset.fingerprint}; it was {fingerprint}. Start a new run in another folder"
        )
    reached = [step_of(path) for path in list_checkpoints(folder / "checkpoints")[-1:]]
    if reached and reached[0] > wanted["steps"]:
        raise ValueError(f"{folder} has reached step {reached[0]}, but steps is {wanted['steps']}; expected no fewer steps")
    finished = folder / "finished.json"
    if existing["steps"] != wanted["steps"]:
        finished.unlink(missing_ok=True)
    elif finished.exists() and (problem := set_damaged_aside(folder / "checkpoints")):
        warn(folder, problem)
        finished.unlink()


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, from the name of its folder."""
    return int(checkpoint.name.removeprefix("step_"))


def read_run_config(folder: Path, kind: type) -> Any:
    """The configuration of the run in a folder.

    Raises:
        ValueError: this is no run folder, or its config.yaml is damaged or belongs to another kind of run.
    """
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml. Make a run with kdiff train") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{folder / 'config.yaml'} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{folder / 'config.yaml'} is damaged: expected a mapping of fields")
    try:
        return from_dict(kind, values)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.yaml'}: {error}") from None


def sampling_of(folder: str) -> dict[str, Any]:
    """The fields of `Sampling` that a run's configuration sets to values other than the defaults; empty if there is no run."""
    if not (Path(folder) / "config.yaml").exists():
        return {}
    usual, own = dataclasses.asdict(Sampling()), dataclasses.asdict(read_run_config(Path(folder), TrainConfig).sampling)
    said = {name for name, value in own.items() if value != usual[name]}
    # A number of steps belongs to its solver, so both are given together.
    return {name: own[name] for name in own if name in (said | {"solver", "steps"} if said & {"solver", "steps"} else said)}
