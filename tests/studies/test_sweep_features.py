"""Sweeps ranked by features of images: the figure of `kdiff evaluate`, resumed only where features and reference are the same.

The features are those of a tiny DINOv2. Inception's are in tests/evaluation/test_inception.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdiff.commands.main import main
from kdiff.config.autoencoding import EncodeConfig
from kdiff.config.evaluation import EvaluateConfig
from kdiff.config.studies import SweepConfig
from kdiff.config.training import TrainConfig
from kdiff.evaluation.features import Dino
from kdiff.evaluation.frechet import frechet_distance, statistics
from kdiff.evaluation.image_evaluation import evaluate_images
from kdiff.files.tensors import load_tensors
from kdiff.run.run import Run, load_run
from kdiff.studies import sweeps as module
from kdiff.studies.sweeps import GROUPS, sweep
from kdiff.training.encoding import encode
from kdiff.training.trainer import train_run

pytest.importorskip("torch_fidelity")
NUM, SIZE = 40, 4  # samples, in groups


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 colour images 8×8."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), np.uint8))
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Run:
    config = TrainConfig(data=str(data), network="MLP(width=16, depth=1)", steps=5, batch_size=32, ema=[0.9])
    return train_run(config, data.parent / "run")


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    """60 darker ones, N×H×W×3."""
    return np.random.default_rng(1).integers(0, 128, (60, 8, 8, 3), np.uint8)


@pytest.fixture
def reference(others: np.ndarray, tmp_path: Path) -> Path:
    np.savez(tmp_path / "others.npz", others)
    return tmp_path / "others.npz"


@pytest.fixture
def wanted(dino_folder: Path, reference: Path) -> Callable[..., SweepConfig]:
    def config(**options: Any) -> SweepConfig:
        given: dict[str, Any] = {"features": "dinov2", "feature_weights": str(dino_folder), "reference": str(reference)}
        return SweepConfig(**{"solver": ["euler"], "steps": [2], "num_samples": NUM, **given, **options})

    return config


def evaluated(run: Run, config: SweepConfig, out: Path) -> tuple[dict[str, Any], Tensor]:
    """What `kdiff evaluate` makes of the first setting, in the same batches, and the images."""
    given = {name: getattr(config, name) for name in ("num_samples", "features", "feature_weights", "reference", "autoencoder")}
    options: dict[str, Any] = {"solver": config.solver[0], "steps": config.steps[0], "batch_size": SIZE}
    result, _ = evaluate_images(str(run.folder), EvaluateConfig(**options, **given), out) or ({}, out)
    return result, torch.cat([load_tensors(path)["images"] for path in sorted(out.glob("samples_*"))])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of the first sample of every group that is drawn from now on."""
    usual, starts = module.generate, list[int]()

    def noted(model: Any, num: int, *arguments: Any, **options: Any) -> Any:
        starts.extend([options["start"]] if num > 1 else [])
        return usual(model, num, *arguments, **options)

    monkeypatch.setattr(module, "generate", noted)
    return starts


def test_the_figure_is_that_of_evaluate(run: Run, wanted, dino_folder: Path, others: np.ndarray, tmp_path: Path) -> None:
    config = wanted(steps=[2, 3])
    found, out = sweep(run.folder, config, tmp_path / "out")
    result, images = evaluated(run, config, tmp_path / "evaluated")
    first = found.settings[0]
    assert found.measure == "fd_dinov2"
    assert first.value == pytest.approx(result["figures"]["fd_dinov2"]["value"], rel=1e-6)
    # The groups, another way: from all but four of the features.
    dino = Dino(str(dino_folder))
    features, theirs = (dino(x)["pool"] for x in (images, torch.from_numpy(others).permute(0, 3, 1, 2)))
    for group, value in enumerate(first.groups):
        kept = torch.cat([features[: SIZE * group], features[SIZE * (group + 1) :]])
        without = frechet_distance(statistics(kept), statistics(theirs))
        assert value == pytest.approx(GROUPS * first.value - (GROUPS - 1) * without, rel=1e-4, abs=1e-4 * first.value)
    facts = json.loads((out / "sweep.json").read_text())
    assert facts["features"] == result["features"] == dino.stamp()
    assert facts["reference"] == result["reference"]
    assert (facts["reference"]["num"], facts["measure"], facts["warnings"]) == (60, "fd_dinov2", [])
    assert facts["config"]["reference"] == config.reference


def test_statistics_serve_as_a_reference_and_so_do_the_runs_own_data(run: Run, wanted, reference: Path, tmp_path: Path) -> None:
    of_images, _ = sweep(run.folder, wanted(), tmp_path / "a")
    config = wanted()
    saving = EvaluateConfig(features="dinov2", feature_weights=config.feature_weights, save_statistics=str(tmp_path / "s.npz"))
    evaluate_images(str(reference), saving, tmp_path / "saved")
    of_statistics, _ = sweep(run.folder, wanted(reference=str(tmp_path / "s.npz")), tmp_path / "b")
    assert of_statistics.best.value == pytest.approx(of_images.best.value, rel=1e-6)
    config = wanted(reference=None)
    own, out = sweep(run.folder, config, tmp_path / "c")
    result, _ = evaluated(run, config, tmp_path / "evaluated")
    assert own.best.value == pytest.approx(result["figures"]["fd_dinov2"]["value"], rel=1e-6)
    assert own.best.value != of_images.best.value
    assert json.loads((out / "sweep.json").read_text())["reference"]["fingerprint"] == run.data["fingerprint"]


def test_an_image_goes_through_the_network_once(run: Run, wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, counts = Dino.__call__, list[int]()
    monkeypatch.setattr(Dino, "__call__", lambda self, images: counts.append(len(images)) or usual(self, images))
    sweep(run.folder, wanted(steps=[2, 3]), tmp_path / "out")
    # One black image, to try the network, and those of the reference.
    assert sum(counts) == 1 + 60 + 2 * NUM


def test_what_was_stopped_goes_on_and_ends_the_same(run: Run, wanted, tmp_path: Path, monkeypatch, drawn: list[int]) -> None:
    whole, _ = sweep(run.folder, wanted(steps=[2, 3]), tmp_path / "whole")
    groups = list(range(0, NUM, SIZE))
    assert drawn == 2 * groups
    with pytest.MonkeyPatch.context() as patch:
        noted = module.generate

        def stops(*arguments: Any, **options: Any) -> Any:
            if options["steps"] == 3 and options.get("start") == 8:
                raise KeyboardInterrupt
            return noted(*arguments, **options)

        patch.setattr(module, "generate", stops)
        with pytest.raises(KeyboardInterrupt):
            sweep(run.folder, wanted(steps=[2, 3]), tmp_path / "cut")
    drawn.clear()
    again, _ = sweep(run.folder, wanted(steps=[2, 3]), tmp_path / "cut")
    assert drawn == groups
    assert [(each.value, each.groups) for each in again.settings] == [(each.value, each.groups) for each in whole.settings]


def test_settings_of_other_features_or_another_reference_are_judged_anew(
    run: Run, wanted, dino_folder: Path, others: np.ndarray, reference: Path, tmp_path: Path, drawn: list[int]
) -> None:
    out, groups = tmp_path / "out", GROUPS
    first, _ = sweep(run.folder, wanted(), out)
    sweep(run.folder, wanted(), out)
    assert len(drawn) == groups
    # The same images elsewhere are the same reference, and others in the same place are not.
    moved = Path(shutil.copy(reference, tmp_path / "moved.npz"))
    sweep(run.folder, wanted(reference=str(moved)), out)
    assert len(drawn) == groups
    np.savez(moved, 255 - others)
    other, _ = sweep(run.folder, wanted(reference=str(moved)), out)
    assert len(drawn) == 2 * groups
    assert other.best.value != first.best.value
    # Other weights, and the distance without features.
    weights = Path(shutil.copytree(dino_folder, tmp_path / "weights"))
    tensors = load_file(weights / "model.safetensors")
    save_file({name: 2 * x for name, x in tensors.items()}, weights / "model.safetensors", {"format": "pt"})
    sweep(run.folder, wanted(feature_weights=str(weights)), out)
    assert len(drawn) == 3 * groups
    plain = SweepConfig(solver=["euler"], steps=[2], num_samples=NUM)
    judged, _ = sweep(run.folder, plain, out)
    assert (len(drawn), judged.measure) == (4 * groups, "sliced Wasserstein distance")
    back, _ = sweep(run.folder, wanted(), out)
    assert (len(drawn), back) == (4 * groups, first)


def test_few_samples_and_few_images_are_warned_of(run: Run, wanted, others: np.ndarray, tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    np.savez(few, others[:20])
    with pytest.warns(UserWarning, match="are too few") as notes:
        _, out = sweep(run.folder, wanted(num_samples=25, reference=str(few)), tmp_path / "out")
    found = [str(note.message) for note in notes if "too few" in str(note.message)]
    whose = [note.split(" are too few for fd_dinov2 (16 features)")[0] for note in found]
    assert whose == ["20 samples", "20 images in the reference"]  # 25 are ten groups of 2
    assert json.loads((out / "sweep.json").read_text())["warnings"] == found


def test_samples_that_are_not_finite_are_never_best(run: Run, wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = module.generate

    def broken(model: Any, num: int, *arguments: Any, **options: Any) -> Any:
        x, y = usual(model, num, *arguments, **options)
        if options["steps"] == 3 and options.get("start") == 12:
            x[1, 0, 0, 0] = torch.nan
        return x, y

    monkeypatch.setattr(module, "generate", broken)
    found, _ = sweep(run.folder, wanted(steps=[3, 2]), tmp_path / "out")
    assert [each.finite for each in found.settings] == [False, True]
    assert found.best is found.settings[1]


@pytest.fixture(scope="module")
def latent(data: Path, autoencoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run on latents whose autoencoder has moved, and where it lies now."""
    folder = tmp_path_factory.mktemp("latent")
    shutil.copytree(autoencoder_folder, folder / "before")
    encode(EncodeConfig(str(data), str(folder / "before")), folder / "latents")
    config = TrainConfig(
        data=str(folder / "latents"), network="MLP(width=16, depth=1)", steps=2, batch_size=16, ema=[0.9], sample_every=0
    )
    made = train_run(config, folder / "run")
    (folder / "before").rename(folder / "now")
    return made, folder / "now"


def test_latents_are_decoded(latent: tuple[Run, Path], wanted, tmp_path: Path) -> None:
    made, autoencoder = latent
    with pytest.raises(FileNotFoundError, match="take --autoencoder too"):
        sweep(made.folder, wanted(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"was trained on latents.*name images with --reference"):
        sweep(made.folder, wanted(reference=None, autoencoder=str(autoencoder)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    config = wanted(autoencoder=str(autoencoder))
    found, _ = sweep(made.folder, config, tmp_path / "out")
    result, images = evaluated(load_run(made.folder), config, tmp_path / "evaluated")
    assert images.shape[1:] == (3, 8, 8)
    assert found.best.value == pytest.approx(result["figures"]["fd_dinov2"]["value"], rel=1e-6)


def test_mistakes_are_refused_before_a_sample_is_drawn(
    run: Run, dino_folder: Path, reference: Path, tmp_path: Path, drawn: list[int], capsys
) -> None:
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    np.savez(tmp_path / "floats.npz", np.zeros((5, 8, 8, 3)))
    whole = reference.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    vectors = train_run(TrainConfig(data="moons", network="MLP(width=8, depth=1)", steps=2, batch_size=8), tmp_path / "moons")
    plain, dino = [str(run.folder)], [str(run.folder), "--features", "dinov2", "--feature-weights", str(dino_folder)]
    for argv, message in (
        ([*plain, "--feature-weights", "x.pth"], "feature_weights go with --features"),
        ([*plain, "--reference", str(reference), "--autoencoder", "x"], "reference, autoencoder go with --features"),
        ([*plain, "--features", "vgg"], "features"),
        ([*plain, "--features", "dinov2"], "no weights of its own"),
        ([*plain, "--features", "inception", "--feature-weights", str(tmp_path / "no.pth")], "no weights at"),
        ([*plain, "--features", "inception", "--feature-weights", str(dino_folder)], "expected the .pth file"),
        ([*dino, "--reference", str(tmp_path / "inception.npz")], "mu has shape (2048,)"),
        ([*dino, "--reference", str(tmp_path / "floats.npz")], "expected uint8"),
        ([*dino, "--reference", str(tmp_path / "cut.npz")], "damaged"),
        ([*dino, "--reference", str(tmp_path / "none")], "no folder of images"),
        ([str(vectors.folder), *dino[1:]], "are not images"),
    ):
        assert main(["sweep", *argv, "--steps", "2", "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err, argv
    assert not drawn
    assert not (tmp_path / "out").exists()


def test_the_command(run: Run, dino_folder: Path, reference: Path, capsys) -> None:
    argv = ["--features", "dinov2", "--feature-weights", str(dino_folder), "--reference", str(reference), "--steps", "2", "3"]
    assert main(["sweep", str(run.folder), *argv, "--num-samples", str(NUM)]) == 0
    said = capsys.readouterr().out
    assert "fd_dinov2" in said.splitlines()[1]
    assert "Best: steps" in said
    # Apart from the sweep by the classifier's features.
    assert len(list((run.folder / "sweeps").glob(f"step_{run.step:08d}_seed_0_dinov2_*/sweep.png"))) == 1
