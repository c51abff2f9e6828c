"""The configuration of a run: typed, flat, every field a YAML key and a command-line option. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from kdiff.components import Spec
from kdiff.evaluation.config import Sampling

H100_TFLOPS = {"no": 67.0, "bf16": 989.0}  # SXM, dense, by precision
CHOICES = {"schedule": ("constant", "cosine"), "precision": ("no", "bf16"), "optimizer": ("adamw", "sgd")}


@dataclass
class LoopConfig:
    """What the training loop itself needs.

    Args:
        steps: optimiser steps.
        batch_size: samples per step, over all processes and micro-batches.
        accumulate: micro-batches that a step's batch is computed in, one after the other, to save memory; divides batch_size.
        optimizer: AdamW, or plain gradient descent, the gradient flow of the theory.
        learning_rate: after the warm-up.
        warmup: steps over which the learning rate rises from 0.
        schedule: what the learning rate does afterwards.
        weight_decay: of the network's matrices; k and vectors have none.
        betas: of AdamW.
        clip: norm to which the network's gradient is clipped; 0 for none.
        ema: decays of the averaged weights; the first is the one that samples.
        precision: of the network; conversions and losses stay in float32.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints; 0 for one at the end.
        keep: newest checkpoints that are kept, older ones are removed; 0 for all.
        tensorboard: write the metrics for TensorBoard too, into the run folder's tensorboard/.
        seed: of weights, data order, times and noise.
    """

    steps: int = 4000
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
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
    keep: int = 3
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "warmup": 0, "clip": 0, "log_every": 1}
        for name, low in {**least, "checkpoint_every": 0, "keep": 0, "weight_decay": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size is {self.batch_size} and accumulate {self.accumulate}; expected a batch that divides into as many "
                f"equal micro-batches, such as {self.accumulate * max(1, round(self.batch_size / self.accumulate))}"
            )
        for name, choices in CHOICES.items():
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
        loss_space: v, the loss on the velocity; u, on the network's output, for experiments with the linear theory.
        noise_scale: standard deviation of the noise, in training and where sampling starts.
        cosine_weight: of 1 − cos(v̂, v) along channels, beside the mean square.
        split_loss: log the loss along the data's leading principal directions and across them too, of data of up to 4096
            dimensions; finding the directions takes some 20 s of one core for 20,000 samples of 3072, at the start.
        start_from: weights to begin with: a run folder, "runs/velocity" or "runs/velocity(ema=none, checkpoint=5000)", or
            published ones of jit, sit or lightningdit, "sit(weights='FILE')"; drawn by the seed if left out. With labels=new
            among the options the table of labels is drawn, for other classes.
    """

    data: Spec = "digits"
    network: Spec = "MLP"
    path: Spec = "linear"
    timesteps: Spec = "uniform"
    null_rate: float = 0.1
    loss_space: Literal["v", "u"] = "v"
    noise_scale: float = 1.0
    cosine_weight: float = 0.0
    split_loss: bool = True
    start_from: Spec | None = None


@dataclass
class Expected:
    """What the data of a run must be.

    Args:
        shape: of a sample, channels first.
        num_classes: 0 without labels.
        num_samples: that are trained on; 0 for any number.
    """

    shape: list[int]
    num_classes: int = 0
    num_samples: int = 0

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or min(self.num_classes, self.num_samples) < 0:
            raise ValueError(f"expects is {self}; expected a shape of positive numbers, such as [3, 256, 256], and counts")


@dataclass
class TrainConfig(LoopConfig, ModelConfig):
    """A training run.

    Args:
        target: what the network predicts: noise, velocity, data, learned, a fixed k, or "learned(init=0.5, rate=1)".
        sample_every: steps between pictures of samples, from the first averaged weights; 0 for one at the end.
        train_on: train, the part of the data that is for training; all, held-out samples too, which then tell nothing.
        expects: what the data must be: others are refused, and `kdiff plan` and --dry-run read none.
        sampling: how the pictures of samples are drawn, and what `kdiff sample` does unless told otherwise.
    """

    target: Spec = "learned"
    sample_every: int = 0
    train_on: Literal["train", "all"] = "train"
    expects: Expected | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_on not in ("train", "all"):
            raise ValueError(f"train_on is {self.train_on!r}; expected train or all")
        if isinstance(self.expects, dict):  # as read from a file
            self.expects = Expected(**self.expects)
        if isinstance(self.sampling, dict):
            self.sampling = Sampling(**self.sampling)
        if self.sample_every < 0:
            raise ValueError(f"sample_every is {self.sample_every}; expected at least 0")


@dataclass
class PlanConfig(TrainConfig):
    """A training run, and the devices it is planned for.

    Args:
        peak_tflops: of one device in the run's precision, 10¹² operations per second; an H100's if left out, 989 in bfloat16
            and 67 in float32, as PyTorch multiplies float32 matrices without TF32 unless told otherwise.
        utilisation: the part of that which training reaches.
        device_memory: of one device, GB.
    """

    peak_tflops: float | None = None
    utilisation: float = 0.4
    device_memory: float = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.peak > 0 and 0 < self.utilisation <= 1 and self.device_memory > 0):
            raise ValueError(
                f"peak_tflops is {self.peak:g}, utilisation {self.utilisation}, device_memory {self.device_memory}; "
                "expected positive numbers, and a utilisation of at most 1"
            )

    @property
    def peak(self) -> float:
        """`peak_tflops`, that of the run's precision if left out."""
        return H100_TFLOPS[self.precision] if self.peak_tflops is None else self.peak_tflops


# What may differ when a run is resumed: none of it has a part in the weights of a step. (A cosine schedule depends on the
# number of steps; whoever raises that number means it.)
CHANGEABLE = ("steps", "checkpoint_every", "keep", "sample_every", "tensorboard", "expects", "sampling")


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
