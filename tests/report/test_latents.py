"""Pictures of an autoencoder's work, and of latents."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import torch

from kdiff.data import LatentSamples, Normalisation, make_dataset
from kdiff.data.shards import Sharded
from kdiff.latent import load_autoencoder
from kdiff.report.drawing import ImageView, Points, view_of
from kdiff.report.reconstructions import draw_reconstructions


def dataset(channels: int):
    pixels = np.random.default_rng(0).integers(0, 256, (200, channels, 8, 8)).astype(np.uint8)
    pixels[:, 0] = np.maximum(pixels[:, 0], 250)  # bright red
    return make_dataset("a", pixels, normalise="range", value_range=(0, 255))


def test_images_and_what_came_back_are_in_alternate_rows(autoencoder_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Decoded to black, every second row of the picture is."""
    autoencoder = load_autoencoder(autoencoder_folder)
    monkeypatch.setattr(autoencoder, "decode", lambda z: -torch.ones(len(z), 3, 8, 8))
    path = draw_reconstructions(tmp_path, autoencoder, dataset(3))
    assert path == tmp_path / "reconstructions.png"
    red, green = (matplotlib.image.imread(path)[:, :, channel] for channel in (0, 1))
    bright = (red > 0.9) & (green < 0.9)
    dark = (red < 0.1) & (green < 0.1)
    rows = np.flatnonzero(bright.mean(1) + dark.mean(1) > 0.5)
    kinds = [bool(bright[row].mean() > dark[row].mean()) for row in rows]
    changes = [kinds[0], *(new for old, new in zip(kinds, kinds[1:]) if new != old)]
    assert changes == [True, False] * 4


def test_images_that_cannot_be_drawn(autoencoder_folder: Path, tmp_path: Path) -> None:
    assert draw_reconstructions(tmp_path, load_autoencoder(autoencoder_folder), dataset(2)) is None


def test_latents_are_points_though_they_may_have_the_shape_of_an_image() -> None:
    array = np.random.default_rng(0).normal(size=(50, 3, 4, 4)).astype(np.float32)
    assert isinstance(view_of(torch.from_numpy(array)), ImageView)
    assert isinstance(view_of(LatentSamples({"mean": Sharded([array])}, Normalisation.none())), Points)
