"""Drawing samples: images as a grid; points in the plane of a known manifold, or along the first two principal directions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kdiff.data import Manifold, principal_directions

INK, PAPER = "#22262b", "#ffffff"


def new_figure(width: float, height: float) -> Figure:
    """A figure of this many inches that needs no display."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def is_image(shape: tuple[int, ...]) -> bool:
    """One or three channels of at least 4×4 pixels."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4


def image_grid(x: Tensor, columns: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
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


class Projection:
    """Where points of a data set are drawn: in its manifold's plane if that is known, else on its first two directions."""

    def __init__(self, data: Tensor, manifold: Manifold | None = None) -> None:
        self.manifold = manifold if manifold and manifold.plane_dim >= 2 else None
        if self.manifold is None:
            directions = principal_directions(data, energy=1.0)[:, :2]
            # One dimension: the second axis says nothing, but a picture wants one.
            self.directions = torch.nn.functional.pad(directions, (0, 2 - directions.shape[1]))
        self.limits = [self._limits(values) for values in self(data).T]

    @staticmethod
    def _limits(values: Tensor) -> tuple[float, float]:
        low, high = values.min().item(), values.max().item()
        margin = 0.15 * (high - low) or 1.0
        return low - margin, high + margin

    def __call__(self, x: Tensor) -> Tensor:
        """Points (N, 2) for samples (N, *shape)."""
        return self.manifold.coordinates(x)[:, :2] if self.manifold else x.flatten(1).float() @ self.directions


def draw_samples(axes: Axes, x: Tensor, projection: Projection | None, columns: int = 8) -> None:
    """Images as a grid (no projection), anything else as points."""
    axes.set_xticks([])
    axes.set_yticks([])
    if projection is None:
        axes.imshow(image_grid(x, columns), interpolation="nearest")
        axes.spines[:].set_visible(False)
        return
    points = projection(x)
    axes.plot(points[:, 0], points[:, 1], ".", markersize=1.2, color=INK, alpha=0.6, rasterized=True)
    axes.set_xlim(projection.limits[0])
    axes.set_ylim(projection.limits[1])
    axes.set_aspect("equal")


def save_samples(path: Path, x: Tensor, projection: Projection | None, title: str = "") -> None:
    """One picture of samples (normalised values)."""
    columns = max(1, round(math.sqrt(len(x))))
    figure = new_figure(5, 5.3)
    axes: Any = figure.add_subplot()
    draw_samples(axes, x, projection, columns)
    axes.set_title(title, fontsize=9, color=INK)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG at once or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    figure.savefig(aside, format="png")
    aside.replace(path)
