"""Drawing samples: images as a grid; points in the plane of a known manifold, or along the first two principal directions.

How samples of a data set are drawn is decided once, by `view_of`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kdiff.data import LatentSamples, Manifold, Samples, principal_directions
from kdiff.data.directions import MAX_DIMENSION
from kdiff.files import partial_name

MAX_POINTS = 20000  # of the data, to find where to draw
INK, PAPER = "#22262b", "#ffffff"


def new_figure(width: float, height: float) -> Figure:
    """A figure of this many inches that needs no display."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def is_image(shape: tuple[int, ...]) -> bool:
    """One or three channels of at least 4×4 pixels."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4


def image_grid(x: Tensor, columns: int, low: float, high: float) -> np.ndarray:
    """Images (N, C, H, W) side by side, with a pixel between: (rows, columns, 3), values in [0, 1]; low is black."""
    x = ((x.float() - low) / (high - low)).clamp(0, 1)
    x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    rows = math.ceil(len(x) / columns)
    _, channels, height, width = x.shape
    grid = torch.full((channels, rows * (height + 1) - 1, columns * (width + 1) - 1), 0.5)
    for i, image in enumerate(x):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        grid[:, top : top + height, left : left + width] = image
    return grid.permute(1, 2, 0).numpy()


class Images:
    """Draws images (N, C, H, W) as a grid; `low` is black and `high` white."""

    shown = 64

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def draw(self, axes: Axes, x: Tensor, columns: int = 8) -> None:
        """The images, `columns` in a row."""
        axes.imshow(image_grid(x, columns, self.low, self.high), interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])


class Points:
    """Draws samples as points: in the plane of their manifold if that is known, else along the data's first two directions."""

    shown = 2000

    def __init__(self, data: Tensor, manifold: Manifold | None = None) -> None:
        self.manifold = manifold if manifold and manifold.plane_dim >= 2 else None
        if self.manifold is None:
            directions = _directions(data)[:, :2]
            # One dimension: the second axis says nothing, but a picture wants one.
            self.directions = torch.nn.functional.pad(directions, (0, 2 - directions.shape[1]))
        self.limits = [self._limits(values) for values in self.place(data).T]

    @staticmethod
    def _limits(values: Tensor) -> tuple[float, float]:
        low, high = values.min().item(), values.max().item()
        margin = 0.15 * (high - low) or 1.0
        return low - margin, high + margin

    def place(self, x: Tensor) -> Tensor:
        """Where samples (N, *shape) are drawn: (N, 2)."""
        return self.manifold.coordinates(x)[:, :2] if self.manifold else x.flatten(1).float() @ self.directions

    def draw(self, axes: Axes, x: Tensor, columns: int = 8) -> None:
        """The points, within the limits of the data."""
        points = self.place(x)
        axes.plot(points[:, 0], points[:, 1], ".", markersize=1.2, color=INK, alpha=0.6, rasterized=True)
        axes.set(xlim=self.limits[0], ylim=self.limits[1], aspect="equal")
        axes.set_xticks([])
        axes.set_yticks([])


def _directions(data: Tensor) -> Tensor:
    """The leading principal directions (D, q) of any data: also of one sample, and where D × D is too large a matrix."""
    dimension = math.prod(data.shape[1:])
    if len(data) < 2:
        return torch.eye(dimension, 2)
    if dimension <= MAX_DIMENSION:
        return principal_directions(data, energy=1.0)
    # The eigenvectors of X Xᵀ, taken back by Xᵀ, are those of Xᵀ X.
    x = data[:1000].flatten(1).double()
    centred = x - x.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    return torch.nn.functional.normalize(centred.T @ vectors.flip(1)[:, :2], dim=0).float()


View = Images | Points


def view_of(data: Samples, manifold: Manifold | None = None) -> View:
    """How to draw samples of the law of `data` (N, *shape), normalised. Latents that are not decoded are points."""
    if is_image(tuple(data.shape[1:])) and not isinstance(data, LatentSamples):
        return Images(data.min().item(), data.max().item())
    return Points(data[:MAX_POINTS], manifold)


def save_samples(path: Path, x: Tensor, view: View, title: str = "", columns: int = 0) -> None:
    """One picture of samples (normalised values); images in a square, or `columns` in a row."""
    figure = new_figure(5, 5.3)
    axes = figure.add_subplot()
    shown = x[: view.shown]
    view.draw(axes, shown, columns=columns or max(1, round(math.sqrt(len(shown)))))
    axes.set_title(title, fontsize=9, color=INK)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG at once or not at all."""
    aside = partial_name(path)
    try:
        figure.savefig(aside, format="png")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
