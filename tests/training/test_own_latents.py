"""Latents of an autoencoder of one's own: made once, where the commands make them; taken up where they were left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import kdiff
from kdiff.config.autoencoding import AutoencoderConfig, EncodeConfig
from kdiff.data.latents import load_latents
from kdiff.training import own_latents as module_under_test
from kdiff.training.encoding import encode
from kdiff.training.small_autoencoder import train_autoencoder

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


def files() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}


def others(path: str, **more: object) -> str:
    np.savez(path, x=np.random.default_rng(1).integers(0, 256, (60, 3, 8, 8), np.uint8), **more)
    return path


def test_other_images_of_the_same_name_are_refused_and_have_a_folder_of_their_own(images) -> None:
    first = kdiff.load_data(SOURCE, images=images)
    Path("b").mkdir()
    second, before = others("b/pictures.npz"), files()
    with pytest.raises(
        ValueError, match=r"latents/pictures was made from other images than b/pictures.npz: fingerprint"
    ) as error:
        kdiff.load_data(SOURCE, images=second)
    assert "--data.folder latents/pictures_2" in str(error.value)
    assert files() == before
    found = kdiff.load_data(SOURCE, images=second, folder="latents/pictures_2")
    assert Path("runs/pictures_2_autoencoder").is_dir()
    assert found.fingerprint != first.fingerprint
    assert kdiff.load_data(SOURCE, images=images).fingerprint == first.fingerprint


def test_images_that_have_changed(images) -> None:
    kdiff.load_data(SOURCE, images=images)
    others(images)
    with pytest.raises(ValueError, match="If the images have changed"):
        kdiff.load_data(SOURCE, images=images)


def test_an_autoencoder_of_other_images_is_refused_before_anything_is_made(images) -> None:
    train_autoencoder(SMALL(data=others("more.npz")), Path("runs/pictures_autoencoder"))
    before = files()
    with pytest.raises(ValueError, match=r"runs/pictures_autoencoder was made from other images"):
        kdiff.load_data(SOURCE, images=images)
    assert files() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "range", "value_range": [0, 510]}, r"normalisation .*255"),
        ({"num_classes": 4}, "num_classes is 4, was 3"),
        ({"flip": True}, "encoded without flip"),
    ],
)
def test_the_same_pictures_read_in_another_way(images, options, message) -> None:
    others(images, y=np.arange(60) % 3)
    kdiff.load_data(SOURCE, images=images)
    with pytest.raises(ValueError, match=message):
        kdiff.load_data(SOURCE, images={"name": images, **options})


def test_what_the_commands_made_with_other_options_is_taken(images) -> None:
    """An autoencoder of more steps and channels, from the same file by another path; and latents of it."""
    wider = partial(AutoencoderConfig, channels=[8, 8], latent_channels=2, steps=4, batch_size=8)
    train_autoencoder(wider(data=f"./{images}"), Path("runs/pictures_autoencoder"))
    assert kdiff.load_data(SOURCE, images=images).shape == (2, 4, 4)
    encode(EncodeConfig(images, "runs/pictures_autoencoder", flip=True), Path("latents/flipped"))
    assert kdiff.load_data(SOURCE, images=images, folder="latents/flipped").flip


def test_what_another_autoencoder_began_is_not_gone_on_with_by_a_new_one(images, monkeypatch) -> None:
    train_autoencoder(SMALL(data=images), Path("elsewhere"))
    with monkeypatch.context() as patch:
        patch.setattr("kdiff.training.encoding._write_shard", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode(EncodeConfig(images, "elsewhere"), Path("latents/pictures"))
    with pytest.raises(ValueError, match=r"only 0 of 1 shards .* kdiff encode .*elsewhere"):
        kdiff.load_data(SOURCE, images=images)
    assert not Path("runs").exists()
