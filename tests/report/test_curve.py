"""The curve over k on rows written by hand: what is drawn where, and on which scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from kdiff.report.curve import draw_curve, draw_losses
from kdiff.report.drawing import new_figure

KS = {"noise": 0.0, "0.25": 0.25, "velocity": 0.5, "data": 1.0}


def rows_of(values: dict[str, list[float]], **more: Any) -> list[dict[str, Any]]:
    """Rows of targets with a value per seed, under two samplers and for two measures, of which one is to be drawn."""
    return [
        {
            "target": target,
            "seed": seed,
            "sampler": sampler,
            "measure": measure,
            "value": value if (sampler, measure) == ("clean", "frechet") else 1e6,
            "exact": None,
            "k": KS.get(target, 0.8 + 0.01 * seed),
            "loss": 1.0 + 0.1 * seed,
            "loss_along": 0.7,
            "loss_across": 0.3 + 0.1 * seed,
            **more,
        }
        for target, seeds in values.items()
        for seed, value in enumerate(seeds)
        for sampler in ("paper", "clean")
        for measure in ("frechet", "copying")
    ]


def axes_of() -> Axes:
    return new_figure(4, 3).add_subplot()


def lines(axes: Axes, marker: str) -> list[np.ndarray]:
    """The points (N, 2) of each line with this marker, "None" for a line without, leaving out those that are for the legend."""
    return [line.get_xydata() for line in axes.lines if line.get_marker() == marker and len(line.get_xydata())]


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


VALUES = {"data": [1.0, 3.0], "learned": [1.5, 1.2], "noise": [4.0, 8.0], "velocity": [2.0, 3.0], "0.25": [3.0, 5.0]}


def test_the_line_joins_the_means_of_the_fixed_k_and_points_are_seeds() -> None:
    axes = axes_of()
    draw_curve(axes, rows_of(VALUES), "frechet")
    (means,) = lines(axes, "None")
    np.testing.assert_allclose(means, [[0, 6], [0.25, 4], [0.5, 2.5], [1, 2]])
    points = sorted(map(tuple, np.concatenate(lines(axes, "o")).tolist()))
    assert points == sorted((KS[target], value) for target, values in VALUES.items() if target in KS for value in values)


def test_a_learned_k_lies_where_it_ended_and_not_on_the_line() -> None:
    axes = axes_of()
    rows = rows_of(VALUES) + rows_of({"general(a=1, b=1)": [7.0]}, k=None)
    draw_curve(axes, rows, "frechet", colours={"learned": "#123456", "data": "#654321"})
    (stars,) = lines(axes, "*")
    np.testing.assert_allclose(stars, [[0.8, 1.5], [0.81, 1.2]])
    colours = {line.get_marker(): line.get_color() for line in axes.lines}
    assert colours["*"] == "#123456"
    assert {line.get_color() for line in axes.lines if line.get_xdata()[0] == 1} == {"#654321"}
    assert "learned: k = 0.805 ± 0.007" in labels(axes)
    assert not any("general" in label for label in labels(axes))
    axes = axes_of()
    draw_curve(axes, [{**row, "main_number": "mean k", "mean k": row["k"]} for row in rows], "frechet")
    assert "learned: mean k = 0.805 ± 0.007" in labels(axes)


def test_one_k_under_two_names_is_one_point_of_the_line() -> None:
    axes = axes_of()
    draw_curve(axes, rows_of({"noise": [4.0], "0": [8.0], "0.25": [3.0], "data": [1.0]}), "frechet")
    (means,) = lines(axes, "None")
    np.testing.assert_allclose(means, [[0, 6], [0.25, 3], [1, 1]])


@pytest.mark.parametrize(("highest", "scale"), [(9.0, "linear"), (11.0, "log"), (1e6, "log")])
def test_the_scale_is_logarithmic_where_the_range_asks_for_it(highest, scale) -> None:
    axes = axes_of()
    draw_curve(axes, rows_of({"noise": [highest], "0.25": [1.0], "data": [2.0], "learned": [1.5]}), "frechet")
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert (low == 0) == (scale == "linear")
    assert low < 1 < highest < high
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


def test_a_learned_k_far_off_the_curve_widens_the_axes() -> None:
    axes = axes_of()
    draw_curve(axes, rows_of({"noise": [2.0], "0.25": [1.0], "data": [2.0], "learned": [50.0]}), "frechet")
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[1] > 50


def test_a_zero_has_no_logarithm() -> None:
    axes = axes_of()
    draw_curve(axes, rows_of({"noise": [100.0], "0.25": [0.0], "data": [2.0]}), "frechet")
    assert axes.get_yscale() == "linear"


def test_the_floor_is_drawn_where_it_was_computed() -> None:
    axes = axes_of()
    draw_curve(axes, rows_of(VALUES), "frechet")
    assert not any("floor" in label for label in labels(axes))
    axes, floors = axes_of(), {"noise": 0.5, "0.25": 0.75, "velocity": 0.5, "data": 0.25, "learned": 0.1}
    rows = rows_of(VALUES)
    draw_curve(axes, [{**row, "exact": floors[row["target"]] if row["seed"] == 0 else None} for row in rows], "frechet")
    floor = next(line for line in axes.lines if "floor" in line.get_label())
    np.testing.assert_allclose(floor.get_xydata(), [[0, 0.5], [0.25, 0.75], [0.5, 0.5], [1, 0.25]])


def test_the_usual_targets_are_named_on_a_whole_axis_only() -> None:
    whole, part = axes_of(), axes_of()
    draw_curve(whole, rows_of(VALUES), "frechet")
    draw_curve(part, [{**row, "k": 0.5 + row["k"] / 2} for row in rows_of(VALUES)], "frechet")
    assert any("velocity" in tick.get_text() for tick in whole.get_xticklabels())
    assert not any("velocity" in tick.get_text() for tick in part.get_xticklabels())


# Losses


def test_the_parts_of_the_loss_add_up_to_it_for_every_k() -> None:
    axes = axes_of()
    draw_losses(axes, rows_of(VALUES))
    loss, along, across = lines(axes, "None")
    np.testing.assert_allclose(along[:, 1] + across[:, 1], loss[:, 1])
    np.testing.assert_allclose(loss, [[k, 1.05] for k in sorted(KS.values())])
    stars = lines(axes, "*")
    assert len(stars) == 3
    np.testing.assert_allclose(stars[0], [[0.8, 1.0], [0.81, 1.1]])
    # A run has a row for each sampler and measure, and one point.
    assert sum(len(points) for points in lines(axes, "o")) == 3 * 2 * len(KS)


def test_without_principal_directions_there_is_the_loss_alone() -> None:
    axes = axes_of()
    draw_losses(axes, rows_of(VALUES, loss_along=None, loss_across=None))
    assert len(lines(axes, "None")) == 1
    assert labels(axes) == ["loss", "the loss is clamped"]


@pytest.mark.parametrize("rounding", [1e-8, 0.0, -1e-8])
def test_a_part_that_is_rounding_does_not_set_the_scale(rounding) -> None:
    """Data that fill their space have no directions across: what is left there is the rounding of a difference."""
    axes = axes_of()
    draw_losses(axes, rows_of(VALUES, loss_along=1.0, loss_across=rounding))
    assert len(lines(axes, "None")) == 2
    assert axes.get_yscale() == "linear"
    assert "across them: none" in labels(axes)


@pytest.mark.parametrize(
    ("ks", "spans"), [((0.0, 0.5, 1.0), [(0, 0.05), (0.95, 1)]), ((0.7, 0.8, 0.9), []), ((0.02, 0.5, 0.9), [(0.0, 0.05)])]
)
def test_where_the_loss_is_clamped_is_shaded_within_the_axes(ks, spans) -> None:
    axes = axes_of()
    draw_losses(axes, [row for k in ks for row in rows_of({f"{k:g}": [1.0]}, k=k)])
    drawn = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    np.testing.assert_allclose(np.array(drawn), np.array(spans), atol=1e-9)
    assert labels(axes).count("the loss is clamped") == bool(spans)


def test_a_loss_that_has_no_clamp_is_not_shaded() -> None:
    axes = axes_of()
    draw_losses(axes, rows_of(VALUES), clamped=False)
    assert list(axes.patches) == []
