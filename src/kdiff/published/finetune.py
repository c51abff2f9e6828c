"""Turn a trained model of a fixed target into one whose k is learned, for fine-tuning.

A network that was trained for u = a x − b n with constant a and b has the target, in kdiff's units,

    u/(a + b) = k x − (1 − k) n,        k = a/(a + b).

With its last layer divided by a + b, it is a model with exactly that k, and its velocity stays the same. For example, velocity
prediction, u = x − n, becomes k = ½. From there k is learned.

Noise and data prediction are k = 0 and k = 1, which no sigmoid reaches. They start at a k close to these (init). The last layer
is multiplied by the share of u that the network knows, which is k for data and 1 − k for noise: û = k x̂ instead of
k x̂ − (1 − k) n̂ for data. The network must learn the other term, of size 1 − k for data. `velocity_change` measures how far the
velocity moves before it has done so. For data this is furthest near t = 1, where v̂ was (x̂ − z)/(1 − t) and its pole moves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.model import KDiff
from kdiff.networks import MLP
from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.uvit import UViT
from kdiff.path import raise_wrong_times
from kdiff.published.models import ByItsClock
from kdiff.targets.constant import learned_from


def with_learned_k(model: KDiff, init: float | None = None, rate: float = 10.0) -> KDiff:
    """A copy of a trained model with a learned k; the given model does not change.

    Args:
        model: a model whose target has constant a and b: a `FixedK`, or a `GeneralTarget` of numbers.
        init: the first k. If left out, it is a/(a + b), and the conversion is exact. Noise and data prediction need an init,
            such as 0.01 or 0.99.
        rate: the pace of k, as for `LearnedK`.

    Raises:
        ValueError: the target depends on t or has no constant k; `init` is missing, or is given although the conversion is
            exact; the last layer of the network is not known.
    """
    target, factor = learned_from(model.target, init, rate)
    tuned = copy.deepcopy(model)
    tuned.target = target.to(next(model.network.parameters()).device)
    scale_output(tuned.network, factor)
    return tuned


@torch.no_grad()
def scale_output(network: nn.Module, factor: float) -> None:
    """Multiply a network's output by a factor, in its last layer; ValueError if that layer is not known."""
    for parameter in last_layer(network).parameters():
        parameter.mul_(factor)


def last_layer(network: nn.Module) -> nn.Module:
    """The affine layer that computes a network's output; ValueError for networks outside `kdiff.networks`."""
    if isinstance(network, ByItsClock):
        return last_layer(network.network)
    if isinstance(network, UViT):
        return network.decoder_pred if isinstance(network.final_layer, nn.Identity) else network.final_layer
    if isinstance(network, ModulatedTransformer):
        return network.final_layer.linear
    if isinstance(network, MLP):
        return network.output
    raise ValueError(
        f"the last layer of a {type(network).__name__} is not known; expected a network of kdiff.networks. Divide its output "
        "by a + b yourself, and pass it to KDiff with LearnedK(init=a / (a + b))"
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
    """The change of the velocity by time, √(E‖v′ − v‖²/E‖v‖²), on noisy samples of x (batch, ...), without a clamp.

    The noise has the scale of the first model. If the velocities are equal the change is 0, even if both are 0.
    """
    return change_between(before, after, x, (conditions, conditions), times, seed)


@torch.no_grad()
def change_between(
    before: KDiff,
    after: KDiff,
    x: Tensor,
    conditions: tuple[Mapping[str, Any], Mapping[str, Any]],
    times: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99),
    seed: int = 0,
    of_output: bool = False,
) -> dict[float, float]:
    """As `velocity_change`, with the conditions of each model, whose numbers of classes may differ; or the change of u."""
    noise = before.noise_scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    found = {}
    for t in times:
        z = before.path.mix(x, noise, t)
        old, new = (
            model.predict(z, t, **given) if of_output else model.velocity(z, t, min_denominator=0.0, **given)
            for model, given in zip((before, after), conditions)
        )
        change = (new - old).square().mean()
        found[t] = float((change / old.square().mean()).sqrt()) if change else 0.0
    raise_wrong_times()
    return found
