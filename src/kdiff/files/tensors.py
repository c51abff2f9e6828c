"""Tensors in safetensors files. Files that cannot be read are refused with their name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from kdiff.files.atomic import check_utf8


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, as copies on the CPU. Tied weights are written twice. Raises OSError if it fails."""
    check_utf8(path)
    try:
        save_file({name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) if code else OSError(f"{path}: {error}") from error


def check_storable(tensors: Mapping[str, object]) -> None:
    """Raise ValueError, with its name, for a value that a safetensors file cannot hold."""
    kinds: dict[Any, str] = {v.dtype if isinstance(v, Tensor) else type(v): name for name, v in tensors.items()}
    for kind, name in kinds.items():
        try:
            save({"": torch.empty(0, dtype=kind)})
        except (KeyError, ValueError, TypeError, AttributeError, SafetensorError):
            what = str(kind).removeprefix("torch.") if isinstance(kind, torch.dtype) else kind.__name__
            raise ValueError(
                f"{name} of the model is of type {what}, which safetensors files cannot hold; expected tensors of another "
                "type, such as float32 or complex64"
            ) from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file. Raises ValueError, with the file's name, if it is missing, truncated or damaged."""
    check_utf8(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error})") from None


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load saved weights into a module. Raises ValueError, with the first few problems, if names or shapes do not fit."""
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and value.shape != tensors[name].shape
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
