"""Pictures of tables that were judged: histograms of columns, and the correlation matrices of held-out data and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdiff.report.drawing import INK, new_figure, plain, save_figure
from kdiff.report.field_pictures import draw_histogram

ACROSS = 4  # histograms in a row
TICKED = 24  # columns with names on the axes of a matrix


def draw_columns(path: Path, table: dict[str, Any]) -> None:
    """Write the histograms of the columns that differ most."""
    columns, sets, names = table["histograms"]["columns"], table["histograms"]["sets"], table["columns"]
    rows = -(-len(columns) // ACROSS)
    across = min(ACROSS, len(columns))
    figure = new_figure(2.1 * across + 0.3, 1.7 * rows + 0.7)
    panels = figure.subplots(rows, across, squeeze=False)
    for axes in panels.flat[len(columns) :]:
        axes.set_axis_off()
    for axes, column, histogram in zip(panels.flat, columns, sets):
        draw_histogram(axes, histogram)
        axes.set(yticks=[])
        plain(axes, f"column {names[column]}", size=6)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    worst = f"the {len(columns)} of {len(names)} that differ most" if len(columns) < len(names) else "all of them"
    figure.suptitle(f"Columns ({worst})", fontsize=9, color=INK)
    save_figure(figure, path)


def draw_correlations(path: Path, table: dict[str, Any]) -> None:
    """Write the correlation matrices of held-out data and of samples, and their difference."""
    found, names = table["correlations"], [table["columns"][column] for column in table["correlations"]["columns"]]
    data, samples = (np.array(found[name], dtype=float) for name in ("heldout", "samples"))
    figure = new_figure(8.4, 3.1)
    pictures = {"held-out data": data, "samples": samples, "samples − held-out": samples - data}
    axes = figure.subplots(1, 3)
    for place, (title, matrix) in zip(axes, pictures.items()):
        drawn = place.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        place.set_title(title, fontsize=9, color=INK)
        place.tick_params(labelsize=5, length=0)
        if len(names) <= TICKED:
            place.set_xticks(range(len(names)), names, rotation=90)
            place.set_yticks(range(len(names)), names)
        else:
            place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=25)
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
    figure.suptitle("Correlations of columns", fontsize=9, color=INK)
    save_figure(figure, path)
