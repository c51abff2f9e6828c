"""The numbers by which a configuration scales latents: all of them are recorded, and those that cannot be used are refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdiff.latent import load_autoencoder

MEAN, STD = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]  # Playground v2.5


def described(source: Path, target: Path, **values: Any) -> dict[str, Any]:
    """What is recorded of the autoencoder in a folder, with other values in its config.json."""
    folder = Path(shutil.copytree(source, target))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return load_autoencoder(folder).describe()


def test_every_number_of_the_configuration_is_recorded(autoencoder_folder: Path, tmp_path: Path) -> None:
    values = {"scaling_factor": 0.5, "shift_factor": None, "latents_mean": MEAN, "latents_std": STD}
    facts = described(autoencoder_folder, tmp_path / "copy", **values)
    assert {key: facts[key] for key in ("scaling", "shift", "mean", "std")} == {
        "scaling": 0.5,
        "shift": 0.0,
        "mean": MEAN,
        "std": STD,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scaling_factor": 0.0}, r"scaling_factor 0.0; expected a positive number"),
        ({"scaling_factor": [1.0]}, r"scaling_factor \[1.0\]; expected a positive number"),
        ({"shift_factor": math.nan}, r"shift_factor nan; expected a number"),
        ({"latents_mean": MEAN}, r"latents_std=None; expected 4 numbers each"),
        ({"latents_std": STD}, r"latents_mean=None and .*expected 4 numbers each"),
        ({"latents_mean": MEAN[:3], "latents_std": STD[:3]}, "expected 4 numbers each"),
        ({"latents_mean": MEAN, "latents_std": [1, 1, 1, 0]}, "those of latents_std positive"),
        ({"latents_mean": MEAN, "latents_std": STD}, r"the shift_factor 0.5 and latents_mean; expected one of the two"),
    ],
)
def test_numbers_that_cannot_be_used(autoencoder_folder: Path, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        described(autoencoder_folder, tmp_path / "copy", **values)


def test_an_entry_of_the_configuration_that_is_not_used_is_said(autoencoder_folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"says latent_scale=3, which AutoencoderKL does not know and does not use"):
        described(autoencoder_folder, tmp_path / "copy", latent_scale=3, _private=1, unused=None)
