"""The configuration of a run: typed, flat, every field a YAML key and a command-line option. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from kdiff.components import Spec


@dataclass
class LoopConfig:
    """What the training loop itself needs.

    Args:
        steps: optimiser steps.
        batch_size: samples per step, over all processes.
        learning_rate: of AdamW, after the warm-up.
        warmup: steps over which the learning rate rises from 0.
        schedule: what the learning rate does afterwards.
        weight_decay: of the network's matrices; k and vectors have none.
        betas: of AdamW.
        clip: norm to which the network's gradient is clipped; 0 for none.
        ema: decays of the averaged weights; the first is the one that samples.
        precision: of the network; conversions and losses stay in float32.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints; 0 for one at the end.
        seed: of weights, data order, times and noise.
    """

    steps: int = 4000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 100
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip: float = 1.0
    ema: list[float] = field(default_factory=lambda: [0.999])
    precision: Literal["no", "bf16"] = "no"
    log_every: int = 50
    checkpoint_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in {"steps": 1, "batch_size": 1, "warmup": 0, "clip": 0, "log_every": 1, "checkpoint_every": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}")
        for name, choices in {"schedule": ("constant", "cosine"), "precision": ("no", "bf16")}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(choices)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a positive number")
        if not self.ema or not all(0 <= decay < 1 for decay in self.ema) or len(set(self.ema)) < len(self.ema):
            raise ValueError(f"ema is {self.ema}; expected one or more different decays in [0, 1), such as [0.999]")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; expected two numbers in [0, 1)")


@dataclass
class ModelConfig:
    """What is trained, but for its target.

    Args:
        data: a name (digits, spiral, …) or a file; options as in "spiral(ambient_dim=32)".
        network: a name (MLP) or a class path; options as in "MLP(width=512)" or --network.width 512.
        path: linear or variance_preserving.
        timesteps: the law of t in training: uniform, "logit_normal(mean=-0.8, std=0.8)", "uniform(stratified=True)".
        null_rate: probability of training a sample without its class, for guidance; unused for data without labels.
    """

    data: Spec = "digits"
    network: Spec = "MLP"
    path: Spec = "linear"
    timesteps: Spec = "uniform"
    null_rate: float = 0.1


@dataclass
class TrainConfig(LoopConfig, ModelConfig):
    """A training run.

    Args:
        target: what the network predicts: noise, velocity, data, learned, a fixed k, or "learned(init=0.5, rate=1)".
    """

    target: Spec = "learned"


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain data, for YAML and JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """A configuration from plain data.

    Raises:
        ValueError: a key that it does not have.
    """
    fields = {f.name for f in dataclasses.fields(kind)}
    unknown = set(values) - fields
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}; expected some of: {', '.join(sorted(fields))}")
    return kind(**values)
