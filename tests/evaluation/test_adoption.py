"""A calibration is adopted only if samples are closer with it: by cases in which they are, are not, and cannot be told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff, load_data
from kdiff.config.sampling import Sampling
from kdiff.config.training import TrainConfig
from kdiff.data import Dataset, make_dataset
from kdiff.evaluation import adoption
from kdiff.evaluation.adoption import Comparison, RandomFeatures, calibrate_run, compare_samples
from kdiff.run import generate
from kdiff.run.calibrations import read_facts
from kdiff.run.run import load_run
from kdiff.targets.bases import make_basis
from kdiff.targets.calibration import Calibration
from kdiff.training import calibrating
from kdiff.training.calibrating import calibrate, fit_calibration
from kdiff.training.trainer import train_run

DATA = make_dataset("white", np.random.default_rng(0).standard_normal((4000, 3)).astype(np.float32))


class Rough(nn.Module):
    """The exact data prediction for white data, and a rough error that nearly averages out on the way to a sample."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return t / (t.square() + (1 - t).square()) * z + self.error * torch.sin(10 * z)


def run_of(network: nn.Module, **options: Any) -> Any:
    """As much of a run as `compare_samples` reads, with a network that predicts white data."""
    return SimpleNamespace(
        model=KDiff(network, 1.0).eval(),
        config=SimpleNamespace(sampling=Sampling(**options)),
        shape=(3,),
        class_counts=None,
        given=None,
    )


def scaled(h: float) -> Calibration:
    return Calibration(make_basis("channels", (3,)), torch.tensor([0.5]), torch.full((1, 3), h))


def test_best_in_mean_square_error_is_not_closest_and_is_not_adopted() -> None:
    run = run_of(Rough(0.5))
    found, gained = fit_calibration(run.model, DATA.part("train")[0], knots=8, samples=512)
    assert (gained > 0.03).all()  # the error of unseen data falls
    judged = compare_samples(run, DATA, found, size=128)
    assert judged.interval[1] > 0.3  # and the samples are farther by more than a third
    assert not judged.closer


def test_a_gain_that_undoes_a_known_error_is_adopted() -> None:
    class Short(Rough):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:  # 1 − σ/2 times the exact prediction
            return (1 - (1 - t[:, None]) / 2) * super().forward(z, t)

    run = run_of(Short(0.0))
    used = run.model.calibration = scaled(0.1)
    judged = compare_samples(run, DATA, scaled(0.6), size=128)
    assert judged.closer
    assert judged.interval[0] < -0.3
    assert run.model.calibration is used
    # The plain samples were drawn without the calibration that the model had, and with the same noise as the others.
    assert compare_samples(run_of(Short(0.0)), DATA, scaled(0.0), size=128).calibrated == judged.plain


def test_nothing_is_adopted_on_chance() -> None:
    judged = compare_samples(run_of(Rough(0.0)), DATA, scaled(1e-4), size=64)
    assert not judged.closer
    assert abs(judged.interval[0]) < 0.01
    same = Comparison("", [1.0, 2.0], [1.0, 2.0])
    assert same.interval == (0, 0, 0)
    assert not same.closer


def test_the_interval_is_students() -> None:
    plain, calibrated = [1.0, 2.0, 4.0], [0.5, 1.2, 2.0]
    logs = np.log(np.array(calibrated) / plain)
    mean, low, high = Comparison("", plain, calibrated).interval
    reach = 4.302653 * logs.std(ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((logs.mean(), logs.mean() - reach, logs.mean() + reach))


@pytest.mark.parametrize(
    ("plain", "calibrated", "said"),
    [
        ([1.0, 2.0], [0.5, 1.0], "samples are closer to held-out data (-50.0 %, 95 % interval -50.0 to -50.0 %) by the d"),
        ([0.5, 1.0], [1.0, 2.0], "samples are farther from held-out data (+100.0 %"),
        ([1.0, 2.0], [2.0, 1.0], "samples are neither closer to nor farther from held-out data"),
        ([1.0, 2.0], [1.0, 2.0], "samples are as far from held-out data with it as without it, by the d"),
        ([0.0, 0.0], [0.0, 0.0], "samples are as far from held-out data with it as without it, by the d"),
        ([1.0, 2.0], [0.0, 1.0], "the d to held-out data is 0 in some groups, so no ratio of distances can be judged"),
        ([0.0, 2.0], [1.0, 1.0], "the d to held-out data is 0 in some groups, so no ratio of distances can be judged"),
        ([1.0, 2.0], [1.0, math.inf], "samples with it are not finite"),
        ([1.0, math.nan], [1.0, 2.0], "samples without it are not finite, so nothing can be said"),
    ],
)
def test_the_reason_is_a_sentence_also_without_a_ratio(plain: list[float], calibrated: list[float], said: str) -> None:
    judged = Comparison("d", plain, calibrated)
    assert str(judged).startswith(said)
    assert "inf" not in str(judged)
    assert "nan" not in str(judged)
    assert judged.closer is ("samples are closer" in said)


def test_samples_that_are_not_finite_are_never_adopted() -> None:
    with pytest.warns(UserWarning, match="not finite"):
        judged = compare_samples(run_of(Rough(0.0)), DATA, scaled(1e30), size=16)
    assert not judged.closer


def test_the_samplers_options_are_those_of_the_run() -> None:
    short, long = (compare_samples(run_of(Rough(0.5), steps=steps), DATA, scaled(0.0), size=32) for steps in (2, 20))
    assert short.plain != long.plain


@pytest.mark.parametrize(
    ("dataset", "measure"),
    [
        (load_data("gaussian(num_samples=400, ambient_dim=4, intrinsic_dim=2)"), "in the plane and the distance off it"),
        (load_data("digits"), "in the features of the data's classifier"),
        (DATA, "sliced Wasserstein distance"),
    ],
)
def test_distances_of_every_kind_of_data(dataset: Dataset, measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out rows are closer to each other than noisy ones, by any of the distances."""
    features = SimpleNamespace(network=SimpleNamespace(features=lambda x: x.flatten(1)[:, :20]))
    monkeypatch.setattr(adoption, "dataset_classifier", lambda dataset: features)
    name, distance = adoption._distance(dataset)
    assert measure in name
    x = dataset.part("heldout")[0][:400]
    near, rows = x[::2], x[1::2]
    far = near + 0.5 * torch.randn(near.shape, generator=torch.Generator().manual_seed(0))
    assert distance(far, rows, None, 0) > 1.2 * distance(near, rows, None, 0)


def test_images_without_labels_are_compared_in_random_features() -> None:
    x = torch.rand(20, 3, 8, 8)
    assert RandomFeatures(3)(x).shape == (20, 256)
    assert torch.equal(RandomFeatures(3)(x), RandomFeatures(3)(x))
    dataset = make_dataset("images", x.numpy())
    assert "random convolutions" in adoption._distance(dataset)[0]


def test_few_held_out_rows_are_refused() -> None:
    small = make_dataset("few", np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    with pytest.raises(ValueError, match="expected at least 16"):
        compare_samples(run_of(Rough(0.0)), small, scaled(0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has not learned much, of three dimensions of data among six."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = "gaussian(num_samples=1000, ambient_dim=6, intrinsic_dim=3)"
    train_run(TrainConfig(data=data, network="MLP(width=16, depth=1)", steps=150, batch_size=64, ema=[0.9]), folder)  # type: ignore[arg-type]
    return folder


def test_a_run_is_calibrated_judged_and_stored(folder: Path) -> None:
    run = load_run(folder)
    found = calibrate_run(run, samples=256, knots=8, size=64)
    assert found["adopted"]
    assert run.calibrated
    assert min(found["folds"]) > 0
    assert all(after < before for before, after in zip(found["errors"]["plain"], found["errors"]["calibrated"]))
    assert "closer to held-out data" in found["why"]
    assert found["seconds"]["all"] > found["seconds"]["fit"] > 0
    again = load_run(folder)
    assert again.calibrated
    z = torch.randn(5, 6)
    assert torch.equal(again.model.velocity(z, 0.5), run.model.velocity(z, 0.5))
    facts = json.loads((Path(found["place"]) / "calibration.json").read_text())
    assert facts == read_facts(Path(found["place"]))
    assert facts["distances"]["plain"] == found["distances"]["plain"]
    twice = calibrate_run(again, samples=256, knots=8, size=64)  # not on top of the first one
    assert twice["folds"] == found["folds"]
    assert twice["distances"]["calibrated"] == found["distances"]["calibrated"]


def test_no_noise_that_a_calibration_is_found_with_judges_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, set[float]] = {"found": set(), "judged": set()}
    stage = ["found"]

    def watched(module: Any) -> None:
        draw = module.draw_noise

        def noted(*given: Any) -> Tensor:
            noise = draw(*given)
            drawn[stage[0]] |= set(noise.flatten(1)[:, 0].tolist())
            return noise

        monkeypatch.setattr(module, "draw_noise", noted)

    def found(*given: Any, **options: Any) -> Tensor:
        try:
            return calibrate(*given, **options)
        finally:
            stage[0] = "judged"

    watched(calibrating)
    watched(generate)
    monkeypatch.setattr(adoption, "calibrate", found)
    calibrate_run(load_run(folder, calibrated=False), samples=256, knots=8, size=64)
    assert len(drawn["found"]) == 256 * 8
    assert len(drawn["judged"]) > 512
    assert not drawn["found"] & drawn["judged"]


def test_a_run_whose_samples_get_farther_stays_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(run: Any, *rest: Any, **options: Any) -> Tensor:
        run.model.calibration = Calibration(make_basis("channels", (6,)), torch.tensor([0.5]), torch.full((1, 6), -0.9))
        return torch.ones(8)

    monkeypatch.setattr(adoption, "calibrate", wrong)
    run = load_run(folder, calibrated=False)
    found = calibrate_run(run, size=64)
    assert not found["adopted"]
    assert "farther from held-out data" in found["why"]
    assert not run.calibrated
    assert not load_run(folder).calibrated
    assert not read_facts(Path(found["place"]))["adopted"]


def test_where_there_is_nothing_to_correct_nothing_is_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(run: Any, *rest: Any, **options: Any) -> Tensor:
        run.model.calibration = Calibration(make_basis("channels", (6,)), torch.tensor([0.5]))
        return torch.zeros(8)

    monkeypatch.setattr(adoption, "calibrate", nothing)
    monkeypatch.setattr(adoption, "compare_samples", None)
    found = calibrate_run(load_run(folder, calibrated=False))
    assert not found["adopted"]
    assert "no correction" in found["why"]
    assert "distances" not in found
    assert not load_run(folder).calibrated
