"""What logs, tables and pictures show of a target: its numbers, their axis, and curves over time or directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Axis:
    """The axis on which pictures draw the numbers of a target: its two ends, and names for some of its values."""

    low: float
    high: float
    names: Mapping[float, str]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"an axis from {self.low:g} to {self.high:g} has no length; expected two numbers low < high")


LINE = Axis(0.0, 1.0, {0.0: "noise", 0.5: "velocity", 1.0: "data"})  # the axis of k


@dataclass(frozen=True)
class Curve:
    """Numbers of a target over time ("t") or over the directions of its basis ("direction"), drawn on the target's axis."""

    name: str
    over: Literal["t", "direction"]
    at: list[float]
    values: list[float]


@dataclass(frozen=True)
class Description:
    """What logs, tables and pictures show of a target: named numbers (the main one first), their axis, and curves."""

    scalars: dict[str, float]
    axis: Axis | None = None
    curves: list[Curve] = field(default_factory=list)

    @property
    def position(self) -> float | None:
        """The place of the target on the line from noise (0) through velocity (½) to data (1); None if it is elsewhere."""
        return next(iter(self.scalars.values()), None) if self.axis == LINE else None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Description:
        """The description from `dataclasses.asdict(description)`, also if JSON has turned the values of the axis into text."""
        axis = plain["axis"] and Axis(**{**plain["axis"], "names": {float(at): n for at, n in plain["axis"]["names"].items()}})
        return cls(dict(plain["scalars"]), axis, [Curve(**curve) for curve in plain["curves"]])
