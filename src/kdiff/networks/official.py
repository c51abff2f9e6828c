"""Published checkpoints, by key: the official implementations' state dicts, loaded into this package's networks.

Networks here carry the published key names, so the mapping is the identity but for a prefix (`net.` in JiT's training
checkpoints) and for fixed tables, which are computed here: a published one is compared, and then left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdiff.networks.jit import JiT

# A table may have gone through half precision or a moving average; another layout differs by about 1.
TABLE_TOLERANCE = 0.01


@dataclass(frozen=True)
class _Architecture:
    network: Callable[..., nn.Module]
    arguments: Mapping[str, str]  # the official constructor's arguments → ours
    tables: tuple[str, ...]  # keys of fixed tables, also the names of our buffers
    prefix: str


ARCHITECTURES = {
    "jit": _Architecture(
        network=JiT,
        arguments={
            "input_size": "image_size",
            "patch_size": "patch_size",
            "in_channels": "channels",
            "num_classes": "num_classes",
            "hidden_size": "hidden_size",
            "depth": "depth",
            "num_heads": "num_heads",
            "mlp_ratio": "mlp_ratio",
            "bottleneck_dim": "bottleneck",
            "in_context_len": "context_tokens",
            "in_context_start": "context_start",
        },
        tables=("pos_embed",),
        prefix="net.",
    )
}


def from_official(architecture: str, state_dict: Mapping[str, Tensor], **config: Any) -> nn.Module:
    """A network with the weights of an official implementation.

    Args:
        architecture: "jit".
        state_dict: the official state dict; all its keys may be prefixed ("net." for JiT). A training checkpoint holds
            several: pass one, `checkpoint["model_ema1"]`.
        config: the arguments of the official constructor, by their official names (`input_size`, `in_channels`, …).

    Raises:
        ValueError: an unknown architecture; arguments missing or unknown; keys that are missing, left over or misshapen
            (all are listed); a fixed table that differs from the one computed here.
        TypeError: values that are not tensors.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture is called {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    official = ARCHITECTURES[architecture]
    # All are needed, for some (num_heads, in_context_start) leave no trace in the weights: a default would be silently wrong.
    if wrong := sorted(config.keys() ^ official.arguments.keys()):
        raise ValueError(f"missing or unknown: {', '.join(wrong)}; {architecture} takes {', '.join(official.arguments)}")
    if others := [key for key, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"no tensors under {', '.join(others)}; expected a state dict: of a checkpoint, pass one entry")
    if all(key.startswith(official.prefix) for key in state_dict):
        state_dict = {key.removeprefix(official.prefix): value for key, value in state_dict.items()}
    network = official.network(**{official.arguments[name]: value for name, value in config.items()})
    _load(network, state_dict, official.tables)
    return network


def _load(network: nn.Module, state_dict: Mapping[str, Tensor], tables: tuple[str, ...]) -> None:
    """Copy the weights, after naming every key that does not fit."""
    expected = network.state_dict() | {name: network.get_buffer(name) for name in tables}
    problems = [f"missing: {key} {tuple(expected[key].shape)}" for key in expected if key not in state_dict]
    problems += [f"left over: {key} {tuple(value.shape)}" for key, value in state_dict.items() if key not in expected]
    problems += [
        f"misshapen: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
        for key, value in state_dict.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if problems:
        raise ValueError("the state dict does not fit this configuration:\n  " + "\n  ".join(problems))
    for name in tables:
        difference = (state_dict[name].float() - expected[name].to(state_dict[name].device)).abs().max().item()
        if not difference < TABLE_TOLERANCE:
            raise ValueError(
                f"{name} differs from the fixed table that this network computes, by up to {difference:.3g}: "
                "the checkpoint is of another architecture, or its table was trained"
            )
    network.load_state_dict({key: value for key, value in state_dict.items() if key not in tables})
