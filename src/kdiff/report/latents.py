"""What an autoencoder makes of images: a row of them, and below it the same images decoded again."""

from __future__ import annotations

from pathlib import Path

import torch

from kdiff.data import Dataset
from kdiff.latent import Autoencoder
from kdiff.report.samples import Images, is_image, save_samples

COLUMNS, ROWS = 8, 4


def draw_reconstructions(path: Path, autoencoder: Autoencoder, dataset: Dataset) -> Path | None:
    """reconstructions.png in a folder: held-out images and what came back of them; returns it.

    Nothing for images that cannot be drawn: of other than one or three channels.
    """
    if not is_image(dataset.shape):
        return None
    x = dataset.part("heldout")[0][: COLUMNS * ROWS]
    decoded = autoencoder.decode(autoencoder.encode(x)[0])
    rows = [row for pair in zip(x.split(COLUMNS), decoded.split(COLUMNS)) for row in pair]
    picture = path / "reconstructions.png"
    save_samples(picture, torch.cat(rows), Images(-1, 1), f"{dataset.name}, held out; below, decoded", columns=COLUMNS)
    return picture
