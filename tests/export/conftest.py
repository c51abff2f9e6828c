"""Tiny runs on digits, exported and loaded by diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

JIT = "JiT(patch_size=2, hidden_size=32, depth=2, num_heads=2, bottleneck=8, context_tokens=2, context_start=1)"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run folders: a few steps of a JiT on digits, or as `changes` to its configuration say; each is trained once."""
    from kdiff.config.training import TrainConfig
    from kdiff.training.trainer import train_run

    runs: dict[str, Path] = {}

    def train(**changes: Any) -> Path:
        options = {"data": "digits", "network": JIT, "steps": 30, "batch_size": 32, "ema": [0.9], **changes}
        if repr(options) not in runs:
            runs[repr(options)] = tmp_path_factory.mktemp("runs") / "run"
            train_run(TrainConfig(**options), runs[repr(options)])
        return runs[repr(options)]

    return train


@pytest.fixture(scope="session")
def loaded(code_cache: None) -> Callable[[Path], Any]:
    """Pipelines, as diffusers loads them from a folder."""
    from diffusers import DiffusionPipeline

    def load(folder: Path) -> Any:
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(scope="session")
def exported(loaded: Callable[[Path], Any]) -> Callable[[Any, Path], Any]:
    """Pipelines of runs, by way of a folder."""
    from kdiff.export.diffusers_folder import export

    return lambda run, folder: loaded(export(run, folder / "pipeline"))


@pytest.fixture(scope="session")
def run(trained: Callable[..., Path]) -> Any:
    """A run that is only read. Its k is near ½, where Euler's steps differ from the flow."""
    from kdiff.run.run import load_run

    return load_run(trained(recipe="plain"))


@pytest.fixture(scope="session")
def pipeline(run: Any, exported: Callable[[Any, Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its pipeline."""
    return exported(run, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def start() -> Callable[[Any], tuple[Tensor, Tensor]]:
    """Noise and labels of a run's first six samples."""
    from kdiff import draw_noise

    return lambda run: (run.model.noise_scale * draw_noise(6, run.shape), torch.arange(6) % run.data["num_classes"])
