"""The picture of `kdiff estimate`: what it marks, and where its labels stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdiff.report.estimate_picture import LINE, RATIOS, _apart, _ends, _predictions, _spectrum


def test_all_minima_that_tie_are_marked(white) -> None:
    axes = Figure().subplots()
    _predictions(axes, white)
    said = [text.get_text() for text in axes.texts]
    assert [text[:5] for text in said if text.endswith("linear, loss on v, end (a tie)")] == ["1.000", "0.000"]
    dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--" and len(line.get_ydata()) == 2]
    assert sorted(dashed) == [0, 1]
    assert sum("(a tie)" in text for text in said) == 2


def test_an_estimate_at_its_limit_is_hollow(white) -> None:
    axes = Figure().subplots()
    _predictions(axes, white)
    fills = {line.get_label(): line.get_markerfacecolor() for line in axes.lines if line.get_marker() in ("o", "D")}
    assert fills["energy (local): d = 18, at its limit"] == "white"
    assert fills["TwoNN (global): d = 40"] != "white"


def test_the_noise_is_drawn_where_its_variance_is(white) -> None:
    axes = Figure().subplots()
    _spectrum(axes, replace(white, noise_scale=2.0))
    assert [text.get_text() for text in axes.texts] == [" variance of the noise: 4"]
    assert any(set(line.get_ydata()) == {4.0} for line in axes.lines)
    assert axes.get_ylim()[1] > 4


def test_the_curve_of_the_v_loss_has_no_end_where_two_minima_are_equal() -> None:
    curve = np.array(_ends())
    assert RATIOS[-1] == 1
    assert np.isnan(curve[-1])
    assert np.all(curve[:-1] > 0.5)


def test_labels_keep_their_order_and_a_line_between_them() -> None:
    heights = [0.5, 0.9, 0.51, 0.505, 0.1]
    places = _apart(heights)
    order = np.argsort(heights)
    assert (np.diff(np.array(places)[order]) >= LINE - 1e-12).all()
    assert max(abs(a - b) for a, b in zip(heights, places)) < 3 * LINE
    assert _apart([]) == []
    # Labels far from the others stand at their own lines, whatever those do.
    assert _apart([0.9, 0.5, 0.5, 0.2])[0::3] == [0.9, 0.2]
    assert np.mean(_apart([0.9, 0.5, 0.5, 0.2])[1:3]) == pytest.approx(0.5)
