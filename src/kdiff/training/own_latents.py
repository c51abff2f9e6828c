"""Images as latents of a small autoencoder, which is trained on these images when they are first read.

data: {name: kdiff.training.own_latents.own_latents, images: fashion}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiff.config.autoencoding import AutoencoderConfig, EncodeConfig
from kdiff.config.parts import Spec, data_name, parse
from kdiff.data import Dataset
from kdiff.data.latents import is_latent_folder, load_latents, read_manifest
from kdiff.run.build import load_dataset
from kdiff.run.contents import read_data
from kdiff.training.encoding import encode, unlike
from kdiff.training.small_autoencoder import check_images, train_autoencoder


def own_latents(images: Spec, normalise: str = "channels", folder: str | None = None) -> Dataset:
    """Images as the latents (C, h, w) of a small autoencoder that is trained on them.

    A missing autoencoder or missing latents are made as by these commands, and an interrupted call resumes:

        kdiff train-autoencoder IMAGES                                  writes runs/IMAGES_autoencoder
        kdiff encode IMAGES --autoencoder runs/IMAGES_autoencoder       writes latents/IMAGES

    Existing ones are used if they belong to these images, whatever options made them.

    Args:
        images: name, file or folder, as in --data.images photos/ or "glyphs(size=32)".
        normalise: as in `kdiff.data.latents.load_latents`.
        folder: the folder of the latents; latents/IMAGES if left out. Choose another one for other images of the same name.
            The autoencoder of latents in …/NAME lies in runs/NAME_autoencoder.

    Raises:
        ValueError: existing latents or an existing autoencoder belong to other images; and whatever the source of the images,
            `train_autoencoder`, `encode` or `load_latents` raises.
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
                f"{latents} was encoded without flip, but training on {parse(images)} mirrors images; leave flip out, or "
                f"choose another folder for latents with flip{_elsewhere(latents)}"
            )
    begun = (autoencoder / "config.yaml").exists()
    if not complete and begun:
        _check_images(autoencoder, read_data(autoencoder), images, dataset)
    if not complete and (begun or not is_latent_folder(latents)):
        make_latents(config, autoencoder, latents, name)
    return load_latents(latents, normalise=normalise)  # its error says how to finish what another autoencoder began


def make_latents(config: AutoencoderConfig, autoencoder: Path, latents: Path, name: str) -> None:
    """Train the autoencoder and encode its images into these folders, unless that is done. Progress bars show `name`."""
    if not (autoencoder / "finished.json").exists():
        resume = (autoencoder / "config.yaml").exists()
        train_autoencoder(config, autoencoder, resume=resume, progress=f"autoencoder of {name}")
    encode(EncodeConfig(data=config.data, autoencoder=str(autoencoder)), latents, progress=f"latents of {name}")


def _check_images(folder: Path, there: Mapping[str, Any], images: Spec, dataset: Dataset) -> None:
    """Raises ValueError unless the description in a folder is that of these images."""
    if difference := unlike(there, dataset):
        raise ValueError(
            f"{folder} was made from other images than {parse(images)}: {difference}. If these are other images of the same "
            f"name, choose another folder{_elsewhere(folder)}. If the images have changed, delete or rename {folder} and "
            "everything else made from the old images"
        )


def _elsewhere(folder: Path) -> str:
    name = folder.name.removesuffix("_autoencoder")
    return f", as in --data.folder latents/{name}_2 (their autoencoder goes to runs/{name}_2_autoencoder)"
