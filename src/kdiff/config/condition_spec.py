"""What a condition of a sample is: a class, a vector, a field or tokens. Data, networks and run folders share this description.

    class     a whole number 0 … num_classes − 1; `num_classes` itself means "no class"
    vector    numbers, shape (q,)
    field     channels on a grid, shape (c, *grid), for samples (C, *grid); another grid is interpolated to that of the sample
    tokens    a sequence of vectors, shape (length, q)

The condition "none" of a vector, a field or tokens is NaN in every entry. The network reads it as "no condition".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("class", "vector", "field", "tokens")


@dataclass(frozen=True)
class ConditionSpec:
    """The name, kind and shape of a condition; `shape` is that of one sample, () for a class.

    `num_classes` is 0 for all kinds except "class".
    Raises ValueError for an unknown kind, and for a shape or a number of classes that does not belong to the kind.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the condition {self.name!r} has the kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        ranks = {"class": (0,), "vector": (1,), "field": (2, 3, 4), "tokens": (2,)}[self.kind]
        if len(self.shape) not in ranks or (self.shape and min(self.shape) < 1):
            expected = " or ".join(map(str, ranks))
            raise ValueError(f"the condition {self.name!r} is a {self.kind} of shape {self.shape}; expected {expected} axes")
        if (self.kind == "class") != (self.num_classes > 0):
            raise ValueError(
                f"the condition {self.name!r} is a {self.kind} with {self.num_classes} classes; only a class has classes"
            )

    @property
    def null(self) -> float:
        """The value that stands for "no condition" in every entry."""
        return self.num_classes if self.kind == "class" else float("nan")

    def plain(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {**asdict(self), "shape": list(self.shape)}
