"""Embedded conditions: a vector for each sample and, if the condition has them, tokens that stand in front of the patches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdiff.networks import MLP, DiT, JiT, LightningDiT, UViT
from kdiff.networks.embedding import Embedded

SMALL = {"image_size": (8, 12), "patch_size": 4, "channels": 3, "num_classes": 0, "hidden_size": 32, "depth": 2, "num_heads": 2}
NETWORKS = {
    "JiT": (JiT, {"bottleneck": 6, "context_tokens": 2, "context_start": 1}),
    "DiT": (DiT, {}),
    "LightningDiT": (LightningDiT, {}),
    "U-ViT": (UViT, {"time_scale": 999.0}),
}
all_networks = pytest.mark.parametrize("name", NETWORKS)


class Sequences(nn.Module):
    """A condition (batch, L, 5): the vector is the mean of the embedded tokens, which come along or do not."""

    def __init__(self, width=32, tokens=True):
        super().__init__()
        self.layer, self.tokens = nn.Linear(5, width), tokens

    def forward(self, y, batch):
        embedded = self.layer(y)
        return Embedded(embedded.mean(dim=1), embedded if self.tokens else None)


class Given(nn.Module):
    """A condition that returns what it is told to return."""

    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def forward(self, y, batch):
        return self.returned


def small(name, **changes):
    kind, options = NETWORKS[name]
    return kind(**{**SMALL, **options, **changes})


def inputs(batch=3, tokens=4):
    return torch.randn(batch, 3, 8, 12), torch.linspace(0.1, 0.9, batch), torch.randn(batch, tokens, 5)


@all_networks
def test_without_tokens_an_embedded_condition_is_its_vector(name, stirred):
    (z, t, _), vector = inputs(), torch.randn(3, 32)
    network = stirred(small(name, condition=Given(vector)))
    u = network(z, t)
    network.y_embedder.returned = Embedded(vector)
    assert_close(network(z, t), u, rtol=0, atol=0)


@all_networks
def test_patches_attend_to_the_tokens_which_have_no_order_but_a_number(name, stirred):
    network = stirred(small(name, condition=Sequences()))
    z, t, y = inputs()
    u = network(z, t, y)
    assert u.shape == z.shape
    assert_close(network(z, t, y[:, [2, 0, 3, 1]]), u, rtol=1e-4, atol=1e-5)
    changed = y + torch.tensor([1.0, -1.0, 0.0, 0.0])[None, :, None]  # the vector, which is the mean, is the same
    assert ((network(z, t, changed) - u).flatten(1).abs().amax(dim=1) > 1e-4).all()
    assert (network(z, t, torch.cat([y, y], dim=1)) - u).abs().max() > 1e-4
    assert network(z, t, y[:, :1]).shape == z.shape
    order = torch.tensor([2, 0, 1])
    assert_close(network(z[order], t[order], y[order]), u[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["JiT", "LightningDiT"])
def test_tokens_are_not_rotated_and_leave_the_patches_in_their_places(name, stirred):
    """The blocks get a table with cosine 1 and sine 0 for the tokens, and the network's own for the patches."""
    network = stirred(small(name, condition=Sequences(), depth=2))
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append((args[0].shape[1], args[2])))
    network(*inputs(tokens=3))
    length, table = seen[0]
    assert length == 3 + 2 * 3
    turned = torch.view_as_real(table)[0] if table.is_complex() else table
    still = torch.stack([torch.ones_like(turned[:3, :, 0]), torch.zeros_like(turned[:3, :, 0])], dim=-1)
    assert_close(turned[:3], still, rtol=0, atol=0)
    rotary = network.rotary[:, getattr(network, "context_tokens", 0) :]
    expected = torch.stack([rotary[0, :, ::2], rotary[1, :, 1::2]], dim=-1)
    assert_close(turned[3:], expected, rtol=0, atol=0)


def test_tokens_are_what_the_context_tokens_of_jit_are(stirred):
    """Copies of the label with learned places, given as tokens, are the context tokens that JiT puts before the first block."""
    vector = torch.randn(3, 32)
    context = stirred(small("JiT", condition=Given(vector), context_tokens=2, context_start=0))
    tokens = vector[:, None] + context.in_context_posemb.detach()
    given = small("JiT", condition=Given(Embedded(vector, tokens)), context_tokens=0)
    given.load_state_dict({key: value for key, value in context.state_dict().items() if key != "in_context_posemb"})
    z, t, _ = inputs()
    assert_close(given(z, t), context(z, t), rtol=0, atol=0)


@all_networks
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_tokens(name, checkpointing, stirred):
    z, t, _ = inputs()
    returned = Embedded(torch.randn(3, 32), torch.randn(3, 4, 32, requires_grad=True))
    network = stirred(small(name, condition=Given(returned), checkpointing=checkpointing))
    network(z, t).square().sum().backward()
    assert (returned.tokens.grad.abs().amax(dim=2) > 0).all()


@all_networks
def test_precision_is_that_of_the_network(name, stirred):
    network = stirred(small(name, condition=Sequences()))
    z, t, y = inputs()
    u = network(z, t, y)
    assert_close(network.double()(z.double(), t.double(), y.double()), u.double(), rtol=0, atol=1e-4)
    assert network.bfloat16()(z.bfloat16(), t, y.bfloat16()).dtype == torch.bfloat16


def test_the_mlp_adds_the_mean_of_the_tokens():
    vector, tokens = torch.randn(3, 16), torch.randn(3, 4, 16)
    network = MLP((5,), width=16, depth=2, condition=Given(Embedded(vector, tokens)))
    nn.init.normal_(network.output.weight)
    z, t = torch.randn(3, 5), torch.rand(3)
    u = network(z, t)
    network.condition.returned = vector + tokens.mean(dim=1)
    assert_close(network(z, t), u)
    network.condition.returned = Embedded(vector)
    assert (network(z, t) - u).abs().max() > 1e-4


@all_networks
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((3, 32), r"tokens of shape \(3, 32\); expected \(3, L, 32\)"),
        ((3, 4, 31), r"tokens of shape \(3, 4, 31\)"),
        ((2, 4, 32), r"tokens of shape \(2, 4, 32\)"),
        ((3, 0, 32), r"tokens of shape \(3, 0, 32\).*tokens=None"),
    ],
)
def test_tokens_of_another_shape_are_refused(name, tokens, message):
    network = small(name, condition=Given(Embedded(torch.zeros(3, 32), torch.zeros(tokens))))
    with pytest.raises(ValueError, match=message):
        network(*inputs()[:2])
    network.y_embedder.returned = Embedded(torch.zeros(3, 31), torch.zeros(3, 4, 32))
    with pytest.raises(ValueError, match=r"returned shape \(3, 31\); expected \(3, 32\)"):
        network(*inputs()[:2])
