"""Images as latents of a small autoencoder of their own, trained and encoded when they are first read.

data: {name: kdiff.training.own_latents.own_latents, images: fashion}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiff.arguments import data_name
from kdiff.components import Spec, parse
from kdiff.data import Dataset
from kdiff.data.latents import is_latent_folder, load_latents, read_manifest
from kdiff.files import read_json
from kdiff.training.autoencoder import check_images, train_autoencoder
from kdiff.training.build import load_dataset
from kdiff.training.encode import encode, unlike
from kdiff.training.latent_config import AutoencoderConfig, EncodeConfig


def own_latents(images: Spec, normalise: str = "channels", folder: str | None = None) -> Dataset:
    """Images, by name, file or folder, as the latents (C, h, w) of a small autoencoder that is trained on them.

    What is not there is made, where these commands put it: kdiff train-autoencoder IMAGES, in runs/IMAGES_autoencoder, and
    kdiff encode IMAGES --autoencoder runs/IMAGES_autoencoder, in latents/IMAGES. Interrupted, it goes on where it was. What is
    there is taken, whatever options of the commands made it, if it is of these images.

    Args:
        images: as in --data.images photos/ or "glyphs(size=32)".
        normalise: as in `kdiff.data.latents.load_latents`.
        folder: for the latents, for other images of the same name; latents/IMAGES if left out. The autoencoder lies in
            runs/NAME_autoencoder, with the folder's name.

    Raises:
        ValueError: latents or an autoencoder there that are of other images; and all that `train_autoencoder`, `encode` and
            `load_latents` raise, and the images' own source.
    """
    latents = Path(folder).expanduser() if folder else Path("latents") / data_name(images)
    name = latents.name
    autoencoder = Path("runs") / f"{name}_autoencoder"
    config = AutoencoderConfig(data=images)
    dataset = load_dataset(config)
    check_images(dataset)
    complete = False
    if is_latent_folder(latents):
        manifest = read_manifest(latents)
        complete = manifest["statistics"] is not None
        _check_images(latents, {**manifest, **manifest["source"]}, images, dataset)
        if dataset.flip and not manifest["flip"]:
            raise ValueError(
                f"{latents} was encoded without flip, and training on {parse(images)} would mirror images: leave flip out "
                f"there, or name another folder for latents with it{_elsewhere(latents)}"
            )
    begun = (autoencoder / "config.yaml").exists()
    if not complete and begun:
        _check_images(autoencoder, read_json(autoencoder / "data.json"), images, dataset)
    if not complete and (begun or not is_latent_folder(latents)):
        make_latents(config, autoencoder, latents, name)
    return load_latents(latents, normalise=normalise)  # which says how to go on with what another autoencoder began


def make_latents(config: AutoencoderConfig, autoencoder: Path, latents: Path, name: str) -> None:
    """Train the autoencoder and encode its images, into these folders and as far as that is not done.

    `name` is what progress bars call the images.
    """
    if not (autoencoder / "finished.json").exists():
        resume = (autoencoder / "config.yaml").exists()
        train_autoencoder(config, autoencoder, resume=resume, progress=f"autoencoder of {name}")
    encode(EncodeConfig(data=config.data, autoencoder=str(autoencoder)), latents, progress=f"latents of {name}")


def _check_images(folder: Path, there: Mapping[str, Any], images: Spec, dataset: Dataset) -> None:
    """Raises ValueError unless what lies in a folder is of these images, by what is written there."""
    if difference := unlike(there, dataset):
        raise ValueError(
            f"{folder} was made of other images than {parse(images)}: {difference}. Other images of the same name? Then name a "
            f"folder for theirs{_elsewhere(folder)}. Have they changed? Then delete or rename {folder}, and what else was made "
            "of them"
        )


def _elsewhere(folder: Path) -> str:
    name = folder.name.removesuffix("_autoencoder")
    return f", as in --data.folder latents/{name}_2 (their autoencoder goes to runs/{name}_2_autoencoder)"
