"""Draws samples on a grid that are no images: fields and volumes with a colour for each value, and signals as lines.

The channels of a field stand one below the other, at most four of them. Each has its own range of colours, from the 0.5 % to
the 99.5 % quantile of the data. Of a volume, the middle slice is drawn.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

COLOURS = "viridis"
CHANNELS = 4  # at most, in a picture
TAIL = 0.005  # of the values on either side that have no colours of their own
VALUES = 2**20  # of a channel, from which its range is taken


def _ranges(data: Tensor) -> tuple[Tensor, Tensor]:
    """The range (C, 1, 1) of each drawn channel of data (N, C, *grid)."""
    values = data[:, :CHANNELS].float().movedim(1, 0).flatten(1).nan_to_num(0.0)
    values = values[:, :: -(-values.shape[1] // VALUES)].sort(dim=1).values
    last = values.shape[1] - 1
    low, high = values[:, round(TAIL * last)], values[:, round((1 - TAIL) * last)]
    return low[:, None, None], torch.where(high > low, high, low + 1)[:, None, None]


class FieldView:
    """Draws fields (N, C, H, W) and volumes (N, C, D, H, W) in colours; `data` sets the range of each channel."""

    shown = 16

    def __init__(self, data: Tensor) -> None:
        self.low, self.high = _ranges(data)

    def tiles(self, x: Tensor) -> Tensor:
        """The samples as colour images (N, 3, height, width): their channels below each other, a white line apart."""
        while x.ndim > 4:
            x = x[:, :, x.shape[2] // 2]
        values = ((x[:, :CHANNELS].float() - self.low) / (self.high - self.low)).clamp(0, 1)
        colours = np.where(values.isnan()[..., None].numpy(), 1.0, matplotlib.colormaps[COLOURS](values.numpy())[..., :3])
        padded = np.pad(colours, ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0)), constant_values=1.0)
        stacked = padded.reshape(len(x), -1, *padded.shape[3:])[:, :-1]
        return torch.from_numpy(np.moveaxis(stacked, -1, 1).copy())

    def draw(self, axes: Axes, x: Tensor, columns: int = 8) -> None:
        """Draw the fields, `columns` in a row, two points apart."""
        tiles = torch.nn.functional.pad(self.tiles(x), (0, 2, 0, 2), value=1.0)
        missing = -len(tiles) % columns
        tiles = torch.cat([tiles, torch.ones(missing, *tiles.shape[1:])])
        grid = tiles.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        axes.imshow(grid[:-2, :-2].numpy(), interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])


class SignalView:
    """Draws signals (N, C, L) as lines, the channels below each other; `data` sets the range of each channel."""

    shown = 6

    def __init__(self, data: Tensor) -> None:
        low, high = _ranges(data)
        self.low, self.high = low[..., 0], high[..., 0]

    def draw(self, axes: Axes, x: Tensor, columns: int = 8) -> None:
        """Draw the signals, all samples together. `columns` has no effect."""
        values = (x[:, :CHANNELS].float() - self.low) / (self.high - self.low)
        for channel in range(values.shape[1]):
            axes.plot(values[:, channel].T.numpy() - 1.1 * channel, linewidth=0.8)
        axes.set(ylim=(-1.1 * (values.shape[1] - 1) - 0.2, 1.2), yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=6)
