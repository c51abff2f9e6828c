"""HTML and curves, piece by piece: what is escaped, where a curve is drawn, which ticks an axis has."""

from __future__ import annotations

import re

import pytest

from kdiff.report.chart import Line, chart, log_ticks, nice_ticks, position_scale
from kdiff.report.markup import Markup, element, join, number, picture
from kdiff.targets import LINE, Axis


def test_elements_escape_what_is_no_markup() -> None:
    assert element("p", "a < b & c", class_='"x"') == '<p class="&quot;x&quot;">a &lt; b &amp; c</p>'
    assert element("p", element("b", "<"), None, 3, aria_label=None) == "<p><b>&lt;</b>3</p>"
    assert element("br") == "<br>"
    assert isinstance(join("<", Markup("<i>")), Markup)
    assert join("<", Markup("<i>")) == "&lt;<i>"
    assert number(0.123456789) == '<data value="0.123456789">0.1235</data>'
    assert number(12345) == '<data value="12345">12,345</data>'
    assert number(None) == number(float("nan")) == number(float("inf")) == "–"


def test_what_is_no_picture_is_refused(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"a\.png is not a PNG file"):
        picture(tmp_path / "a.png", "a")


# Curves


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7), (0, 4000), (0, 250000), (0.31, 0.32), (-3, 2), (1e-9, 3e-9)])
def test_ticks_are_round_and_within(low, high) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    steps = {round(b - a, 12) for a, b in zip(ticks, ticks[1:])}
    assert len(steps) == 1
    assert f"{steps.pop():.0e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(0.2, 1.4), (1e-6, 1e3), (0.3, 0.34), (0.9, 11)])
def test_logarithmic_ticks_are_within(low, high) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)


def test_a_curve_is_where_its_numbers_are() -> None:
    points = [(0, 0.0), (5, None), (5, 0.5), (10, 1.0)]
    drawn = chart([Line("k", points, "k")], "k over steps", axis=LINE)
    assert 'd="M0.0,1000.0M500.0,500.0 1000.0,0.0"' in drawn
    assert '<circle cx="100.00%" cy="0.00%"' in drawn
    log = chart([Line("loss", [(1, 1.0), (2, 0.1), (3, 0.0), (4, 0.01)], "ink")], "loss", log=True)
    first, second = re.findall(r"M([\d., ]+)", log)
    heights = [float(pair.split(",")[1]) for pair in [*first.split(" "), second]]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert chart([Line("k", [(1, None)], "k")], "k") == ""


def labels(drawn: str) -> list[str]:
    """The texts of a picture at its vertical axis, in order."""
    return re.findall(r'<text x="-10"[^>]*>([^<]*)<', drawn)


def heights(drawn: str) -> list[float]:
    """The points of the only curve, as their distance from the top in thousandths."""
    path = re.search(r'd="M([^"]*)"', drawn)
    assert path
    return [float(pair.split(",")[1]) for pair in path[1].split(" ")]


@pytest.mark.parametrize(("names", "shown"), [({1.0: "one"}, ["0", "one 1", "5"]), ({}, ["0", "5"])])
def test_a_targets_own_axis_is_drawn_from_end_to_end_whatever_names_it_has(names, shown) -> None:
    axis = Axis(0.0, 5.0, names)
    within = chart([Line("ratio", [(0, 0.0), (1, 1.0), (2, 5.0)], "k")], "ratio", axis=axis)
    assert labels(within) == shown
    assert heights(within) == [1000, 800, 0]
    beyond = chart([Line("ratio", [(0, -5.0), (1, 1.0), (2, 15.0)], "k")], "ratio", axis=axis)
    assert labels(beyond) == shown
    assert heights(beyond) == [1000, 700, 0], "a value outside of the axis is on the picture"
    scale = position_scale(axis, "ratio", 1.25, 2.5)
    assert 'cx="25.00%"' in scale
    assert 'cx="50.00%"' in scale
    assert 'cx="100.00%"' in position_scale(axis, "ratio", 10.0, 2.5)


def test_of_very_many_points_some_are_drawn_and_the_last() -> None:
    drawn = chart([Line("loss", [(i, 1.0 + i) for i in range(1, 10_001)], "ink")], "loss")
    points = re.search(r'd="M([^"]+)"', drawn)
    assert points
    assert 500 < len(points[1].split(" ")) <= 1000
    assert points[1].split(" ")[-1].startswith("1000.0,")


def test_k_on_its_line() -> None:
    moved = position_scale(LINE, "k", 0.875, 0.5)
    assert 'cx="87.50%"' in moved
    assert 'cx="50.00%"' in moved
    assert position_scale(LINE, "k", 0.5, 0.5).count("<circle") == 1
