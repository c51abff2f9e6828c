"""Tensors in safetensors files. Files that cannot be read are refused with their name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, as copies on the CPU. Tied weights are written twice. Raises OSError if it fails."""
    try:
        save_file({name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file. Raises ValueError, with the file's name, if it is missing, truncated or damaged."""
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
