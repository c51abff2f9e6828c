"""Features of DINOv2, and of the data's own classifier; what is no network of theirs is refused. Inception: test_inception."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kdiff.data
from kdiff.evaluation.classifier import dataset_classifier
from kdiff.evaluation.features import Dino, Inception, OwnClassifier, features_of
from kdiff.evaluation.images import Images, data_images

RAW = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_dino_is_the_class_token_of_the_scaled_and_normalised_image(dino_folder: Path) -> None:
    from transformers import Dinov2Model

    dino = Dino(str(dino_folder))
    found = dino(RAW)
    assert set(found) == set(dino.layers) == {"pool"}
    assert (found["pool"].shape, dino.layers["pool"]) == ((5, 16), 16)
    x = nn.functional.interpolate(RAW.double(), (224, 224), mode="bicubic", antialias=True) / 255
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        state = Dinov2Model.from_pretrained(dino_folder)(((x - mean) / std).float()).last_hidden_state
    torch.testing.assert_close(found["pool"], state[:, 0], rtol=1e-3, atol=1e-4)
    # Grey images are coloured ones with equal channels; a batch is no matter.
    grey = RAW[:, :1]
    torch.testing.assert_close(dino(grey), dino(grey.expand(-1, 3, -1, -1)))
    images = Images(5, (3, 40, 40), lambda size: iter(RAW.split(size)))
    torch.testing.assert_close(features_of(images, dino, 2), found, rtol=1e-4, atol=1e-5)
    rows = torch.tensor([1, 4])
    torch.testing.assert_close(features_of(images, dino, 2, rows)["pool"], found["pool"][rows], rtol=1e-4, atol=1e-5)


def test_the_digest_is_that_of_the_weights(dino_folder: Path, tmp_path: Path) -> None:
    weights = load_file(dino_folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((dino_folder / "config.json").read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    same = Dino(str(tmp_path)).digest
    weights["layernorm.bias"] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert len({same, Dino(str(dino_folder)).digest, Dino(str(tmp_path)).digest}) == 2


def test_what_is_no_dino_is_refused(dino_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights of its own.*--feature-weights FOLDER"):
        Dino()
    with pytest.raises(FileNotFoundError, match="no folder at"):
        Dino(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_bytes((dino_folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"holds config\.json, pytorch_model\.bin; expected.*model\.safetensors"):
        Dino(str(tmp_path))
    weights = load_file(dino_folder / "model.safetensors")
    del weights["layernorm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing, e\.g\. layernorm\.bias"):
        Dino(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as DINOv2"):
        Dino(str(tmp_path))


def test_the_classifier_sees_what_it_was_trained_on() -> None:
    """The data's bytes give the features of the data themselves, to the rounding of the bytes."""
    digits = kdiff.data.load("digits")
    x, _ = digits.part("heldout")
    own = OwnClassifier(digits)
    found = features_of(data_images("digits", x[:100], -1, 1, {}), own, 30)["pool"]
    wanted = dataset_classifier(digits).network.features(x[:100])
    assert (found - wanted).norm() < 0.01 * wanted.norm()
    assert own.stamp()["weights"] == dataset_classifier(digits).digest
    with pytest.raises(ValueError, match=r"takes images of shape \(1, 8, 8\), found \(3, 40, 40\)"):
        own(RAW)


@pytest.mark.parametrize(
    ("package", "make", "hint"),
    [
        ("torch_fidelity", Inception, r"pip install 'kdiff\[fid\]'"),
        ("transformers", Dino, "pip install transformers"),
    ],
)
def test_a_missing_package_is_named(package, make, hint, monkeypatch) -> None:
    usual = builtins.__import__

    def no(name, *rest, **more):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no)
    with pytest.raises(ValueError, match=hint):
        make("anything")
