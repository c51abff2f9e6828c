"""The base of targets that work in an orthonormal basis and know the variances λ of the data along its directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdiff.targets.bases import KINDS, make_basis
from kdiff.targets.description import LINE
from kdiff.targets.scatter import MAX_DENSE, MakeMoments, MakeSamples
from kdiff.targets.target import Target

DRAWN = 200  # points of a curve over directions, at most


class TurnedTarget(Target):
    """A target in the coordinates of a basis, c = Bᵀ x. Its numbers lie on the line from noise to data.

    Attributes:
        basis: the basis.
        variances: λ in units of the noise's variance, floored, of the basis's `coefficient_shape`. In a random basis they are
            the variances of the principal components, in falling order: the same numbers in directions that mean nothing.
        floor: the least λ.
    """

    axis = LINE
    variances: Tensor

    def _set_basis(
        self,
        kind: str | None,
        shape: tuple[int, ...],
        size: int | None,
        seed: int,
        floor: float,
        noise_scale: float,
        moments: MakeMoments,
        samples: MakeSamples,
    ) -> None:
        """Make the basis and measure λ. Without moments and samples both wait to be filled from saved weights.

        If no kind is named, it is "patch", and for vectors "principal", because their neighbouring entries need not be related.
        """
        if kind is None:
            kind = "principal" if len(shape) == 1 and math.prod(shape) <= MAX_DENSE else "patch"
        if not (math.isfinite(floor) and floor > 0):
            raise ValueError(f"floor is {floor}; expected a positive number, the least variance in units of the noise's")
        self.basis = make_basis(kind, shape, size=size, seed=seed, moments=moments, samples=samples)
        self.floor = float(floor)
        self._mark("basis_number", float(KINDS.index(kind)))
        self._mark("least_variance", self.floor)
        if kind == "random" and moments is None and samples is not None:
            raise ValueError("a random basis was given samples alone; expected moments, as in moments=dataset.moments")
        found = torch.ones(self.basis.coefficient_shape)
        if kind == "random" and moments is not None:
            found = moments().variances.double()
        elif moments is not None or samples is not None:
            found = self.basis.variances(moments, samples)
        self.register_buffer("variances", (found / noise_scale**2).clamp_min(floor).float())

    def turn(self, x: Tensor) -> Tensor:
        """The coordinates of samples x in the basis."""
        return self.basis.turn(x)

    def turn_back(self, x: Tensor) -> Tensor:
        """The samples with these coordinates."""
        return self.basis.turn_back(x)

    def _over_directions(self, values: Tensor) -> tuple[list[float], list[float]]:
        """Places 0, 1, … and values of the directions, the greatest variance first; evenly spaced ones of many."""
        ordered = values.flatten()[self.variances.flatten().argsort(descending=True, stable=True)]
        count = min(len(ordered), DRAWN)
        places = torch.linspace(0, len(ordered) - 1, count).round().long()
        return places.tolist(), ordered.cpu()[places].tolist()

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"basis={self.basis.kind!r}"

    def __repr__(self) -> str:
        """One line, as for the other targets."""
        return f"{type(self).__name__}({self.extra_repr()})"
