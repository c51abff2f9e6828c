"""Pictures of fields that were judged: power spectra with their ratio to the data, and one-point histograms, by channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kdiff.report.drawing import INK, new_figure, plain, save_figure

TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST = 4  # channels in a picture
COLOURS = {"heldout": INK, "train": "#9aa3ab", "clean": "#1a7a4c", "paper": "#b9581b"}
NAMES = {
    "heldout": "held-out data",
    "train": "training data",
    "clean": "samples, clean last step",
    "paper": "samples, paper's last step",
}
ORDER = ("train", "heldout", "paper", "clean")  # the samples lie on top


def draw_spectra(path: Path, fields: dict[str, Any]) -> None:
    """Write the spectra of an entry `fields` of evaluation.json: power per mode above, its ratio to held-out data below.

    The grey band is what chance does to the ratio of two sets of these sizes, twice the standard deviation. Thin parts of a
    line are bins that the distance leaves out.
    """
    spectrum, channels = fields["spectrum"], fields["channels"][:MOST]
    frequency, modes = (np.array(spectrum[name], dtype=float) for name in ("frequency", "modes"))
    figure = new_figure(3.4 * len(channels) + 0.6, 4.4)
    axes = figure.subplots(2, len(channels), squeeze=False, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
    density = spectrum["density"]
    for channel, name in enumerate(channels):
        above, below = axes[:, channel]
        used, data = np.array(spectrum["used"][channel]), np.array(density["heldout"][channel])
        first = frequency > 0
        for each in (each for each in ORDER if each in density):
            values = np.array(density[each][channel])
            ratio = np.divide(values, data, out=np.full_like(values, np.nan), where=data > 0)
            for axis, line in ((above, values), (below, ratio)):
                axis.plot(frequency[first], line[first], color=COLOURS[each], linewidth=0.5)
                seen = np.where(used, line, np.nan)
                axis.plot(frequency[first], seen[first], color=COLOURS[each], linewidth=1.4, label=NAMES[each])
        counts = spectrum["counts"]
        samples = min(counts[each] for each in counts if each not in ("train", "heldout"))
        chance = 2 * np.sqrt(2 / (modes * samples) + 2 / (modes * counts["heldout"]))
        below.fill_between(frequency[first], np.exp(-chance[first]), np.exp(chance[first]), color=INK, alpha=0.1, linewidth=0)
        above.set(xscale="log", yscale="log", ylabel="power per mode" if channel == 0 else "")
        below.set(yscale="log", xlabel="frequency (cycles per grid point)", ylabel="ratio to held-out" if channel == 0 else "")
        ratios = [np.array(density[each][channel])[used] / data[used] for each in density]
        farthest = max(
            (float(np.max(np.maximum(each, 1 / np.maximum(each, 1e-12)))) for each in ratios if len(each)), default=1.0
        )
        _ratio_ticks(below, max(2.0, farthest))
        ticks = [tick for tick in TICKS if frequency[1] <= tick <= frequency[-1]]
        below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        below.minorticks_off()
        above.minorticks_off()
        legend: dict[str, Any] = {} if channel else {"loc": "lower left"}
        plain(above, f"channel {name}", **legend)
        plain(below)
    window = "a Hann window" if fields["window"] == "hann" else "no window"
    more = f"; the first {MOST} of {len(fields['channels'])} channels" if len(fields["channels"]) > MOST else ""
    figure.suptitle(f"Power spectra, {window}{more}", fontsize=9, color=INK)
    save_figure(figure, path)


def draw_one_point(path: Path, fields: dict[str, Any]) -> None:
    """Write the histograms of the values of each channel, on a logarithmic scale that shows the tails."""
    channels, histograms = fields["channels"][:MOST], fields["one_point"]["histograms"]
    figure = new_figure(3.4 * len(channels) + 0.6, 2.8)
    for channel, axes in enumerate(figure.subplots(1, len(channels), squeeze=False)[0]):
        draw_histogram(axes, histograms[channel])
        lowest = min(value for name, values in histograms[channel].items() if name != "edges" for value in values if value > 0)
        axes.set(yscale="log", ylim=(lowest / 2, None), xlabel="value", ylabel="density" if channel == 0 else "")
        legend: dict[str, Any] = {} if channel else {"loc": "best"}
        plain(axes, f"channel {channels[channel]}", **legend)
    more = f", the first {MOST} of {len(fields['channels'])} channels" if len(fields["channels"]) > MOST else ""
    figure.suptitle(f"One-point distributions{more}", fontsize=9, color=INK)
    save_figure(figure, path)


def draw_histogram(axes: Axes, histogram: dict[str, list[float]]) -> None:
    """Draw the densities of all sets over the same bins: the held-out data as an area, the others as lines."""
    edges = histogram["edges"]
    for each in (each for each in ORDER if each in histogram):
        filled: dict[str, Any] = {"fill": True, "alpha": 0.18, "linewidth": 0} if each == "heldout" else {"linewidth": 1.1}
        axes.stairs(histogram[each], edges, color=COLOURS[each], label=NAMES[each], **filled)


def _ratio_ticks(axes: Axes, farthest: float) -> None:
    """A range around 1 that holds the ratios up to `farthest` and their inverse, with ticks in plain numbers."""
    high = min(1.15 * farthest, 1e4)
    axes.set_ylim(1 / high, high)
    ticks = (0.5, 1, 2) if high <= 4 else (0.1, 1, 10) if high <= 100 else (1e-3, 1, 1e3)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axhline(1, color=INK, linewidth=0.5)
