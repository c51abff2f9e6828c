"""Held-out samples of data with small classes: all count, in the class proportions of training, and it is said."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdiff.data import Dataset, make_dataset
from kdiff.data.normalisation import Normalisation
from kdiff.data.samples import ImageSamples, LazySamples
from kdiff.evaluation import classifier, subsets
from kdiff.evaluation.frechet import frechet_distance, statistics
from kdiff.evaluation.judge import Judge
from kdiff.evaluation.subsets import drawn, matched_heldout, most_rows
from kdiff.run.generate import balanced_labels

CENTRES = 3 * np.random.default_rng(5).standard_normal((1000, 4))


def flowers(counts: list[int], seed: int = 0, names: list[str] | None = None) -> Dataset:
    """Classes of these numbers of samples, each around a point of its own."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    about = {"class_names": names} if names else {}
    return make_dataset("flowers", CENTRES[y] + generator.standard_normal((len(y), 4)), y, num_classes=len(counts), about=about)


def labels_of(dataset: Dataset, x: torch.Tensor) -> torch.Tensor:
    """The labels of held-out samples x; each may be there once."""
    rows = {tuple(row.tolist()): int(label) for row, label in zip(*dataset.part("heldout"))}
    assert len({tuple(row.tolist()) for row in x}) == len(x)
    return torch.tensor([rows[tuple(row.tolist())] for row in x])


@pytest.mark.parametrize("counts", [[20] * 100, [30] * 200, [60] * 102, [1000, 100, 10, 1], [5] * 50])
def test_all_held_out_samples_count_where_classes_are_small(counts) -> None:
    dataset = flowers(counts)
    held = matched_heldout(dataset)
    share = torch.bincount(dataset.part("train")[1], minlength=len(counts)).double() / len(dataset.part("train")[1])
    assert len(held.x) == held.facts["samples"] >= 0.98 * len(dataset.part("heldout")[0]) == 0.98 * held.facts["held_out"]
    assert held.equal_count > 0.6 * len(held.x)
    labels = labels_of(dataset, held.x)
    reached = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, held.weights)
    there = (torch.bincount(labels, minlength=len(counts)) > 0) & (share > 0)
    alone = there & ~torch.isin(torch.arange(len(counts)), torch.tensor(held.facts["as_one_class"]))
    kept = 1 - share[held.facts["missing"]].sum()
    torch.testing.assert_close(reached[alone], share[alone] / kept)
    assert held.weights.sum().item() == pytest.approx(1)
    assert f"{len(held.x)} of {held.facts['held_out']} held-out samples are used with weights" in held.note
    assert held.note == held.facts["note"]
    assert "\n" not in held.note


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("few", [1, 2, 4])
def test_a_class_of_very_few_among_many_does_not_stop_anything(few, seed) -> None:
    """In whatever part its samples are."""
    held = matched_heldout(flowers([300, 300 - few, few], seed))
    assert len(held.x) > 0.8 * held.facts["held_out"]
    assert held.equal_count > 0.8 * len(held.x)


def test_classes_without_a_held_out_sample_are_named() -> None:
    names = [f"flower {i}" for i in range(100)]
    dataset = flowers([12] * 100, names=names)
    held = matched_heldout(dataset)
    absent = sorted(set(range(100)) - set(dataset.part("heldout")[1].tolist()))
    assert held.facts["missing"] == absent
    assert len(absent) > 1
    assert f"none of classes {absent[0]} (flower {absent[0]}), " in held.note
    lost = torch.isin(dataset.part("train")[1], torch.tensor(absent)).double().mean().item()
    assert f"is held out ({lost:.2g} of training)" in held.note


def test_a_class_that_is_only_held_out_is_left_out_and_named() -> None:
    plain = flowers([100, 100])
    y = plain.y.clone()
    y[torch.nonzero(plain.split == 2).flatten()[0]] = 2
    held = matched_heldout(replace(plain, y=y, num_classes=3))
    assert held.facts["not_trained"] == [2]
    assert "held-out samples of class 2 are left out, because training has none" in held.note
    with pytest.raises(
        ValueError, match=r"holds out \[0, \d+\] samples per class and trains on \[\d+, 0\]; expected at least 2 held-out"
    ):
        matched_heldout(replace(plain, y=(plain.split == 2).long(), num_classes=2))


def test_classes_of_one_sample_are_one_class() -> None:
    dataset = flowers([1] * 200)
    held = matched_heldout(dataset)
    assert len(held.x) == len(dataset.part("heldout")[0])
    assert held.equal_count == len(held.x)


def test_well_populated_classes_have_no_weights() -> None:
    held = matched_heldout(flowers([500, 300, 200]))
    assert held.weights is None
    assert held.note == ""
    assert held.facts == {"samples": len(held.x), "held_out": held.facts["held_out"]}
    assert held.equal_count == len(held.x)


def test_from_many_held_out_samples_as_many_as_allowed_are_drawn(monkeypatch) -> None:
    monkeypatch.setattr(subsets, "MAX_REFERENCE", 300)
    dataset = flowers([30] * 100)
    held = matched_heldout(dataset)
    assert len(held.x) == 300 < len(dataset.part("heldout")[0])
    assert len(labels_of(dataset, held.x).unique()) > 90


def test_the_weighted_floor_is_what_samples_without_fault_get() -> None:
    """As large sets of the same law, in the same proportions; without weights the floor is several times as high."""
    floors, plain, perfect = [], [], []
    for seed in range(3):
        dataset = flowers([20] * 100, seed)
        held, (train, y) = matched_heldout(dataset), dataset.part("train")
        reference = statistics(train)
        floors.append(frechet_distance(statistics(held.x, held.weights), reference))
        plain.append(frechet_distance(statistics(held.x), reference))
        labels = balanced_labels(range(held.equal_count), torch.bincount(y, minlength=100).tolist()).numpy()
        new = CENTRES[labels] + np.random.default_rng(100 + seed).standard_normal((len(labels), 4))
        perfect.append(frechet_distance(statistics(torch.from_numpy(new)), reference))
    assert np.mean(floors) == pytest.approx(np.mean(perfect), rel=0.6)
    assert np.mean(plain) > 2 * np.mean(floors)


def test_small_classes_are_drawn_as_often_as_they_are_there() -> None:
    """A seventh of 700 classes of six: without care every one of them would be there once, or none."""
    counts = [6] * 700 + [8000]
    labels = torch.repeat_interleave(torch.arange(701), torch.tensor(counts))
    rows = drawn(len(labels), 1000, labels)
    assert (labels[rows] < 700).double().mean().item() == pytest.approx(4200 / 12200, abs=0.002)
    assert len(set(rows.tolist())) == 1000


def test_every_figure_of_weighted_held_out_samples_is_weighted(monkeypatch) -> None:
    """A judge of data with a rare class: the floor moves if only the weights are left out."""
    monkeypatch.setattr(classifier, "RECIPE", replace(classifier.RECIPE, steps=20))
    judge = Judge(flowers([200] + [15] * 20))
    assert judge.held_out.weights is not None
    assert judge.group_size == judge.held_out.equal_count < len(judge.heldout)
    floor = judge.floor()
    assert floor["copying"].value == 1
    assert all(figure.value == figure.grouped and math.isnan(figure.spread) for figure in floor.values())
    equal = judge._figures(judge.heldout, None)
    for name in ("frechet", "sliced_wasserstein", "mmd", "copying"):
        assert floor[name].value != equal[name].value, name
    uniform = judge._figures(judge.heldout, torch.full((len(judge.heldout),), 1 / len(judge.heldout)).double())
    for name in ("frechet", "sliced_wasserstein", "mmd", "copying"):
        assert uniform[name].value == pytest.approx(equal[name].value, rel=1e-4, abs=1e-6), name


def test_fewer_rows_of_large_fields_on_disk_are_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in memory and images of bytes are used as they always were."""

    class Fields(LazySamples):
        def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

        def select(self, rows: torch.Tensor) -> LazySamples:
            raise NotImplementedError

    shape = (1000, 2, 8, 8)
    monkeypatch.setattr(subsets, "ENTRIES", 100 * 128)
    fields = Fields(shape, Normalisation.none(), None)
    assert [most_rows(fields, limit) for limit in (60, 5000)] == [60, 100]
    assert most_rows(Fields((1000, 2, 800, 8), Normalisation.none(), None), 5000) == 50
    images = ImageSamples(np.zeros((1000, 1, 8, 8), dtype=np.uint8), Normalisation.none())
    for samples in (torch.zeros(shape), images):
        assert most_rows(samples, 5000) == 5000
