"""The settings of judging a run or images. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdiff.config.plain import PRECISIONS, Precision, check_choices, check_least
from kdiff.config.sampling import SAMPLER, Sampling


@dataclass
class EvaluateConfig(Sampling):
    """Settings for judging a run, a folder of images, or images in a .npz file.

    With features, a run is sampled as these options say; those left out are as the run's configuration says under `sampling`.
    Without features, a run is judged under fixed samplers; of these options, only guidance applies.

    Args:
        num_samples: The number of samples to draw from a run. Without --features, at least as many as the run's data hold out.
        seed: The seed of the noise.
        ema: The decay of the averaged weights to use, or none for the raw weights. If left out, the first decay of the run.
        checkpoint: The step of the checkpoint to use. If left out, the newest checkpoint.
        calibrated: Use the calibration that the run has adopted for these weights (kdiff calibrate). false leaves it out.
        exact: Used without --features only: true also computes the floor, which is the figure that an exact denoiser of the
            training data reaches through the same sampler.
        reference: What the images are compared with: a folder of images, as in "photos(size=64)", a .npz file of images or of
            statistics, or a run, which stands for its training data. If left out, the training data of the judged run.
        features: The network whose features judge the images: inception (FID and others), dinov2 (FD-DINOv2) or classifier
            (trained on the data themselves). If left out, inception with --reference or --save-statistics; otherwise the run is
            judged without features.
        feature_weights: The weights of that network: for inception a .pth file (downloaded if left out), for dinov2 a folder.
        save_statistics: A .npz file to write the mean and covariance of these images' features to. It can serve as a reference
            later. If left out, nothing is written.
        batch_size: Used with features only: the number of images that are sampled or judged at a time.
        heldout_rows: Used without --features only: the largest number of held-out rows, of training rows and of samples to take
            spectra, one-point distributions and the distances of tables of.
        window: Used without --features only: the window for power spectra. none is for fields that are periodic along every
            axis, hann for all others; auto looks at the held-out fields.
        precision: The precision of the run's network: no is float32, bf16 is bfloat16, fp16 is float16; auto is the faster one
            of no and bf16 on this machine. Conversions, solver, features and figures stay in float32 or better.
        members: Used without --features only: the size of the ensembles that a run with conditions is judged by; at least 2, or
            0 for no ensembles.
        truths: Used without --features only: the largest number of held-out conditions to draw an ensemble for.
        autoencoder: For a run on latents: the place of their autoencoder, if it has moved since the latents were encoded.
    """

    num_samples: int = 5000
    seed: int = 0
    ema: float | str | None = None
    checkpoint: int | None = None
    calibrated: bool = True
    exact: bool = True
    reference: str | None = None
    features: Literal["inception", "dinov2", "classifier"] | None = None
    feature_weights: str | None = None
    save_statistics: str | None = None
    batch_size: int = 64
    heldout_rows: int = 2000
    window: Literal["auto", "none", "hann"] = "auto"
    precision: Precision = "no"
    members: int = 16
    truths: int = 100
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, precision=PRECISIONS)
        check_least(self, num_samples=1, batch_size=1, heldout_rows=10, members=0, truths=1)
        if self.members == 1:
            raise ValueError("members is 1, but one sample has no spread; expected at least 2, or 0 for no ensembles")
        if self.by_features and (given := self._given("heldout_rows", "window", "members", "truths")):
            raise ValueError(f"{given} belong to judging a run without features; leave them out, or leave out --features")
        if self.features == "classifier" and self.feature_weights is not None:
            raise ValueError("the classifier is trained on the data themselves and has no feature_weights; leave them out")

    @property
    def by_features(self) -> bool:
        """Whether images are judged by the features of a network, rather than a run by its data and floors."""
        return not (self.features is None and self.reference is None and self.save_statistics is None)

    def check_for_images(self) -> None:
        """Raise ValueError for options of sampling from a run, where images are judged."""
        if given := self._given(
            "num_samples", "seed", "ema", "checkpoint", "calibrated", "exact", "autoencoder", "precision", *SAMPLER
        ):
            raise ValueError(f"{given} say how a run is sampled from, but images are judged as they are; leave them out")

    def check_without_features(self) -> None:
        """Raise ValueError for options that only judging by features has."""
        sampling = [name for name in SAMPLER if name != "guidance"]
        if given := self._given("feature_weights", "batch_size", "autoencoder", *sampling):
            raise ValueError(
                f"{given} go with --features; without it a run is judged under fixed samplers. Add --features inception, "
                "or leave them out"
            )

    def _given(self, *names: str) -> str:
        """Those of the named options that differ from their defaults."""
        plain = EvaluateConfig()
        return ", ".join(name for name in names if getattr(self, name) != getattr(plain, name))
