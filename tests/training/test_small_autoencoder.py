"""Training an autoencoder: the loss in closed form, a reconstruction that becomes better, an exact resume."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.latent import load_autoencoder
from kdiff.run.build import load_dataset
from kdiff.training.objective import AutoencoderObjective
from kdiff.training.small_autoencoder import reconstruction_quality, train_autoencoder

CONFIG = AutoencoderConfig(
    data="digits",
    channels=[8, 16],
    latent_channels=2,
    steps=80,
    batch_size=32,
    learning_rate=4e-3,
    warmup=3,
    ema=[0.8],
    log_every=10,
    checkpoint_every=10,
)


class Linear(nn.Module):
    """Posterior N(2 x, s²), decoded to half the latent: the interface of diffusers' class with known numbers."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.tensor(deviation))

    def encode(self, x):
        law = Normal(2 * x, self.deviation)
        kl = kl_divergence(law, Normal(0.0, 1.0)).sum((1, 2, 3))
        return SimpleNamespace(latent_dist=SimpleNamespace(sample=law.rsample, kl=lambda: kl))

    def decode(self, z):
        return SimpleNamespace(sample=z / 2)


@pytest.mark.parametrize(("reconstruction", "moment"), [("l1", math.sqrt(2 / math.pi)), ("mse", 1.0)])
def test_the_loss_in_closed_form(reconstruction: str, moment: float) -> None:
    """x̂ − x = s ε / 2: mean absolute error s √(2/π) / 2, mean square s²/4; KL = ½ (4x² + s² − 1 − ln s²) per entry."""
    s, x = 0.6, torch.randn(400, 2, 10, 10)
    loss, parts = AutoencoderObjective(Linear(s), 0.01, reconstruction)(x, None)
    error = moment * (s / 2) ** (1 if reconstruction == "l1" else 2)
    kl = 0.5 * (4 * x.square().mean().item() + s**2 - 1 - math.log(s**2))
    assert parts["reconstruction"].item() == pytest.approx(error, rel=0.02)
    assert parts["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert loss.item() == pytest.approx(parts["reconstruction"].item() + 0.01 * parts["kl"].item(), rel=1e-6)


def test_diffusers_kl_is_the_sum_over_a_latent(autoencoder_folder) -> None:
    """What the objective divides by the entries of an image."""
    posterior = load_autoencoder(autoencoder_folder).module.encode(torch.rand(3, 3, 8, 8)).latent_dist
    expected = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(posterior.kl(), expected)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_autoencoder(CONFIG, tmp_path_factory.mktemp("runs") / "whole")


def test_held_out_images_come_back_better_than_their_mean(trained) -> None:
    """Than one picture for all."""
    dataset = load_dataset(CONFIG)
    x = dataset.part("heldout")[0]
    about_the_mean = (x - x.mean(0)).square().mean().item()
    assert trained.facts["heldout"]["mse"] < about_the_mean
    assert trained.facts["heldout"]["psnr"] == pytest.approx(10 * math.log10(4 / trained.facts["heldout"]["mse"]))
    assert reconstruction_quality(trained.autoencoder, x)["mse"] == pytest.approx(trained.facts["heldout"]["mse"], rel=1e-4)


def test_its_own_scale_brings_latents_to_mean_0_and_variance_1(trained) -> None:
    x = load_dataset(CONFIG).part("train")[0]
    facts = trained.autoencoder.describe()
    latents = (trained.autoencoder.encode(x)[0] - facts["shift"]) * facts["scaling"]
    assert latents.mean().item() == pytest.approx(0, abs=1e-4)
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


def test_the_averaged_weights_are_what_is_kept(trained) -> None:
    from kdiff.files.tensors import load_tensors

    averages = load_tensors(trained.folder / "checkpoints" / "step_00000080" / "ema_0.8.safetensors")
    module = load_autoencoder(trained.folder).module
    assert all(torch.equal(value, averages[name]) for name, value in module.state_dict().items())


def test_resumed_it_is_the_same(trained, tmp_path) -> None:
    """From a checkpoint at step 10 of the same configuration."""
    folder = tmp_path / "a"
    train_autoencoder(replace(CONFIG, steps=20, schedule="constant"), folder)
    train_autoencoder(replace(CONFIG, steps=30, schedule="constant"), folder, resume=True)
    train_autoencoder(replace(CONFIG, steps=30, schedule="constant"), tmp_path / "b")
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()
    assert load_autoencoder(folder).identity == load_autoencoder(tmp_path / "b").identity
    again = train_autoencoder(replace(CONFIG, steps=30, schedule="constant"), folder, resume=True)
    assert again.facts["seconds"] == json.loads((folder / "finished.json").read_text())["seconds"]


def test_refusals(trained, tmp_path) -> None:
    arrays = tmp_path / "a.npy"
    np.save(arrays, np.random.default_rng(0).normal(size=(40, 1, 8, 8)))
    for changes, message in (
        ({"data": "spiral"}, r"autoencoders take images"),
        ({"data": str(arrays)}, r"normalised by 'standard'; autoencoders take images .* normalise='range' and a value_range"),
        ({"channels": [8, 8, 8, 8, 8]}, r"5 levels, which divide the sides of images by 16; found images of 8×8"),
        ({"channels": []}, "channels is \\[\\]"),
    ):
        with pytest.raises(ValueError, match=message):
            train_autoencoder(replace(CONFIG, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="already holds a run"):
        train_autoencoder(CONFIG, trained.folder)
    with pytest.raises(ValueError, match="other settings: kl_weight"):
        train_autoencoder(replace(CONFIG, kl_weight=1.0), trained.folder, resume=True)
    for values, message in (({"reconstruction": "l3"}, "expected l1 or mse"), ({"kl_weight": -1.0}, "kl_weight is -1.0")):
        with pytest.raises(ValueError, match=message):
            AutoencoderConfig(**values)
