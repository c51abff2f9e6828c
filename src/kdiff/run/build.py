"""Making the data and the model that a configuration names."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

import kdiff.data
from kdiff.config.autoencoding import AutoencoderConfig, EncodeConfig
from kdiff.config.condition_spec import ConditionSpec
from kdiff.config.parts import CLASS_PATH, Part, Spec, parse
from kdiff.config.recipes import chosen_recipe, resolved
from kdiff.config.studies import EstimateConfig
from kdiff.config.training import LoopConfig, ModelConfig
from kdiff.data import Dataset, Moments, Samples
from kdiff.model import KDiff
from kdiff.networks import find_network
from kdiff.networks.choice import BUDGET, SPEED, Choice, budget_seconds, choose, is_auto
from kdiff.networks.conditioned import ConditionedNetwork
from kdiff.path import GaussianPath, find_path
from kdiff.sampling import Timesteps, find_timesteps
from kdiff.sampling.noise import mix_seed
from kdiff.targets import Target, find_target

M = TypeVar("M", bound=ModelConfig)

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
    conditions: Sequence[ConditionSpec] = (),
) -> KDiff:
    """The model that a configuration describes. The same seed gives the same initial weights, whatever the target is.

    `moments` and `samples` return the moments of the training data and the training samples, for a target that needs them; None
    will do if weights are loaded later. `conditions` are those besides the label of a class. With them, a network of kdiff
    becomes a `ConditionedNetwork`.
    The user's own network is called as Network(shape=…, num_classes=…, conditions=…, **options), as far as its signature has
    these. The network is then called as network(z, t, y=…, **conditions).
    """
    config = with_network(config, shape)
    own = config.network.options.get("num_classes", num_classes)
    if own != num_classes:
        raise ValueError(
            f"the network {config.network} has {own} classes, but the data have {num_classes}. Leave num_classes out of the "
            "network's options; it is an option of the data, as in --data.num_classes"
        )
    part, weighting = resolved(target, chosen_recipe(config.recipe, config.loss_space))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed))
        make = partial(_conditioned, conditions=conditions) if conditions else _network
        network = make(config.network, shape, num_classes)
        _materialise(network, shape, num_classes, conditions)
    path, noise_scale = build("path", config.path), config.noise_scale
    nulls = ({"y": num_classes} if num_classes else {}) | {spec.name: spec.null for spec in conditions}
    rate = null_rate_of(config, tuple(nulls))
    # A model that never sees "no class" has no value for it, so that classifier-free guidance is refused.
    seen = {name: null for name, null in nulls.items() if (rate.get(name, 0.0) if isinstance(rate, Mapping) else rate)}
    return KDiff(
        network,
        build("target", part, shape=shape, path=path, noise_scale=noise_scale, moments=moments, samples=samples),
        path,
        build("timesteps", config.timesteps),
        null=seen or None,
        null_rate={name: rate[name] for name in seen} if isinstance(rate, Mapping) else rate if seen else 0.0,
        loss_space=config.loss_space,
        noise_scale=noise_scale,
        cosine_weight=config.cosine_weight,
        weighting=weighting,
    )


def with_network(config: M, shape: Sequence[int], speed: float = SPEED) -> M:
    """The configuration with the network that is chosen for samples of this shape, unless it names one.

    A time that `auto` was given as its budget is counted with `speed` FLOPs a second; `kdiff.training.choosing` measures it.
    """
    return replace(config, network=choose_for(config, shape, speed).network) if is_auto(config.network) else config


def choose_for(config: ModelConfig, shape: Sequence[int], speed: float = SPEED) -> Choice:
    """The network that is chosen for samples of this shape, with the reason; the network of the configuration is `auto`."""
    seconds = budget_seconds(config.network)
    return choose(config.network, shape, draws_of(config), BUDGET if seconds is None else speed * seconds)


def draws_of(config: ModelConfig) -> int:
    """The number of samples that a training draws; 512,000, as by default, for a configuration without a training."""
    return config.steps * config.batch_size if isinstance(config, LoopConfig) else LoopConfig.steps * LoopConfig.batch_size


def null_rate_of(config: ModelConfig, names: Sequence[str]) -> float | dict[str, float]:
    """How often training hides these conditions: one number for all together, or a rate for each if `null_rates` names some.

    Raises:
        ValueError: `null_rates` names another condition.
    """
    rates = config.null_rates
    if unknown := [name for name in rates if name not in names]:
        raise ValueError(
            f"null_rates names {', '.join(unknown)}; the data have "
            + (f"the conditions {', '.join(names)}" if names else "no conditions, so leave null_rates out")
        )
    return {name: rates.get(name, config.null_rate) for name in names} if rates else config.null_rate


def _network(spec: Spec, shape: tuple[int, ...], num_classes: int, **given: Any) -> nn.Module:
    """The network that `spec` names, for samples of this shape."""
    part = parse(spec)
    try:
        network: nn.Module = build("network", part, num_classes=num_classes, **_size(shape), **given)
    except ValueError as error:
        wants = r"(needs a value for|missing \d+ required)[^;]*(image_size|channels)"
        if len(shape) == 2 and "image_size" in str(error):
            raise ValueError(
                f"{error}. Samples of shape {shape} are read as signals (C, L); save grey images as (N, 1, H, W), by "
                "images[:, None], or take a network for samples of any shape, as in --network MLP"
            ) from None
        if 2 <= len(shape) <= 4 or not re.search(wants, str(error)):
            raise
        raise ValueError(
            f"{part.name} is a network for images (C, H, W), signals (C, L) or volumes (C, D, H, W), but the samples have the "
            f"shape {shape}; take a network for samples of any shape, as in --network MLP"
        ) from None
    if len(shape) == 2 and 2 * shape[0] >= shape[1] and getattr(network, "grid", None):
        warnings.warn(
            f"samples of shape {shape} are read as signals of {shape[0]} channels and length {shape[1]}; if they are grey "
            "images, save them as (N, 1, H, W), by images[:, None]",
            stacklevel=2,
        )
    return network


def _conditioned(spec: Spec, shape: tuple[int, ...], num_classes: int, conditions: Sequence[ConditionSpec]) -> nn.Module:
    """The network that `spec` names, with conditions by name: a `ConditionedNetwork`, or the user's own network.

    Raises:
        ValueError: the network takes no conditions, or not all of these, or a condition has a name with another meaning.
    """
    part = parse(spec)
    if taken := [each.name for each in conditions if not each.name.isidentifier() or each.name in _taken()]:
        raise ValueError(
            f"a condition is called {taken[0]!r}, which is the name of an option of kdiff or no plain word; rename it in the "
            "data"
        )
    names = [*(["y"] if num_classes else []), *(each.name for each in conditions)]
    if CLASS_PATH.fullmatch(part.name) and not part.name.startswith("kdiff."):
        own = _network(part, shape, num_classes, conditions=tuple(conditions))
        _check_takes(own, part, names)
        return own
    with torch.device("meta"):
        plain = _network(part, shape, 0)
    if "condition" not in inspect.signature(type(plain)).parameters:
        raise ValueError(
            f"the network {part} takes no conditions; the data have {', '.join(names)}. Take another network, as in --network "
            "MLP, or load the data without condition"
        )
    width: Any = getattr(plain, "hidden_size", None) or plain.input.out_features  # type: ignore[union-attr]
    specs = [*([ConditionSpec("y", "class", (), num_classes)] if num_classes else []), *conditions]

    def within(shape: tuple[int, ...], condition: nn.Module | None) -> nn.Module:
        options = {} if condition is None else {"condition": condition}
        with warnings.catch_warnings():  # about the shape of the samples, which has more channels here
            warnings.simplefilter("ignore")
            return _network(Part(part.name, {**part.options, **options}, part.values), shape, 0)

    return ConditionedNetwork(within, shape, specs, width)


def _taken() -> set[str]:
    """Names that a condition cannot have, because the functions that take conditions by name have other arguments so called."""
    functions = (KDiff.sample, KDiff.log_likelihood, KDiff.loss, KDiff.velocity, KDiff.predict, KDiff.invert)
    return {"y", "x", "mask", "guidance_model", *(name for each in functions for name in inspect.signature(each).parameters)}


def _check_takes(network: nn.Module, part: Part, names: Sequence[str]) -> None:
    """Raise ValueError if the user's own network cannot be called with conditions of these names."""
    parameters = inspect.signature(network.forward).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    if lacking := [name for name in names if name not in parameters]:
        raise ValueError(
            f"the network {part.name} is called as forward({', '.join(parameters)}), which lacks {', '.join(lacking)}; "
            f"expected forward(z, t, {', '.join(f'{name}=None' for name in names)}), as the data have these conditions"
        )


@torch.no_grad()
def _materialise(
    network: nn.Module, shape: tuple[int, ...], num_classes: int, conditions: Sequence[ConditionSpec] = ()
) -> None:
    """Give lazily shaped layers their shapes by one call, so that weights can be counted, trained, saved and read back."""
    if not _lazy(network):
        return
    given = {"y": torch.zeros(2, dtype=torch.int64)} if num_classes else {}
    for spec in conditions:
        given[spec.name] = torch.zeros(2, *spec.shape, dtype=torch.int64 if spec.kind == "class" else torch.float32)
    network.eval()(torch.randn(2, *shape), torch.full((2,), 0.5), **given)
    network.train()
    if unused := _lazy(network):
        raise ValueError(f"{unused[0]} has no shape, because the network does not use that layer; remove it from the network")


def _lazy(network: nn.Module) -> list[str]:
    """The names of the parameters and buffers that have no shape yet."""
    return [name for name, value in (*network.named_parameters(), *network.named_buffers()) if is_lazy(value)]


def _size(shape: tuple[int, ...]) -> dict[str, Any]:
    """The size of the samples, in the forms that signatures of networks use."""
    return {"shape": shape, **({"channels": shape[0], "image_size": shape[1:]} if 2 <= len(shape) <= 4 else {})}
