"""How samples are drawn and judged by the commands. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class SampleConfig:
    """How to draw samples.

    Args:
        num: how many.
        seed: of the noise; sample i has the same noise whatever num and the batch size.
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_interval: guide while low < t < high.
        solver: heun or euler.
        steps: of the solver.
        last_step: data ends with the data prediction; euler is the paper's, which leaves noise behind where k is near 1.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        out: file name without ending; in the run's samples folder if left out.
    """

    num: int = 64
    seed: int = 0
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    solver: str = "heun"
    steps: int = 50
    last_step: Literal["data", "euler"] = "data"
    ema: float | str | None = None
    checkpoint: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num is {self.num}; expected at least 1")


@dataclass
class EvaluateConfig:
    """How to judge a run.

    Args:
        num_samples: drawn from the run; at least as many as its data holds out.
        seed: of the noise.
        guidance: scale of classifier-free guidance; 1 is none.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        exact: compute the exact denoiser's floor too.
    """

    num_samples: int = 5000
    seed: int = 0
    guidance: float = 1.0
    ema: float | str | None = None
    checkpoint: int | None = None
    exact: bool = True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples is {self.num_samples}; expected at least 1")
