"""A run folder while it is written: it is started or resumed by one process at a time, and no half-written file is left.

    environment.json    versions, machine, threads, processes if there are several, the times behind a precision that was
                        chosen (auto), and the date of the start; the same for each time it was resumed
    .lock               held by the process that trains (`kdiff.run.lock`)
    warnings.log        the warnings that were also printed on stderr, with the time

Further files: `kdiff.run.run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import difflib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from kdiff.config.parts import Part
from kdiff.config.plain import Precision, as_dict, from_dict
from kdiff.config.recipes import EARLIER, EARLIER_NETWORK, RecipeName, chosen_recipe
from kdiff.config.sampling import Sampling
from kdiff.config.training import CHANGEABLE, LoopConfig, ModelConfig, TrainConfig
from kdiff.data import Dataset
from kdiff.files.atomic import Damaged, check_utf8, read_json, write_json, write_text
from kdiff.networks.choice import is_auto
from kdiff.run.agreement import differences, facts_of
from kdiff.run.checkpoint import list_checkpoints, recorded, set_damaged_aside
from kdiff.run.contents import BACK, BACK_OR_RENAME, ENVIRONMENT, data_to_resume, read_finished
from kdiff.run.environment import describe_environment
from kdiff.run.given import described, keep_examples
from kdiff.run.metrics import mend_metrics
from kdiff.run.trust import check_trusted, remember
from kdiff.run.yaml_file import load_yaml

# Files that show that a folder is something else than a run folder.
KINDS = {"state.json": "a checkpoint", "latents.json": "a folder of latents", "model_index.json": "a pipeline of diffusers"}


def warn(folder: Path, message: str) -> None:
    """Warn on stderr and in the folder's warnings.log."""
    warnings.warn(message, stacklevel=2)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # The warning may be about a full disk.
    with contextlib.suppress(OSError), (folder / "warnings.log").open("a", encoding="utf-8") as file:
        file.write(f"{now} {message}\n")


def prepare_folder(
    config: LoopConfig,
    dataset: Dataset,
    folder: Path,
    resume: bool,
    processes: int = 1,
    precision: Mapping[str, Any] | None = None,
) -> None:
    """Write the description of a run into its folder, config.yaml last; or check that the run in the folder can be resumed.

    `precision` says how the precision of the configuration was chosen, for environment.json.

    Raises:
        ValueError: the folder holds a run although `resume` is False, or a run with other settings, other data or more steps.
    """
    values = as_dict(config)
    resolved = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    check_begun(folder, resume)
    description = dataset.describe()
    labels = dataset.part(getattr(config, "train_on", "train"))[1]
    if dataset.conditions:
        description["conditions"] = described(dataset, getattr(config, "train_on", "train"))
    description["class_counts"] = None if labels is None else torch.bincount(labels, minlength=dataset.num_classes).tolist()
    begun = _has_trained(folder)
    if not begun:
        for name in ("target.json", "start.json"):  # of an earlier try, which failed in its first steps
            (folder / name).unlink(missing_ok=True)
    else:
        known = recorded(folder)
        there, damage = data_to_resume(folder, known, description)
        _check_resumable(config, dataset, folder, processes, there)
        if damage:
            warn(folder, f"{damage}; it is written again, because the data are the same")
        # On another machine, statistics may differ in their last digit. The checkpoints have recorded those of the first one.
        description |= {key: value for key, value in there.items() if key in known.get("data.json", {})}
    # A finished run makes nothing more, so its environment stays as it is. Its settings may still change.
    if not (folder / "finished.json").exists():
        environment, now = folder / "environment.json", describe_environment()
        now |= {"processes": processes} if processes > 1 else {}
        now |= {"precision": dict(precision)} if precision else {}
        began = read_json(environment, ENVIRONMENT, BACK_OR_RENAME) if begun and environment.exists() else None
        write_json(environment, {**began, "resumed": [*began.get("resumed", []), now]} if began else now)
    keep_examples(dataset, folder)
    write_json(folder / "data.json", description)
    write_text(folder / "config.yaml", resolved)
    remember(folder, values)


def check_place(folder: Path) -> None:
    """Raise ValueError if a run cannot be in this folder: it is in a run folder, holds something else, or has a bad name."""
    check_utf8(folder)
    for parent in Path(os.path.abspath(folder)).parents:
        if all((parent / name).exists() for name in ("config.yaml", "data.json", "environment.json")):
            raise ValueError(
                f"{folder} is inside a run folder; to continue that run, type --resume --out {parent}; for a new run, choose a "
                "folder elsewhere by --out"
            )
    for name, kind in KINDS.items():
        if (folder / name).exists():
            raise ValueError(f"{folder} is {kind}; choose another folder by --out")


def check_begun(folder: Path, resume: bool) -> None:
    """Raise ValueError if the folder holds a run that is not to be resumed, or that is not trusted."""
    if not (folder / "config.yaml").exists():
        return
    if not resume and _has_trained(folder):
        raise ValueError(f"{folder} already holds a run; continue it by --resume, or choose another folder by --out")
    _read_values(folder)


def _has_trained(folder: Path) -> bool:
    """Whether the run in a folder has made anything. One that failed before that may begin again, with other settings."""
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    made = (metrics.exists() and metrics.stat().st_size > 0) or (checkpoints.is_dir() and any(checkpoints.iterdir()))
    return (folder / "config.yaml").exists() and made


def nothing_to_resume(folder: Path) -> str:
    """What to say if a run that should be resumed does not exist, with the run whose name is similar; empty if it exists."""
    if (folder / "config.yaml").exists():
        return ""
    others = {str(path.parent.name): path.parent for path in sorted(folder.absolute().parent.glob("*/config.yaml"))}
    close = difflib.get_close_matches(folder.absolute().name, others, n=1)
    hint = f"; did you mean --out {folder.parent / close[0]}?" if close else ""
    return f"{folder} holds no run to resume, so a new run begins there{hint}"


def _check_resumable(config: LoopConfig, dataset: Dataset, folder: Path, processes: int, there: dict[str, Any]) -> None:
    """Refuse other settings, other data, or fewer steps than the run has taken. Mark a run that continues as not finished."""
    wanted = yaml.safe_load(yaml.safe_dump(as_dict(config), sort_keys=False))  # lists in place of tuples, as in a file
    existing = as_dict(read_run_config(folder, type(config)))
    differing = [key for key, value in wanted.items() if value != existing[key] and key not in CHANGEABLE]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings: {', '.join(differing)}; when a run is resumed, only "
            f"{', '.join(CHANGEABLE)} may differ"
        )
    fingerprint = there["fingerprint"]
    if fingerprint != dataset.fingerprint:
        raise ValueError(
            f"the data {wanted['data']!r} have changed since the run in {folder} began: their fingerprint is "
            f"{dataset.fingerprint}; it was {fingerprint}. Start a new run in another folder"
        )
    changed = differences(there, facts_of(dataset), folder)
    if other := [changed[name] for name in ("normalisation", "autoencoder", "conditions") if name in changed]:
        raise ValueError(
            f"since the run in {folder} began, its data have changed: {'; '.join(other)}. Start a new run in another folder"
        )
    reached = [step_of(path) for path in list_checkpoints(folder / "checkpoints")[-1:]]
    if reached and reached[0] > wanted["steps"]:
        raise ValueError(f"{folder} has reached step {reached[0]}, but steps is {wanted['steps']}; expected no fewer steps")
    finished = folder / "finished.json"
    if existing["steps"] != wanted["steps"]:
        finished.unlink(missing_ok=True)
    elif finished.exists():
        _mend_finished(folder)
    if reached and not finished.exists():
        _compare_micro_batches(folder, reached[0], existing["accumulate"], config.accumulate, processes)


def _mend_finished(folder: Path) -> None:
    """Set aside what is damaged in the folder of a finished run, which then continues, unless only its metrics were damaged."""
    problem = set_damaged_aside(folder / "checkpoints")
    try:
        read_finished(folder)
    except Damaged as error:
        problem = "; ".join(filter(None, (problem, f"{error.what}; it is written again")))
    if problem:
        warn(folder, problem)
        (folder / "finished.json").unlink(missing_ok=True)
    if lines := mend_metrics(folder / "metrics.jsonl"):
        warn(folder, lines)


def _compare_micro_batches(folder: Path, reached: int, accumulated: int, accumulate: int, processes: int) -> None:
    """Warn if a run continues with another number of micro-batches in a step, each of which has its own times and noise."""
    environment = folder / "environment.json"
    began = read_json(environment, ENVIRONMENT, BACK_OR_RENAME) if environment.exists() else {}
    latest = [began, *began.get("resumed", [])][-1]
    before, now = latest.get("processes", 1) * accumulated, processes * accumulate
    if before != now:
        exact = (
            f"--accumulate {before // processes}" if before % processes == 0 else f"a number of processes that divides {before}"
        )
        warn(
            folder,
            f"up to step {reached} the batch of a step was cut into {before} micro-batches (processes × accumulate); it is now "
            f"cut into {now}, so the run continues with other times and noise. To continue it exactly, resume with {exact}",
        )


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, from the name of its folder."""
    return int(checkpoint.name.removeprefix("step_"))


def read_run_config(folder: Path, kind: type) -> Any:
    """The configuration of the run in a folder.

    Raises:
        ValueError: this is no run folder, or its config.yaml is damaged or belongs to another kind of run; or it names code
            outside kdiff, and the folder is not trusted.
    """
    values = _read_values(folder)
    try:
        return from_dict(kind, with_recipe(kind, values))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'config.yaml'}: {error}") from None


def with_recipe(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Stored settings, with the recipe and the network of those that were written before these had other defaults."""
    return {"recipe": EARLIER, "network": EARLIER_NETWORK, **values} if issubclass(kind, ModelConfig) else values


def recipe_of(config: TrainConfig, folder: Path, resume: bool) -> RecipeName:
    """The recipe of a configuration; if it names none, that of the run in the folder if it is resumed, or else the default."""
    if config.recipe is None and resume and (folder / "config.yaml").exists():
        found: RecipeName = read_run_config(folder, TrainConfig).recipe
        return found
    return chosen_recipe(config.recipe, config.loss_space)


def network_of(config: TrainConfig, folder: Path, resume: bool) -> Part:
    """The network of a configuration; if it is to be chosen, that of the run in the folder if it is resumed."""
    if is_auto(config.network) and resume and (folder / "config.yaml").exists():
        found: Part = read_run_config(folder, TrainConfig).network
        return found
    return config.network


def precision_of(config: LoopConfig, folder: Path, resume: bool) -> Precision:
    """The precision of a configuration; if it is to be chosen, that of the run in the folder if it is resumed."""
    if config.precision == "auto" and resume and (folder / "config.yaml").exists():
        found: Precision = read_run_config(folder, type(config)).precision
        return found
    return config.precision


def _read_values(folder: Path) -> dict[str, Any]:
    """The content of config.yaml, once it is known that the folder is trusted."""
    try:
        content = (folder / "config.yaml").read_bytes()
        values = load_yaml(content.decode("utf-8"), folder / "config.yaml")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(no_run(folder)) from None
    except ValueError as error:
        what = str(error).removeprefix(f"{folder / 'config.yaml'}").removeprefix(": ")
        raise ValueError(f"{folder / 'config.yaml'} is damaged: {' '.join(what.split())}; {BACK}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{folder / 'config.yaml'} is damaged: expected a mapping of fields; {BACK}")
    check_trusted(folder, content, values)
    return values


def no_run(path: Path) -> str:
    """What a path is that is no run folder, and what to type instead."""
    around = (each for each in (*path.parents, *path.absolute().parents) if (each / "checkpoints").is_dir())
    around = (each for each in around if (each / "config.yaml").is_file())
    below = sorted(file.parent for file in path.glob("*/config.yaml")) if path.is_dir() else []
    if run := next(around, None):
        step = re.match(r"step_0*(\d+)$", path.name)
        chosen = f", and its checkpoint by --checkpoint {step[1]}" if step else ""
        why = f"it lies within the run folder {run}. Name that folder{chosen}"
    elif not path.exists():
        why = "there is nothing at this place. Make a run with kdiff train"
    elif below:
        why = f"it holds the run folders {', '.join(map(str, below[:3]))}{' …' if len(below) > 3 else ''}. Name one of them"
    elif path.is_dir():
        why = "it has no config.yaml. Make a run with kdiff train"
    else:
        why = "it is a file. Name the folder that kdiff train has made (runs/…)"
    return f"{path} is not a run folder: {why}"


def sampling_of(folder: str) -> dict[str, Any]:
    """The fields of `Sampling` that a run's configuration sets to values other than the defaults; empty if there is no run."""
    if not (Path(folder) / "config.yaml").exists():
        return {}
    usual, own = dataclasses.asdict(Sampling()), dataclasses.asdict(read_run_config(Path(folder), TrainConfig).sampling)
    said = {name for name, value in own.items() if value != usual[name]}
    # A number of steps belongs to its solver, so both are given together.
    return {name: own[name] for name in own if name in (said | {"solver", "steps"} if said & {"solver", "steps"} else said)}
