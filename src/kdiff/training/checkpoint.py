"""Checkpoints: a folder per step with safetensors and JSON, nothing else, complete or absent.

checkpoints/step_00004000/model.safetensors     the weights, k included
                          ema_0.999.safetensors the averages, one file per decay
                          optimizer.safetensors AdamW's state and the sums of the current logging interval
                          state.json            step, and size and checksum of each file

One that was found damaged when a run was resumed lies beside the others as damaged_step_00004000, and is never read again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdiff.data.cache import file_digest
from kdiff.files import new_folder, partial_name, read_json, write_json
from kdiff.training.ema import EMA

FORMAT = 1


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing, truncated or changed."""


class NotSaved(RuntimeError):
    """A checkpoint could not be written; those of before are as they were."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors to one safetensors file, as copies on the CPU: weights that share memory (tied ones) are written twice.

    Raises:
        OSError: the disk is full, or the file cannot be written for another reason.
    """
    try:
        save_file({name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: a missing, truncated or otherwise damaged file, by name.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error})") from None


def ema_file(decay: float) -> str:
    """The name of the file with the averages of a decay."""
    return f"ema_{float(decay)!r}.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    sums: Mapping[str, Tensor],
) -> Path:
    """Write the checkpoint of `step` finished optimiser steps under `folder`, whole or not at all.

    Raises:
        NotSaved: the disk is full, or the files cannot be written for another reason.
    """
    target = folder / f"step_{step:08d}"
    try:
        _write(target, step, module, ema, optimizer, sums)
    except OSError as error:
        there = list_checkpoints(folder)
        kept = f"The newest that is there is {there[-1]}" if there else "There is none yet"
        raise NotSaved(
            f"the checkpoint {target} could not be saved: {error}. {kept}; make room (older runs, a lower keep) and go on with "
            "--resume"
        ) from error
    return target


def _write(
    target: Path,
    step: int,
    module: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    sums: Mapping[str, Tensor],
) -> None:
    with new_folder(target) as aside:
        save_tensors(aside / "model.safetensors", module.state_dict())
        for decay, average in ema.averages.items():
            # What is not averaged (integers) as it stands, so that the file alone is a whole model.
            save_tensors(aside / ema_file(decay), {**module.state_dict(), **average})
        state = {
            f"state.{index}.{name}": torch.as_tensor(value)
            for index, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        save_tensors(aside / "optimizer.safetensors", {**state, **{f"sum.{name}": value for name, value in sums.items()}})
        files = {file.name: {"bytes": file.stat().st_size, "blake2b": file_digest(file)} for file in sorted(aside.iterdir())}
        write_json(aside / "state.json", {"format": FORMAT, "step": step, "files": files})


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def check_checkpoint(checkpoint: Path, digests: bool = True) -> dict[str, Any]:
    """The state of a checkpoint whose files are all there and whole.

    Args:
        checkpoint: its folder.
        digests: compare checksums as well as sizes.

    Raises:
        DamagedCheckpoint: what is missing, truncated or changed.
        ValueError: a newer format.
    """
    try:
        state: dict[str, Any] = read_json(checkpoint / "state.json")
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from None
    if not isinstance(state, dict) or not isinstance(state.get("files"), dict):
        raise DamagedCheckpoint(f"{checkpoint / 'state.json'} is damaged: it lists no files")
    if state.get("format") != FORMAT:
        raise ValueError(f"{checkpoint} has format {state.get('format')}; this version of kdiff reads format {FORMAT}")
    if checkpoint.name != f"step_{str(state.get('step')).zfill(8)}":
        raise DamagedCheckpoint(f"{checkpoint / 'state.json'} is damaged: it speaks of step {state.get('step')}")
    for name, facts in state["files"].items():
        file = checkpoint / name
        if not file.is_file():
            raise DamagedCheckpoint(f"{file} is missing")
        if file.stat().st_size != facts.get("bytes"):
            raise DamagedCheckpoint(
                f"{file} is truncated or damaged: {file.stat().st_size} bytes, written with {facts.get('bytes')}"
            )
        if digests and file_digest(file) != facts.get("blake2b"):
            raise DamagedCheckpoint(f"{file} is damaged: its checksum is not the one it was written with")
    return state


def set_damaged_aside(folder: Path) -> str:
    """Make the newest checkpoint under `folder` a whole one: damaged ones that are newer are renamed.

    Returns what was wrong and done, for a person; nothing if nothing was.

    Raises:
        ValueError: none of them is whole, or the newest has a newer format; nothing is renamed then.
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
                "anew in another folder by --out"
            )
    for checkpoint in damaged:
        aside = folder / f"damaged_{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
    if not damaged:
        return ""
    asides = ", ".join(f"damaged_{checkpoint.name}" for checkpoint in damaged)
    newest = list_checkpoints(folder)[-1].name
    return f"{'; '.join(damaged.values())}. Set aside as {asides}; going on from {newest}, the newest whole checkpoint"


def keep_newest(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the `keep` newest; 0 keeps all."""
    for checkpoint in list_checkpoints(folder)[:-keep] if keep else []:
        # Out of the list first: killed in the middle, this leaves no half checkpoint.
        aside = partial_name(checkpoint)
        checkpoint.rename(aside)
        shutil.rmtree(aside)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Put saved weights into a module.

    Raises:
        ValueError: names or shapes that are not the module's, listing the first few of each kind.
    """
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [
        f"{n} {tuple(tensors[n].shape)} here {tuple(own[n].shape)}"
        for n in own
        if n in tensors and own[n].shape != tensors[n].shape
    ]
    problems = {"missing": missing, "not in this network": extra, "of another shape": shapes}
    found = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"{source} holds the weights of another network: {'; '.join(found)}")
    module.load_state_dict(dict(tensors))


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put back the optimiser's state; returns the sums of the logging interval."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, rest = key.split(".", 1)
        if kind == "state":
            index, name = rest.split(".", 1)
            states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return {key.removeprefix("sum."): value for key, value in tensors.items() if key.startswith("sum.")}
