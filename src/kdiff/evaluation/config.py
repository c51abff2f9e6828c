"""How samples are drawn and judged by the commands. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Sampling:
    """The way from noise to samples: what `KDiff.sample` is told.

    Args:
        guidance: scale of guidance, classifier-free unless a weaker model is named; 1 is none.
        guidance_interval: guide while low < t < high.
        guidance_rescale: from 0 to 1, how far guided samples get the spread of unguided ones.
        guidance_channels: the channels that are guided, as in 0 1 2 for the first three; all if left out.
        solver: euler, heun, midpoint, rk4, ab2, ab3, ab4, dpmpp_2m, dopri5 or sde; options as in "sde(diffusion=constant)".
        steps: of the solver; dopri5 chooses its own. Of ab3 18 are 20 evaluations, as good as the paper's 99 of heun with 50.
        times: where the steps are; uniform, "shifted(0.3)", "karras(rho=7)" or a list as in "[0, 0.2, 1]".
        last_step: data ends with the data prediction; euler is the paper's, which leaves noise behind where k is near 1.
    """

    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    guidance_channels: list[int] | None = None
    solver: str = "ab3"
    steps: int = 18
    times: str = "uniform"
    last_step: Literal["data", "euler"] = "data"

    def __post_init__(self) -> None:
        low, high = self.guidance_interval  # a list, as read from a file
        self.guidance_interval = (low, high)


@dataclass
class SampleConfig(Sampling):
    """How to draw samples from a run. What is left out is as the run's configuration says under `sampling`.

    Args:
        num: how many.
        seed: of the noise; sample i has the same noise whatever num and the batch size.
        guidance_run: a run whose weaker model to guide away from (autoguidance), instead of "no condition".
        guidance_checkpoint: the step of that run, or of RUN itself if no other is named; its newest if left out.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        out: file name without ending; in the run's samples folder if left out.
        autoencoder: of a run on latents, where their autoencoder lies now, if it has moved since they were encoded.
    """

    num: int = 64
    seed: int = 0
    guidance_run: str | None = None
    guidance_checkpoint: int | None = None
    ema: float | str | None = None
    checkpoint: int | None = None
    out: str | None = None
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num < 1:
            raise ValueError(f"num is {self.num}; expected at least 1")
        if self.guidance == 1 and (self.guidance_run is not None or self.guidance_checkpoint is not None):
            raise ValueError("a weaker model is named, but guidance is 1, which is none; expected a scale such as --guidance 2")


@dataclass
class EvaluateConfig(Sampling):
    """How to judge a run, a folder of images, or images in a .npz.

    With features, a run is sampled from as these options say, and where they are left out as its configuration does under
    `sampling`, if it says anything. Without features a run is judged under two samplers of its own, and takes guidance alone.

    Args:
        num_samples: drawn from the run; without --features at least as many as its data holds out.
        seed: of the noise.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        exact: without --features, compute the exact denoiser's floor too.
        reference: what to compare images with: a folder of images, as in "photos(size=64)", a .npz of images or of
            statistics, or a run, whose own data are meant; the run's own if left out.
        features: the network that judges images: inception (FID and others), dinov2 (FD-DINOv2) or classifier (the data's
            own); inception where a reference is given.
        feature_weights: its weights; for inception a .pth file, downloaded if left out; for dinov2 a folder.
        save_statistics: a .npz to write the mean and covariance of these images' features into, as a later reference.
        batch_size: with features, images at a time, in sampling and judging.
        autoencoder: of a run on latents, where their autoencoder lies now, if it has moved since they were encoded.
    """

    solver: str = "heun"
    steps: int = 50
    num_samples: int = 5000
    seed: int = 0
    ema: float | str | None = None
    checkpoint: int | None = None
    exact: bool = True
    reference: str | None = None
    features: Literal["inception", "dinov2", "classifier"] | None = None
    feature_weights: str | None = None
    save_statistics: str | None = None
    batch_size: int = 64
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1:
            raise ValueError(f"num_samples is {self.num_samples}; expected at least 1")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 1")
        if self.features == "classifier" and self.feature_weights is not None:
            raise ValueError("the classifier is trained on the data itself and has no feature_weights; leave them out")

    @property
    def by_features(self) -> bool:
        """Whether images are judged by a network's features, rather than a run against its data with floors."""
        return not (self.features is None and self.reference is None and self.save_statistics is None)

    def check_for_images(self) -> None:
        """Raises ValueError for options that say how a run is sampled from, where there is none."""
        plain = EvaluateConfig()
        alone = ("num_samples", "seed", "ema", "checkpoint", "exact", "autoencoder", *SAMPLER)
        given = [name for name in alone if getattr(self, name) != getattr(plain, name)]
        if given:
            raise ValueError(f"{', '.join(given)} say how a run is sampled from; images are judged as they are: leave them out")

    def check_without_features(self) -> None:
        """Raises ValueError for options that judging by floors does not have."""
        plain = EvaluateConfig()
        alone = ("feature_weights", "batch_size", "autoencoder", *(name for name in SAMPLER if name != "guidance"))
        given = [name for name in alone if getattr(self, name) != getattr(plain, name)]
        if given:
            raise ValueError(
                f"{', '.join(given)} go with --features; without it a run is judged under two fixed samplers. Add --features "
                "inception, or leave them out"
            )


SAMPLER = tuple(Sampling.__dataclass_fields__)


def sampler_options(config: Sampling) -> dict[str, Any]:
    """The options of `KDiff.sample` in a configuration."""
    options = {name: getattr(config, name) for name in SAMPLER}
    return options if options["guidance_channels"] else {k: v for k, v in options.items() if k != "guidance_channels"}
