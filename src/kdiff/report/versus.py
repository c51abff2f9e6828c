"""A run compared with another: settings that differ, last values, k and loss of both in one figure, samples side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdiff.report.chart import Line, chart
from kdiff.report.evaluation_section import floors_of
from kdiff.report.markup import Markup, code, element, join, note, number, picture, section, table
from kdiff.report.record import Record, names
from kdiff.report.run_text import settings
from kdiff.studies.comparison import MEASURES


def comparison_section(record: Record, other: Record) -> Markup:
    """The part of a page that compares two runs."""
    called = names(record, other)
    parts = [part(record, other, called) for part in (_differing, _ended, _curves, _samples)]
    return section(f"Comparison with {called[1]}", *parts)


def _differing(record: Record, other: Record, called: Sequence[str]) -> Markup:
    one, two = settings(record.config), settings(other.config)
    for run, values in ((record, one), (other, two)):
        values["fingerprint of the data"] = run.data["fingerprint"]
        for package in ("kdiff", "torch"):
            values[package] = str(run.environment.get("packages", {}).get(package))
    both = {name: (one.get(name, "None"), two.get(name, "None")) for name in one | two}
    rows = [[name, code(mine), code(theirs)] for name, (mine, theirs) in both.items() if mine != theirs]
    if not rows:
        return note("The two runs have the same settings, data and versions of kdiff and torch.")
    caption = "The settings, data and versions of kdiff and torch that differ. All others are the same."
    return table(["setting", *called], rows, caption, "Settings that differ")


def _ended(record: Record, other: Record, called: Sequence[str]) -> Markup:
    rows: list[list[object]] = []

    def row(name: str, one: Any, two: Any) -> None:
        if one is not None or two is not None:
            rows.append([name, number(one), number(two)])

    for name in ("step", *dict.fromkeys(each.main for each in (record, other) if each.main), "loss"):
        row(name, record.last.get(name), other.last.get(name))
    row("seconds of training", record.seconds, other.seconds)
    judged = [floors_of(each) for each in (record, other)]
    figures = [result["samplers"]["clean"]["figures"] if result else {} for result in judged]
    for measure, name in MEASURES.items():
        row(name, *(each.get(measure, {}).get("value") for each in figures))
    caption = "The last values of the two runs."
    if record.config.loss_space == other.config.loss_space == "v":
        caption += " The loss is on the velocity for every target, so the losses compare if data and times are the same."
    caption += " The measures of the samples are those with a clean last step." if any(judged) else ""
    return table(["", *called], rows, caption, "Last values of the two runs")


def _curves(record: Record, other: Record, called: Sequence[str]) -> Markup:
    both = list(zip((record, other), called, ("k", "other")))
    own = [Line(name, run.points(run.main or ""), style) for run, name, style in both]
    loss = [Line(name, run.points("loss"), style) for run, name, style in both]
    title = " and ".join(dict.fromkeys(each.main for each in (record, other) if each.main))
    axes = [each.first.axis for each in (record, other) if each.main]
    axis = axes[0] if axes and axes[0] == axes[-1] else None
    runs = f"of {called[0]} and {called[1]} over the steps"
    drawn = {title: chart(own, f"{title} {runs}", axis=axis), "Loss": chart(loss, f"Loss {runs}", log=True)}
    parts = [element("div", element("h3", heading), curves) for heading, curves in drawn.items() if curves]
    if not parts:
        return Markup("")
    caption = element("figcaption", "Both runs over their steps. The legends give the last values.")
    return element("figure", element("div", *parts, class_="pair"), caption)


def _samples(record: Record, other: Record, called: Sequence[str]) -> Markup:
    seen = []
    for run, name in zip((record, other), called):
        usual = [each for each in run.pictures if each.usual]
        if usual:
            caption = join(element("strong", name), f", step {usual[-1].step:,}")
            seen.append(picture(usual[-1].path, f"Samples of {name} at step {usual[-1].step}", caption))
        else:
            seen.append(note(f"{name} has no pictures of samples{f': {run.problem}' if run.problem else '.'}"))
    return element("div", *seen, class_="side")
