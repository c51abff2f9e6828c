"""A condition of a data set: its description, and its normalised values in the order of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdiff.config.condition_spec import ConditionSpec
from kdiff.data.normalisation import Normalisation
from kdiff.data.samples import Samples


@dataclass(frozen=True, eq=False)
class Condition:
    """The values of one condition, for every sample.

    - `spec`: its name, kind and shape.
    - `values`: normalised, float32 (N, *shape); for a class int64 (N,). NaN means that a sample has no such condition.
    - `normalisation`: from the condition's own units; that of a class is `none`.
    """

    spec: ConditionSpec
    values: Tensor | Samples
    normalisation: Normalisation

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {**self.spec.plain(), "normalisation": self.normalisation.describe()}
