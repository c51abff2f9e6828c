"""From a trained model of a fixed target to one whose k is learned, for fine-tuning.

A network that was trained for u = a x − b n with constant a, b says the same thing in kdiff's units as

    u/(a + b) = k x − (1 − k) n,        k = a/(a + b),

so that with its last layer divided by a + b it is a model with that k, exactly: velocity x − n becomes k = ½, and nothing that
it outputs changes. From there k is learned.

Noise and data prediction are k = 0 and k = 1, which no sigmoid reaches. They start at a k close by (init), with the last layer
multiplied by the share of u that they know, c = k for data and c = 1 − k for noise: û = k x̂ in place of k x̂ − (1 − k) n̂. What
is left out, of size 1 − k, the network has to learn, and `velocity_change` says what that costs before it has: most near t = 1
for data, where v̂ is (x̂ − z)/(1 − t) before and has its pole moved after.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.interop.published import ByItsClock
from kdiff.model import KDiff
from kdiff.networks import MLP
from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.uvit import UViT
from kdiff.target.constant import learned_from


def with_learned_k(model: KDiff, init: float | None = None, rate: float = 10.0) -> KDiff:
    """A copy of a trained model whose k is learned from here on; the model itself stays as it is.

    Args:
        model: with a target of constant a and b: a `FixedK`, or a `GeneralTarget` of numbers.
        init: k to start from. Left out, it is a/(a + b), and the conversion is exact; noise and data prediction need one,
            such as 0.01 or 0.99.
        rate: the pace of k, as for `LearnedK`.

    Raises:
        ValueError: a target that depends on t or has no k on the line; an init that is missing, or given where the
            conversion is exact; a network whose last layer is not known here.
    """
    target, factor = learned_from(model.target, init, rate)
    tuned = copy.deepcopy(model)
    tuned.target = target.to(next(model.network.parameters()).device)
    with torch.no_grad():
        for parameter in last_layer(tuned.network).parameters():
            parameter.mul_(factor)
    return tuned


def last_layer(network: nn.Module) -> nn.Module:
    """The affine layer that makes a network's output.

    Raises:
        ValueError: a network of a kind that is not known here.
    """
    if isinstance(network, ByItsClock):
        return last_layer(network.network)
    if isinstance(network, UViT):
        return network.decoder_pred if isinstance(network.final_layer, nn.Identity) else network.final_layer
    if isinstance(network, ModulatedTransformer):
        return network.final_layer.linear
    if isinstance(network, MLP):
        return network.output
    raise ValueError(
        f"the last layer of a {type(network).__name__} is not known; expected one of kdiff.networks. Divide its output by "
        "a + b yourself, and give it to KDiff with LearnedK(init=a / (a + b))"
    )


@torch.no_grad()
def velocity_change(
    before: KDiff,
    after: KDiff,
    x: Tensor,
    times: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99),
    seed: int = 0,
    **conditions: Any,
) -> dict[float, float]:
    """√(E‖v′ − v‖²/E‖v‖²), how far the velocity has changed, by time: on noisy samples of x (batch, ...), without a clamp.

    Noise is of the first model's scale. No change of a velocity of 0, as of a network that begins with 0, is 0.
    """
    noise = before.noise_scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    found = {}
    for t in times:
        z = before.path.mix(x, noise, t)
        old, new = (model.velocity(z, t, min_denominator=0.0, **conditions) for model in (before, after))
        change = (new - old).square().mean()
        found[t] = float((change / old.square().mean()).sqrt()) if change else 0.0
    return found
