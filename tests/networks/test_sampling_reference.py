"""Sampling as the official SiT and LightningDiT do it, with their numbers. Tolerances are the fixtures' own."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from kdiff.networks import from_official
from kdiff.published import as_model


def model_of(name, file):
    """Their networks return v = x − n."""
    return as_model(name, from_official(name, file.below("weights"), **file.read("config")).eval())


def sampled(model, file, **options):
    """The samples, all states on the way, and (time, batch) of each evaluation."""
    calls, states = [], []
    with model.network.register_forward_pre_hook(lambda module, args: calls.append((args[1][0].item(), len(args[0])))):
        x = model.sample(
            file["input.noise"], y=file["input.y"], callback=lambda step, t, z: states.append(z), min_denominator=0.0, **options
        )
    return x, torch.stack(states), calls


def guidance(file, settings):
    """They guide three channels alone."""
    return {"guidance": settings["cfg_scale"], "guidance_channels": range(file.read("sampling")["guided_channels"])}


@pytest.mark.parametrize("scenario", ["euler", "euler_nocfg"])
def test_sit_on_a_grid(reference, scenario):
    file = reference("sit_sample")
    settings = file.read("scenarios")[scenario]
    x, states, calls = sampled(
        model_of("sit", file), file, solver="euler", steps=settings["num_steps"] - 1, **guidance(file, settings)
    )
    assert_close(x, file[f"output.{scenario}"], rtol=0, atol=5e-5)
    assert_close(states, file[f"trajectory.{scenario}"][:, : len(x)], rtol=0, atol=5e-5)
    assert [t for t, _ in calls] == pytest.approx(file[f"eval_times.{scenario}"].tolist(), abs=1e-6)
    assert {size for _, size in calls} == {len(x) if settings["cfg_scale"] == 1 else 2 * len(x)}


@pytest.mark.parametrize("scenario", ["dopri5", "dopri5_nocfg"])
def test_sit_with_chosen_steps(reference, scenario):
    """Against the exact solution by a tolerance of our own; theirs steps beyond t = 1 and is up to 5e-3 away from it."""
    file = reference("sit_sample")
    settings = file.read("scenarios")[scenario]
    model = model_of("sit", file)
    tight, _, calls = sampled(model, file, solver="dopri5(rtol=1e-6, atol=1e-6)", **guidance(file, settings))
    assert_close(tight, file[f"exact.{scenario}"].to(tight), rtol=0, atol=5e-5)
    assert all(0 <= t < 1 for t, _ in calls)
    tolerances = file.read("sampling")
    loose, _, calls = sampled(
        model, file, solver=f"dopri5(rtol={tolerances['rtol']}, atol={tolerances['atol']})", **guidance(file, settings)
    )
    assert_close(loose, file[f"output.{scenario}"], rtol=0, atol=1e-2)
    assert len(calls) < 1.5 * file[f"nfe.{scenario}"].item()


@pytest.mark.parametrize("scenario", ["euler", "noshift", "edge", "nocfg"])
def test_lightningdit(reference, scenario):
    """Their interval includes its start, and so does that of `as_model`: in "edge" a time of the grid lies exactly there."""
    file = reference("lightningdit_sample")
    settings = file.read("scenarios")[scenario]
    start = settings["cfg_interval_start"] if settings["cfg_interval"] else 0.0
    shift = settings["timestep_shift"]
    x, states, calls = sampled(
        model_of("lightningdit", file),
        file,
        solver="euler",
        steps=settings["num_steps"] - 1,
        times=f"shifted({shift})" if shift > 0 else "uniform",
        guidance_interval=(start, 1.0),
        **guidance(file, settings),
    )
    assert_close(x, file[f"output.{scenario}"], rtol=0, atol=5e-5)
    assert_close(states, file[f"trajectory.{scenario}"][:, : len(x)], rtol=0, atol=5e-5)
    assert [t for t, _ in calls] == pytest.approx(file[f"timegrid.{scenario}"][:-1].tolist(), abs=1e-6)
    guided = file[f"guided.{scenario}"][:-1].tolist()
    assert [size == 2 * len(x) for _, size in calls] == guided
