"""Checkpoints: one folder per step, with safetensors and JSON only. A checkpoint is complete or does not exist.

checkpoints/step_00004000/model.safetensors     the weights, k included
                          ema_0.999.safetensors the averages, one file per decay
                          optimizer.safetensors AdamW's state and the sums of the current logging interval
                          state.json            step, size and checksum of each file, what `kdiff.run.contents` records of
                                                the run folder, and a checksum of all this

If a checkpoint is found damaged when a run is resumed, it is renamed to damaged_step_00004000 and never read again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.files.atomic import Damaged, file_digest, new_folder, partial_name, read_json, write_json
from kdiff.files.schema import problem
from kdiff.files.tensors import save_tensors
from kdiff.run.averages import EMA
from kdiff.run.contents import RECORD, digest_of, record_metrics

FORMAT = 1
NAME = re.compile(r"step_\d{8,}")
STATE = {"format": int, "step": int, "files": {...: {"bytes": int, "blake2b": str}}, "run?": RECORD, "blake2b?": str}


class DamagedCheckpoint(Damaged):
    """A file of a checkpoint is missing, truncated or changed."""


class NotSaved(RuntimeError):
    """A checkpoint could not be written. Earlier checkpoints are unchanged."""


def ema_file(decay: float) -> str:
    """The name of the file that holds the averages of a decay."""
    return f"ema_{float(decay)!r}.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    sums: Mapping[str, Tensor],
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint of `step` finished steps into `folder`, whole or not at all. Raises NotSaved if that fails.

    settings: what `kdiff.run.contents.record_settings` recorded when the run began or was resumed.
    """
    target = folder / f"step_{step:08d}"
    try:
        with new_folder(target) as new:
            save_tensors(new / "model.safetensors", module.state_dict())
            for decay, average in ema.averages.items():
                # Integer entries are not averaged. They are saved as they are, so that this file alone is a whole model.
                save_tensors(new / ema_file(decay), {**module.state_dict(), **average})
            state = {
                f"state.{index}.{name}": torch.as_tensor(value)
                for index, values in optimizer.state_dict()["state"].items()
                for name, value in values.items()
            }
            save_tensors(new / "optimizer.safetensors", {**state, **{f"sum.{name}": value for name, value in sums.items()}})
            files = {file.name: {"bytes": file.stat().st_size, "blake2b": file_digest(file)} for file in sorted(new.iterdir())}
            written = {
                "format": FORMAT,
                "step": step,
                "files": files,
                "run": {**(settings or {}), **record_metrics(folder.parent)},
            }
            write_json(new / "state.json", {**written, "blake2b": digest_of(written)})
    except OSError as error:
        earlier = list_checkpoints(folder)
        kept = f"The newest saved checkpoint is {earlier[-1]}" if earlier else "No checkpoint is saved yet"
        raise NotSaved(
            f"the checkpoint {target} could not be saved: {error}. {kept}. Make room (delete older runs, lower keep) and "
            "continue with --resume"
        ) from error
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*") if NAME.fullmatch(path.name) and path.is_dir())


def check_checkpoint(checkpoint: Path, digests: bool = True) -> dict[str, Any]:
    """The state of a checkpoint, after a check of the sizes (and with `digests` of the checksums) of all its files.

    Raises:
        DamagedCheckpoint: a file is missing, truncated or changed. The message says which.
        ValueError: the checkpoint has another format.
    """
    state = read_state(checkpoint)
    for name, facts in state["files"].items():
        file = checkpoint / name
        if not file.is_file():
            raise DamagedCheckpoint(f"{file} is missing")
        if file.stat().st_size != facts["bytes"]:
            raise DamagedCheckpoint(
                f"{file} is truncated or damaged: it has {file.stat().st_size} bytes; expected {facts['bytes']}"
            )
        if digests and file_digest(file) != facts["blake2b"]:
            raise DamagedCheckpoint(f"{file} is damaged: its checksum has changed since it was written")
    return state


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json. Its files are not looked at. Raises the errors of `check_checkpoint`."""
    path = checkpoint / "state.json"
    try:
        state: dict[str, Any] = read_json(path, {"format?": object}, back="")
    except Damaged as error:
        raise DamagedCheckpoint(error.what) from None
    version = state.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        text = f"{checkpoint} has format {version}; this version of kdiff reads format {FORMAT}"
        raise ValueError(text) if newer else DamagedCheckpoint(text)
    signed = digest_of({key: state[key] for key in state if key != "blake2b"})
    if state.get("blake2b", None if "run" in state else signed) != signed:  # older versions wrote neither
        raise DamagedCheckpoint(f"{path} is damaged: its checksum has changed since it was written")
    if found := problem(state, STATE):
        raise DamagedCheckpoint(f"{path} is damaged: {found}")
    if checkpoint.name != f"step_{str(state['step']).zfill(8)}":
        raise DamagedCheckpoint(f"{path} is damaged: it says that the step is {state['step']}")
    if "model.safetensors" not in state["files"]:
        raise DamagedCheckpoint(f"{path} is damaged: it does not list model.safetensors")
    return state


def record_again(checkpoint: Path, **files: Any) -> None:
    """Change what a checkpoint records of files of its run folder, after these were mended."""
    state = {key: value for key, value in read_state(checkpoint).items() if key != "blake2b"}
    state["run"] = {**state.get("run", {}), **files}
    write_json(checkpoint / "state.json", {**state, "blake2b": digest_of(state)})


def recorded(run: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run folder records of the folder's files; empty if that cannot be read."""
    for checkpoint in list_checkpoints(run / "checkpoints")[-1:]:
        try:
            found: dict[str, Any] = read_state(checkpoint).get("run", {})
        except ValueError:
            break
        return found
    return {}


def set_damaged_aside(folder: Path) -> str:
    """Rename damaged checkpoints in `folder` that are newer than the newest whole one.

    Returns a message that says what was wrong and what was done; it is empty if nothing was wrong. Raises ValueError, and
    renames nothing, if no checkpoint is whole or one has another format.
    """
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            check_checkpoint(checkpoint)
            break
        except DamagedCheckpoint as error:
            damaged[checkpoint] = str(error)
    else:
        if damaged:
            raise ValueError(
                f"no checkpoint of {folder.parent} is whole: {'; '.join(damaged.values())}. Restore one from a copy, or start "
                "a new run in another folder by --out"
            )
    for checkpoint in damaged:
        aside = folder / f"damaged_{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
    if not damaged:
        return ""
    names = ", ".join(f"damaged_{checkpoint.name}" for checkpoint in damaged)
    newest = list_checkpoints(folder)[-1].name
    return f"{'; '.join(damaged.values())}. Renamed to {names}; continuing from {newest}, the newest whole checkpoint"


def keep_newest(folder: Path, keep: int) -> None:
    """Remove all checkpoints except the `keep` newest; 0 keeps all."""
    for checkpoint in list_checkpoints(folder)[:-keep] if keep else []:
        # Rename it first, so that a process killed in the middle leaves no incomplete checkpoint in the list.
        aside = partial_name(checkpoint)
        checkpoint.rename(aside)
        shutil.rmtree(aside)


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restore the optimiser's state from saved tensors, and return the sums of the logging interval."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, rest = key.split(".", 1)
        if kind == "state":
            index, name = rest.split(".", 1)
            states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return {key.removeprefix("sum."): value for key, value in tensors.items() if key.startswith("sum.")}
