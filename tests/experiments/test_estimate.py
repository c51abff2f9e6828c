"""What k should be before training: dimensions and predictions of known data, as text, JSON and picture."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kdiff.cli import main
from kdiff.data import load
from kdiff.experiments.config import EstimateConfig
from kdiff.experiments.estimate import as_text, estimate, meaning, patch_size
from kdiff.report.estimate import LINE, RATIOS, _apart, _ends
from kdiff.theory import optimal_k

CONFIG = EstimateConfig(max_points=1000)


@pytest.fixture(scope="module")
def plane():
    """20 dimensions, 4 of them of variance 2."""
    return load("gaussian", num_samples=3000, ambient_dim=20, intrinsic_dim=4, variance=2.0)


@pytest.fixture(scope="module")
def views(plane):
    return estimate(plane, CONFIG)


def by_theory(view) -> dict[str, float]:
    return {one.theory: one.k for one in view.predictions}


def test_dimensions_and_variance_of_known_data(views) -> None:
    (view,) = views
    assert (view.name, view.D, view.num_points) == ("samples", 20, 1000)
    assert view.total_variance == pytest.approx(8, rel=0.1)
    assert len(view.eigenvalues) == 20
    for one in view.dimensions:
        assert one.value == pytest.approx(4, rel=0.25), one.method


def test_predictions_are_the_theories_for_these_very_samples(views) -> None:
    (view,) = views
    k, total = by_theory(view), view.total_variance + view.squared_mean
    assert k["linear, loss on u"] == pytest.approx(20 / (20 + total), abs=1e-9)
    assert k["linear, loss on v, start"] == pytest.approx(1 / (1 + np.sqrt(total / 20)), abs=1e-9)
    assert k["linear, loss on u, on the way"] >= k["linear, loss on u"]
    # The mean of these data is near 0, so that their covariance says nearly the same.
    assert view.squared_mean < 0.05
    assert k["linear, loss on v, end"] == pytest.approx(float(optimal_k(view.eigenvalues, space="v", clamp=0.05)), abs=0.01)
    for one in view.dimensions:
        assert k[f"D/(D + d), {one.method} ({one.scope})"] == pytest.approx(20 / (20 + one.value))
    text = as_text(view)
    assert all(theory in text for theory in k)
    assert f"{max(k.values()) - min(k.values()):.2f} apart" in text


def test_the_rule_has_the_interval_of_its_estimate(views) -> None:
    view = views[0]
    for one in view.dimensions:
        found = next(p for p in view.predictions if p.theory == f"D/(D + d), {one.method} ({one.scope})")
        low, high = map(float, found.question.rsplit("interval ", 1)[1].split(" to "))
        assert (low, high) == pytest.approx((view.D / (view.D + one.high), view.D / (view.D + one.low)), abs=6e-4)
        assert low - 6e-4 <= found.k <= high + 6e-4


def test_another_law_of_times_and_a_rank_add_their_predictions(plane) -> None:
    skewed = replace(CONFIG, timesteps="logit_normal(mean=-0.8, std=0.8)")
    (view,) = estimate(plane, skewed)
    k = by_theory(view)
    assert k["linear, loss on u, your times"] < k["linear, loss on u"] - 0.1
    assert k["linear, loss on u, on the way"] >= k["linear, loss on u, your times"], "the way begins at the start"
    assert "rank 2, loss on v" in by_theory(estimate(plane, replace(CONFIG, rank=2))[0])
    with pytest.raises(ValueError, match="there is a theory for uniform times alone"):
        estimate(plane, replace(skewed, rank=2))
    (symmetric,) = estimate(plane, replace(CONFIG, timesteps="logit_normal"))
    assert not any("your times" in theory for theory in by_theory(symmetric)), "a symmetric law changes nothing"
    with pytest.raises(ValueError, match="rank is 20"):
        estimate(plane, replace(CONFIG, rank=20))


def test_images_are_seen_as_patches_too() -> None:
    whole, patches = estimate(load("digits"), replace(CONFIG, patch_size=4))
    assert (whole.D, patches.D, patches.name) == (64, 16, "patches of 4 × 4")
    # Every pixel is in one patch, but a patch's covariance keeps the differences between places.
    assert patches.total_variance >= whole.total_variance / 4
    with pytest.raises(ValueError, match="patch_size must divide"):
        estimate(load("digits"), replace(CONFIG, patch_size=3))


@pytest.mark.parametrize(
    ("shape", "wanted", "size"),
    [((1, 28, 28), 0, 7), ((3, 64, 64), 0, 16), ((1, 28, 28), 4, 4), ((5,), 0, 0), ((3, 7, 7), 0, 0)],
)
def test_the_patch_that_is_looked_at(shape, wanted, size) -> None:
    assert patch_size(shape, wanted) == size


def test_patches_of_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        patch_size((5,), 2)


def test_points_that_repeat_leave_the_spectrum(plane) -> None:
    repeated = np.repeat(np.asarray(plane.x[:20]), 60, axis=0)
    from kdiff.experiments.estimate import view

    one = view("samples", repeated, CONFIG)
    assert one.dimensions == []
    assert "different" in one.problem
    assert "linear, loss on u" in by_theory(one)
    assert "no estimates of d" in as_text(one)


def test_a_short_table_is_looked_at_with_fewer_neighbours(plane) -> None:
    from kdiff.experiments.estimate import view

    rows = np.asarray(plane.x[:38])
    assert "fewer neighbours" in (view("samples", rows, CONFIG).problem or "")
    one = view("samples", rows, replace(CONFIG, neighbours=5))
    assert one.problem is None
    assert {each.method for each in one.dimensions} == {"TwoNN", "MLE", "participation ratio", "energy"}


def test_a_spectrum_of_some_samples_is_that_of_samples_drawn_at_random(monkeypatch) -> None:
    """Files are often sorted by class: the first samples would be all of one."""
    from kdiff.experiments import estimate as module
    from kdiff.experiments import predictions

    for each in (module, predictions):
        monkeypatch.setattr(each, "MAX_POINTS", 40)
    x = np.random.default_rng(0).standard_normal((400, 50)).astype(np.float32)
    x[200:] += 10
    whole, some = 50 * (1 + 10**2 / 2), predictions.moments_of(x)
    assert some.sum() == pytest.approx(whole, rel=0.25)
    view = module.view("samples", x, CONFIG)
    assert view.total_variance == pytest.approx(50 * (1 + 10**2 / 4), rel=0.25)
    assert "400 of them looked at, 40 of these for variance and theories" in as_text(view)


def test_the_curve_of_the_v_loss_has_no_end_where_two_minima_are_equal() -> None:
    curve = np.array(_ends())
    assert RATIOS[-1] == 1
    assert np.isnan(curve[-1])
    assert np.all(curve[:-1] > 0.5)


def test_what_it_means_names_the_normalisation(plane, views) -> None:
    text = meaning(plane, views, "my table.csv")
    assert "(none)" in text
    assert "kdiff compare 'my table.csv' --grid 6" in text
    assert f"{20 / (20 + 4 * (views[0].total_variance + views[0].squared_mean)):.3f}" in text


def test_a_mean_counts_as_much_as_a_variance_where_nothing_is_learned_yet() -> None:
    """Digits in [−1, 1] are mostly background: their mean holds more than their variance does."""
    whole, _ = estimate(load("digits"), CONFIG)
    x = load("digits").part("train")[0][: CONFIG.max_points].double()
    total = x.flatten(1).square().sum(1).mean().item()
    assert whole.total_variance + whole.squared_mean == pytest.approx(total, rel=0.01)
    assert by_theory(whole)["linear, loss on u"] == pytest.approx(64 / (64 + total), rel=0.01)
    assert by_theory(whole)["linear, loss on v, start"] == pytest.approx(1 / (1 + (total / 64) ** 0.5), rel=0.01)


def test_a_rank_that_limits_patches_nowhere_is_left_out_there() -> None:
    whole, patches = estimate(load("digits"), replace(CONFIG, rank=16, patch_size=4))
    assert any("rank 16" in theory for theory in by_theory(whole))
    assert not any("rank 16" in theory for theory in by_theory(patches))


def test_samples_larger_than_they_are_many() -> None:
    from kdiff.experiments.estimate import view

    x = np.random.default_rng(0).standard_normal((300, 9000)).astype(np.float32)
    one = view("samples", x, CONFIG)
    assert one.D == 9000
    assert one.total_variance == pytest.approx(9000, rel=0.02)


def test_the_command_writes_text_json_and_picture(tmp_path, capsys) -> None:
    out = tmp_path / "there"
    data = "sphere(num_samples=1500, ambient_dim=9)"
    assert main(["estimate", data, "--max-points", "500", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "D = 9" in text
    assert "What this means" in text
    saved = json.loads((out / "estimate.json").read_text())
    assert saved["views"][0]["D"] == 9
    assert len(saved["views"][0]["eigenvalues"]) == 9
    assert saved["config"]["data"] == data
    assert saved["environment"]["command"]
    assert (out / "estimate.png").stat().st_size > 20_000
    assert main(["estimate"]) == 2
    assert "which data?" in capsys.readouterr().err


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
