"""The text of `kdiff estimate`: what it marks, what it leaves out of the headline, what it explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdiff.config.studies import EstimateConfig
from kdiff.data import make_dataset
from kdiff.report.estimate_text import as_text, meaning, spread
from kdiff.studies.estimation import estimate


def test_the_headline_is_of_k_that_mean_something(white) -> None:
    headline, *left = spread(white.predictions)
    kept = [one.k for one in white.predictions if one.doubt is None]
    assert (min(kept), max(kept)) == (pytest.approx(0.5), pytest.approx(64 / 104))
    assert headline.startswith(f"The theories differ by {max(kept) - min(kept):.2f}: from k = 0.500")
    assert headline.endswith("to k = 0.615 (D/(D + d), TwoNN (global)).")
    assert left == [
        "Not counted, because d is at its limit: D/(D + d), energy (local).",
        "Not counted, because minima tie: linear, loss on v, end.",
    ]
    assert len(spread([one for one in white.predictions if one.doubt is None])) == 1


def test_ties_and_limits_are_marked(white) -> None:
    lines = as_text(white).splitlines()
    (row,) = [line for line in lines if line.startswith("  linear, loss on v, end")]
    assert "   0 or 1   losses equal within" in row
    (row,) = [line for line in lines if line.startswith("  energy (local)")]
    assert row.endswith("(at its limit: this method gives at most 19)")
    # The columns stay columns.
    at = lines[next(i for i, line in enumerate(lines) if line.startswith("  theory"))].index("what this k is")
    assert all(line[at - 3 : at] == "   " and line[at] != " " for line in lines if line.startswith(("  linear", "  D/(D + d)")))


def test_an_estimate_within_its_limit_is_told_it(white) -> None:
    within = replace(white, dimensions=[replace(white.dimensions[1], value=11.0)])
    assert "   (this method gives at most 19)" in as_text(within)


@pytest.mark.parametrize("s", [1.0, 2.0])
def test_what_it_means_names_normalisation_and_noise(s) -> None:
    x = np.random.default_rng(0).standard_normal((1000, 20)).astype(np.float32)
    table = make_dataset("table", x, normalise="none")
    views = estimate(table, EstimateConfig(max_points=500, noise_scale=s))
    text, total = meaning(table, views, "my table.csv"), (views[0].total_variance + views[0].squared_mean) / s**2
    assert "(none)" in text
    assert "kdiff compare 'my table.csv' --grid 6" in text
    assert f"E|x|²/s² = {total:.4g}, which gives k = {20 / (20 + total):.3f}." in text
    assert f"{20 / (20 + 4 * total):.3f}" in text
