"""Images as latents of a small autoencoder of their own, trained and encoded when they are first read.

data: {name: kdiff.training.own_latents.own_latents, images: fashion}
"""

from __future__ import annotations

from pathlib import Path

from kdiff.arguments import data_name
from kdiff.components import Spec
from kdiff.data import Dataset
from kdiff.data.latents import is_latent_folder, load_latents, read_manifest
from kdiff.training.autoencoder import train_autoencoder
from kdiff.training.encode import encode
from kdiff.training.latent_config import AutoencoderConfig, EncodeConfig


def own_latents(images: Spec, normalise: str = "channels") -> Dataset:
    """Images, by name, file or folder, as the latents (C, h, w) of a small autoencoder that is trained on them.

    What is not there is made, where these commands put it: kdiff train-autoencoder IMAGES, in runs/IMAGES_autoencoder, and
    kdiff encode IMAGES --autoencoder runs/IMAGES_autoencoder, in latents/IMAGES. Interrupted, it goes on where it was.

    `normalise` as in `kdiff.data.latents.load_latents`. Raises all that `train_autoencoder` and `encode` do.
    """
    name = data_name(images)
    autoencoder, latents = Path("runs") / f"{name}_autoencoder", Path("latents") / name
    if not (is_latent_folder(latents) and read_manifest(latents)["statistics"]):
        make_latents(AutoencoderConfig(data=images), autoencoder, latents, name)
    return load_latents(latents, normalise=normalise)


def make_latents(config: AutoencoderConfig, autoencoder: Path, latents: Path, name: str) -> None:
    """Train the autoencoder and encode its images, into these folders and as far as that is not done.

    `name` is what progress bars call the images.
    """
    resume = (autoencoder / "config.yaml").exists()
    train_autoencoder(config, autoencoder, resume=resume, progress=f"autoencoder of {name}")
    encode(EncodeConfig(data=config.data, autoencoder=str(autoencoder)), latents, progress=f"latents of {name}")
