"""The configurations of autoencoders and of encoding. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdiff.components import Spec
from kdiff.training.config import LoopConfig


@dataclass
class AutoencoderConfig(LoopConfig):
    """A training run of a small autoencoder.

    Args:
        data: images, by name, file or folder; options as in "glyphs(size=32)".
        channels: of its levels; sides are halved between them, so that three levels make latents of a quarter of the side.
        latent_channels: of its latents.
        layers_per_block: residual blocks in a level of the encoder; the decoder has one more.
        reconstruction: l1, the mean absolute error; mse, the mean square.
        kl_weight: of KL(q(latent | x) ‖ N(0, 1)), summed over a latent and divided by the entries of an image.
    """

    data: Spec = "fashion"
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
        if self.reconstruction not in ("l1", "mse"):
            raise ValueError(f"reconstruction is {self.reconstruction!r}; expected l1 or mse")
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight is {self.kl_weight}; expected at least 0")


@dataclass
class EncodeConfig:
    """How images become latents.

    Args:
        data: images, by name, file or folder; options as in --data.size 256.
        autoencoder: a folder (of diffusers, or of kdiff train-autoencoder), a file (.pt, .ckpt, .safetensors, in the layout of
            latent diffusion), or a name on the hub, owner/name or owner/name/folder.
        flip: encode every image mirrored, too; if left out, where training on the images would mirror them (--data.flip true).
        posterior: keep standard deviations too, so that training may draw latents from their posteriors.
        dtype: of the latents on disk; float16 takes half the room, and rounds to three digits.
        shard_size: latents per file.
    """

    data: Spec = "fashion"
    autoencoder: str = ""
    flip: bool | None = None
    posterior: bool = False
    dtype: Literal["float32", "float16"] = "float32"
    shard_size: int = 4096

    def __post_init__(self) -> None:
        if not self.autoencoder:
            raise ValueError(
                "which autoencoder? kdiff encode DATA --autoencoder FOLDER, FILE or owner/name; kdiff train-autoencoder DATA "
                "trains a small one"
            )
        if self.shard_size < 1:
            raise ValueError(f"shard_size is {self.shard_size}; expected at least 1")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}; expected float32 or float16")
