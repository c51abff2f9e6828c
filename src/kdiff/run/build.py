"""Making the data and the model that a configuration names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

import kdiff.data
from kdiff.config.autoencoding import AutoencoderConfig, EncodeConfig
from kdiff.config.parts import Spec, parse
from kdiff.config.recipes import chosen_recipe, resolved
from kdiff.config.studies import EstimateConfig
from kdiff.config.training import ModelConfig
from kdiff.data import Dataset, Moments, Samples
from kdiff.model import KDiff
from kdiff.networks import find_network
from kdiff.path import GaussianPath, find_path
from kdiff.sampling import Timesteps, find_timesteps
from kdiff.sampling.noise import mix_seed
from kdiff.targets import Target, find_target

# How each kind of part is found, and the class to which it must belong.
FINDERS: dict[str, tuple[Callable[..., Callable[[], Any]], type]] = {
    "network": (find_network, nn.Module),
    "target": (find_target, Target),
    "path": (find_path, GaussianPath),
    "timesteps": (find_timesteps, Timesteps),
}


def build(kind: str, spec: Spec, **given: Any) -> Any:
    """The object that `spec` names; `kind` is "network", "target", "path" or "timesteps".

    `given` holds values that the caller knows (the shape of the data, …). Those that the signature accepts are passed on.
    Raises ValueError if the name or an option is unknown, if the class refuses a value, or if the object is of another
    kind.
    """
    part = parse(spec)
    find, kind_of = FINDERS[kind]
    make = find(part, **given)
    try:
        found = make()
    except TypeError as error:
        raise ValueError(f"{part} cannot be built: {error}") from error
    if not isinstance(found, kind_of):
        raise ValueError(f"{kind} is {part}, which makes a {type(found).__name__}; expected a subclass of {kind_of.__name__}")
    return found


def load_dataset(config: ModelConfig | AutoencoderConfig | EncodeConfig | EstimateConfig) -> Dataset:
    """Load the data that a configuration names."""
    return kdiff.data.load(config.data)


def build_model(
    config: ModelConfig,
    target: Spec,
    shape: tuple[int, ...],
    num_classes: int,
    seed: int = 0,
    moments: Callable[[], Moments] | None = None,
    samples: Callable[[], Samples] | None = None,
) -> KDiff:
    """The model that a configuration describes. The same seed gives the same initial weights, whatever the target is.

    `moments` and `samples` return the moments of the training data and the training samples, for a target that needs them; None
    will do if weights are loaded later.
    The user's own network is called as Network(shape=…, num_classes=…, **options), as far as its signature has these.
    """
    own = config.network.options.get("num_classes", num_classes)
    if own != num_classes:
        raise ValueError(
            f"the network {config.network} has {own} classes, but the data have {num_classes}. Leave num_classes out of the "
            "network's options; it is an option of the data, as in --data.num_classes"
        )
    part, weighting = resolved(target, chosen_recipe(config.recipe, config.loss_space))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed))
        try:
            network = build("network", config.network, num_classes=num_classes, **_size(shape))
        except ValueError as error:
            wants = r"(needs a value for|missing \d+ required)[^;]*(image_size|channels)"
            if len(shape) == 3 or not re.search(wants, str(error)):
                raise
            grey = "save grey images as (N, 1, H, W), by images[:, None], or " if len(shape) == 2 else ""
            raise ValueError(
                f"{config.network.name} is a network for images (C, H, W), but the samples have the shape {shape}; {grey}"
                "take a network for samples of any shape, as in --network MLP"
            ) from None
        _materialise(network, shape, num_classes)
    path, noise_scale = build("path", config.path), config.noise_scale
    return KDiff(
        network,
        build("target", part, shape=shape, path=path, noise_scale=noise_scale, moments=moments, samples=samples),
        path,
        build("timesteps", config.timesteps),
        # A model that never sees "no class" has no value for it, so that classifier-free guidance is refused.
        null={"y": num_classes} if num_classes and config.null_rate else None,
        null_rate=config.null_rate if num_classes else 0.0,
        loss_space=config.loss_space,
        noise_scale=noise_scale,
        cosine_weight=config.cosine_weight,
        weighting=weighting,
    )


@torch.no_grad()
def _materialise(network: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Give lazily shaped layers their shapes by one call, so that weights can be counted, trained, saved and read back."""
    if not _lazy(network):
        return
    conditions = {"y": torch.zeros(2, dtype=torch.int64)} if num_classes else {}
    network.eval()(torch.randn(2, *shape), torch.full((2,), 0.5), **conditions)
    network.train()
    if unused := _lazy(network):
        raise ValueError(f"{unused[0]} has no shape, because the network does not use that layer; remove it from the network")


def _lazy(network: nn.Module) -> list[str]:
    """The names of the parameters and buffers that have no shape yet."""
    return [name for name, value in (*network.named_parameters(), *network.named_buffers()) if is_lazy(value)]


def _size(shape: tuple[int, ...]) -> dict[str, Any]:
    """The size of the samples, in the forms that signatures of networks use."""
    return {"shape": shape, **({"channels": shape[0], "image_size": shape[1:]} if len(shape) == 3 else {})}
