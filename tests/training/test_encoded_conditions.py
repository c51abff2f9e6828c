"""Conditions of images stay with their latents: the same values, in the same parts, or a refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdiff.config.autoencoding import EncodeConfig
from kdiff.config.condition_spec import ConditionSpec
from kdiff.data import Dataset, load
from kdiff.data.condition import Condition
from kdiff.data.normalisation import Normalisation
from kdiff.run.build import load_dataset
from kdiff.training import encoding
from kdiff.training.encoding import encode

COUNT = 60


@pytest.fixture
def config(tmp_path: Path, autoencoder_folder: Path) -> EncodeConfig:
    path = tmp_path / "images.npz"
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.integers(0, 256, (COUNT, 3, 8, 8), np.uint8), y=generator.integers(0, 3, COUNT))
    return EncodeConfig(str(path), str(autoencoder_folder), shard_size=16)


@pytest.fixture
def images(config: EncodeConfig, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """60 images with a condition of every kind, one of them missing for one image."""
    values = torch.randn(COUNT, 2)
    values[7] = torch.nan
    scale = Normalisation("features", torch.tensor([1.0, 2.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    conditions = {
        "kind": Condition(ConditionSpec("kind", "class", (), 4), torch.randint(0, 5, (COUNT,)), Normalisation.none()),
        "params": Condition(ConditionSpec("params", "vector", (2,)), values, scale),
        "past": Condition(ConditionSpec("past", "field", (1, 8, 8)), torch.randn(COUNT, 1, 8, 8), Normalisation.none()),
        "text": Condition(ConditionSpec("text", "tokens", (5, 3)), torch.randn(COUNT, 5, 3), Normalisation.none()),
    }
    dataset = replace(load_dataset(config), conditions=conditions)
    monkeypatch.setattr(encoding, "load_dataset", lambda config: dataset)
    return dataset


def test_they_are_the_conditions_of_the_images(config: EncodeConfig, images: Dataset, tmp_path: Path) -> None:
    encode(config, tmp_path / "latents")
    latents = load(tmp_path / "latents")
    assert list(latents.conditions) == ["kind", "params", "past", "text"]
    for name, expected in images.conditions.items():
        found = latents.conditions[name]
        assert found.spec == expected.spec
        assert found.describe() == expected.describe()
        assert found.normalisation.double == expected.normalisation.double
        torch.testing.assert_close(found.values[:], expected.values, rtol=0, atol=0, equal_nan=True)
    for part in ("train", "heldout", "all"):
        found_part, expected_part = latents.conditions_of(part), images.conditions_of(part)
        assert found_part.keys() == expected_part.keys()
        for name, values in expected_part.items():
            torch.testing.assert_close(found_part[name][:], values[:], rtol=0, atol=0, equal_nan=True)
    assert latents.x.shape == (COUNT, 4, 4, 4)  # the conditions are not taken for latents


def test_an_encoding_goes_on_with_the_same_conditions_alone(
    config: EncodeConfig, images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(config, tmp_path / "latents")
    (tmp_path / "latents" / "shard_00001.safetensors").unlink()
    with pytest.warns(UserWarning, match="shard_00001.safetensors is missing; the shard is encoded again"):
        encode(config, tmp_path / "latents")
    fewer = {name: condition for name, condition in images.conditions.items() if name != "past"}
    for conditions in ({}, fewer):
        monkeypatch.setattr(
            encoding, "load_dataset", lambda config, conditions=conditions: replace(images, conditions=conditions)
        )
        with pytest.raises(ValueError, match=r"was begun with conditions \{'kind': .*; use the same, or choose another folder"):
            encode(config, tmp_path / "latents")


def test_a_field_is_not_left_behind_by_its_mirrored_image(config: EncodeConfig, images: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"flip is true, and the images have the field past as a condition, .* leave --flip out"
    ):
        encode(replace(config, flip=True), tmp_path / "latents")


def test_a_condition_that_is_not_in_the_shards(config: EncodeConfig, images: Dataset, tmp_path: Path) -> None:
    encode(config, tmp_path / "latents")
    path = tmp_path / "latents" / "latents.json"
    manifest = json.loads(path.read_text())
    manifest["conditions"]["more"] = manifest["conditions"]["params"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"the shards do not hold the condition more of shape \(2,\)"):
        load(tmp_path / "latents")
