"""Published models as kdiff models: known noise levels, planted denoisers that sample what they should, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiff.networks import DiT, JiT, LightningDiT, UViT
from kdiff.path import VariancePreservingPath
from kdiff.published import as_model, noisiest_time
from kdiff.published.models import CLOCKS, DDPM_BETAS, LATENT_BETAS

SIZES: dict[str, Any] = {"image_size": 8, "patch_size": 4, "channels": 2, "num_classes": 3, "hidden_size": 16, "depth": 2}


def log_snr(log_alpha_bar: Tensor) -> Tensor:
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


class TestClocks:
    @pytest.mark.parametrize(("name", "betas", "first"), [("ddpm", DDPM_BETAS, 0), ("latent", LATENT_BETAS, 1)])
    def test_a_known_level_has_its_own_step(self, name: str, betas: Tensor, first: int) -> None:
        steps = torch.tensor([0, 1, 17, 500, 998, 999])
        levels = log_snr(torch.log(torch.cumprod(1 - betas, 0)))[steps]
        torch.testing.assert_close(CLOCKS[name](levels), (steps + first).double(), atol=1e-6, rtol=0)

    def test_the_continuous_law_inverted(self) -> None:
        s = torch.tensor([1e-4, 0.01, 0.3, 0.9, 1.0], dtype=torch.float64)
        levels = log_snr(-(0.1 * s + 19.9 * s**2 / 2))
        torch.testing.assert_close(CLOCKS["vp"](levels), 999 * s, atol=1e-8, rtol=1e-9)

    @pytest.mark.parametrize(("name", "noise", "clean"), [("ddpm", 999, 0), ("latent", 1000, 1), ("vp", 999, 0)])
    def test_beyond_what_is_known_it_stands_still(self, name: str, noise: int, clean: int) -> None:
        found = CLOCKS[name](torch.tensor([-math.inf, math.inf], dtype=torch.float64))
        assert found.tolist() == [noise, clean]

    @pytest.mark.parametrize(("name", "alpha_bar"), [("ddpm", 4.0358e-5), ("latent", 4.66e-3), ("vp", 4.3e-5)])
    def test_the_noisiest_level(self, name: str, alpha_bar: float) -> None:
        alpha = VariancePreservingPath().alpha(torch.tensor(noisiest_time(name), dtype=torch.float64))
        assert alpha.square().item() == pytest.approx(alpha_bar, rel=5e-3)


class NoiseOfGaussian(nn.Module):
    """E[n | z] for data N(0, variance) at a step of DDPM, with further channels as DiT's sigma: a perfect official network."""

    num_classes = 0

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance, self.seen = variance, []

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        self.seen.append(step)
        table = torch.cumprod(1 - DDPM_BETAS, 0)
        low = step.floor().long().clamp(0, 998)
        share = step.double() - low
        alpha_bar = torch.exp((1 - share) * table[low].log() + share * table[low + 1].log()).float()[:, None]
        noise = (1 - alpha_bar).sqrt() / (alpha_bar * self.variance + 1 - alpha_bar) * z
        return torch.cat([noise, torch.full_like(noise, math.nan)], dim=1)


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_a_noise_predictor_samples_its_data(variance: float) -> None:
    """Sign, time direction and path: any of them wrong, and the variance that comes out is not the data's."""
    model = as_model("dit", NoiseOfGaussian(variance))
    noise = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(noisiest_time(), 1, 100, dtype=torch.float64)
    x = model.sample(noise.double(), times=times, min_denominator=0.0, last_step="data")
    assert x.var().item() / noise.var().item() == pytest.approx(variance, rel=0.02)
    steps = [float(step[0]) for step in model.network.network.seen]
    assert steps[0] == pytest.approx(999, abs=1e-3)
    assert sorted(steps, reverse=True) == steps


@pytest.mark.parametrize("architecture", ["sit", "lightningdit"])
def test_velocity_models_mean_data_minus_noise(architecture: str) -> None:
    class Difference(nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            return 3 - z  # the velocity of a constant 3 at t = 0

    model = as_model(architecture, Difference())
    z = torch.randn(4, 2)
    torch.testing.assert_close(model.velocity(z, 0.0), 3 - z)


def test_data_models_mean_data() -> None:
    network = JiT(**SIZES, num_heads=2, bottleneck=4, context_tokens=0)
    model = as_model("jit", network)
    z, t = torch.randn(2, 2, 8, 8), torch.full((2,), 0.5)
    torch.testing.assert_close(model.velocity(z, t), (network(z, t) - z) / 0.5)
    assert model.null == {"y": 3}


def test_the_noise_that_it_was_trained_with() -> None:
    """JiT's at 512 pixels is of scale 2."""
    assert as_model("jit", JiT(**SIZES, num_heads=2, bottleneck=4, context_tokens=0), noise_scale=2.0).noise_scale == 2
    with pytest.raises(ValueError, match="dit was trained with noise of scale 1"):
        as_model("dit", DiT(**SIZES, num_heads=2), noise_scale=2.0)


def test_without_a_null_class_there_is_none() -> None:
    assert as_model("sit", DiT(**SIZES, num_heads=2, null_class=False)).null == {}


def test_a_network_of_another_architecture_is_refused() -> None:
    networks = {
        "jit": JiT(**SIZES, num_heads=2, bottleneck=4, context_tokens=0),
        "lightningdit": LightningDiT(**SIZES, num_heads=2),
        "uvit": UViT(**SIZES, num_heads=2),
    }
    for name in ("jit", "dit", "sit", "lightningdit", "uvit"):
        for other, network in networks.items():
            if other != name:
                with pytest.raises(ValueError, match=f"is not of the architecture '{name}'"):
                    as_model(name, network, clock="vp" if name in ("dit", "uvit") else None)


def test_a_network_that_scales_its_time_itself_is_refused() -> None:
    """It would do so twice."""
    with pytest.raises(ValueError, match="multiplies its time by 999"):
        as_model("uvit", UViT(**SIZES, num_heads=2, time_scale=999.0), clock="vp")


def test_every_architecture_samples_with_guidance(stirred: Any) -> None:
    networks = {
        "jit": JiT(**SIZES, num_heads=2, bottleneck=4, context_tokens=1, context_start=1),
        "dit": DiT(**SIZES, num_heads=2, learn_sigma=True),
        "sit": DiT(**SIZES, num_heads=2, learn_sigma=True, drop_sigma=True),
        "lightningdit": LightningDiT(**SIZES, num_heads=2),
        "uvit": UViT(**SIZES, num_heads=2),
    }
    for name, network in networks.items():
        model = as_model(name, stirred(network), clock="latent" if name == "uvit" else None)
        x = model.sample(torch.randn(2, 2, 8, 8), times=[0.1, 0.5, 1.0], guidance=2.0, y=torch.tensor([0, 2]))
        assert x.shape == (2, 2, 8, 8)
        assert x.isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "clock", "message"),
    [
        ("mit", None, "expected one of jit"),
        ("uvit", None, "'latent'"),
        ("uvit", "swiss", "swiss"),
        ("sit", "ddpm", "dit and uvit"),
    ],
)
def test_refusals(architecture: str, clock: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_model(architecture, nn.Identity(), clock=clock)


def test_an_unknown_clock_has_no_noisiest_time() -> None:
    with pytest.raises(ValueError, match="ddpm"):
        noisiest_time("swiss")


@pytest.mark.parametrize(
    ("architecture", "guided"), [("jit", [1, 1, 2, 2]), ("sit", [1, 1, 2, 2]), ("lightningdit", [1, 2, 2, 2])]
)
def test_an_interval_of_guidance_starts_as_in_the_models_own_sampler(architecture: str, guided: list[int]) -> None:
    sizes: list[int] = []

    class Spy(nn.Module):
        def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
            sizes.append(len(z))
            return z

    model = as_model(architecture, Spy())
    model.null = {"y": 3}
    options: dict[str, Any] = {
        "solver": "euler",
        "times": [0, 0.1, 0.3, 0.6, 1],
        "guidance": 2.0,
        "guidance_interval": (0.1, 1.0),
    }
    model.sample(torch.randn(1, 2), y=torch.tensor([0]), **options)
    assert sizes == guided
