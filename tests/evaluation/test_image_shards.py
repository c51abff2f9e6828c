"""A run's samples in shards: the same bytes whatever was stopped, on any number of processes, for any number of samples."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdiff.config.evaluation import EvaluateConfig
from kdiff.config.training import TrainConfig
from kdiff.evaluation import image_shards as module
from kdiff.evaluation.image_shards import draw_samples, prepare_samples, sample_settings, weights_digest
from kdiff.evaluation.images import Images, quantise
from kdiff.files.tensors import load_tensors
from kdiff.run.lock import FolderReplaced, locked
from kdiff.run.run import Run, load_run
from kdiff.training.trainer import train_run

CONFIG = EvaluateConfig(num_samples=21, batch_size=4, steps=2, seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = TrainConfig(data="digits", network="MLP(width=16, depth=1)", steps=5, batch_size=32, ema=[0.9])
    return train_run(config, tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 10)  # two batches of 4 a shard


def drawn(run: Run, folder: Path, config: EvaluateConfig = CONFIG) -> torch.Tensor:
    prepare_samples(run, config, folder)
    images = draw_samples(run, config, folder)
    x = torch.cat(list(images.read(5)))
    assert (images.count, len(x), x.dtype) == (config.num_samples, config.num_samples, torch.uint8)
    return x


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_they_are_the_samples_of_the_run_as_bytes(run: Run, tmp_path: Path) -> None:
    x = drawn(run, tmp_path)
    samples, labels = run.sample(24, seed=3, steps=2, batch_size=4)
    assert torch.equal(x, quantise(run.normalisation.apply(samples), -1, 1)[:21])
    assert sorted(files(tmp_path)) == [f"samples_{i:05d}.safetensors" for i in range(3)]
    assert torch.equal(torch.cat([load_tensors(path)["y"] for path in sorted(tmp_path.glob("*.safetensors"))]), labels)
    assert 0 < x.float().std() < 255


def test_a_stopped_evaluation_goes_on(run: Run, tmp_path: Path, monkeypatch) -> None:
    whole = drawn(run, tmp_path / "whole")
    usual, calls = module.generate, []

    def stops(*args, start, **options):
        calls.append(start)
        if start == 12:
            raise KeyboardInterrupt
        return usual(*args, start=start, **options)

    monkeypatch.setattr(module, "generate", stops)
    with pytest.raises(KeyboardInterrupt):
        drawn(run, tmp_path / "cut")
    assert (calls, sorted(files(tmp_path / "cut"))) == ([0, 4, 8, 12], ["samples_00000.safetensors"])
    monkeypatch.setattr(
        module, "generate", lambda *args, start, **options: calls.append(start) or usual(*args, start=start, **options)
    )
    assert torch.equal(drawn(run, tmp_path / "cut"), whole)
    assert calls[4:] == [8, 12, 16, 20]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_damaged_shard_is_drawn_anew(run: Run, tmp_path: Path) -> None:
    whole = drawn(run, tmp_path)
    before = files(tmp_path)
    path = tmp_path / "samples_00001.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert torch.equal(drawn(run, tmp_path), whole)
    assert files(tmp_path) == before


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_any_number_of_processes_draws_the_same_bytes(run: Run, processes: int, tmp_path: Path, monkeypatch) -> None:
    drawn(run, tmp_path / "alone")
    (tmp_path / "many").mkdir()
    prepare_samples(run, CONFIG, tmp_path / "many")
    shares = []
    for rank in reversed(range(processes)):
        before = set(files(tmp_path / "many"))
        world = SimpleNamespace(process_index=rank, num_processes=processes, wait_for_everyone=lambda: None)
        monkeypatch.setattr(module, "join_processes", lambda world=world: world)
        draw_samples(run, CONFIG, tmp_path / "many")
        shares.append(len(set(files(tmp_path / "many")) - before))
    assert sum(shares) == 3
    assert max(shares) - min(shares) <= 1
    assert files(tmp_path / "many") == files(tmp_path / "alone")


def test_more_samples_keep_those_that_are_there(run: Run, tmp_path: Path) -> None:
    few = drawn(run, tmp_path, replace(CONFIG, num_samples=10))
    kept = os.stat(tmp_path / "samples_00000.safetensors").st_mtime_ns
    more = drawn(run, tmp_path, replace(CONFIG, num_samples=30))
    assert torch.equal(more[:10], few)
    assert torch.equal(drawn(run, tmp_path, replace(CONFIG, num_samples=3)), few[:3])
    assert os.stat(tmp_path / "samples_00000.safetensors").st_mtime_ns == kept


@pytest.mark.parametrize("change", [{"seed": 4}, {"steps": 3}, {"guidance": 2.0}, {"solver": "euler"}, {"batch_size": 5}])
def test_other_settings_are_refused_in_the_same_folder(run: Run, change, tmp_path: Path) -> None:
    drawn(run, tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"holds samples with (seed 3|sampler|batch_size 4).*--out"):
        prepare_samples(run, replace(CONFIG, **change), tmp_path)
    assert files(tmp_path) == before


def test_other_weights_are_other_settings(run: Run) -> None:
    assert weights_digest(run.model) == weights_digest(run.model)
    before = sample_settings(run, CONFIG)
    parameter = next(iter(run.model.parameters()))
    with torch.no_grad():
        parameter += 1
    try:
        changed = [name for name, value in sample_settings(run, CONFIG).items() if before[name] != value]
    finally:
        with torch.no_grad():
            parameter -= 1
    assert changed == ["weights_digest"]


def test_vectors_and_broken_samples_are_refused(run: Run, tmp_path: Path, monkeypatch) -> None:
    vectors = replace(run, data={**run.data, "shape": [64]})
    with pytest.raises(ValueError, match=r"samples of shape \(64,\) are not images"):
        prepare_samples(vectors, CONFIG, tmp_path)
    monkeypatch.setattr(module, "generate", lambda model, n, shape, *a, **o: (torch.full((n, *shape), float("nan")), None))
    with pytest.raises(RuntimeError, match="not finite"):
        drawn(run, tmp_path / "nan")
    assert files(tmp_path / "nan") == {}


@pytest.mark.parametrize("when", ["drawn", "read"])
def test_shards_are_neither_written_nor_read_where_the_folder_was_replaced(when, run: Run, tmp_path: Path, monkeypatch) -> None:
    usual, folder, place = module.generate, tmp_path / "run", tmp_path / "run" / "evaluations" / "a"
    shutil.copytree(run.folder, folder)
    copied = load_run(folder)

    def replaced() -> None:
        shutil.rmtree(folder)
        shutil.copytree(run.folder, folder)
        place.mkdir(parents=True)

    def generate(*args, start: int, **more):
        if when == "drawn" and start == 8:
            replaced()
        return usual(*args, start=start, **more)

    monkeypatch.setattr(module, "generate", generate)
    with locked(place, "evaluating", copied.place):
        prepare_samples(copied, CONFIG, place)
        with pytest.raises(FolderReplaced, match=f"{folder} was removed or replaced"):
            read(draw_samples(copied, CONFIG, place), replaced)
    assert not list(place.iterdir())


def read(images: Images, before: Callable[[], None]) -> None:
    before()
    list(images.read(5))
