"""Latents of an autoencoder of one's own: made once, where the commands make them; taken up where they were left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import kdiff
from kdiff.data.latents import load_latents
from kdiff.training import own_latents as module_under_test
from kdiff.training.autoencoder import train_autoencoder
from kdiff.training.encode import encode
from kdiff.training.latent_config import AutoencoderConfig, EncodeConfig

SMALL = partial(AutoencoderConfig, channels=[8, 16], steps=3, batch_size=8)
SOURCE = "kdiff.training.own_latents.own_latents"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """60 colour images 8×8 beside which one works, with a small autoencoder by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module_under_test, "AutoencoderConfig", SMALL)
    np.savez("pictures.npz", x=np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), np.uint8))
    return "pictures.npz"


def test_they_are_those_of_the_two_commands(images) -> None:
    found = kdiff.load_data(SOURCE, images=images)
    train_autoencoder(SMALL(data=images), Path("other/autoencoder"))
    encode(EncodeConfig(images, "other/autoencoder"), Path("other/latents"))
    expected = load_latents("other/latents")
    assert found.shape == expected.shape == (4, 4, 4)
    assert torch.equal(found.x[:], expected.x[:])
    assert found.about["latents"]["autoencoder"]["source"].endswith("runs/pictures_autoencoder")


def test_made_once(images, monkeypatch) -> None:
    first = kdiff.load_data(SOURCE, images=images, normalise="none")

    def never(*given: object, **options: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(module_under_test, "make_latents", never)
    again = kdiff.load_data(SOURCE, images=images, normalise="none")
    assert torch.equal(first.x[:], again.x[:])
    assert again.fingerprint == load_latents("latents/pictures").fingerprint


def test_an_encoding_that_was_cut_off_goes_on(images, monkeypatch) -> None:
    """The autoencoder is not trained again: the run folder stays as it was."""

    def cut_off(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, "encode", cut_off)
        with pytest.raises(KeyboardInterrupt):
            kdiff.load_data(SOURCE, images=images)
    weights = next(Path("runs/pictures_autoencoder/autoencoder").glob("*.safetensors"))
    before = weights.stat().st_mtime_ns
    assert len(kdiff.load_data(SOURCE, images=images).x) == 60
    assert weights.stat().st_mtime_ns == before


def test_data_that_are_no_images(images) -> None:
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32))
    with pytest.raises(ValueError, match="autoencoders take images"):
        kdiff.load_data(SOURCE, images="vectors.npy")
    assert not Path("runs").exists()
