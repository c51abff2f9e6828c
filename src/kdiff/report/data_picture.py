"""A picture of samples of any data: images in a grid, fields by channel, signals as lines, columns as histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kdiff.data.opened import Opened
from kdiff.report.data_text import some_rows
from kdiff.report.drawing import INK, image_grid, new_figure, plain, save_figure

SAMPLES, CHANNELS, COLUMNS = 6, 4, 12  # at most, in a picture of fields, signals and tables


def draw_data(path: Path, opened: Opened, name: str) -> None:
    """Write the picture as a PNG. Samples are at equal distances. Of volumes, the middle slice is drawn."""
    shape, count = opened.x.shape[1:], len(opened.x)
    if len(shape) == 1:
        return _columns(path, opened, name)
    wanted = 48 if opened.value_range is not None else SAMPLES
    values = opened.x.read(np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64))).astype(np.float64)
    if len(shape) == 2:
        return _signals(path, values, name)
    while values.ndim > 4:
        values = values[:, :, values.shape[2] // 2]
    if opened.value_range is not None and values.shape[1] in (1, 3):
        figure = new_figure(6.4, 0.8 * -(-len(values) // 8) + 0.4)
        axes = figure.subplots()
        axes.imshow(image_grid(torch.from_numpy(values), 8, *opened.value_range), interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])
    else:
        channels = min(CHANNELS, values.shape[1])
        figure = new_figure(1.2 * len(values) + 1.0, 1.2 * channels + 0.4)
        panels = figure.subplots(channels, len(values), squeeze=False)
        for channel in range(channels):
            there = values[:, channel][np.isfinite(values[:, channel])]
            low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
            for axes, field in zip(panels[channel], values[:, channel]):
                drawn = axes.imshow(field, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
                axes.set(xticks=[], yticks=[])
            panels[channel, 0].set_ylabel(f"channel {channel}", fontsize=7)
            bar = figure.colorbar(drawn, ax=panels[channel].tolist(), aspect=10)
            bar.ax.tick_params(labelsize=6)
    figure.suptitle(_title(name, len(values), count), fontsize=9, color=INK)
    return save_figure(figure, path)


def _signals(path: Path, values: np.ndarray, name: str) -> None:
    channels = min(CHANNELS, values.shape[1])
    figure = new_figure(6.4, 1.3 * channels + 0.5)
    for channel, axes in enumerate(figure.subplots(channels, 1, squeeze=False, sharex=True)[:, 0]):
        axes.plot(values[:, channel].T, linewidth=0.8)
        axes.set_ylabel(f"channel {channel}")
        plain(axes)
    figure.suptitle(_title(name, len(values), None), fontsize=9, color=INK)
    save_figure(figure, path)


def _columns(path: Path, opened: Opened, name: str) -> None:
    values = opened.x.read(some_rows(opened.x)).astype(np.float64)
    columns = min(COLUMNS, values.shape[1])
    rows = -(-columns // 4)
    figure = new_figure(2.1 * min(4, columns) + 0.3, 1.6 * rows + 0.4)
    panels = figure.subplots(rows, min(4, columns), squeeze=False)
    for axes in panels.flat[columns:]:
        axes.set_axis_off()
    for column, axes in enumerate(panels.flat[:columns]):
        there = values[:, column][np.isfinite(values[:, column])]
        axes.hist(there, bins=min(40, max(5, len(np.unique(there)))), color=INK, alpha=0.7)
        axes.set(yticks=[])
        plain(axes, f"column {column}", size=6)
    more = f", the first {columns} of {values.shape[1]} columns" if columns < values.shape[1] else ""
    figure.suptitle(_title(name, len(values), len(opened.x)) + more, fontsize=9, color=INK)
    save_figure(figure, path)


def _title(name: str, drawn: int, count: int | None) -> str:
    return f"{name}: {drawn:,} samples" + ("" if count is None else f" of {count:,}")
