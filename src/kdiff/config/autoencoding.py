"""The settings of training an autoencoder and of encoding images. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdiff.config.parts import PartField
from kdiff.config.plain import PRECISIONS, Precision, check_choices, check_least
from kdiff.config.training import LoopConfig


@dataclass
class AutoencoderConfig(LoopConfig):
    """Settings for training a small autoencoder.

    Args:
        data: The images: a name, a file or a folder. Options stand in brackets, as in "glyphs(size=32)".
        channels: The number of channels of each level. The sides are halved between two levels, so that three levels make
            latents of a quarter of the image's side.
        latent_channels: The number of channels of the latents.
        layers_per_block: The number of residual blocks in each level of the encoder. The decoder has one more in each level.
        reconstruction: The reconstruction loss: l1 is the mean absolute error, mse is the mean squared error.
        kl_weight: The weight of KL(q(latent | x) ‖ N(0, 1)), summed over a latent and divided by the entries of an image.
    """

    data: PartField = PartField("fashion")
    channels: list[int] = field(default_factory=lambda: [16, 32, 64])
    latent_channels: int = 4
    layers_per_block: int = 1
    reconstruction: Literal["l1", "mse"] = "l1"
    kl_weight: float = 1e-4
    steps: int = 1500
    batch_size: int = 64
    schedule: Literal["constant", "cosine"] = "cosine"
    ema: list[float] = field(default_factory=lambda: [0.99])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, reconstruction=("l1", "mse"))
        check_least(self, kl_weight=0)


@dataclass
class EncodeConfig:
    """Settings for encoding images into latents.

    Args:
        data: The images: a name, a file or a folder. Options are given as in --data.size 256.
        autoencoder: The autoencoder, which must be given: a folder (of diffusers, or written by kdiff train-autoencoder), a
            file (.pt, .pth, .ckpt or .safetensors, in the layout of latent diffusion), or a name on the Hugging Face hub
            (owner/name or owner/name/folder).
        flip: true also encodes the mirror image of every image. If left out, images are mirrored where training on them would
            mirror them (--data.flip true).
        posterior: true also stores standard deviations, so that training can draw latents from their posteriors. It is
            refused for an autoencoder without a posterior (AutoencoderDC, AutoencoderTiny).
        dtype: The number format of the latents on disk. float16 takes half the space of float32 and keeps three digits.
        precision: The precision of the autoencoder: no is float32, bf16 is bfloat16, fp16 is float16; auto is the faster one of
            no and bf16 on this machine. Latents of bf16 have three digits.
        shard_size: The number of latents in a file.
    """

    data: PartField = PartField("fashion")
    autoencoder: str = ""
    flip: bool | None = None
    posterior: bool = False
    dtype: Literal["float32", "float16"] = "float32"
    precision: Precision = "no"
    shard_size: int = 4096

    def __post_init__(self) -> None:
        if not self.autoencoder:
            raise ValueError(
                "which autoencoder? Type kdiff encode DATA --autoencoder followed by a FOLDER, a FILE or owner/name; "
                "kdiff train-autoencoder DATA trains a small one"
            )
        check_least(self, shard_size=1)
        check_choices(self, dtype=("float32", "float16"), precision=PRECISIONS)
