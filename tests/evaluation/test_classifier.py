"""The data's own classifier: accurate where classes lie apart, trained once, the same for everyone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kdiff.evaluation.classifier as module
from kdiff.data import Dataset, load, make_dataset
from kdiff.evaluation.classifier import FEATURES, Classifier, cache_folder, dataset_classifier


def blobs(shift: float = 0.0, normalise: str = "none") -> Dataset:
    """Two blobs in three dimensions, 12 standard deviations apart."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 200)
    x = generator.standard_normal((200, 3)) + 4 * np.sqrt(3) * y[:, None] + shift
    return make_dataset("blobs", x, y, normalise=normalise)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch) -> list[int]:
    """Training of 3 steps in place of 800; its length is how often."""
    trainings: list[int] = []
    monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=3))
    original = module._train

    def counted(network: Classifier, dataset: Dataset) -> float:
        trainings.append(1)
        return original(network, dataset)

    monkeypatch.setattr(module, "_train", counted)
    return trainings


def files(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_classes_that_lie_apart_are_told_apart() -> None:
    assert dataset_classifier(load("gaussian_mixture", num_samples=1000, ambient_dim=4, components=3)).accuracy > 0.99


def test_images_are_told_apart_by_what_they_show_wherever_it_is(cache, monkeypatch) -> None:
    """A bright row or a bright column, in any of six places, under noise."""
    monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=200))
    generator = np.random.default_rng(0)
    y, place = generator.integers(0, 2, 400), generator.integers(0, 6, 400)
    images = 0.3 * generator.standard_normal((400, 1, 6, 6))
    for image, kind, at in zip(images, y, place):
        image[0][(at, slice(None)) if kind else (slice(None), at)] += 1
    dataset = make_dataset("bars", images, y)
    trained = dataset_classifier(dataset)
    assert trained.accuracy > 0.95
    x, y = dataset.part("heldout")
    assert trained.accuracy == (trained.network(x).argmax(1) == y).double().mean().item()


def test_it_sees_its_own_part_only(quick, cache, monkeypatch) -> None:
    dataset, seen = blobs(), []
    original = module.fit
    monkeypatch.setattr(
        module, "fit", lambda objective, x, y, *more, **how: seen.append((x, y)) or original(objective, x, y, *more)
    )
    dataset_classifier(dataset)
    x, y = dataset.part("classifier")
    assert torch.equal(seen[0][0], x)
    assert torch.equal(seen[0][1], y)


def test_it_is_trained_once_and_read_back_from_then_on(quick, cache) -> None:
    first = dataset_classifier(blobs())
    before = files(cache)
    again = dataset_classifier(blobs())
    assert len(quick) == 1
    assert files(cache) == before
    assert len(before) == 2
    assert (again.accuracy, again.digest) == (first.accuracy, first.digest)
    x = blobs().x
    assert torch.equal(again.network.features(x), first.network.features(x))
    assert not again.network.training


def test_training_again_gives_the_same_bytes(quick, cache, tmp_path, monkeypatch) -> None:
    torch.manual_seed(1)
    dataset_classifier(blobs())
    torch.manual_seed(2)
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "other"))
    dataset_classifier(blobs())
    assert len(quick) == 2
    assert files(cache) == files(tmp_path / "other")


def test_training_leaves_the_random_state_alone(quick, cache) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset_classifier(blobs())
    assert torch.equal(torch.rand(3), expected)


def test_other_data_or_another_normalisation_is_another_classifier(quick, cache) -> None:
    for dataset in (blobs(), blobs(normalise="standard"), blobs(normalise="features"), blobs(shift=1)):
        dataset_classifier(dataset)
    assert len(quick) == 4
    names = [path.name for path in (cache / "classifiers").iterdir()]
    assert len(names) == 4
    # The same raw values have one fingerprint, whatever is then done to them.
    assert len({name.partition("-")[0] for name in names}) == 2


def test_who_comes_second_judges_by_the_first_ones_classifier(quick, cache, tmp_path, monkeypatch) -> None:
    """Two processes find nothing in the cache and train at once; the slower one must not replace what is being read."""
    counted = module._train

    def overtaken(network: Classifier, dataset: Dataset) -> float:
        accuracy = counted(network, dataset)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_train", lambda network, dataset: 0.25)  # another process, with weights of its own
            faster.append(dataset_classifier(dataset))
        return accuracy

    faster: list = []
    monkeypatch.setattr(module, "_train", overtaken)
    slower = dataset_classifier(blobs())
    assert (slower.accuracy, slower.digest) == (0.25, faster[0].digest)


def test_a_damaged_file_is_named(quick, cache) -> None:
    dataset_classifier(blobs())
    weights = next(cache.rglob("classifier.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"classifier\.safetensors is truncated or damaged"):
        dataset_classifier(blobs())


def test_an_interrupted_training_leaves_nothing(quick, cache, monkeypatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset_classifier(blobs())
    assert files(cache) == {}


def test_data_without_labels_are_refused(cache) -> None:
    with pytest.raises(ValueError, match="sphere has no labels"):
        dataset_classifier(load("sphere", num_samples=100))
    assert not cache.exists()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 8, 8), (3, 9, 5), (2, 4, 4, 4)])
def test_features_of_any_shape(shape) -> None:
    network, x = Classifier(shape, 4), torch.randn(7, *shape)
    assert network(x).shape == (7, 4)
    assert network.features(x).shape == (7, FEATURES)
    torch.testing.assert_close(network.features(x, batch_size=2), network.features(x))
    assert torch.equal(network.head(network.features(x)), network(x))
    assert not network.features(x).requires_grad


def test_where_the_cache_is(monkeypatch) -> None:
    monkeypatch.setenv("KDIFF_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("KDIFF_CACHE")
    assert cache_folder() == Path("/b/kdiff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/kdiff")
