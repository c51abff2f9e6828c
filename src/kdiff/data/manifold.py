"""Known geometry: a plane of dimension p in R^D, flat or bent, and a sphere in this plane.

    linear:  raw = Q c                        Q (D, p) with orthonormal columns; the identity for D = p
    curved:  raw = Q [c, bend(c)]             Q (D, D) orthonormal
             bend_j(c) = √(2/m) sin(w_j · c)  m = D − p functions, 1 ≤ |w_j| ≤ 3, directions w_j/|w_j| uniform

The coordinates c have zero mean and unit variance. The bend is odd, so the mean of a symmetric law stays zero. For nearly
Gaussian coordinates the variance of the bend, summed over its m directions, is about 1 for every D. The bent plane is a graph
over the flat one: the map is injective, and a projection gives the coordinates back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import Normalisation

EMBEDDINGS = ("linear", "curved")


@dataclass(frozen=True, eq=False)
class Manifold:
    """A plane in R^D, flat or bent, or a sphere in that plane.

    - `basis`: Q, float64, (D, p) or (D, D).
    - `plane_dim`: p.
    - `frequencies`: w of the bend, float64 (D − p, p), or None for a flat plane.
    - `radius`: the radius of the sphere, or None if the manifold is the whole plane.

    Methods take and return points in the normalised values of the data set; coordinates and distances are in raw values.
    Everything is computed in float64 on the CPU and returned in the dtype and on the device of the argument.
    """

    basis: Tensor
    plane_dim: int
    frequencies: Tensor | None = None
    radius: float | None = None
    normalisation: Normalisation = field(default_factory=Normalisation.none)

    def embed(self, coordinates: Tensor) -> Tensor:
        """The points (N, D) of the plane with the given coordinates (N, p)."""
        return self.normalisation.apply(self._raw(coordinates.cpu().double())).to(coordinates)

    def coordinates(self, x: Tensor) -> Tensor:
        """The coordinates (N, p) of points (N, D): their projection on the flat plane."""
        return self._project(self._undo(x)).to(x)

    def distance(self, x: Tensor) -> Tensor:
        """Euclidean distance (N,) of points (N, D) from the manifold.

        For a flat plane this is the exact distance, √(|off the plane|² + (|c| − radius)²), with the second term for a sphere
        only. For a bent plane it is the distance |x − embed(c)| from the point with the same coordinates (moved onto the
        sphere), an upper bound that is zero only on the manifold.
        """
        raw = self._undo(x)
        nearest = self._project(raw)
        if self.radius is not None:
            norm = nearest.norm(dim=1, keepdim=True)
            axis = torch.eye(self.plane_dim, dtype=torch.float64)[:1]
            # All points of the sphere have the same distance from its centre, so any of them will do.
            nearest = self.radius * torch.where(norm > 0, nearest / norm.clamp_min(1e-300), axis)
        return (raw - self._raw(nearest)).norm(dim=1).to(x)

    def _undo(self, x: Tensor) -> Tensor:
        return self.normalisation.undo(x.detach().cpu().double()).flatten(1)

    def _project(self, raw: Tensor) -> Tensor:
        return raw @ self.basis[:, : self.plane_dim]

    def _raw(self, coordinates: Tensor) -> Tensor:
        if self.frequencies is not None:
            bend = (2 / len(self.frequencies)) ** 0.5 * torch.sin(coordinates @ self.frequencies.T)
            coordinates = torch.cat([coordinates, bend], dim=1)
        return coordinates @ self.basis.T


def make_manifold(
    plane_dim: int, ambient_dim: int, embedding: str = "linear", seed: int = 0, radius: float | None = None
) -> Manifold:
    """A random plane of `plane_dim` dimensions (with a sphere of `radius` in it) in R^`ambient_dim`, fixed by `seed`.

    Raises ValueError for an unknown embedding, or if the plane does not fit: linear needs ambient_dim ≥ plane_dim, and curved
    needs one dimension more.
    """
    if embedding not in EMBEDDINGS:
        raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, found {embedding!r}")
    curved = embedding == "curved"
    if ambient_dim < plane_dim + curved:
        raise ValueError(
            f"a {embedding} embedding of {plane_dim} coordinates needs ambient_dim ≥ {plane_dim + curved}, found {ambient_dim}"
        )
    # The samples have another random stream, so the manifold does not depend on how many samples are drawn.
    rng = np.random.default_rng((seed, 1))
    if ambient_dim == plane_dim:
        return Manifold(torch.eye(plane_dim, dtype=torch.float64), plane_dim, radius=radius)
    columns = ambient_dim if curved else plane_dim
    basis, triangle = torch.linalg.qr(torch.from_numpy(rng.standard_normal((ambient_dim, columns))))
    # The signs in QR depend on the library; with a positive diagonal of R the factor is unique (and uniformly distributed).
    basis = basis * torch.sign(triangle.diagonal())
    frequencies = None
    if curved:
        directions = rng.standard_normal((ambient_dim - plane_dim, plane_dim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        frequencies = torch.from_numpy(directions * rng.uniform(1, 3, (len(directions), 1)))
    return Manifold(basis, plane_dim, frequencies, radius)
