"""Patches of photographs: the pictures' own pixels, each in one patch at most."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from kdiff.data import Dataset, load, photo_patches
from kdiff.data import photos as module


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> int:
    """In the place of the photographs: two pictures (40, 30) in which every pixel has a value of its own, red alone."""

    reds = [(np.arange(1200).reshape(40, 30) + first) / 10 for first in (0, 1200)]
    pictures = [np.stack([red, np.zeros((40, 30)), np.zeros((40, 30))], axis=2) for red in reds]
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: SimpleNamespace(images=pictures))
    return 2400


def raw(data: Dataset) -> torch.Tensor:
    return data.normalisation.undo(data.x[:])


class TestTiles:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_no_pixel_is_in_two_tiles(self, numbered: int, seed: int) -> None:
        data = photo_patches(size=4, colour=True, seed=seed)
        pixels = (raw(data)[:, 0] * 10).round().int().flatten()
        assert len(pixels.unique()) == len(pixels)
        assert len(pixels) > 0.7 * numbered

    def test_a_tile_is_a_square_of_the_picture(self, numbered: int) -> None:
        tiles = (raw(photo_patches(size=4, colour=True))[:, 0] * 10).round().int()
        assert (tiles.diff(dim=2) == 1).all()
        assert (tiles.diff(dim=1) == 30).all()

    def test_both_pictures_are_there(self, numbered: int) -> None:
        second = (raw(photo_patches(size=4, colour=True))[:, 0] * 10).amin(dim=(1, 2)) > 1199.5
        assert 0.4 < second.double().mean() < 0.6

    def test_the_seed_moves_the_grid(self, numbered: int) -> None:
        corners = {
            int((raw(photo_patches(size=4, colour=True, seed=seed))[:, 0, 0, 0] * 10).round().min()) for seed in range(12)
        }
        assert len(corners) > 3


class TestPhotographs:
    def test_shapes_and_range(self) -> None:
        grey, colour = load("photo_patches"), load("photo_patches", size=16, colour=True)
        assert (grey.shape, grey.dimension, grey.y) == ((1, 8, 8), 64, None)
        assert (colour.shape, colour.dimension) == ((3, 16, 16), 768)
        assert 8000 < len(grey.x) <= 2 * (427 // 8) * (640 // 8)
        for data in (grey, colour):
            assert data.x.min() >= -1
            assert data.x.max() <= 1
            assert data.normalisation.describe() == {"kind": "range", "shift": 127.5, "scale": 127.5}

    def test_the_pixels_are_those_of_the_pictures(self) -> None:
        patches = raw(photo_patches(colour=True))
        means = np.mean([picture.reshape(-1, 3).mean(axis=0) for picture in load_sample_images().images], axis=0)
        # All but the margins of the pictures.
        assert np.allclose(patches.mean(dim=(0, 2, 3)), means, atol=2)

    def test_grey_is_the_luma_of_colour(self) -> None:
        colour, grey = raw(photo_patches(num_samples=50, colour=True)), raw(photo_patches(num_samples=50))
        weights = torch.tensor(module.GREY).view(3, 1, 1)
        assert torch.allclose((colour * weights).sum(1, keepdim=True), grey, atol=1e-3)

    def test_the_same_seed_gives_the_same_bytes(self) -> None:
        first, again, other = (photo_patches(num_samples=40, seed=seed) for seed in (3, 3, 4))
        assert first.fingerprint == again.fingerprint != other.fingerprint
        assert len(first.x) == 40

    def test_fewer_samples_are_the_first_of_all(self) -> None:
        assert torch.equal(photo_patches(num_samples=40).x[:], photo_patches().x[:40])


class TestMistakes:
    def test_more_than_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"num_samples is 9000, but the pictures hold 8\d\d\d tiles of 8 × 8"):
            load("photo_patches", num_samples=9000)

    @pytest.mark.parametrize("size", [214, 10**6])
    def test_too_large(self, size: int) -> None:
        with pytest.raises(ValueError, match=rf"size is {size}; expected at most 213 pixels, the pictures have 427"):
            load("photo_patches", size=size)

    @pytest.mark.parametrize(
        ("option", "value", "error", "text"),
        [
            ("size", 1, ValueError, "size must be at least 2, found 1"),
            ("size", 8.5, ValueError, "size of photo_patches is 8.5; expected a whole number"),
            ("size", None, ValueError, "size of photo_patches is .*; expected a whole number"),
            ("num_samples", 0, ValueError, "num_samples must be at least 1, found 0"),
            ("num_samples", True, ValueError, "num_samples of photo_patches is true .*; expected a whole number"),
            ("seed", -1, ValueError, "seed must be at least 0, found -1"),
        ],
    )
    def test_numbers(self, option: str, value: object, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            load("photo_patches", **{option: value})
