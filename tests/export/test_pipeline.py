"""The samples of an exported run, drawn by diffusers: those of kdiff, for every target, path and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

import kdiff
from kdiff.export.diffusers_folder import export
from kdiff.export.diffusers_model import KDiffTransformer
from kdiff.run.run import load_run
from kdiff.sampling.multistep import DataMultistep

pytestmark = pytest.mark.usefixtures("code_cache")
MLP = "MLP(width=16, depth=1)"


# The same samples


@pytest.mark.parametrize("last_step", ["data", "euler"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_euler_gives_the_samples_of_kdiff(run, pipeline, steps, guidance, last_step, start) -> None:
    noise, y = start(run)
    ours = run.model.sample(noise, solver="euler", steps=steps, guidance=guidance, last_step=last_step, y=y)
    options = {"guidance_scale": guidance, "last_step": last_step, "output_type": "latent"}
    theirs = pipeline(y, latents=noise, num_inference_steps=steps, **options)
    torch.testing.assert_close(theirs.images, ours, rtol=0, atol=1e-5)


def test_the_images_are_those_that_kdiff_samples(run, pipeline) -> None:
    """In the data's own units, 0 to 16, and as pictures."""
    raw, y = run.sample(4, solver="euler", steps=10)
    noise = kdiff.draw_noise(4, run.shape)
    options = {"class_labels": y, "latents": noise, "num_inference_steps": 10}
    torch.testing.assert_close(pipeline(**options, output_type="pt").images, raw, rtol=0, atol=1e-4)
    array = pipeline(**options, output_type="np").images
    np.testing.assert_allclose(array[..., 0], (raw[:, 0] / 16).clamp(0, 1).numpy(), atol=1e-5)
    pictures = pipeline(**options).images
    assert [picture.size for picture in pictures] == [(8, 8)] * 4
    assert isinstance(pictures[0], Image.Image)
    np.testing.assert_allclose(np.asarray(pictures[0]) / 255, array[0, ..., 0], atol=0.5 / 255 + 1e-6)


def test_guidance_has_its_interval(run, pipeline, start) -> None:
    noise, y = start(run)
    ours = run.model.sample(noise, solver="euler", steps=9, guidance=3.0, guidance_interval=(0.2, 0.7), y=y)
    options = {"guidance_scale": 3.0, "guidance_interval": (0.2, 0.7), "last_step": "euler", "output_type": "latent"}
    theirs = pipeline(y, latents=noise, num_inference_steps=9, **options).images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_guidance_is_rescaled(run, pipeline, start) -> None:
    noise, y = start(run)
    ours = run.model.sample(noise, solver="euler", steps=9, guidance=3.0, guidance_rescale=0.7, y=y)
    options = {"guidance_scale": 3.0, "guidance_rescale": 0.7, "last_step": "euler", "output_type": "latent"}
    theirs = pipeline(y, latents=noise, num_inference_steps=9, **options).images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "target",
    [
        "noise",
        "data",
        0.9,
        "learned_pair(init=0.7)",
        "learned_of_time",
        "learned_of_time(form=wiener)",
        "general(a=1.0, b=1.0)",
    ],
)
def test_every_target_becomes_a_velocity(trained, tmp_path, target, exported, start) -> None:
    """k of 0 and 1 under the clamp, k(t), and targets off the line."""
    run = load_run(trained(network=MLP, target=target, steps=8))
    pipeline = exported(run, tmp_path)
    noise, y = start(run)
    for last_step in ("data", "euler"):
        ours = run.model.sample(noise, solver="euler", steps=12, last_step=last_step, y=y)
        theirs = pipeline(y, latents=noise, num_inference_steps=12, last_step=last_step, output_type="latent").images
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_larger_noise_is_drawn_larger(trained, tmp_path, exported, start) -> None:
    run = load_run(trained(network=MLP, noise_scale=2.0, steps=8))
    pipeline = exported(run, tmp_path)
    noise, y = start(run)
    ours = run.model.sample(noise, solver="euler", steps=5, last_step="data", y=y)
    theirs = pipeline(y, latents=noise, num_inference_steps=5, output_type="latent").images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    drawn = 2 * torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    again = pipeline(y, generator=torch.Generator().manual_seed(3), num_inference_steps=5, output_type="latent").images
    torch.testing.assert_close(again, pipeline(y, latents=drawn, num_inference_steps=5, output_type="latent").images)


def test_a_variance_preserving_model_is_taken_to_the_linear_path(trained, tmp_path, exported, start) -> None:
    """Where an Euler step of the linear path is one of first-order data prediction on its own, from the same noise levels."""
    run = load_run(trained(network=MLP, path="variance_preserving", steps=8))
    pipeline = exported(run, tmp_path)
    noise, y = start(run)
    linear = torch.linspace(0, 1, 11, dtype=torch.float64)
    times = (torch.atan2(linear, 1 - linear) * (2 / torch.pi)).float()

    def first_order(velocity: Any, z: torch.Tensor, times: torch.Tensor, callback: Any = None) -> torch.Tensor:
        for pair in times.unfold(0, 2, 1):
            z = DataMultistep(run.model.path)(velocity, z, pair)
        return z

    ours = run.model.sample(noise, solver=first_order, times=times, last_step="data", y=y)
    theirs = pipeline(y, latents=noise, num_inference_steps=10, output_type="latent").images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-5)


# Other schedulers, precisions and data


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchHeunDiscreteScheduler(), UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)],
    ids=["heun", "unipc"],
)
def test_higher_orders_come_nearer_to_the_flow_than_euler(run, pipeline, scheduler, start) -> None:
    """They have grids of their own, or round the times: no solver of kdiff is theirs, but the flow that they solve is."""
    noise, y = start(run)
    exact = run.model.sample(noise, solver="rk4", steps=200, y=y)
    options = {"latents": noise, "num_inference_steps": 40, "output_type": "latent"}
    euler = pipeline(y, **options).images
    try:
        pipeline.scheduler = scheduler
        images = pipeline(y, **options).images
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    assert (images - exact).abs().mean() < (euler - exact).abs().mean()


def test_a_shift_of_the_scheduler_is_the_shifted_grid(run, pipeline, start) -> None:
    noise, y = start(run)
    ours = run.model.sample(noise, solver="euler", steps=9, times="shifted(0.25)", y=y)
    try:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=4.0)
        images = pipeline(y, latents=noise, num_inference_steps=9, last_step="euler", output_type="latent").images
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    torch.testing.assert_close(images, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(), "DDIMScheduler .*for flow matching"),
        (UniPCMultistepScheduler(use_flow_sigmas=True), "for flow matching"),
        (
            FlowMatchEulerDiscreteScheduler(num_train_timesteps=100),
            "num_train_timesteps of the scheduler is 100; expected 1000",
        ),
    ],
)
def test_schedulers_of_another_kind_are_refused(run, pipeline, scheduler, message, start) -> None:
    """They would make noise of it without a word."""
    try:
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=message):
            pipeline(start(run)[1], num_inference_steps=3)
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()


def test_k_is_fixed_and_stays_in_float32(run, tmp_path, start) -> None:
    folder = export(run, tmp_path / "pipeline")
    half = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    model = half.transformer.model
    assert not any(p.requires_grad for p in model.target.parameters())
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    assert torch.equal(model.target.w, run.model.target.w)
    noise, y = start(run)
    exact = run.model.sample(noise, solver="euler", steps=10, last_step="data", y=y)
    rounded = half(y, latents=noise, num_inference_steps=10, output_type="latent").images
    assert 0 < (rounded - exact).abs().mean() < 0.02


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "table.npz"
    np.savez(path, x=(1000 + generator.standard_normal((300, 3)) * [1, 2, 0.1]).astype(np.float32))
    return path


def test_vectors_come_back_in_their_own_units(trained, vectors, tmp_path, exported) -> None:
    run = load_run(trained(data=f"{vectors}(normalise=features)", network=MLP, steps=8))
    pipeline = exported(run, tmp_path)
    noise = kdiff.draw_noise(5, run.shape)
    x = pipeline(latents=noise, num_inference_steps=6).images
    ours = run.model.sample(noise, solver="euler", steps=6, last_step="data")
    torch.testing.assert_close(x, run.normalisation.undo(ours), rtol=0, atol=1e-3)
    assert x.shape == (5, 3)
    assert (x.mean() - 1000).abs() < 20
    assert pipeline(num_samples=2, num_inference_steps=1).images.shape == (2, 3)
    for options, message in (
        ({"output_type": "pil"}, "expected one of pt, latent"),
        ({"class_labels": [1]}, "trained without"),
        ({"guidance_scale": 2.0}, "expected class_labels"),
        ({"latents": noise[:, :2]}, r"\(5, 2\); expected \(5, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(**options)


@pytest.mark.parametrize("wrong", [11, -1, [3, 11]])
def test_classes_that_the_model_does_not_know_are_refused_before_it_is_called(trained, tmp_path, exported, wrong) -> None:
    pipeline = exported(load_run(trained()), tmp_path)
    pipeline.transformer.forward = lambda *given, **options: pytest.fail("called")
    with pytest.raises(ValueError, match="expected whole numbers from 0 to 9, or 10 for no class"):
        pipeline(wrong)


@pytest.mark.parametrize("timestep", [1000.0, 999.0, 980.0, 333.25, 1.0, 0.0])
def test_the_time_is_exact_in_float32(timestep) -> None:
    time = KDiffTransformer.time(torch.tensor(timestep), torch.zeros(1))
    assert time.item() == pytest.approx((1000 - timestep) / 1000, rel=2**-23, abs=0)


@pytest.mark.parametrize(
    "network",
    [
        "DiT(patch_size=2, hidden_size=16, depth=2, num_heads=2)",
        "LightningDiT(patch_size=2, hidden_size=16, depth=2, num_heads=2)",
        "UViT(patch_size=2, hidden_size=16, depth=2, num_heads=2)",
        {"name": "MLP", "width": 16, "depth": 1},
    ],
    ids=["DiT", "LightningDiT", "UViT", "MLP"],
)
def test_every_network_is_read_back_whole(trained, tmp_path, network, exported, start) -> None:
    """Buffers that are not among the weights included, and a null class."""
    run = load_run(trained(network=network, steps=3))
    pipeline = exported(run, tmp_path)
    noise, y = start(run)
    ours = run.model.sample(noise, solver="euler", steps=4, guidance=2.0, last_step="data", y=y)
    theirs = pipeline(y, latents=noise, num_inference_steps=4, guidance_scale=2.0, output_type="latent").images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
