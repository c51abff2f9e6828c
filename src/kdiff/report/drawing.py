"""Draws samples: images and fields as a grid, signals as lines, and all other data as points.

Points lie in the plane of the data's manifold if it is known, else along the first two principal directions of the data.
`view_of` decides how the samples of a data set are drawn.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from kdiff.data import LatentSamples, Manifold, Samples, principal_directions
from kdiff.data.directions import MAX_DIMENSION
from kdiff.data.samples import is_image
from kdiff.files.atomic import new_file
from kdiff.report.field_view import FieldView, SignalView
from kdiff.targets import Axis

MAX_POINTS = 20000  # samples of the data that the directions and limits of a picture are computed from
MAX_VALUES = 2**22  # of the fields that the colours of a picture are computed from
INK, PAPER = "#22262b", "#ffffff"


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches. It needs no display."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def image_grid(x: Tensor, columns: int, low: float, high: float) -> np.ndarray:
    """Images (N, C, H, W) as one array (rows, columns, 3) of values in [0, 1], a pixel apart.

    `low` becomes 0, `high` 1, and NaN ½.
    """
    x = ((x.float() - low) / (high - low)).clamp(0, 1).nan_to_num(0.5)
    x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    rows = math.ceil(len(x) / columns)
    _, channels, height, width = x.shape
    grid = torch.full((channels, rows * (height + 1) - 1, columns * (width + 1) - 1), 0.5)
    for i, image in enumerate(x):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        grid[:, top : top + height, left : left + width] = image
    return grid.permute(1, 2, 0).numpy()


def plain(axes: Axes, title: str = "", size: float = 7, label: float | None = None, **legend: Any) -> None:
    """Hide the upper and right frame, and set font sizes: `size` for ticks, `label` for axis labels (None: size + 1).

    `legend` holds options of the legend, which has no frame; without options there is none.
    """
    if title:
        axes.set_title(title, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=size)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(size + 1 if label is None else label)
    if legend:
        axes.legend(**{"frameon": False, "fontsize": 7, **legend})


def value_label(at: float) -> str:
    """A value on a target's axis in short form: ½ for 0.5."""
    return "½" if at == 0.5 else f"{at:g}"


def labelled_values(axis: Axis) -> dict[float, str]:
    """The values at which pictures label a target's axis, in order: its ends, and the values with a name."""
    return dict(sorted({axis.low: "", axis.high: "", **axis.names}.items()))


def scale_to(axes: Axes, axis: Axis | None) -> None:
    """Give the vertical axis the range and the labels of a target's axis, if it has one; wider if drawn values lie outside."""
    if axis:
        labels, drawn = labelled_values(axis), axes.dataLim
        low, high = min(*labels, drawn.y0), max(*labels, drawn.y1)
        margin = 0.03 * (high - low)
        axes.set_ylim(low - margin, high + margin)
        axes.set_yticks(list(labels), [f"{value_label(at)}  {name}".rstrip() for at, name in labels.items()])


class ImageView:
    """Draws images (N, C, H, W) as a grid. The value `low` is black and `high` is white."""

    shown = 64

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def draw(self, axes: Axes, x: Tensor, columns: int = 8) -> None:
        """Draw the images, `columns` in a row."""
        axes.imshow(image_grid(x, columns, self.low, self.high), interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])


class Points:
    """Draws samples as points in the plane of `manifold`, or without one along the first two principal directions of `data`."""

    shown = 2000

    def __init__(self, data: Tensor, manifold: Manifold | None = None) -> None:
        self.manifold = manifold if manifold and manifold.plane_dim >= 2 else None
        if self.manifold is None:
            directions = _directions(data)[:, :2]
            # One-dimensional data get a second axis that is always 0, because a picture needs two axes.
            self.directions = torch.nn.functional.pad(directions, (0, 2 - directions.shape[1]))
        self.limits = [self._limits(values) for values in self.place(data).T]

    @staticmethod
    def _limits(values: Tensor) -> tuple[float, float]:
        low, high = values.min().item(), values.max().item()
        margin = 0.15 * (high - low) or 1.0
        return low - margin, high + margin

    def place(self, x: Tensor) -> Tensor:
        """The positions (N, 2) at which samples (N, *shape) are drawn."""
        return self.manifold.coordinates(x)[:, :2] if self.manifold else x.flatten(1).float() @ self.directions

    def draw(self, axes: Axes, x: Tensor, columns: int = 8) -> None:
        """Draw the points within the limits of the data. `columns` has no effect."""
        points = self.place(x)
        axes.plot(points[:, 0], points[:, 1], ".", markersize=1.2, color=INK, alpha=0.6, rasterized=True)
        axes.set(xlim=self.limits[0], ylim=self.limits[1], aspect="equal", xticks=[], yticks=[])


def _directions(data: Tensor) -> Tensor:
    """The leading principal directions (D, q), also of a single sample and of data for which a D × D matrix is too large."""
    dimension = math.prod(data.shape[1:])
    if len(data) < 2:
        return torch.eye(dimension, 2)
    if dimension <= MAX_DIMENSION:
        return principal_directions(data, energy=1.0)
    # Xᵀ maps the eigenvectors of X Xᵀ to those of Xᵀ X.
    x = data[:1000].flatten(1).double()
    centred = x - x.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    return torch.nn.functional.normalize(centred.T @ vectors.flip(1)[:, :2], dim=0).float()


View = ImageView | FieldView | SignalView | Points


def view_for(shape: tuple[int, ...]) -> type[View]:
    """The class of the view for samples of this shape, unless they are latents."""
    if is_image(shape):
        return ImageView
    return {0: Points, 1: Points, 2: SignalView}.get(len(shape), FieldView)


def view_of(data: Samples, manifold: Manifold | None = None) -> View:
    """The view for samples that are distributed like `data` (N, *shape), normalised. Latents are drawn as points."""
    kind = Points if isinstance(data, LatentSamples) else view_for(tuple(data.shape[1:]))
    if kind is ImageView:
        return ImageView(data.min().item(), data.max().item())
    if kind is Points:
        return Points(data[:MAX_POINTS], manifold)
    some = max(1, MAX_VALUES // math.prod(data.shape[1:]))
    return (FieldView if kind is FieldView else SignalView)(data[:some])


def short_label(part: str) -> str:
    """A part's label for a title or a tick: a class path is shortened to the name of the class, and words have no quotes."""
    return re.sub(r"='(\w+)'", r"=\1", re.sub(r"^[\w.:]*[.:](?=[^\W\d])", "", part))


def panel(figure: FigureBase, place: Any, x: Tensor, view: View, title: str, colour: str = INK, columns: int = 8) -> Axes:
    """Draw samples (normalised values) in one place of a figure's grid, with a title in this colour."""
    axes = figure.add_subplot(place)
    view.draw(axes, x, columns)
    axes.set_title(title, fontsize=9, color=colour)
    return axes


def save_samples(path: Path, x: Tensor, view: View, title: str = "", columns: int = 0) -> None:
    """Write one picture of samples (normalised values). Images form a square, or have `columns` in a row."""
    figure, shown = new_figure(5, 5.3), x[: view.shown]
    panel(figure, 111, shown, view, title, columns=columns or max(1, round(math.sqrt(len(shown)))))
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG to a temporary file first, so that `path` is complete or unchanged."""
    with new_file(path) as partial:
        figure.savefig(partial, format="png")
