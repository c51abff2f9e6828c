"""A run beside another: settings that differ, how both ended, k and loss of both in one figure, samples side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdiff.experiments.compare import MEASURES
from kdiff.report.chart import K_TICKS, Line, chart
from kdiff.report.judged import floors_of
from kdiff.report.markup import Markup, code, element, join, note, number, picture, section, table
from kdiff.report.record import Record, names
from kdiff.report.run import settings


def comparison_section(record: Record, other: Record) -> Markup:
    """The two runs side by side."""
    called = names(record, other)
    return section(
        f"Beside {called[1]}",
        _differing(record, other, called),
        _ended(record, other, called),
        _curves(record, other, called),
        _samples(record, other, called),
    )


def _differing(record: Record, other: Record, called: Sequence[str]) -> Markup:
    one, two = settings(record.config), settings(other.config)
    one["content of the data"], two["content of the data"] = record.data["fingerprint"], other.data["fingerprint"]
    for package in ("kdiff", "torch"):
        for run, values in ((record, one), (other, two)):
            values[package] = str(run.environment.get("packages", {}).get(package))
    both = {name: (one.get(name, "None"), two.get(name, "None")) for name in one | two}
    rows = [[name, code(mine), code(theirs)] for name, (mine, theirs) in both.items() if mine != theirs]
    if not rows:
        return note("The two runs have the same settings, data and versions of kdiff and torch.")
    return table(["setting", *called], rows, "What differs; everything else is the same.", "Settings that differ")


def _ended(record: Record, other: Record, called: Sequence[str]) -> Markup:
    rows: list[list[object]] = []

    def row(name: str, one: Any, two: Any) -> None:
        if one is not None or two is not None:
            rows.append([name, number(one), number(two)])

    row("step", record.last.get("step"), other.last.get("step"))
    row("k", record.last.get("k"), other.last.get("k"))
    row("loss", record.last.get("loss"), other.last.get("loss"))
    row("seconds of training", record.seconds, other.seconds)
    judged = [floors_of(each) for each in (record, other)]
    figures = [result["samplers"]["clean"]["figures"] if result else {} for result in judged]
    for measure, name in MEASURES.items():
        row(name, *(each.get(measure, {}).get("value") for each in figures))
    caption = "How they ended."
    if record.config.loss_space == other.config.loss_space == "v":
        caption += " The loss is on the velocity, whatever the target; of the same data and times the two compare."
    caption += " Figures are those with a clean last step." if any(judged) else ""
    return table(["", *called], rows, caption, "How the two runs ended")


def _curves(record: Record, other: Record, called: Sequence[str]) -> Markup:
    both = list(zip((record, other), called, ("k", "other")))
    k = [Line(name, [(row["step"], row.get("k")) for row in [run.start, *run.rows]], style) for run, name, style in both]
    loss = [Line(name, run.points("loss"), style) for run, name, style in both]
    drawn = [
        (title, chart(lines, f"{title} of {called[0]} and {called[1]} over the steps", **how))
        for title, lines, how in (("k", k, {"ticks": K_TICKS}), ("Loss", loss, {"log": True}))
    ]
    parts = [element("div", element("h3", title), curves) for title, curves in drawn if curves]
    if not parts:
        return Markup("")
    caption = element("figcaption", "Both runs over their steps; the numbers are where they ended.")
    return element("figure", element("div", *parts, class_="pair"), caption)


def _samples(record: Record, other: Record, called: Sequence[str]) -> Markup:
    seen = []
    for run, name in zip((record, other), called):
        usual = [each for each in run.pictures if each.usual]
        if usual:
            caption = join(element("strong", name), f", step {usual[-1].step:,}")
            seen.append(picture(usual[-1].path, f"Samples of {name} at step {usual[-1].step}", caption))
        else:
            seen.append(note(f"{name} has no pictures of samples: ", run.problem or ""))
    return element("div", *seen, class_="side")
