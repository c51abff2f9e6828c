"""HTML and curves, piece by piece: what is escaped, where a curve is drawn, which ticks an axis has."""

from __future__ import annotations

import re

import pytest

from kdiff.report.chart import Line, axis_ticks, chart, log_ticks, nice_ticks, position_scale
from kdiff.report.markup import Markup, element, join, number, picture
from kdiff.targets.target import LINE


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
    drawn = chart([Line("k", points, "k")], "k over steps", ticks=axis_ticks(LINE))
    assert 'd="M0.0,1000.0M500.0,500.0 1000.0,0.0"' in drawn
    assert '<circle cx="100.00%" cy="0.00%"' in drawn
    log = chart([Line("loss", [(1, 1.0), (2, 0.1), (3, 0.0), (4, 0.01)], "ink")], "loss", log=True)
    first, second = re.findall(r"M([\d., ]+)", log)
    heights = [float(pair.split(",")[1]) for pair in [*first.split(" "), second]]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert chart([Line("k", [(1, None)], "k")], "k") == ""


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
