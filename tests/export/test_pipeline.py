"""The samples of an exported run, drawn by diffusers: those of kdiff, for every target, path and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

import kdiff
from kdiff.export.diffusers_folder import export
from kdiff.export.diffusers_model import KDiffTransformer
from kdiff.export.pipeline import KDiffPipeline
from kdiff.run.run import load_run
from kdiff.sampling.multistep import DataMultistep

pytestmark = pytest.mark.usefixtures("code_cache")
MLP = "MLP(width=16, depth=1)"
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.fixture(scope="module")
def exact(run, start) -> torch.Tensor:
    """Where the flow leads from the run's first noise."""
    noise, y = start(run)
    return run.model.sample(noise, solver="rk4", steps=100, y=y)


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
        "two_ended(learned=true)",
        "spectral",
        "spectral(basis=principal, pull=0.1)",
        "spectral(basis=dct, learned=false)",
        "spectral(basis=random, seed=3)",
        "learned_directions(basis=channels)",
        "asymflow(rank=3, size=4)",
        "asymflow(basis=principal, scale=2.0)",
        "wiener(basis=patch, size=2)",
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
    [
        FlowMatchHeunDiscreteScheduler(),
        UniPCMultistepScheduler(**FLOW),
    ],
    ids=["heun", "unipc"],
)
def test_higher_orders_come_nearer_to_the_flow_than_euler(run, pipeline, scheduler, start, exact) -> None:
    """They have grids of their own, or round the times: no solver of kdiff is theirs, but the flow that they solve is."""
    noise, y = start(run)
    options = {"latents": noise, "num_inference_steps": 40, "output_type": "latent"}
    euler = pipeline(y, **options).images
    try:
        pipeline.scheduler = scheduler
        images = pipeline(y, **options).images
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    assert (images - exact).abs().mean() < (euler - exact).abs().mean()


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler])
def test_schedulers_that_begin_at_0_999_solve_the_same_flow(run, pipeline, kind, start, exact) -> None:
    noise, y = start(run)
    try:
        pipeline.scheduler = kind(**FLOW)
        images = pipeline(y, latents=noise, num_inference_steps=40, output_type="latent").images
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    torch.testing.assert_close(images, exact, rtol=0, atol=3e-3)


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


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DEISMultistepScheduler(**FLOW), r"the last σ of DEISMultistepScheduler is 0\.0\d+; expected 0.*noise of this size"),
        (SASolverScheduler(**FLOW), r"the last σ of SASolverScheduler is 0\.0"),
        (UniPCMultistepScheduler(**FLOW, final_sigmas_type="sigma_min"), r'the last σ of .*final_sigmas_type="zero"'),
        (DPMSolverMultistepScheduler(**FLOW, final_sigmas_type="sigma_min"), "the last σ of DPMSolverMultistepScheduler"),
        (
            FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
            r"σ of .* are 0, 0\.05, 0\.1, … 1; expected σ that fall from 1 to 0",
        ),
        (DPMSolverMultistepScheduler(**FLOW, use_karras_sigmas=True), "expected σ that fall from 1 to 0"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), r"cannot set its steps \(.*mu"),
    ],
)
def test_schedulers_that_do_not_go_from_noise_to_data_are_refused(run, pipeline, scheduler, message, start) -> None:
    """They would leave noise in the samples without a word."""
    pipeline.transformer.forward, forward = lambda *given, **options: pytest.fail("called"), pipeline.transformer.forward
    try:
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=message) as caught:
            pipeline(start(run)[1], num_inference_steps=20)
        assert "type pipeline.scheduler = FlowMatchEulerDiscreteScheduler()" in str(caught.value)
    finally:
        pipeline.scheduler, pipeline.transformer.forward = FlowMatchEulerDiscreteScheduler(), forward


class FlowMatchRenoising(FlowMatchLCMScheduler):
    """A user's own class."""


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchLCMScheduler(), FlowMatchRenoising(), FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)],
    ids=["lcm", "subclass", "stochastic"],
)
def test_schedulers_for_distilled_models_are_refused(pipeline, scheduler) -> None:
    """They add noise to the data prediction, whose spread is smaller than that of the data."""
    name = type(scheduler).__name__
    try:
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=rf"{name}.* adds noise again in each step, .* loses spread") as caught:
            pipeline([1], num_inference_steps=3)
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    assert str(caught.value).endswith("type pipeline.scheduler = FlowMatchEulerDiscreteScheduler()")


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler])
def test_stochastic_schedulers_need_noise_of_scale_1(kind) -> None:
    """With this scale, the exact model of data N(0, 0.3²) gives the spread 0.3, and the generator draws all noise."""
    for scale in (1.0, 2.0):
        transformer = KDiffTransformer(MLP, "velocity", [1], noise_scale=scale)

        def velocity(z: torch.Tensor, t: torch.Tensor, clamp: float, scale: float = scale) -> torch.Tensor:
            signal, noise = t * 0.3**2, (1 - t) * scale**2
            return (signal - noise) / (t * signal + (1 - t) * noise) * z

        transformer.model.velocity = velocity
        pipeline = KDiffPipeline(transformer, kind(**FLOW, algorithm_type="sde-dpmsolver++"))
        pipeline.set_progress_bar_config(disable=True)
        options = {"num_samples": 10000, "num_inference_steps": 200, "output_type": "latent"}
        if scale == 1:
            samples, again = (pipeline(**options, generator=torch.Generator().manual_seed(0)).images for _ in range(2))
            assert samples.std().item() == pytest.approx(0.3, rel=0.06)
            assert torch.equal(samples, again)
            continue
        with pytest.raises(
            ValueError, match=r"adds noise of scale 1 in each step, but the noise_scale of this model is 2; type"
        ):
            pipeline(**options)
        pipeline.scheduler = kind(**FLOW)
        assert pipeline(**options).images.std().item() == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_step": "foo"}, "last_step is 'foo'; expected data or euler"),
        ({"class_labels": 0, "num_samples": 0}, "num_samples is 0; expected at least 1"),
        ({"num_samples": -1}, "num_samples is -1; expected at least 1"),
        ({"class_labels": 0, "latents": torch.zeros(0, 1, 8, 8)}, "the number of latents is 0; expected at least 1"),
    ],
)
def test_other_arguments_are_checked(pipeline, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(**options, num_inference_steps=1)


@pytest.mark.parametrize(
    "scheduler", [FlowMatchEulerDiscreteScheduler(), UniPCMultistepScheduler(**FLOW)], ids=["euler", "unipc"]
)
def test_double_latents_in_a_float_pipeline(pipeline, run, start, scheduler) -> None:
    noise, y = start(run)
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent"}
    try:
        pipeline.scheduler = scheduler
        expected = pipeline(y, latents=noise, **options).images
        found = pipeline(y, latents=noise.double(), **options).images
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5)
    time = torch.tensor(500.0)
    direct = pipeline.transformer(noise.double(), time, y).sample
    assert torch.equal(direct, pipeline.transformer(noise, time, y).sample)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0, 0.5, 0.0], "leave the last 0 out of sigmas"),
        ([0.5, 0.25], "the first σ of .* is 0.5; expected 1.*or give latents with this much noise"),
        ([0.2, 0.6, 1.0], "expected σ that fall from 1 to 0"),
        ([1.5, 0.5], "expected σ that fall from 1 to 0"),
        ([1.0, float("nan")], "expected σ that fall from 1 to 0"),
        ([], "has no steps"),
        ([1, 1, 0.5], "the σ of FlowMatchEulerDiscreteScheduler contain 1 twice; expected sigmas that fall, each value once"),
        ([1.0, 0.5, 0.5], "contain 0.5 twice"),
    ],
)
def test_sigmas_that_do_not_fall_from_1_are_refused(pipeline, sigmas, message) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline([1], sigmas=sigmas)


def test_given_starting_points_may_have_less_noise(run, pipeline, start) -> None:
    noise, y = start(run)
    half = run.model.sample(noise, solver="euler", times=torch.tensor([0.0, 0.25, 0.5]), last_step="euler", y=y)
    whole = pipeline(y, latents=noise, sigmas=[1.0, 0.75, 0.5, 0.25], output_type="latent").images
    rest = pipeline(y, latents=half, sigmas=[0.5, 0.25], output_type="latent").images
    torch.testing.assert_close(rest, whole, rtol=0, atol=1e-5)


def test_samples_that_are_not_finite_are_not_returned(run, pipeline, start) -> None:
    try:
        pipeline.scheduler = UniPCMultistepScheduler(**FLOW, lower_order_final=False)
        with pytest.raises(ValueError, match="6 of 6 samples of UniPCMultistepScheduler are not finite"):
            pipeline(start(run)[1], num_inference_steps=5)
    finally:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()


@pytest.mark.parametrize("given", ["to", "load"])
def test_a_pipeline_in_float64(run, tmp_path, start, given) -> None:
    """Its samples are those of float32 but for rounding, from the same noise."""
    folder = export(run, tmp_path / "pipeline")
    options = {"dtype": torch.float64} if given == "load" else {}
    double = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options).to(torch.float64)
    double.set_progress_bar_config(disable=True)
    noise, y = start(run)
    exact = run.model.sample(noise, solver="euler", steps=5, last_step="data", y=y)
    for latents in (noise, noise.double()):
        images = double(y, latents=latents, num_inference_steps=5, output_type="latent").images
        assert images.dtype == torch.float64
        torch.testing.assert_close(images.float(), exact, rtol=0, atol=1e-4)
    assert double(y, num_inference_steps=2)[0][0].size == (8, 8)
    z = double.transformer(noise, 500.0, y).sample
    assert z.dtype == torch.float64


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


@pytest.mark.parametrize(
    "wrong",
    [0.5, [0.5], [1.0, 2.0], np.array([0.5]), torch.tensor([1.0]), [True, False], np.array(True), ["1"], [None], [2**70], 1j],
    ids=str,
)
def test_class_labels_are_whole_numbers(pipeline, wrong) -> None:
    with pytest.raises(ValueError, match=r"class_labels are .*; expected whole numbers from 0 to 9, or 10 for no class"):
        pipeline(wrong, num_inference_steps=1)


def test_class_labels_of_every_integer_type(pipeline) -> None:
    noise = kdiff.draw_noise(2, pipeline.transformer.config.shape)
    options = {"latents": noise, "num_inference_steps": 1, "output_type": "latent"}
    expected = pipeline([3, 3], **options).images
    for same in (3, np.int64(3), np.array([3, 3], np.uint8), torch.tensor([3, 3], dtype=torch.int32), torch.tensor(3), (3, 3)):
        assert torch.equal(pipeline(same, **options).images, expected)


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


def test_a_model_that_never_saw_no_class_neither_guides_nor_leaves_the_class_out(trained, exported, tmp_path) -> None:
    folder = trained(network=MLP, null_rate=0.0)
    pipeline = exported(load_run(folder), tmp_path)
    options = {"num_inference_steps": 2, "output_type": "latent"}
    assert len(pipeline([1, 2], **options).images) == 2
    for labels, scale, message in (
        ([1, 2], 2.0, 'guidance_scale is 2, but this model was trained with null_rate 0 and never saw "no class"; expected 1'),
        (None, 1.0, 'never saw "no class"; expected class_labels from 0 to 9 for all samples'),
        ([1, 10], 1.0, "expected class_labels from 0 to 9 for all samples"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(labels, guidance_scale=scale, **options)
    assert "guidance_scale" not in (tmp_path / "pipeline" / "README.md").read_text()
    with pytest.raises(ValueError, match="expected σ that fall from 1 to 0"):
        pipeline([1], sigmas=[1.5, 0.5], output_type="latent")
