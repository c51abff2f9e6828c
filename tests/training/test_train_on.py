"""Training on every sample, held out or not; and noise scale and cosine term from a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdiff.config.training import TrainConfig
from kdiff.data import load
from kdiff.evaluation import judge, judged_samplers
from kdiff.training.trainer import train_run

SMALL = {"data": "digits", "network": "MLP(width=8, depth=1)", "steps": 2, "batch_size": 8}


def test_all_is_every_sample_in_order() -> None:
    dataset = load("digits")
    x, y = dataset.part("all")
    assert (len(x), len(y)) == (1797, 1797)
    assert sum(len(dataset.part(name)[0]) for name in ("train", "classifier", "heldout")) == 1797
    with pytest.raises(ValueError, match="and all; found 'rest'"):
        dataset.part("rest")


def test_a_run_on_all_counts_all_classes_and_its_evaluation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {name: train_run(TrainConfig(**SMALL, train_on=name), tmp_path / name) for name in ("train", "all")}
    assert sum(runs["all"].class_counts) == 1797
    assert sum(runs["train"].class_counts) == 1083
    monkeypatch.setattr(judged_samplers, "CLEAN", {"clean": {"solver": "euler", "steps": 2, "last_step": "data"}})
    with pytest.warns(UserWarning, match="trained on all of its data"):
        judge.evaluate(runs["all"], judge.Judge(load("digits")), num_samples=260, exact=False, sampler="default")


def test_another_part_is_refused() -> None:
    with pytest.raises(ValueError, match="expected train or all"):
        TrainConfig(train_on="heldout")


def test_noise_scale_and_cosine_reach_the_model_and_its_metrics(tmp_path: Path) -> None:
    run = train_run(TrainConfig(**SMALL, noise_scale=2.0, cosine_weight=0.5), tmp_path / "run")
    assert (run.model.noise_scale, run.model.cosine_weight) == (2.0, 0.5)
    assert 0 < run.metrics()[-1]["loss_cosine"] < 2
