"""A picture of what an autoencoder makes of images: rows of images, each with the decoded images in the row below it."""

from __future__ import annotations

from pathlib import Path

import torch

from kdiff.data import Dataset
from kdiff.data.samples import is_image
from kdiff.latent import Autoencoder
from kdiff.report.drawing import ImageView, save_samples

COLUMNS, ROWS = 8, 4


def draw_reconstructions(path: Path, autoencoder: Autoencoder, dataset: Dataset) -> Path | None:
    """Draw held-out images and their reconstructions as reconstructions.png in the folder `path`; returns the file.

    Images that cannot be drawn, with other than one or three channels, give None and no file.
    """
    if not is_image(dataset.shape):
        return None
    x = dataset.part("heldout")[0][: COLUMNS * ROWS]
    decoded = autoencoder.decode(autoencoder.encode(x)[0])
    rows = [row for pair in zip(x.split(COLUMNS), decoded.split(COLUMNS)) for row in pair]
    picture, title = path / "reconstructions.png", f"{dataset.name}: held-out images, each decoded in the row below"
    save_samples(picture, torch.cat(rows), ImageView(-1, 1), title, columns=COLUMNS)
    return picture
