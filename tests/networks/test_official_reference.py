"""The networks against the official implementations: forward, gradients, keys. For JiT's sampler see test_jit_reference.

Tolerances are the fixtures' own.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdiff.model import KDiff
from kdiff.networks import from_official, to_official
from kdiff.targets import GeneralTarget

FORWARD = {
    "jit_forward": ("jit", 1e-5),
    "dit_forward": ("dit", 5e-5),
    "sit_forward": ("sit", 1e-5),
    "lightningdit_forward": ("lightningdit", 1e-5),
    "lightningdit_qknorm_forward": ("lightningdit", 1e-5),
    "lightningdit_plain_forward": ("lightningdit", 1e-5),
    "uvit_forward": ("uvit", 5e-5),
    "uvit_uncond_forward": ("uvit", 5e-5),
}
forward_files = pytest.mark.parametrize(("name", "architecture", "tolerance"), [(k, *v) for k, v in FORWARD.items()])


def network_of(file, architecture):
    return from_official(architecture, file.below("weights"), **file.read("config"))


@forward_files
def test_forward(reference, name, architecture, tolerance):
    file = reference(name)
    network = network_of(file, architecture)
    inputs = file.below("input")
    if architecture == "uvit":
        modules = {"patch_embed": network.patch_embed, "mid_block": network.mid_block, "norm": network.norm}
        modules |= {f"{kind}_block.{i}": m for kind in ("in", "out") for i, m in enumerate(getattr(network, f"{kind}_blocks"))}
    else:
        modules = {"t_emb": network.t_embedder, "y_emb": network.y_embedder, "patch_embed": network.x_embedder}
        modules |= {f"block.{i}": m for i, m in enumerate(network.blocks)} | {"final_tokens": network.final_layer}
    seen = {}
    for key, module in modules.items():
        module.register_forward_hook(lambda module, args, output, key=key: seen.update({key: output}))
    with torch.no_grad():
        output = network(*(inputs[key] for key in "zty" if key in inputs))
    for key, value in seen.items():  # where a difference begins, before where it ends
        assert_close(value, file[f"debug.{key}"], rtol=1e-5, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}")
    assert seen.keys() == modules.keys()
    assert_close(output, file["output"], rtol=0, atol=tolerance)


@forward_files
def test_there_and_back(reference, name, architecture, tolerance):
    """Weights come back to the bit, with every key; fixed tables as they are computed here."""
    file = reference(name)
    weights = file.below("weights")
    back = to_official(architecture, network_of(file, architecture))
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        fixed = architecture != "uvit" and (key == "pos_embed" or key.startswith("feat_rope."))
        assert_close(back[key], value, rtol=0, atol=1e-6 if fixed else 0)


def velocity_loss(v, u):
    return (v - u).square().mean()


def velocity_and_cosine_loss(v, u):
    return velocity_loss(v, u) + (1 - F.cosine_similarity(v, u, dim=1)).mean()


@pytest.mark.parametrize(
    ("name", "architecture", "loss_of"),
    [("sit_loss", "sit", velocity_loss), ("lightningdit_loss", "lightningdit", velocity_and_cosine_loss)],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients(reference, name, architecture, loss_of, checkpointing):
    file = reference(name)
    network = network_of(file, architecture)
    network.checkpointing = checkpointing
    x, e, t, y = (file[f"input.{key}"] for key in "xety")
    u = network(file["z"], t, y)
    u.retain_grad()
    loss = loss_of(u, x - e)
    loss.backward()

    assert_close(loss, file["loss"], rtol=1e-5, atol=0)
    assert_close(u, file["net_out"], rtol=0, atol=1e-5)
    assert_close(u.grad, file["grad.net_out"], rtol=1e-5, atol=1e-6 * file["grad.net_out"].abs().max().item())
    gradients = {key: p.grad for key, p in network.named_parameters()}
    norms = file.below("grad_norm")
    assert norms.keys() == gradients.keys()
    for key, norm in norms.items():
        assert_close(gradients[key].norm(), norm, rtol=1e-5, atol=0, msg=lambda m, key=key: f"{key}: {m}")
    assert_close(torch.stack([g.norm() for g in gradients.values()]).norm(), file["grad_norm_total"], rtol=1e-5, atol=0)
    for key, gradient in file.below("grad").items():
        if key != "net_out":
            assert_close(gradients[key], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize(
    ("name", "architecture", "cosine"), [("sit_loss", "sit", 0.0), ("lightningdit_loss", "lightningdit", 1.0)]
)
def test_the_loss_of_a_model(reference, name, architecture, cosine):
    """The same through `KDiff`: the velocity of the network's target, the mean square, the cosine term."""
    file = reference(name)
    network = network_of(file, architecture)
    model = KDiff(network, GeneralTarget(1.0, 1.0), cosine_weight=cosine)
    loss = model.loss(file["input.x"], file["input.t"], file["input.e"], y=file["input.y"])
    loss.backward()
    assert_close(loss, file["loss"], rtol=1e-5, atol=0)
    total = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
    assert_close(total, file["grad_norm_total"], rtol=1e-5, atol=0)


def test_dits_guided_forward_follows_from_its_own(reference):
    """Officially guided are the first three channels of the noise; the fourth and sigma's stay as each half has them."""
    file = reference("dit_forward")
    z, t, y, scale = (file[f"cfg.{key}"] for key in ("z", "t", "y", "scale"))
    with torch.no_grad():
        output = network_of(file, "dit")(torch.cat([z[:2], z[:2]]), t, y)
    labelled, null = output[:, :3].chunk(2)
    guided = null + scale * (labelled - null)
    expected = torch.cat([torch.cat([guided, guided]), output[:, 3:]], dim=1)
    assert_close(expected, file["cfg.output"], rtol=0, atol=5e-5)
