"""What k should be before training: dimensions and predictions of known data, as text, JSON and picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from kdiff.commands.main import main
from kdiff.config.parts import parse
from kdiff.config.studies import EstimateConfig
from kdiff.data import load, make_dataset
from kdiff.report.estimate_text import as_text
from kdiff.studies import estimation as module
from kdiff.studies.estimation import as_json, estimate, patch_size, predictions
from kdiff.theory import DimensionEstimate, Optimum, expected_loss, optimal_k

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
    assert f"The theories differ by {max(k.values()) - min(k.values()):.2f}: from k = " in text
    assert "noise scale s = 1" in text


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_the_noise_counts_as_the_unit_of_the_data(plane, s) -> None:
    """Data and noise of twice the scale are the same problem, and every theory says so."""
    x = np.asarray(plane.part("train")[0])[:500]
    config = replace(CONFIG, rank=2, noise_scale=s)
    one, other = module.view("samples", x, replace(config, noise_scale=1.0)), module.view("samples", s * x, config)
    assert by_theory(other) == pytest.approx(by_theory(one), abs=1e-6)
    assert other.total_variance == pytest.approx(s**2 * one.total_variance)


def test_the_noise_scale_in_closed_form(plane, views) -> None:
    (view,), s = estimate(plane, replace(CONFIG, noise_scale=2.0)), 2.0
    k, before, total = by_theory(view), by_theory(views[0]), view.total_variance + view.squared_mean
    assert k["linear, loss on u"] == pytest.approx(20 * s**2 / (20 * s**2 + total), abs=1e-9)
    assert k["linear, loss on v, start"] == pytest.approx(s * 20**0.5 / (s * 20**0.5 + total**0.5), abs=1e-9)
    assert k["linear, loss on u, on the way"] > before["linear, loss on u, on the way"]
    assert {theory for theory in k if k[theory] == before[theory]} == {name for name in k if name.startswith("D/(D + d)")}
    assert "noise scale s = 2" in as_text(view)
    assert as_json([view])[0]["noise_scale"] == 2


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_noise_scale_is_positive(scale) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        EstimateConfig(noise_scale=scale)


@pytest.mark.parametrize("weakest", [0.999, 1.0, 1.001])
def test_minima_that_tie_are_named_together(weakest) -> None:
    """Whether a white spectrum is a little above or below the noise is chance, and the clamped loss picks an end by it."""
    found = {one.theory: one for one in predictions(np.array([1, 1, weakest]), [], CONFIG)}
    end = found["linear, loss on v, end"]
    assert sorted([end.k, *end.ties]) == [0, 1]
    assert "losses equal within" in end.question
    assert end.doubt == "minima tie"
    assert [one.theory for one in found.values() if one.doubt] == ["linear, loss on v, end"]


def test_a_worse_minimum_is_no_tie() -> None:
    one = module._minima("a", Optimum(0.5, 1.0, "quadrature", [(0.9, 1.05), (0.1, 1.1)]), "what")
    assert (one.ties, one.doubt) == ([], None)
    assert one.question == "what; further minima at 0.900 and 0.100, loss 5 % and 10 % higher"
    one = module._minima("a", Optimum(0.5, 2.0, "quadrature", [(0.9, 2.001), (0.1, 2.2)]), "what")
    assert one.ties == [0.9]
    assert one.question == "losses equal within 0.05 %: what; further minimum at 0.100, loss 10 % higher"
    assert one.others == ((0.9, pytest.approx(5e-4)), (0.1, pytest.approx(0.1)))


def test_the_loss_of_real_minima_is_what_the_text_says() -> None:
    """One direction of variance ¼ in two, under the clamp: from the loss itself."""
    moments = np.array([0.25, 0.0])
    one = {each.theory: each for each in predictions(moments, [], CONFIG)}["linear, loss on v, end"]
    ((k, share),) = one.others
    losses = expected_loss([one.k, k], moments, space="v", clamp=0.05)
    assert share == pytest.approx(losses[1] / losses[0] - 1, rel=1e-6)


def test_an_estimate_at_its_limit_says_so() -> None:
    def made(value: float, limit: int | None) -> DimensionEstimate:
        return DimensionEstimate("energy", "local", value, value - 1, value + 1, 0.95, 500, limit)

    moments = np.full(169, 0.1)
    cases = [
        (made(18, 19), True),
        (made(15.0, 19), False),
        (made(151, 183), False),
        (made(151, 168), True),
        (made(40, None), False),
    ]
    for one, near in cases:
        rule = predictions(moments, [one], CONFIG)[0]
        assert (rule.doubt == "d is at its limit") is near, one
        assert (f"at its limit (cannot exceed {one.limit})" in rule.question) is near
        assert module.at_limit(one, 169) is near
    # Of D directions no method gives more than D: that is no limit of the method.
    assert not module.at_limit(made(4, 4), 4)


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
    with pytest.raises(ValueError, match="the theory of a limited rank holds for uniform times only"):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "patch_size is 3, which does not divide images of 8 × 8; expected one of 1, 2, 4, 8"),
        ({"timesteps": "logitnormal"}, "logit_normal"),
        ({"timesteps": "logit_normal(std=-1)"}, "std is -1"),
        ({"rank": 64}, "rank is 64"),
        ({"rank": 2, "timesteps": "logit_normal"}, "for uniform"),
    ],
)
def test_a_slip_is_found_before_anything_is_computed(options, message, monkeypatch) -> None:
    monkeypatch.setattr(module, "view", lambda *given, **named: pytest.fail("something was computed"))
    with pytest.raises(ValueError, match=message):
        estimate(load("digits"), replace(CONFIG, **options))


def test_the_command_finds_slips_before_it_reads_the_data(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("kdiff.run.build.load_dataset", lambda config: pytest.fail("the data were read"))
    assert main(["estimate", "digits", "--timesteps", "logitnormal"]) == 2
    assert "logit_normal" in capsys.readouterr().err
    (tmp_path / "taken").write_text("")
    assert main(["estimate", "digits", "--out", str(tmp_path / "taken")]) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ((1, 13, 13), "digits", ["no patches: no square larger than a pixel and smaller than the image divides 13 × 13"]),
        ((16, 16, 3), "a.npy", ["read as 16 channels of 16 × 3", "no patches"]),
        ((4, 16, 4), "a.npy", []),
        ((16, 16, 4), "a.npy", ["read as 16 channels of 16 × 4"]),
        ((16, 16, 4), "a.npy(layout=channels_first)", []),
        ((3, 16, 16), "a.npy", []),
        ((7,), "a.npy", []),
    ],
)
def test_what_is_odd_about_images_is_remarked(shape, data, words) -> None:
    config = replace(CONFIG, data=data)
    found = module.remarks(shape, patch_size(shape, 0), config)
    assert len(found) == len(words)
    for remark, part in zip(found, words):
        assert part in remark


def test_remarks_are_in_text_and_json() -> None:
    x = np.random.default_rng(0).standard_normal((400, 1, 5, 5)).astype(np.float32)
    (view,) = estimate(make_dataset("odd", x, normalise="none"), CONFIG)
    (remark,) = as_json([view])[0]["remarks"]
    assert "divides 5 × 5" in remark
    assert remark in as_text(view)


@pytest.mark.parametrize(
    ("shape", "wanted", "size"),
    [((1, 28, 28), 0, 7), ((3, 64, 64), 0, 16), ((1, 28, 28), 4, 4), ((5,), 0, 0), ((3, 7, 7), 0, 0)],
)
def test_the_patch_that_is_looked_at(shape, wanted, size) -> None:
    assert patch_size(shape, wanted) == size


def test_patches_of_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="are not images"):
        patch_size((5,), 2)


def test_points_that_repeat_leave_the_spectrum(plane) -> None:
    repeated = np.repeat(np.asarray(plane.x[:20]), 60, axis=0)
    one = module.view("samples", repeated, CONFIG)
    assert one.dimensions == []
    assert "different" in one.problem
    assert "linear, loss on u" in by_theory(one)
    assert "no estimates of d" in as_text(one)


def test_a_short_table_is_looked_at_with_fewer_neighbours(plane) -> None:
    rows = np.asarray(plane.x[:38])
    assert "fewer neighbours" in (module.view("samples", rows, CONFIG).problem or "")
    one = module.view("samples", rows, replace(CONFIG, neighbours=5))
    assert one.problem is None
    assert {each.method for each in one.dimensions} == {"TwoNN", "MLE", "participation ratio", "energy"}


def test_a_spectrum_of_some_samples_is_that_of_samples_drawn_at_random(monkeypatch) -> None:
    """Files are often sorted by class: the first samples would be all of one."""
    from kdiff.report import estimate_text
    from kdiff.studies import predictions

    for each in (estimate_text, predictions):
        monkeypatch.setattr(each, "MAX_POINTS", 40)
    x = np.random.default_rng(0).standard_normal((400, 50)).astype(np.float32)
    x[200:] += 10
    whole, some = 50 * (1 + 10**2 / 2), predictions.moments_of(x)
    assert some.sum() == pytest.approx(whole, rel=0.25)
    view = module.view("samples", x, CONFIG)
    assert view.total_variance == pytest.approx(50 * (1 + 10**2 / 4), rel=0.25)
    assert "400 points used, 40 of them for variance and theories" in as_text(view)


def test_a_mean_counts_as_much_as_a_variance_where_nothing_is_learned_yet() -> None:
    """Digits in [−1, 1] are mostly background: their mean holds more than their variance does."""
    whole, _ = estimate(load("digits"), CONFIG)
    x = load("digits").part("train")[0][: CONFIG.max_points].double()
    total = x.flatten(1).square().sum(1).mean().item()
    assert whole.total_variance + whole.squared_mean == pytest.approx(total, rel=0.01)
    assert by_theory(whole)["linear, loss on u"] == pytest.approx(64 / (64 + total), rel=0.01)
    assert by_theory(whole)["linear, loss on v, start"] == pytest.approx(1 / (1 + (total / 64) ** 0.5), rel=0.01)
    with_mean, without = by_theory(whole)["linear, loss on u"], 64 / (64 + whole.total_variance)
    assert (with_mean, without) == pytest.approx((0.58, 0.78), abs=0.01)


def test_a_rank_that_limits_patches_nowhere_is_left_out_there() -> None:
    whole, patches = estimate(load("digits"), replace(CONFIG, rank=16, patch_size=4))
    assert any("rank 16" in theory for theory in by_theory(whole))
    assert not any("rank 16" in theory for theory in by_theory(patches))


def test_samples_larger_than_they_are_many() -> None:
    x = np.random.default_rng(0).standard_normal((300, 9000)).astype(np.float32)
    one = module.view("samples", x, CONFIG)
    assert one.D == 9000
    assert one.total_variance == pytest.approx(9000, rel=0.02)


def test_the_command_writes_text_json_and_picture(tmp_path, capsys) -> None:
    out = tmp_path / "there"
    data = "sphere(num_samples=1500, ambient_dim=9)"
    assert main(["estimate", data, "--max-points", "500", "--noise-scale", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "D = 9" in text
    assert "What this means" in text
    saved = json.loads((out / "estimate.json").read_text())
    assert saved["views"][0]["D"] == 9
    assert (saved["config"]["noise_scale"], saved["views"][0]["noise_scale"]) == (2, 2)
    assert all({"others", "ties", "doubt"} <= one.keys() for one in saved["views"][0]["predictions"])
    assert {one["at_limit"] for one in saved["views"][0]["dimensions"]} <= {True, False}
    assert len(saved["views"][0]["eigenvalues"]) == 9
    assert saved["config"]["data"] == parse(data).plain()
    assert saved["environment"]["command"]
    assert (out / "estimate.png").stat().st_size > 20_000
    assert main(["estimate"]) == 2
    assert "which data?" in capsys.readouterr().err


class TestOutliers:
    def remarks_on(self, outlier: float, kind: str) -> list[str]:
        raw = np.random.default_rng(0).standard_normal((600, 5))
        while outlier:  # until the sample lands in the training part
            raw[7, 2] = outlier
            outlier = 0 if make_dataset("a", raw).split[7] == 0 else outlier + 1
        (view,) = estimate(make_dataset("a", raw, normalise=kind), CONFIG)
        return list(view.remarks)

    def test_one_sample_that_is_the_whole_variance(self) -> None:
        for kind, of in (("standard", ""), ("features", " of entry 2")):
            (text,) = self.remarks_on(1e4, kind)
            found = rf"sample \d of the training part alone holds (100|99\.\d+) % of the variance{of}; without it, every"
            assert re.match(found, text)

    def test_ordinary_data_have_no_remark(self) -> None:
        assert self.remarks_on(0, "standard") == self.remarks_on(0, "features") == []

    def test_the_sample_is_named_and_the_text_shows_it(self) -> None:
        points = np.random.default_rng(0).standard_normal((50, 3))
        points[11] = 1e5
        (text,) = module.outliers(points, np.arange(100, 150))
        assert text.startswith("sample 111 of the training part alone holds 98 % of the variance; ")
        points[:, :] = points % 1
        points[11, 1] = points[12, 2] = 50
        (text,) = module.outliers(points.astype(np.float32), np.arange(50))
        assert "sample 11 of" in text or "sample 12 of" in text
        assert "(single samples do so in 2 of 3 entries)" in text
        assert module.outliers(np.ones((50, 3)), np.arange(50)) == []
