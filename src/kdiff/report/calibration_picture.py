"""The calibration of a run, as text and as a picture of its gains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdiff.report.drawing import INK, new_figure, plain, save_figure
from kdiff.run.calibrations import calibration_place, read_calibration
from kdiff.run.run import Run

SHOWN = 7  # directions in the picture


def calibration_text(run: Run, result: Mapping[str, Any]) -> str:
    """The result of `kdiff.evaluation.adoption.calibrate_run`, on one screen."""
    errors, folds = result["errors"], result["folds"]
    lines = [f"{run.folder}: step {run.step}, {run.weights}, target {run.model.target}", ""]
    lines += ["mean square error of the data prediction, on held-out data"]
    rows = [("t", "plain", "calibrated", "change")]
    for t, before, after in zip(errors["t"], errors["plain"], errors["calibrated"]):
        rows.append((f"{t:.2f}", f"{before:.4g}", f"{after:.4g}", f"{100 * (after / before - 1):+.1f} %" if before else ""))
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, (6, 10, 10, 9))) for row in rows]
    lines += ["", f"unseen training data: the squared error of v falls by {_range([100 * value for value in folds])} %"]
    if distances := result.get("distances"):
        count = f"{len(distances['plain'])} groups, {distances['samples']} samples with common noise"
        lines += [
            f"{distances['measure']} to held-out data ({count}):",
            f"  plain {_spread(distances['plain'])}, calibrated {_spread(distances['calibrated'])}",
        ]
    verdict = "adopted" if result["adopted"] else "not adopted, so nothing changes"
    seconds = result["seconds"]
    lines += ["", f"{verdict}: {result['why']}", f"{seconds['all']:.0f} s, {seconds['fit']:.0f} s of them for the gains"]
    return "\n".join([*lines, result["place"]])


def _range(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}"


def _spread(values: list[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    if len(known) < len(values):
        return f"not finite in {len(values) - len(known)} of {len(values)} groups"
    return f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g}"


def draw_gains(run: Run) -> Path:
    """Draw gains.png beside the calibration of a run's weights: the gain over t, of directions from the first to the last."""
    place = calibration_place(run.folder, run.step, run.weights)
    calibration = read_calibration(place)
    t = torch.linspace(0, 1, 201)
    gains = calibration.gain(t, run.model.path).flatten(1)
    last = gains.shape[1] - 1
    chosen = sorted({round((last + 1) ** (i / (SHOWN - 1)) - 1) for i in range(SHOWN)})
    figure = new_figure(5, 3.2)
    axes = figure.add_subplot()
    for i, direction in enumerate(chosen):
        shade = str(0.75 * i / max(1, len(chosen) - 1))
        axes.plot(t, gains[:, direction], color=shade, linewidth=1.2, label=f"{direction + 1}")
    axes.axhline(1, color=INK, linewidth=0.5)
    axes.set(xlabel="t (0 noise, 1 data)", ylabel="gain on the data prediction")
    plain(axes, f"{run.data['name']}, basis {calibration.basis.kind}", label=8)
    axes.legend(title="direction", ncol=2, fontsize=7, title_fontsize=7, frameon=False)
    run.place.check(place)
    save_figure(figure, place / "gains.png")
    return place / "gains.png"
