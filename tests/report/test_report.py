"""Pictures: each sample in its place, the right size, something on them; what is drawn where for data of any kind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import torch

from kdiff.config.training import TrainConfig
from kdiff.data import load, make_dataset
from kdiff.data.samples import is_image
from kdiff.report.comparison_picture import COLOURS, _draw_quality, draw_comparison, draw_over_time, scales_of, shown_targets
from kdiff.report.drawing import (
    ImageView,
    Points,
    image_grid,
    new_figure,
    save_figure,
    save_samples,
    scale_to,
    short_label,
    view_of,
)
from kdiff.report.run_pictures import draw_run, sample_to_files
from kdiff.report.run_text import describe_run
from kdiff.report.strip_picture import draw_strip
from kdiff.run.run import load_run
from kdiff.studies.collecting import collect
from kdiff.studies.runner import Job, execute, make_jobs
from kdiff.targets import Axis
from kdiff.training.trainer import train_run

TARGETS = ["noise", 0.1, 0.2, 0.3, 0.4, "velocity", 0.6, 0.8, 0.9, "data", "learned(rate=1)"]
CONFIG = TrainConfig(network="MLP(width=8, depth=1)", steps=4, batch_size=16, log_every=1)


def pixels(path: Path) -> np.ndarray:
    """A PNG as (height, width, 3) whole numbers."""
    return np.round(matplotlib.image.imread(path)[:, :, :3] * 255).astype(int)


def colours(path: Path) -> set[tuple[int, ...]]:
    codes = np.unique(pixels(path) @ [1 << 16, 1 << 8, 1])
    return {(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()}


def rgb(name: str) -> tuple[int, ...]:
    return tuple(round(255 * value) for value in matplotlib.colors.to_rgb(name))


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if "partial" in path.name]


# Images as a grid


def test_a_grid_of_images_to_the_pixel() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]], [[[4.0, 4.0], [4.0, 4.0]]], [[[-9.0, 0.0], [2.0, 99.0]]]])
    grid = image_grid(x, columns=2, low=0, high=4)
    gap = 0.5
    expected = [
        [0.00, 0.25, gap, 1.0, 1.0],
        [0.50, 0.75, gap, 1.0, 1.0],
        [gap, gap, gap, gap, gap],
        [0.00, 0.00, gap, gap, gap],
        [0.50, 1.00, gap, gap, gap],
    ]
    np.testing.assert_array_equal(grid, np.repeat(np.array(expected)[:, :, None], 3, axis=2))


def test_a_grid_of_colour_images_keeps_channels_rows_and_columns_apart() -> None:
    x = torch.rand(5, 3, 4, 6)
    grid = image_grid(x, columns=3, low=0, high=1)
    assert grid.shape == (2 * 5 - 1, 3 * 7 - 1, 3)
    for i, image in enumerate(x):
        row, column = divmod(i, 3)
        np.testing.assert_array_equal(grid[row * 5 : row * 5 + 4, column * 7 : column * 7 + 6], image.permute(1, 2, 0))


@pytest.mark.parametrize(
    ("shape", "image"),
    [((1, 8, 8), True), ((3, 4, 9), True), ((2, 8, 8), False), ((4, 8, 8), False), ((1, 3, 8), False), ((5,), False)],
)
def test_what_is_an_image(shape, image) -> None:
    assert is_image(shape) == image
    data = torch.randn(20, *shape)
    view = view_of(data)
    assert isinstance(view, ImageView) == image
    if isinstance(view, ImageView):
        assert (view.low, view.high) == (data.min().item(), data.max().item())


# Samples as points


def test_points_of_a_known_plane_are_drawn_by_their_coordinates() -> None:
    flat, high = load("spiral", num_samples=200), load("spiral", num_samples=200, ambient_dim=10, embedding="curved")
    place = Points(high.x, high.manifold).place(high.x)
    torch.testing.assert_close(place, flat.x, rtol=0, atol=1e-5)
    sphere = load("sphere", num_samples=100, ambient_dim=6)
    view = Points(sphere.x, sphere.manifold)
    torch.testing.assert_close(view.place(sphere.x), sphere.manifold.coordinates(sphere.x)[:, :2])


def test_points_in_the_plane_are_turned_at_most() -> None:
    x = torch.randn(50, 2) * torch.tensor([1.0, 3.0])
    place = Points(x).place(x)
    torch.testing.assert_close(torch.pdist(place), torch.pdist(x))
    assert place[:, 0].var() > place[:, 1].var()


def test_one_dimension_is_drawn_on_a_line() -> None:
    x = torch.randn(50, 1)
    view = Points(x)
    torch.testing.assert_close(view.place(x), torch.cat([x, torch.zeros(50, 1)], dim=1))
    assert view.limits[1] == (-1, 1)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), (5000,), (2, 50, 50)])
def test_other_samples_are_drawn_where_they_vary_most(shape) -> None:
    """The plane with the most variance of all, for few dimensions and for more than a covariance can be computed for."""
    dimension = math.prod(shape)
    basis = torch.linalg.qr(torch.randn(dimension, 2)).Q
    coordinates = torch.randn(60, 2) * torch.tensor([5.0, 2.0])
    x = coordinates @ basis.T + 0.01 * torch.randn(60, dimension) / math.sqrt(dimension)
    view = Points(x.reshape(60, *shape))
    place = view.place(x.reshape(60, *shape))
    assert place.shape == (60, 2)
    torch.testing.assert_close(view.directions.T @ view.directions, torch.eye(2), rtol=0, atol=1e-5)
    assert place.var(dim=0).sum() / x.var(dim=0).sum() > 0.999
    assert place[:, 0].var() > 2 * place[:, 1].var()


def test_a_single_sample_can_be_drawn() -> None:
    assert Points(torch.randn(1, 5)).place(torch.randn(3, 5)).shape == (3, 2)


def test_limits_leave_a_margin_around_the_data() -> None:
    x = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 2.0], [10.0, 2.0]])
    for (low, high), values in zip(Points(x).limits, Points(x).place(x).T):
        size = float(values.max() - values.min())
        assert (low, high) == pytest.approx((float(values.min()) - 0.15 * size, float(values.max()) + 0.15 * size))


# Files


def test_a_picture_has_its_size_and_nothing_is_left_beside_it(tmp_path) -> None:
    figure = new_figure(2, 1.5)
    figure.add_subplot().plot([0, 1], [0, 1], color="#ff0000", linewidth=5)
    save_figure(figure, tmp_path / "line.png")
    assert pixels(tmp_path / "line.png").shape == (225, 300, 3)
    assert {(255, 255, 255), (255, 0, 0)} <= colours(tmp_path / "line.png")
    assert parts(tmp_path) == []


def test_pictures_of_samples_show_the_samples(tmp_path) -> None:
    low, high = ImageView(-1, 1), Points(torch.randn(100, 2))
    save_samples(tmp_path / "dark.png", -torch.ones(4, 1, 4, 4), low)
    save_samples(tmp_path / "bright.png", torch.ones(4, 1, 4, 4), low)
    save_samples(tmp_path / "colour.png", torch.tensor([1.0, -1, -1]).reshape(1, 3, 1, 1).expand(4, 3, 4, 4), low)
    save_samples(tmp_path / "points.png", torch.randn(100, 2), high, title="points")
    for path in tmp_path.iterdir():
        assert pixels(path).shape == (795, 750, 3)
        assert len(colours(path)) > 1
    assert (0, 0, 0) in colours(tmp_path / "dark.png")
    assert (0, 0, 0) not in colours(tmp_path / "bright.png")
    assert (255, 0, 0) in colours(tmp_path / "colour.png")
    gray = np.abs(pixels(tmp_path / "points.png") - 255).sum()
    save_samples(tmp_path / "none.png", torch.randn(0, 2), high, title="points")
    assert gray > np.abs(pixels(tmp_path / "none.png") - 255).sum()


def test_no_more_samples_are_drawn_than_can_be_seen(tmp_path) -> None:
    x = torch.rand(100, 1, 4, 4)
    for name, count in (("all", 100), ("first", 64), ("fewer", 60)):
        save_samples(tmp_path / f"{name}.png", x[:count], ImageView(0, 1))
    assert np.array_equal(pixels(tmp_path / "all.png"), pixels(tmp_path / "first.png"))
    assert not np.array_equal(pixels(tmp_path / "all.png"), pixels(tmp_path / "fewer.png"))


# Runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlabelled images of 4×4 pixels."""
    path = tmp_path_factory.mktemp("data") / "tiles.npz"
    np.savez(path, x=np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32))
    return path


@pytest.mark.parametrize("target", ["learned(rate=1)", "general(a=1, b=1)"])
def test_the_pictures_of_a_run(target, images, tmp_path) -> None:
    run = train_run(replace(CONFIG, data=str(images), target=target), tmp_path / "run")
    curves, samples, denoising = draw_run(run)
    assert denoising == tmp_path / "run" / "denoising.png"
    assert curves == tmp_path / "run" / "training.png"
    assert pixels(curves).shape == (450, 1200, 3)
    learned = target.startswith("learned")
    assert (rgb("#55a868") in colours(curves)) == learned, "k is drawn where there is one"
    assert rgb("#4c72b0") in colours(curves)
    assert samples == tmp_path / "run" / "samples" / "step_00000004_seed_0.png"
    assert pixels(samples).shape == (795, 750, 3)
    text = describe_run(run)
    assert ("k=0.9" in text) == learned
    assert "no classes, normalisation 'standard'" in text


def test_samples_go_where_they_are_wanted(images, tmp_path) -> None:
    run = train_run(replace(CONFIG, data=str(images)), tmp_path / "run")
    files = sample_to_files(run, 3, 5, tmp_path / "new" / "v1.2", steps=3)
    assert files == [tmp_path / "new" / f"v1.2{ending}" for ending in (".png", ".safetensors", ".json")]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())


def test_vectors_of_many_dimensions_are_trained_on_and_drawn(tmp_path) -> None:
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).standard_normal((60, 4100)).astype(np.float32))
    run = train_run(replace(CONFIG, data=str(tmp_path / "wide.npy")), tmp_path / "run")
    for path in draw_run(run):
        assert len(colours(path)) > 10


# Comparisons


def judged(data: str, targets: list, seeds: list[int], out: Path, exact: bool) -> tuple[list[Job], list[dict]]:
    jobs = make_jobs({"cell": replace(CONFIG, data=data)}, targets, seeds, out, 1, exact)
    for job in jobs:
        execute(job)
    return jobs, collect(jobs, out)


def test_a_comparison_of_many_targets_and_one_seed(images, tmp_path) -> None:
    """Where no curve shows them, all have a panel of samples and figures, in as many colours as there are."""
    targets = [f"learned(init={0.05 * i:.2g})" for i in range(1, 12)]
    assert len(targets) > len(COLOURS)
    jobs, rows = judged(str(images), targets, [0], tmp_path, exact=False)
    draw_comparison(tmp_path / "comparison.png", jobs, rows, load(str(images)))
    assert pixels(tmp_path / "comparison.png").shape == (1230, round(7 * 2.3 * 150), 3)
    assert {rgb(colour) for colour in COLOURS} <= colours(tmp_path / "comparison.png")
    assert parts(tmp_path) == []


def test_a_comparison_with_a_grid_of_fixed_k(images, tmp_path) -> None:
    """One line of samples and a line of curves more; the usual targets have the colours they have everywhere."""
    jobs, rows = judged(str(images), [*TARGETS, "learned"], [0], tmp_path, exact=False)
    draw_comparison(tmp_path / "comparison.png", jobs, rows, load(str(images)))
    shown = shown_targets(rows)
    assert pixels(tmp_path / "comparison.png").shape == (round(8.6 * 150), round(min(len(shown) + 1, 7) * 2.3 * 150), 3)
    assert {rgb(colour) for colour in COLOURS[:4]} <= colours(tmp_path / "comparison.png")


def by_hand(values: dict[str, float], **more: Any) -> list[dict]:
    common = {"measure": "frechet", "exact": None, "heldout": 0.4, "group_size": 50, "k": 0.5, **more}
    return [
        {**common, "target": target, "seed": seed, "sampler": sampler, "value": value * (1 + seed / 10), "grouped": 0.5 + value}
        for target, value in values.items()
        for seed in (0, 1)
        for sampler in ("paper", "clean")
    ]


def test_samples_are_shown_of_few_targets() -> None:
    fixed = {f"{i / 20:g}": 1 + (i / 20 - 0.85) ** 2 for i in range(1, 20)}
    ends = {"noise": 9.0, "data": 2.0}
    assert shown_targets(by_hand({**fixed, **ends, "learned": 1.0})) == ["0.5", "0.85", "noise", "data", "learned"]
    assert shown_targets(by_hand(fixed)) == ["0.05", "0.5", "0.85", "0.95"]
    few = {target: fixed[target] for target in ("0.7", "0.8", "0.9", "0.95")}
    assert shown_targets(by_hand({**few, "learned": 1.0, "data": 1.0})) == [*few, "learned", "data"]
    many = {f"learned(init={i / 20:g})": 1.0 for i in range(1, 20)}
    assert shown_targets(by_hand(many)) == list(many), "no curve has them"
    assert set(many) < set(shown_targets(by_hand({**fixed, **many})))


def test_a_target_far_worse_than_all_others_does_not_set_their_scale() -> None:
    """It is an arrow at the edge with its mean; one within the scale is a point at its value."""
    axes = {}
    for noise in (3.0, 3000.0):
        axes[noise] = new_figure(6, 3).add_subplot()
        rows = by_hand({"noise": noise, "velocity": 0.1, "learned": 0.05})
        _draw_quality(axes[noise], rows, "frechet", dict.fromkeys(("noise", "velocity", "learned"), "#ff0000"))
    assert axes[3.0].get_ylim()[1] > 3.3
    assert [text.get_text() for text in axes[3.0].texts] == []
    low, high = axes[3000.0].get_ylim()
    assert 0.5 < high < 10, "the groups of the others, and room for the arrows"
    assert [text.get_text() for text in axes[3000.0].texts] == ["3.15e+03", "3.15e+03", "3e+03"]
    for noise, arrows in ((3.0, 0), (3000.0, 3)):
        assert sum(line.get_marker() == "^" and len(line.get_xdata()) == 1 for line in axes[noise].lines) == arrows
        handles = [text.get_text() for text in axes[noise].get_legend().get_texts()]
        assert ("beyond the scale; the number is the mean" in handles) == bool(arrows)
    # The others are where they were: 2 samplers × 2 seeds and a group each, within the axes.
    for value in (0.1, 0.11, 0.05, 0.055):
        drawn = [line for line in axes[3000.0].lines if np.isclose(line.get_ydata(), value).any()]
        assert len(drawn) == 2
        assert low < value < high


@pytest.mark.parametrize("exact", [None, 0.02])
def test_the_floor_of_an_exact_denoiser_is_drawn_where_it_was_computed(exact) -> None:
    axes = new_figure(6, 3).add_subplot()
    _draw_quality(
        axes, by_hand({"noise": 1.0, "data": 2.0}, exact=exact), "frechet", dict.fromkeys(("noise", "data"), "#ff0000")
    )
    floors = [line for line in axes.lines if line.get_color() == "#999999" and len(line.get_xdata())]
    assert [line.get_ydata()[0] for line in floors] == ([] if exact is None else [0.02] * 4)
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert ("floor: exact denoiser" in named) == (exact is not None)


def test_k_is_drawn_from_where_it_begins(images, tmp_path) -> None:
    jobs, _ = judged(str(images), ["learned(init=0.3)", 0.9, "general(a=1, b=1)"], [0], tmp_path, exact=False)
    axes = new_figure(4, 3).add_subplot()
    (scale,) = scales_of(jobs)
    draw_over_time(axes, jobs, dict.fromkeys((job.target for job in jobs), "#ff0000"), scale)
    learned, fixed = (line.get_xydata() for line in axes.lines)
    assert learned[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert learned[0, 1] == pytest.approx(0.3)
    assert learned[1, 1] != learned[0, 1]
    np.testing.assert_allclose(fixed, [[step, 0.9] for step in range(5)])


@pytest.mark.parametrize("names", [{}, {1.0: "one"}])
def test_an_axis_has_its_ends_and_values_outside_are_drawn(names) -> None:
    axes = new_figure(4, 3).add_subplot()
    axes.plot([0, 1], [2.0, 9.0])
    scale_to(axes, Axis(0.0, 5.0, names))
    low, high = axes.get_ylim()
    assert low < 0
    assert high > 9
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", *[f"1  {name}" for name in names.values()], "5"]


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("mine.parts.Ratio(start=1.0)", "Ratio(start=1.0)"),
        ("mine.parts:Ratio", "Ratio"),
        ("0.9", "0.9"),
        ("learned(init=0.3)", "learned(init=0.3)"),
        ("fixed(k=a.b)", "fixed(k=a.b)"),
    ],
)
def test_titles_have_the_name_of_a_class_without_its_path(label, short) -> None:
    assert short_label(label) == short


def test_the_labels_of_targets_do_not_run_into_the_legend() -> None:
    targets = [f"some.module.TargetWithALongName(start={i})" for i in range(7)]
    figure = new_figure(8, 4)
    axes = figure.add_subplot()
    _draw_quality(axes, by_hand(dict.fromkeys(targets, 1.0)), "frechet", dict.fromkeys(targets, "#ff0000"))
    figure.draw_without_rendering()
    lowest = min(label.get_window_extent().y0 for label in axes.get_xticklabels())
    assert axes.get_legend().get_window_extent().y1 < lowest


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 16, 16), (3, 8, 12), (7,)], ids=str)
def test_a_strip_is_as_high_as_its_samples(shape, tmp_path) -> None:
    """There is no band of white above or below them."""
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((60, *shape)).astype(np.float32))
    jobs, rows = judged(str(tmp_path / "data.npz"), ["velocity", "learned"], [0], tmp_path, exact=False)
    draw_strip(tmp_path / "strip.png", jobs, load(str(tmp_path / "data.npz")))
    draw_comparison(tmp_path / "comparison.png", jobs, rows, load(str(tmp_path / "data.npz")))
    strip = pixels(tmp_path / "strip.png")
    inked = np.flatnonzero((strip[:, : strip.shape[1] // 2] < 255).any(axis=(1, 2)))
    assert inked[0] < 15
    assert strip.shape[0] - inked[-1] < 15
    assert strip.shape[1] == round(2.1 * 3.4 * 150)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_comparison_on_a_table_of_any_width(width, tmp_path) -> None:
    np.save(tmp_path / "table.npy", np.random.default_rng(0).standard_normal((60, width)))
    jobs, rows = judged(str(tmp_path / "table.npy"), ["general(a=1, b=1)", "data"], [0, 1], tmp_path, exact=False)
    draw_comparison(tmp_path / "comparison.png", jobs, rows, load(tmp_path / "table.npy"))
    assert pixels(tmp_path / "comparison.png").shape == (840, 1200, 3)
    drawn = colours(tmp_path / "comparison.png")
    # The first free colour, and data's own.
    assert [rgb(colour) in drawn for colour in COLOURS[:4]] == [True, False, True, False]


def test_a_comparison_on_a_manifold_shows_samples_in_its_plane(tmp_path) -> None:
    data = "sphere(num_samples=200, ambient_dim=5)"
    jobs, rows = judged(data, ["velocity"], [0], tmp_path, exact=False)
    dataset = load("sphere", num_samples=200, ambient_dim=5)
    draw_comparison(tmp_path / "comparison.png", jobs, rows, dataset)
    other = make_dataset("other", dataset.x.numpy())
    draw_comparison(tmp_path / "other.png", jobs, rows, other)
    assert not np.array_equal(pixels(tmp_path / "comparison.png"), pixels(tmp_path / "other.png"))
    assert load_run(jobs[0].folder).shape == other.shape
