"""The conditions of encoded images: stored with the latents, and read again with them.

    shard_00000.safetensors    condition.NAME (n, *shape), normalised as for the images; float32, or int64 for a class
    latents.json               the description of each condition, with its normalisation

The latents keep the parts of their images, so the normalisation by the training part stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.config.condition_spec import ConditionSpec
from kdiff.data.condition import Condition
from kdiff.data.normalisation import Normalisation
from kdiff.data.shards import LatentSamples, Sharded

PREFIX = "condition."
IN_MEMORY = ("class", "vector")  # kinds that are small; the others are read from their shards by rows


def describe_conditions(conditions: Mapping[str, Condition]) -> dict[str, dict[str, Any]]:
    """The entry `conditions` of latents.json."""
    return {name: condition.describe() for name, condition in conditions.items()}


def condition_tensors(conditions: Mapping[str, Condition], rows: slice) -> dict[str, Tensor]:
    """The tensors of a shard with these rows."""
    return {PREFIX + name: condition.values[rows].contiguous() for name, condition in conditions.items()}


def read_conditions(
    described: Mapping[str, Mapping[str, Any]], shards: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Condition]:
    """The conditions of a folder of latents from its shards, mapped into memory.

    Raises ValueError if a shard lacks a condition, or has one of another shape.
    """
    found = {}
    for name, facts in described.items():
        spec = ConditionSpec(name, facts["kind"], tuple(facts["shape"]), facts["num_classes"])
        parts = [shard[PREFIX + name] for shard in shards if PREFIX + name in shard]
        if len(parts) != len(shards) or any(part.shape[1:] != spec.shape for part in parts):
            raise ValueError(
                f"the shards do not hold the condition {name} of shape {spec.shape}; encode again into another folder"
            )
        values: Tensor | LatentSamples
        if spec.kind in IN_MEMORY:
            values = torch.from_numpy(np.concatenate(parts))
        else:
            values = LatentSamples({"mean": Sharded(parts)}, Normalisation.none())
        found[name] = Condition(spec, values, Normalisation.from_description(facts["normalisation"]))
    return found
