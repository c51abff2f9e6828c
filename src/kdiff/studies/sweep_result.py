"""The result of a sweep: all settings with their distances, the best, those not significantly worse, and the cheapest as good.

`kdiff.studies.sweeps` says how settings are compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdiff.studies.paired import MARGIN, intervals
from kdiff.studies.tables import markdown

OPTIONS = ("ema", "solver", "times", "last_step", "steps", "guidance", "guidance_interval")
# What a file holds of a setting (`kdiff.files.schema`).
OPTION = {"ema?": (float, str), "steps?": int, "guidance?": float, "guidance_interval?": [float, float]}
OPTION |= dict.fromkeys(("solver?", "times?", "last_step?"), str)
SETTING = {"options": OPTION, "evaluations": float, "value": (float, None)}


@dataclass(frozen=True)
class Setting:
    """A way to sample, and its result.

    Attributes:
        options: options of `KDiff.sample`, and the weights.
        evaluations: evaluations of the network for each sample; an evaluation with guidance counts as two.
        value: the distance of all samples.
        groups: p of each group; the mean of p is the distance without most of its bias by the number of samples.
        seconds: time to sample and judge.
    """

    options: dict[str, Any]
    evaluations: float
    value: float
    groups: list[float]
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether all samples are finite numbers."""
        return all(map(math.isfinite, (self.value, *self.groups)))

    def label(self, names: Sequence[str]) -> str:
        """The options with these names, as text."""
        return ", ".join(f"{name.replace('_', ' ')} {shown(self.options[name])}" for name in names) or "as given"


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep.

    Attributes:
        settings: all settings, in order.
        measure: the distance that they are compared by.
        varied: names of the options that differ between settings.
        best: the setting closest to the data.
        close: the best setting, and those that are not significantly worse.
        cheap: the setting with the fewest evaluations that is as good: at most 10 % farther off, with 95 % confidence.
    """

    settings: list[Setting]
    measure: str
    varied: list[str]
    best: Setting
    close: list[Setting]
    cheap: Setting


def shown(value: Any) -> str:
    """The value of an option, as short text."""
    if isinstance(value, list | tuple):
        return f"{value[0]:g} … {value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def summarise(settings: list[Setting], measure: str) -> Sweep:
    """The best setting, those that are not significantly worse (the best first), and the cheapest that is as good."""
    finite = [setting for setting in settings if setting.finite]
    if not finite:
        raise RuntimeError(
            "with every setting some samples are not finite numbers (NaN or infinite), so none can be ranked; kdiff sample "
            "shows how many. Try more --steps, --guidance closer to 1, another --checkpoint, or --ema none"
        )
    best, *others = sorted(finite, key=lambda setting: setting.value)
    beyond = {str(i): [a - b for a, b in zip(other.groups, best.groups)] for i, other in enumerate(others)}
    close = [best, *(other for i, other in enumerate(others) if not intervals(beyond)[1][str(i)].low > 0)]
    varied = [name for name in OPTIONS if len({str(setting.options[name]) for setting in settings}) > 1]
    good = [best, *(other for i, other in enumerate(others) if intervals({"": beyond[str(i)]})[0].high < MARGIN * best.value)]
    cheap = min(good, key=lambda setting: (setting.evaluations, setting.value))
    return Sweep(settings, measure, varied, best, close, cheap)


def as_plain(setting: Setting) -> dict[str, Any]:
    """A setting for JSON, which has no infinity: None in its place."""
    far = [value if math.isfinite(value) else None for value in (setting.value, *setting.groups)]
    return {**vars(setting), "value": far[0], "groups": far[1:]}


def table(found: Sweep) -> str:
    """A Markdown table with a line for each setting, the best first."""
    lines = []
    for setting in sorted(found.settings, key=lambda setting: setting.value):
        mark = "best" if setting is found.best else "not significantly worse" if setting in found.close else ""
        if setting is found.cheap and setting is not found.best:
            mark = f"{mark}, cheapest that is as good".strip(", ")
        groups = [a - b for a, b in zip(setting.groups, found.best.groups)]
        beyond = (
            f"{statistics.mean(groups):+.2g} ± {statistics.stdev(groups) / len(groups) ** 0.5:.1g}" if setting.finite else ""
        )
        options = [shown(setting.options[name]) for name in found.varied]
        lines.append([*options, f"{setting.evaluations:g}", f"{setting.value:.4g}", beyond, mark])
    header = [name.replace("_", " ") for name in found.varied]
    return markdown([*header, "evaluations", found.measure, "difference ± standard error", "compared with the best"], lines)


def verdict(found: Sweep) -> str:
    """Sentences that name the best setting, the cheapest that is as good, and how many are not significantly worse."""
    best, cheap = found.best, found.cheap
    text = f"Best: {best.label(found.varied)} ({found.measure} {best.value:.4g}, {best.evaluations:g} evaluations)."
    if cheap is not best:
        text += f" Cheapest that is as good (with 95 % confidence at most {100 * MARGIN:g} % farther from the data): "
        text += f"{cheap.label(found.varied)} ({cheap.value:.4g}, {cheap.evaluations:g} evaluations)."
    if others := len(found.close) - 1:
        text += f" Not significantly worse than the best: {others} of the {len(found.settings) - 1} other settings."
    return text
