"""The settings of drawing samples. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kdiff.config.parts import Part, PartField
from kdiff.config.plain import PRECISIONS, Precision, check_choices, check_least

# Samplers by name. The 20 evaluations of the default are as good as the 99 of the paper's sampler (docs/results/steps.md), and
# its last step leaves no noise behind. The paper's sampler is for figures that are compared with those of the paper.
SAMPLERS: dict[str, dict[str, Any]] = {
    "default": {"solver": "ab3", "steps": 18, "last_step": "data"},
    "paper": {"solver": "heun", "steps": 50, "last_step": "euler"},
}


def find_sampler(name: str) -> dict[str, Any]:
    """The solver, steps and last step of the sampler called `name`. Raises ValueError if there is none of this name."""
    if name not in SAMPLERS:
        raise ValueError(f"no sampler is called {name!r}; expected {' or '.join(map(repr, SAMPLERS))}")
    return SAMPLERS[name]


@dataclass
class Sampling:
    """Settings for the way from noise to samples, as `KDiff.sample` takes them.

    Args:
        guidance: The scale of guidance; 1 means no guidance. Guidance is classifier-free unless a weaker model is named.
        guidance_interval: Two times, low and high, as in 0.1 0.9. Guidance acts only while low < t < high
            (from t = 0 on if low is 0).
        guidance_rescale: How far, from 0 to 1, guided samples get the spread of unguided ones. 0 leaves them as they are.
        guidance_channels: The numbers of the channels to guide, as in 0 1 2 for the first three. If left out, all of them.
        guide_on: The conditions that guidance acts on, as in y params. If left out, all of them.
        solver: The solver of the differential equation: euler, heun, midpoint, rk4, ab2, ab3, ab4, dpmpp_2m, dopri5 or sde.
            Options stand in brackets, as in "sde(diffusion=constant)".
        steps: The number of steps of the solver. dopri5 chooses its own steps. 18 steps of ab3 cost 20 evaluations of the
            network and are as good as the paper's 50 steps of heun, which cost 99.
        times: The times between which steps are made: uniform, "shifted(0.3)", "karras(rho=7)" or a list such as "[0, 0.2, 1]".
        last_step: data ends with the data prediction. euler is the paper's choice, which leaves noise behind where k is near 1.
    """

    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    guidance_channels: list[int] | None = None
    guide_on: list[str] | None = None
    solver: PartField = PartField(SAMPLERS["default"]["solver"])
    steps: int = SAMPLERS["default"]["steps"]
    times: PartField = PartField("uniform")
    last_step: Literal["data", "euler"] = SAMPLERS["default"]["last_step"]

    def __post_init__(self) -> None:
        if len(self.guidance_interval) != 2:
            raise ValueError(f"guidance_interval is {self.guidance_interval}; expected two times, low and high, as in 0.1 0.9")
        low, high = self.guidance_interval  # a list, as read from a file
        self.guidance_interval = (low, high)
        check_least(self, steps=1)
        check_choices(self, last_step=("data", "euler"))


@dataclass
class SampleConfig(Sampling):
    """Settings for sampling from a run.

    Args:
        num: The number of samples. If left out, 64; with conditions, --ensemble samples for each of their rows.
        seed: The seed of the noise. Sample number i has the same noise whatever --num and the batch size are.
        guidance_run: The folder of a weaker run, from whose prediction guidance then leads away (autoguidance). If left out,
            guidance leads away from the prediction for "no class".
        guidance_checkpoint: The step of the weaker model's checkpoint, in --guidance-run, or in RUN itself if no other run is
            named. If left out, the newest checkpoint of --guidance-run.
        ema: The decay of the averaged weights to use, or none for the raw weights. If left out, the first decay of the run.
        checkpoint: The step of the checkpoint to use. If left out, the newest checkpoint.
        calibrated: Use the calibration that the run has adopted for these weights (kdiff calibrate). false leaves it out.
        condition: Values of conditions in the data's own units: NAME=VALUE, as in params=0.3,1.2 or y=3 or y=cat, for all
            samples; or a file (.npz or .safetensors) of arrays by name, with one row or several. "none" leaves a condition
            out. If no value is given, samples get the examples of the run in turn.
        ensemble: The number of samples for each row of the conditions.
        precision: The precision of the network: no is float32, bf16 is bfloat16, fp16 is float16; auto is the faster one of no
            and bf16 on this machine, measured once in about two seconds. Conversions and the solver stay in float32.
        out: The name of the files to write, without an ending. If left out, they are written to the folder RUN/samples.
        autoencoder: For a run on latents: the place of their autoencoder, if it has moved since the latents were encoded.
    """

    num: int | None = None
    seed: int = 0
    guidance_run: str | None = None
    guidance_checkpoint: int | None = None
    ema: float | str | None = None
    checkpoint: int | None = None
    calibrated: bool = True
    condition: list[str] | None = None
    ensemble: int = 1
    precision: Precision = "no"
    out: str | None = None
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, precision=PRECISIONS)
        check_least(self, num=1, ensemble=1) if self.num is not None else check_least(self, ensemble=1)
        if self.guidance == 1 and (self.guidance_run is not None or self.guidance_checkpoint is not None):
            raise ValueError("a weaker model is named, but guidance is 1, which means none; give a scale, such as --guidance 2")


SAMPLER = tuple(Sampling.__dataclass_fields__)


def sampler_options(config: Sampling) -> dict[str, Any]:
    """The options of `KDiff.sample` in a configuration. Parts are written as text, because records of samples keep them."""
    values = ((name, getattr(config, name)) for name in SAMPLER)
    options = {name: str(value) if isinstance(value, Part) else value for name, value in values}
    # Records of samples name these two only where they are set.
    return {name: value for name, value in options.items() if value or name not in ("guidance_channels", "guide_on")}
