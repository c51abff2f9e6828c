"""Judging: figures worsen with the samples, floors are what they say, and N and groups are kept apart."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from kdiff.config.training import TrainConfig
from kdiff.data import Dataset, load, make_dataset
from kdiff.evaluation.judge import Judge, evaluate, evaluation_table
from kdiff.evaluation.judged_samplers import LAST_STEPS, SAMPLER, Figure
from kdiff.evaluation.subsets import drawn, matched_heldout
from kdiff.run.generate import generate
from kdiff.run.run import Run
from kdiff.training.trainer import train_run

SPIRAL = "spiral(num_samples=400, ambient_dim=8)"
EMPTY = 6  # dimensions of R^8 that the spiral's plane does not reach


def judge_of(name: str, **options: object) -> Judge:
    return Judge(load(name, **options))


@pytest.fixture(scope="module")
def labelled() -> Judge:
    return judge_of("gaussian_mixture", num_samples=1000, ambient_dim=4, components=3)


@pytest.fixture(scope="module")
def unlabelled() -> Judge:
    return judge_of("sphere", num_samples=500, ambient_dim=5)


@pytest.fixture(scope="module")
def spiral() -> Judge:
    return judge_of("spiral", num_samples=400, ambient_dim=8)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory):
    """A run of this target on the spiral, hardly trained: for what does not depend on the network."""

    def make(target: object, data: str = SPIRAL) -> Run:
        folder = Path(tmp_path_factory.mktemp("run")) / "run"
        return train_run(TrainConfig(data=data, target=target, steps=2, network="MLP(width=8, depth=1)"), folder)

    return make


# Figures


@pytest.mark.parametrize("which", ["labelled", "unlabelled", "spiral"])
def test_every_figure_worsens_with_noise(which, request) -> None:
    judge = request.getfixturevalue(which)
    noise = torch.randn(judge.heldout.shape, generator=torch.Generator().manual_seed(0))
    judged = [judge.measure(judge.heldout + level * noise) for level in (0, 0.5, 1, 2, 4)]
    for measure in judged[0]:
        values = [figures[measure].value for figures in judged]
        assert all(worse > 1.1 * better for better, worse in pairwise(values)), (measure, values)


def test_every_figure_of_the_law_worsens_with_a_lost_class(labelled) -> None:
    y = torch.cdist(labelled.train, labelled.train[:1]).flatten()
    near = labelled.train[y < y.median()]
    lost, all_there = labelled.measure(near.repeat(3, 1)), labelled.measure(labelled.train)
    for measure, least in {"frechet": 10, "sliced_wasserstein": 0.2}.items():
        assert all_there[measure].value < 1e-4
        assert lost[measure].value > least


def test_which_measures_there_are(labelled, unlabelled) -> None:
    assert set(labelled.floor()) == {"frechet", "frechet_heldout", "sliced_wasserstein", "mmd", "off_manifold", "copying"}
    assert set(unlabelled.floor()) == {"sliced_wasserstein", "mmd", "off_manifold", "copying"}
    assert unlabelled.classifier is None
    table = make_dataset("table", np.random.default_rng(0).standard_normal((100, 3)))
    assert set(Judge(table).floor()) == {"sliced_wasserstein", "mmd", "copying"}


def test_the_frechet_distance_is_in_per_cent_of_the_features_variance(labelled) -> None:
    features = labelled.classifier.network.features(labelled.train) * labelled.feature_scale
    torch.testing.assert_close(features.double().var(dim=0).sum(), torch.tensor(100.0, dtype=torch.float64))
    # A single point in the place of the data's mean feature misses all of the variance, and nothing else.
    still = labelled.train[:1].repeat(500, 1)
    mean = (features[:1].double() - features.double().mean(dim=0)).square().sum().item()
    assert labelled.measure(still)["frechet"].value == pytest.approx(100 + mean, rel=1e-3)


def test_distances_off_a_known_manifold(spiral) -> None:
    """A step s out of the plane is a distance s, the mean one of squares; within the plane it is none."""
    normal = torch.linalg.svd(spiral.train, full_matrices=True).Vh[-1]
    figure = spiral.measure(spiral.heldout + 0.25 * normal)["off_manifold"]
    assert figure.value == pytest.approx(0.25, rel=1e-4)
    half = (torch.arange(len(spiral.heldout)) % 2)[:, None]
    figure = spiral.measure(spiral.heldout + 0.25 * half * normal)["off_manifold"]
    assert figure.value == pytest.approx(0.25 * half.double().mean().sqrt().item(), rel=1e-4)
    within = spiral.measure(1.5 * spiral.heldout)
    assert within["off_manifold"].value < 1e-5
    # In the plane, that step moves nothing.
    moved = spiral.measure(spiral.heldout + 0.25 * normal)["sliced_wasserstein"].value
    assert moved == pytest.approx(spiral.floor()["sliced_wasserstein"].value, rel=1e-3)


def test_copies_are_noticed(labelled, unlabelled) -> None:
    for judge in (labelled, unlabelled):
        assert judge.measure(judge.train)["copying"].value == 0
        near = judge.train + 1e-3 * torch.randn_like(judge.train)
        assert judge.measure(near)["copying"].value < 0.1
        assert judge.measure(judge.heldout)["copying"].value == 1


@pytest.mark.parametrize("which", ["labelled", "unlabelled"])
def test_groups_are_as_large_as_the_held_out_set(which, request) -> None:
    judge = request.getfixturevalue(which)
    size = judge.group_size
    assert size == len(judge.heldout)
    x = judge.train[torch.arange(3 * size + 7) % len(judge.train)] + 0.1 * torch.randn(3 * size + 7, judge.train.shape[1])
    whole, groups = judge.measure(x), [judge.measure(x[i * size : (i + 1) * size]) for i in range(3)]
    for measure, figure in whole.items():
        values = [group[measure].value for group in groups]
        assert figure.groups == 3
        assert figure.grouped == pytest.approx(np.mean(values), rel=1e-5, abs=1e-5)
        assert figure.spread == pytest.approx(np.std(values, ddof=1), rel=1e-3)
        assert all(group[measure].grouped == pytest.approx(value, rel=1e-5, abs=1e-5) for group, value in zip(groups, values))
        assert all(group[measure].groups == 1 and math.isnan(group[measure].spread) for group in groups)
    for measure in ("frechet", "sliced_wasserstein"):  # the fewer samples, the further they seem
        if measure in whole:
            assert whole[measure].grouped > whole[measure].value


def test_samples_that_cannot_be_measured(labelled) -> None:
    with pytest.raises(ValueError, match=f"{labelled.group_size - 1} samples were given; at least {labelled.group_size}"):
        labelled.measure(labelled.heldout[:-1])
    broken = labelled.heldout.clone()
    broken[3, 1], broken[5, 0], broken[5, 1] = math.nan, math.inf, math.nan
    with pytest.raises(ValueError, match=f"2 of {len(broken)} samples are not finite"):
        labelled.measure(broken)


# Floors


def test_the_floor_is_the_held_out_set_measured_like_samples(labelled) -> None:
    floor = labelled.floor()
    assert floor.keys() == labelled.measure(labelled.heldout).keys()
    for figure in floor.values():
        assert figure.groups == 1
        assert figure.value == pytest.approx(figure.grouped, abs=1e-5)
    assert 0 < floor["frechet"].value < 3
    assert floor["copying"].value == 1


def unbalanced(shares: list[float], count: int = 1000) -> Dataset:
    generator = np.random.default_rng(0)
    y = generator.choice(len(shares), count, p=shares)
    return make_dataset("unbalanced", generator.standard_normal((count, 2)) + 5 * y[:, None], y)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.6, 0.3, 0.1], [0.05, 0.15, 0.8], [0.1] * 10])
def test_the_held_out_set_has_the_proportions_of_training_in_any_prefix(shares) -> None:
    dataset = unbalanced(shares)
    kept = matched_heldout(dataset).x
    x, y = dataset.part("heldout")
    rows = {tuple(row.tolist()): int(label) for row, label in zip(x, y)}
    labels = torch.tensor([rows[tuple(row.tolist())] for row in kept])  # held-out samples, and no others
    assert len({tuple(row.tolist()) for row in kept}) == len(kept), "one sample twice"
    train = dataset.part("train")[1]
    share = torch.bincount(train) / len(train)
    there = torch.bincount(y, minlength=len(shares))
    # As many as the scarcest class allows.
    assert len(kept) == pytest.approx(float((there / share).min()), abs=len(shares) / 2 + 1)
    for length in range(1, len(kept) + 1):
        counts = torch.bincount(labels[:length], minlength=len(shares))
        assert (counts - length * share).abs().max() < 2, length
    for start in range(0, len(kept) - 50, 10):
        counts = torch.bincount(labels[start : start + 50], minlength=len(shares))
        assert (counts - 50 * share).abs().max() < 3, start


def test_without_labels_all_of_the_held_out_part_serves(unlabelled) -> None:
    assert torch.equal(matched_heldout(unlabelled.dataset).x, unlabelled.dataset.part("heldout")[0])


def test_a_class_that_is_never_held_out_is_named() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((100, 2)), generator.integers(0, 2, 100)
    split = make_dataset("probe", x, y).split.numpy()
    y[:] = np.where((split == 0) & (y == 1), 1, 0)  # class 1 in training only
    held = matched_heldout(make_dataset("lopsided", x, y))
    assert len(held.x) == (split == 2).sum()
    assert held.facts["missing"] == [1]
    assert "none of class 1 is held out" in held.note


def clamp_residue(steps: int = 50, clamp: float = 0.05) -> float:
    """What is left of noise 1 where the data are 0, by Heun steps along v = −z / max(1 − t, clamp), the last one Euler's."""
    z, h = 1.0, 1 / steps
    for i in range(steps):
        slope = -1 / max(1 - i * h, clamp)
        ahead = -1 / max(1 - (i + 1) * h, clamp)
        z *= 1 + h * (slope if i == steps - 1 else (slope + ahead * (1 + h * slope)) / 2)
    return z


def test_the_exact_floor_at_k_1_shows_what_the_clamp_leaves(spiral, make_run) -> None:
    run = make_run("data")
    paper, clean = spiral.exact_floors(run, 1000).values()
    assert clamp_residue() == pytest.approx(0.017, abs=0.001)
    # 1000 samples of 6 normal numbers: a standard error of 0.9 per cent.
    assert paper["off_manifold"].value == pytest.approx(math.sqrt(EMPTY) * clamp_residue(), rel=0.04)
    assert clean["off_manifold"].value < 1e-5
    # Means of the few training samples that the last noise cannot tell apart: near copies.
    assert clean["copying"].value < 0.2 < 0.5 * paper["copying"].value


def test_the_exact_floor_without_a_clamp_in_the_way(spiral, make_run) -> None:
    """At k = ½ the clamp never acts, so the last step is the same for both samplers; a learned k is taken as it stands."""
    run = make_run("learned(init=0.5)")
    assert run.model.target.k == pytest.approx(0.5, abs=0.01)
    paper, clean = spiral.exact_floors(run, 200).values()
    for measure in paper:
        assert paper[measure].value == pytest.approx(clean[measure].value, rel=1e-3, abs=1e-4), measure
    assert clean["off_manifold"].value < 1e-4
    parameters = list(run.model.target.parameters())
    assert len(parameters) == 1
    assert run.model.target.w is parameters[0]


def test_the_exact_floor_takes_classes_in_proportion(labelled, make_run) -> None:
    """Copies of the training set in its own proportions: no class is missing, and none is another's."""
    run = make_run("velocity", "gaussian_mixture(num_samples=1000, ambient_dim=4, components=3)")
    assert labelled.exact_floors(run, 600)["clean"]["frechet"].value < 1


# A run


def test_evaluate_measures_the_runs_own_samples_and_the_floor_of_each_sampler(spiral, make_run) -> None:
    run = make_run("data")
    result = evaluate(run, spiral, num_samples=100, seed=3)
    for name, last_step in LAST_STEPS.items():
        x, _ = generate(run.model, 100, run.shape, run.class_counts, 3, **SAMPLER, last_step=last_step)
        expected = {measure: vars(figure) for measure, figure in spiral.measure(x).items()}
        assert repr(result["samplers"][name]["figures"]) == repr(expected)  # NaN is not equal to itself
        floor = {measure: vars(figure) for measure, figure in spiral.exact_floors(run, 100, 3)[name].items()}
        assert repr(result["samplers"][name]["exact"]) == repr(floor)
    assert result["heldout"]["copying"]["value"] == 1
    assert (result["num_samples"], result["group_size"], result["seed"], result["k"]) == (100, spiral.group_size, 3, 1)
    assert (result["step"], result["weights"], result["target"]) == (2, "ema 0.999", "data")
    assert result["classifier"] == {"accuracy": spiral.classifier.accuracy, "weights": spiral.classifier.digest}


def test_evaluate_without_labels_and_with_too_few_samples(unlabelled, make_run) -> None:
    run = make_run("velocity", "sphere(num_samples=500, ambient_dim=5)")
    result = evaluate(run, unlabelled, num_samples=1, exact=True)
    assert result["num_samples"] == unlabelled.group_size
    assert result["classifier"] is None
    assert set(result["samplers"]["clean"]["exact"]) == {"sliced_wasserstein", "mmd", "off_manifold", "copying"}
    with pytest.raises(ValueError, match=r"trained without labels, so only a weaker model .* can guide it"):
        evaluate(run, unlabelled, guidance=2.0)


def test_guidance_reaches_the_samples_and_not_the_floor(spiral, make_run) -> None:
    run = make_run("velocity")
    plain, guided = (evaluate(run, spiral, 100, guidance=scale) for scale in (1.0, 3.0))
    for name in LAST_STEPS:
        assert repr(plain["samplers"][name]["exact"]) == repr(guided["samplers"][name]["exact"])
        assert plain["samplers"][name]["figures"]["copying"] != guided["samplers"][name]["figures"]["copying"]
    assert guided["samplers"]["clean"]["options"]["guidance"] == guided["guidance"] == 3


def test_the_table_has_a_line_per_sampler_and_measure() -> None:
    figure = vars(Figure(1.23456, 2.34567, 0.345, 4))
    single = vars(Figure(7.0, 7.0, math.nan, 1))
    result = {
        "num_samples": 500,
        "group_size": 100,
        "heldout": {"frechet": single, "copying": {**single, "value": 1.0}},
        "samplers": {
            "paper": {"figures": {"frechet": figure, "copying": single}, "exact": {"frechet": {**single, "value": 0.5}}},
            "clean": {"figures": {"frechet": figure, "copying": single}},
        },
    }
    lines = [line.split("  ") for line in evaluation_table(result).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["sampler", "measure", "500 samples", "exact denoiser", "groups of 100", "held-out data"]
    assert cells[1:] == [
        ["paper", "frechet", "1.235", "0.5", "2.346 ± 0.34", "7"],
        ["paper", "copying", "7", "7", "1"],
        ["clean", "frechet", "1.235", "2.346 ± 0.34", "7"],
        ["clean", "copying", "7", "7", "1"],
    ]


# Large and sorted data


def test_sorted_data_are_judged_like_shuffled(monkeypatch) -> None:
    """A file per class, one after the other, is what folders give: the judge must not take its first rows for all of it."""
    monkeypatch.setattr("kdiff.evaluation.judge.MAX_REFERENCE", 300)
    data = load("gaussian_mixture", num_samples=2000, ambient_dim=4, components=4)
    order = data.y.argsort(stable=True)
    judge = Judge(make_dataset("sorted", data.x[order], data.y[order]))
    assert len(judge.train) == 300
    floor = judge.floor()
    assert floor["frechet"].value < 5
    assert floor["frechet_heldout"].value < 5
    everything = judge.measure(judge.dataset.part("train")[0][torch.randperm(1000)])
    assert everything["frechet"].value < 5
    assert everything["copying"].value == 0, "copies of training samples beyond the reference are found"


def test_the_distance_to_held_out_data_does_not_reward_copies(labelled) -> None:
    """Copies of the training data are as far from the held-out set as training data are, whatever their number."""
    copies = labelled.train.repeat(3, 1)
    figures = labelled.measure(copies)
    assert figures["frechet"].value < 0.1
    assert figures["frechet_heldout"].value == pytest.approx(labelled.floor()["frechet_heldout"].value, rel=0.1)


def test_drawn_rows_are_fixed_distinct_and_from_everywhere() -> None:
    rows = drawn(1000, 100)
    assert torch.equal(rows, drawn(1000, 100))
    assert len(set(rows.tolist())) == 100
    assert 400 < rows.double().mean().item() < 600
    assert torch.equal(drawn(50, 100), torch.arange(50))
