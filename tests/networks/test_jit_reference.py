"""JiT against the official implementation: rotations, loss and gradients, sampling. Tolerances are the fixtures' own.

For its forward pass see test_official_reference.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from kdiff.model import KDiff
from kdiff.networks.official import from_official


def network_of(file):
    return from_official("jit", file.below("weights"), **file.read("config"))


def test_rotations(reference):
    """With angle 0 for the context tokens in front."""
    file = reference("jit_forward")
    network = network_of(file)
    cosines, signed_sines = network.rotary
    sines = signed_sines * torch.tensor([-1.0, 1.0]).repeat(cosines.shape[1] // 2)
    for name, table in {"cos": cosines, "sin": sines}.items():
        assert_close(table, file[f"debug.rope_incontext_{name}"], rtol=0, atol=1e-6)
        assert_close(table[network.context_tokens :], file[f"debug.rope_{name}"], rtol=0, atol=1e-6)


def test_loss_and_gradients(reference):
    file = reference("jit_loss")
    model = KDiff(network_of(file), "data")
    x, e, t, y = (file[f"input.{name}"] for name in "xety")
    outputs = []

    def keep(module, args, u):
        u.retain_grad()
        outputs.append(u)

    model.network.register_forward_hook(keep)
    loss = model.loss(x, t, e, y=y)
    loss.backward()

    assert_close(loss, file["loss"], rtol=1e-5, atol=0)
    assert_close(outputs[0], file["net_out"], rtol=0, atol=1e-5)
    largest = file["grad.net_out"].abs().max().item()
    assert_close(outputs[0].grad, file["grad.net_out"], rtol=1e-5, atol=1e-6 * largest)
    gradients = {name: p.grad for name, p in model.network.named_parameters()}
    norms = file.below("grad_norm")
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():
        assert_close(gradients[name].norm(), norm, rtol=1e-5, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    assert_close(torch.stack([g.norm() for g in gradients.values()]).norm(), file["grad_norm_total"], rtol=1e-5, atol=0)
    for name, gradient in file.below("grad").items():
        if name != "net_out":
            assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("scenario", ["heun", "euler", "heun50_official", "edge", "nocfg"])
def test_sampling(reference, scenario):
    file = reference("jit_sample")
    settings = file.read("scenarios")[scenario]
    assert file.read("sampling") == {"t_eps": 0.05}  # the sampler's default
    network, y = network_of(file), file["input.y"]
    model = KDiff(network, "data", null={"y": network.num_classes})
    calls, times, states = [], [], []
    network.register_forward_pre_hook(lambda module, args: calls.append((args[1][0].item(), len(args[0]))))

    def record(step, t, z):
        assert step == len(states)
        times.append(t)
        states.append(z)

    output = model.sample(
        settings["noise_scale"] * file["input.noise"],
        sampler="paper",
        solver=settings["method"],
        steps=settings["steps"],
        guidance=settings["cfg_scale"],
        guidance_interval=tuple(settings["interval"]),
        callback=record,
        y=y,
    )
    assert_close(output, file[f"output.{scenario}"], rtol=0, atol=5e-5)
    assert_close(torch.stack(states), file[f"trajectory.{scenario}"], rtol=0, atol=5e-5)
    assert_close(torch.stack(times), file[f"timesteps.{scenario}"], rtol=0, atol=0)
    # Guidance doubles the batch, and is on or off by the time of the call: twice per step with Heun, but for the last.
    guided = dict(zip(file[f"timesteps.{scenario}"].tolist(), file[f"guided.{scenario}"].tolist()))
    assert len(calls) == (2 * settings["steps"] - 1 if settings["method"] == "heun" else settings["steps"])
    doubled = {t: size == 2 * len(y) for t, size in calls}
    assert doubled == {t: guided[t] and settings["cfg_scale"] != 1 for t in doubled}
    assert len(doubled) == settings["steps"]
