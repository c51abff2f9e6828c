"""The settings of a training run. Each field is a key in a YAML file and an option on the command line. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kdiff.config.condition_spec import ConditionSpec
from kdiff.config.parts import OptionalPartField, PartField
from kdiff.config.plain import PRECISIONS, Precision, check_choices, check_least
from kdiff.config.recipes import RecipeName, chosen_recipe, without_weighting
from kdiff.config.sampling import Sampling

H100_TFLOPS = {"no": 67.0, "bf16": 989.0, "fp16": 989.0, "auto": 989.0}  # SXM, dense, by precision


@dataclass
class LoopConfig:
    """Settings of the training loop.

    Args:
        steps: The number of optimiser steps.
        batch_size: The number of samples in a step, over all processes and micro-batches together.
        accumulate: The number of micro-batches into which a step's batch is divided, to save memory. It must divide batch_size.
        optimizer: adamw is AdamW. sgd is plain gradient descent, which follows the gradient flow of the theory.
        learning_rate: The learning rate after the warm-up.
        warmup: The number of steps over which the learning rate rises from 0.
        schedule: What the learning rate does after the warm-up: constant keeps it, cosine lowers it to 0 at the last step.
        weight_decay: The weight decay of the network's matrices. Its vectors and k have no weight decay.
        betas: The two betas of AdamW.
        clip: The norm to which the gradient of the network is clipped; 0 does not clip it.
        ema: One or more decays of averaged weights. Samples are drawn with the average of the first decay.
        precision: The precision of the network: no is float32, bf16 is bfloat16, fp16 is float16. auto is the faster one of no
            and bf16 on this machine: it is measured once before training, and the run keeps it, also where it is resumed.
            Conversions and losses stay in float32.
        log_every: The number of steps between two lines of metrics.
        checkpoint_every: The number of steps between two checkpoints; 0 writes one checkpoint at the end.
        keep: The number of newest checkpoints that are kept. Older ones are removed; 0 keeps all.
        tensorboard: true also writes the metrics for TensorBoard, into the folder tensorboard/ of the run.
        seed: The seed of the initial weights, the order of the data, the times and the noise.
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
    precision: Precision = "no"
    log_every: int = 50
    checkpoint_every: int = 0
    keep: int = 3
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, steps=1, batch_size=1, accumulate=1, warmup=0, clip=0, log_every=1)
        check_least(self, checkpoint_every=0, keep=0, weight_decay=0)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size is {self.batch_size} and accumulate is {self.accumulate}; expected a batch_size that divides into "
                f"that many equal micro-batches, such as {self.accumulate * max(1, round(self.batch_size / self.accumulate))}"
            )
        check_choices(self, schedule=("constant", "cosine"), precision=PRECISIONS, optimizer=("adamw", "sgd"))
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a positive number")
        if not self.ema or not all(0 <= decay < 1 for decay in self.ema) or len(set(self.ema)) < len(self.ema):
            raise ValueError(f"ema is {self.ema}; expected one or more different decays in [0, 1), such as [0.999]")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; expected two numbers in [0, 1)")


@dataclass
class ModelConfig:
    """Settings of the data, the network and the loss.

    Args:
        data: The data: a name (digits, …), a file or a folder; options stand in brackets, as in "spiral(ambient_dim=32)".
        network: The network: a name (such as MLP or JiT-B/16) or a class path (package.module.Class); options stand in
            brackets, as in "MLP(width=512)", or are given as --network.width 512. If left out, auto, which is chosen for the
            data: an MLP for vectors and small images, else a transformer on patches (JiT) whose training takes about half an
            hour of one core. --network.budget 2h gives it another time on this machine.
        recipe: The weight of the loss over time, and the start and pace of a learned k: balanced (weighting log; k starts at
            0.9), plain (no weight; k starts at 0.5), or paper (no weight; k starts at 0.5 and is slow). If left out, balanced
            (with a loss_space of u, plain), or that of the run that is resumed. A target can have its own weight, none, den or
            log, as in "velocity(weighting=none)".
        path: The path from noise to data: linear or variance_preserving.
        timesteps: The distribution of t in training: uniform, "uniform(stratified=True)" or "logit_normal(mean=-0.8, std=0.8)".
        null_rate: The probability that training hides a sample's class, and all its other conditions with it, for guidance. It
            has no effect on data without conditions.
        null_rates: The probability for each condition on its own, by name, as in '{"y": 0.1, "params": 0.2}'. Training then
            hides each condition independently of the others, and null_rate holds for those that are not named.
        loss_space: v is the loss on the velocity. u is the loss on the network's output, for tests of the linear theory.
        noise_scale: The standard deviation of the noise, both in training and where sampling starts.
        cosine_weight: The weight of a second loss term beside the mean square: 1 − cos(v̂, v), along channels. 0 leaves it out.
        split_loss: true also logs the loss along and across the leading principal directions of data of up to 4096 dimensions.
            Finding them takes time at the start: some 20 s on one core for 20,000 samples of 3072 dimensions.
        start_from: The weights to start from: a run folder, as in "runs/velocity" or "runs/velocity(ema=none,
            checkpoint=5000)", or published weights of jit, sit or lightningdit, as in "sit(weights='FILE')". The option
            labels=new draws a new table of labels, for other classes; allow=normalisation permits that difference from the run.
            If left out, all weights are drawn from the seed.
    """

    data: PartField = PartField("digits")
    network: PartField = PartField("auto")
    recipe: RecipeName | None = None
    path: PartField = PartField("linear")
    timesteps: PartField = PartField("uniform")
    null_rate: float = 0.1
    null_rates: dict[str, float] = field(default_factory=dict)
    loss_space: Literal["v", "u"] = "v"
    noise_scale: float = 1.0
    cosine_weight: float = 0.0
    split_loss: bool = True
    start_from: OptionalPartField = OptionalPartField()


@dataclass
class Expected:
    """What the data of a run must be.

    Args:
        shape: The shape of a sample, channels first, as in [3, 256, 256].
        num_classes: The number of classes; 0 for data without labels.
        num_samples: The number of samples to train on; 0 accepts any number.
        conditions: The conditions besides the class, each with name, kind and shape (and num_classes for a class), for a plan
            without the data. If left out, any are accepted.
    """

    shape: list[int]
    num_classes: int = 0
    num_samples: int = 0
    conditions: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def specs(self) -> list[ConditionSpec]:
        """The conditions, checked."""
        return [ConditionSpec(**each) for each in self.conditions]

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or min(self.num_classes, self.num_samples) < 0:
            raise ValueError(f"expects is {self}; expected a shape of positive numbers, such as [3, 256, 256], and counts")


@dataclass
class TrainConfig(LoopConfig, ModelConfig):
    """Settings of a training run.

    Args:
        target: What the network predicts: noise, velocity, data, learned (k is trained with the network), a fixed k such as
            0.8, or "learned(init=0.5, rate=1)", with the k to start from and its pace relative to a weight of the network.
            paper is the paper's learned k. Targets with a k for each direction of the data are spectral, learned_directions,
            asymflow and wiener; with a k for each time two_ended and learned_of_time; with two outputs self_consistent.
        sample_every: The number of steps between two pictures of samples, which are drawn with the average of the first decay;
            0 draws one picture at the end.
        train_on: train uses the part of the data that is for training. all also uses the held-out samples, so that figures on
            held-out data say nothing any more.
        expects: The shape, classes and number of samples that the data must have; other data are refused. `kdiff plan` and
            --dry-run then read no data. If left out, all data are accepted.
        sampling: How pictures of samples are drawn, and how `kdiff sample` draws samples unless told otherwise.
    """

    target: PartField = PartField("learned")
    sample_every: int = 0
    train_on: Literal["train", "all"] = "train"
    expects: Expected | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, train_on=("train", "all"))
        chosen_recipe(self.recipe, self.loss_space)
        without_weighting(self.target)
        if isinstance(self.expects, dict):  # as read from a file
            self.expects = Expected(**self.expects)
        if isinstance(self.sampling, dict):
            self.sampling = Sampling(**self.sampling)
        check_least(self, sample_every=0)


@dataclass
class PlanConfig(TrainConfig):
    """Settings of a training run, and of the devices that it is planned for.

    Args:
        peak_tflops: The peak speed of one device in the run's precision, in 10¹² operations per second. If left out, that of an
            H100: 989 in half precision (and for auto), and 67 in float32, as PyTorch multiplies float32 matrices without TF32
            unless told otherwise.
        utilisation: The share of the peak speed that training reaches, above 0 and at most 1.
        device_memory: The memory of one device in GB.
    """

    peak_tflops: float | None = None
    utilisation: float = 0.4
    device_memory: float = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.peak > 0 and 0 < self.utilisation <= 1 and self.device_memory > 0):
            raise ValueError(
                f"peak_tflops is {self.peak:g}, utilisation is {self.utilisation}, device_memory is {self.device_memory}; "
                "expected positive numbers, and a utilisation of at most 1"
            )

    @property
    def peak(self) -> float:
        """`peak_tflops`, or the value for the run's precision if it is left out."""
        return H100_TFLOPS[self.precision] if self.peak_tflops is None else self.peak_tflops


# Fields that may differ when a run is resumed. None of them affects the weights of a step, with two exceptions that a warning
# names: a cosine schedule depends on `steps`, and `accumulate` has no effect only if the number of processes changes with it.
CHANGEABLE = ("steps", "checkpoint_every", "keep", "sample_every", "tensorboard", "expects", "sampling", "accumulate")
