"""What a configuration names, made: its data, its model; and what a result depends on besides."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import kdiff.data
from kdiff.components import build, parse
from kdiff.data import Dataset
from kdiff.model import KDiff
from kdiff.sampling.noise import mix_seed
from kdiff.training.config import ModelConfig
from kdiff.training.latent_config import AutoencoderConfig, EncodeConfig

PACKAGES = (
    "kdiff",
    "torch",
    "numpy",
    "accelerate",
    "safetensors",
    "scikit-learn",
    "diffusers",
    "torch-fidelity",
    "transformers",
)


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


def load_dataset(config: ModelConfig | AutoencoderConfig | EncodeConfig) -> Dataset:
    """The data that a configuration names."""
    component = parse(config.data)
    return kdiff.data.load(component.name, **component.options)


def build_model(config: ModelConfig, target: Any, shape: tuple[int, ...], num_classes: int, seed: int = 0) -> KDiff:
    """The model that a configuration describes; the same seed gives the same initial weights, whatever the target.

    A network of the user's own is called as Network(shape=…, num_classes=…, **options), as far as its signature has these.
    """
    own = parse(config.network).options.get("num_classes", num_classes)
    if own != num_classes:
        raise ValueError(
            f"the network {config.network!r} is to have {own} classes, and the data have {num_classes}: leave num_classes out "
            "of the network's options; how many there are is said of the data, as in --data.num_classes"
        )
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
        loss_space=config.loss_space,
        noise_scale=config.noise_scale,
        cosine_weight=config.cosine_weight,
    )


def _size(shape: tuple[int, ...]) -> dict[str, Any]:
    """What a network may want to know of the samples, whichever way its signature puts it."""
    return {"shape": shape, **({"channels": shape[0], "image_size": shape[1:]} if len(shape) == 3 else {})}
