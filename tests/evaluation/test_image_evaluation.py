"""`kdiff evaluate` by features: of a run, a folder, a .npz, each against each; stamped, and refused before any sample is drawn.

The features are those of the digits' own classifier, small and quick. Inception's are in test_inception.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kdiff
from kdiff.commands.main import main
from kdiff.config.evaluation import EvaluateConfig
from kdiff.config.parts import parse
from kdiff.config.plain import as_dict
from kdiff.config.sampling import Sampling
from kdiff.config.training import TrainConfig
from kdiff.evaluation import classifier
from kdiff.evaluation import image_shards as shards
from kdiff.evaluation.image_evaluation import evaluate_images
from kdiff.run.folder import sampling_of
from kdiff.run.run import load_run
from kdiff.training.trainer import train_run

pytest.importorskip("torch_fidelity")
pytestmark = pytest.mark.filterwarnings("ignore:.* too few")
OPTIONS = ["--features", "classifier", "--num-samples", "40", "--batch-size", "8", "--steps", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainConfig(data="digits", network="MLP(width=16, depth=1)", steps=5, batch_size=32, ema=[0.9])
    return train_run(config, tmp_path_factory.mktemp("runs") / "digits").folder


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Of the part that nothing is trained on, as bytes (N, H, W)."""
    x, _ = kdiff.data.load("digits").part("heldout")
    return ((x[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def folder(digits: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "digits"
    path.mkdir()
    for i, image in enumerate(digits):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def judged(tmp_path: Path, *argv: str) -> dict:
    assert main(["evaluate", *argv, "--out", str(tmp_path)]) == 0
    return json.loads((tmp_path / "classifier.json").read_text())


def test_a_run_against_its_own_data(run: Path, capsys) -> None:
    assert main(["evaluate", str(run), *OPTIONS, "--seed", "3", "--guidance", "2"]) == 0
    (out,) = (run / "evaluations").iterdir()
    result = json.loads((out / "classifier.json").read_text())
    text = capsys.readouterr().out
    samples = result["samples"]
    assert (samples["num"], samples["seed"], samples["step"], samples["weights"]) == (40, 3, 5, "ema 0.9")
    assert samples["sampler"] == {
        "guidance": 2.0,
        "guidance_interval": [0.0, 1.0],
        "guidance_rescale": 0.0,
        "solver": "ab3",
        "steps": 2,
        "times": "uniform",
        "last_step": "data",
    }
    assert (samples["precision"], samples["shape"], samples["value_range"]) == ("float32", [1, 8, 8], [-1, 1])
    assert samples["k"] == load_run(run).model.target.k
    assert result["reference"]["num"] == load_run(run).data["counts"]["train"]
    assert result["reference"]["fingerprint"] == load_run(run).data["fingerprint"]
    assert {"name": "classifier", "resize": "none"}.items() <= result["features"].items()
    assert set(result["environment"]["packages"]) >= {"torch", "torch-fidelity", "kdiff"}
    assert set(result["figures"]) == {"fd_classifier", "kid", "precision", "recall"}
    low, high = result["figures"]["fd_classifier"]["interval"]
    assert low < result["figures"]["fd_classifier"]["value"] < high
    assert "kid: no spread: every subset would be 40 of 40 samples and 40 of" in text
    for name, figure in result["figures"].items():
        assert f"{name} " in text
        assert f"{figure['value']:.5g}" in text
    assert [note.split(" samples")[0] for note in result["warnings"]] == ["40"]


def test_images_near_the_data_are_nearer(run: Path, folder: Path, digits: np.ndarray, tmp_path: Path) -> None:
    """Held-out digits, from a folder and from a .npz, against samples of a model that is hardly trained."""
    np.savez(tmp_path / "digits.npz", digits[..., None])
    reference = ["--features", "classifier", "--reference", str(run)]
    of_folder = judged(tmp_path / "a", str(folder), *reference)
    of_npz = judged(tmp_path / "b", str(tmp_path / "digits.npz"), *reference)
    of_run = judged(tmp_path / "c", str(run), *OPTIONS[:2], "--num-samples", str(len(digits)), "--steps", "2")
    assert of_folder["figures"] == of_npz["figures"]
    assert of_folder["samples"]["num"] == len(digits)
    near, far = (result["figures"] for result in (of_folder, of_run))
    assert near["fd_classifier"]["interval"][1] < 0.2 * far["fd_classifier"]["interval"][0]
    assert near["kid"]["value"] < 0.2 * far["kid"]["value"]
    assert near["precision"]["interval"][0] > far["precision"]["interval"][1]


def test_statistics_of_a_run_or_of_a_folder_are_a_reference(run: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """Statistics of samples made once and used: the distance of a set to itself is 0."""
    file = tmp_path / "samples.npz"
    made = judged(tmp_path / "made", str(run), *OPTIONS, "--save-statistics", str(file))
    assert "figures" not in made
    assert str(file) in capsys.readouterr().out
    result = judged(tmp_path / "used", str(run), *OPTIONS, "--reference", str(file))
    assert result["figures"]["fd_classifier"]["value"] < 1e-6
    assert (result["reference"]["num"], result["reference"]["stamp"]["of"]["seed"]) == (40, 0)
    assert set(result["left_out"]) == {"kid", "precision", "recall"}


def test_a_stopped_evaluation_is_gone_on_with_by_the_same_command(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(shards, "SHARD", 8)
    whole = judged(tmp_path / "whole", str(run), *OPTIONS)
    usual = shards.generate

    def stops(*args, start, **options):
        if start == 16:
            raise KeyboardInterrupt
        return usual(*args, start=start, **options)

    argv = ["evaluate", str(run), *OPTIONS, "--out", str(tmp_path / "cut")]
    monkeypatch.setattr(shards, "generate", stops)
    capsys.readouterr()
    assert main(argv) == 130
    assert f"kdiff {' '.join(argv)}" in capsys.readouterr().out
    assert not (tmp_path / "cut" / "classifier.json").exists()
    monkeypatch.setattr(shards, "generate", usual)
    assert judged(tmp_path / "cut", str(run), *OPTIONS)["figures"] == whole["figures"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the processes of torchrun have: sums are rounded differently on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_two_processes_find_the_same_figures(run: Path, tmp_path: Path, one_thread: None) -> None:
    alone = judged(tmp_path / "alone", str(run), *OPTIONS, "--num-samples", "1100")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "kdiff",
        "evaluate",
    ]
    command += [str(run), *OPTIONS, "--num-samples", "1100", "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("fd_classifier") == 1
    found = json.loads((tmp_path / "two" / "classifier.json").read_text())
    assert found["figures"].keys() == alone["figures"].keys()
    for name, figure in found["figures"].items():
        # KID is NumPy's sum, which is rounded differently on another number of its threads.
        assert figure["value"] == pytest.approx(alone["figures"][name]["value"], rel=1e-6), name
    for path in (tmp_path / "alone").glob("samples_*"):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_mistakes_are_refused_before_a_sample_is_drawn(run: Path, folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def never(*args, **options):
        raise AssertionError("a sample was drawn")

    monkeypatch.setattr(shards, "generate", never)
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "large.npz", np.zeros((4, 40, 24, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "stats.pkl").write_bytes(b"\x80\x04.")
    plain, own = [str(run), "--features", "classifier"], [str(run)]
    for argv, message in (
        ([*plain, "--reference", str(tmp_path / "inception.npz")], "mu has shape (2048,)"),
        ([*plain, "--reference", str(tmp_path / "cut.npz")], "damaged"),
        ([*plain, "--reference", str(tmp_path / "empty")], "holds no images"),
        ([*plain, "--reference", str(tmp_path / "large.npz")], "the images of the reference are 40×24, those to be judged 8×8"),
        ([*plain, "--reference", str(tmp_path / "none")], "no folder of images"),
        ([*plain, "--reference", str(tmp_path / "stats.pkl")], "can run code and are not read"),
        ([*plain, "--num-samples", "1"], "num_samples is 1; expected at least 2"),
        ([*plain, "--batch-size", "0"], "batch_size is 0"),
        ([*plain, "--save-statistics", str(tmp_path / "a.pkl")], "written as .npz"),
        ([*plain, "--feature-weights", "x.pth"], "has no feature_weights"),
        ([*plain, "--features", "vgg"], "features"),
        ([*own, "--features", "inception", "--feature-weights", str(tmp_path / "no.pth")], "no weights at"),
        ([*own, "--features", "dinov2"], "no weights of its own"),
        ([*own, "--steps", "7"], "steps go with --features"),
        ([*own, "--feature-weights", "x"], "feature_weights go with --features"),
        ([*own, "--out", str(tmp_path / "out")], "out goes with --features"),
        ([str(folder)], "is not a run folder"),
        (
            [str(folder), "--reference", str(folder), "--guidance", "3", "--ema", "0.5"],
            "ema, guidance say how a run is sampled",
        ),
        ([str(folder), "--features", "classifier"], "needs a reference to be compared with: name one with --reference"),
        ([str(folder), "--features", "classifier", "--reference", str(folder)], "name the run by --reference RUN"),
    ):
        assert (
            main(
                [
                    "evaluate",
                    *argv,
                    *(() if "--out" in argv else ("--out", str(tmp_path / "out")) if "--features" in argv else ()),
                ]
            )
            == 2
        )
        assert message in capsys.readouterr().err, argv
    assert not (tmp_path / "out").exists()


def test_a_run_is_judged_as_its_configuration_says_it_is_sampled_from(tmp_path: Path) -> None:
    """Unless told otherwise; without a word of it heun and 50 steps, as above."""
    said = Sampling(solver="euler", steps=3, times="shifted(0.5)")
    config = TrainConfig(data="digits", network="MLP(width=8, depth=1)", steps=2, batch_size=8, sampling=said)
    run = train_run(config, tmp_path / "run").folder
    options = ["--features", "classifier", "--num-samples", "20", "--batch-size", "10"]
    found = judged(tmp_path / "a", str(run), *options)["samples"]["sampler"]
    assert (found["solver"], found["steps"], found["times"]) == ("euler", 3, "shifted(0.5)")
    told = judged(tmp_path / "b", str(run), *options, "--steps", "2")["samples"]["sampler"]
    assert told == {**found, "steps": 2}


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, {}),
        ({"guidance": 1.5}, {"guidance": 1.5}),
        ({"solver": "euler"}, {"solver": parse("euler"), "steps": 18}),
        ({"steps": 7, "last_step": "euler"}, {"solver": parse("ab3"), "steps": 7, "last_step": "euler"}),
    ],
)
def test_only_what_a_configuration_says_otherwise_than_usual_takes_the_place_of_a_commands_own(said, wanted, tmp_path) -> None:
    """So that guidance alone leaves the evaluation's solver; but steps belong to their solver."""
    config = TrainConfig(data="digits", sampling=Sampling(**said))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    assert sampling_of(str(tmp_path)) == wanted
    assert sampling_of(str(tmp_path / "none")) == {}


def test_images_of_another_shape_and_runs_on_vectors(run: Path, tmp_path: Path, capsys) -> None:
    np.savez(tmp_path / "large.npz", np.zeros((4, 9, 9, 3), np.uint8))
    assert main(["evaluate", str(tmp_path / "large.npz"), "--features", "classifier", "--reference", str(run)]) == 2
    assert "takes images of shape (1, 8, 8), found (3, 9, 9)" in capsys.readouterr().err
    config = TrainConfig(data="moons", network="MLP(width=8, depth=1)", steps=2, batch_size=8)
    train_run(config, tmp_path / "moons")
    assert main(["evaluate", str(tmp_path / "moons"), "--features", "classifier"]) == 2
    assert "are not images" in capsys.readouterr().err


def test_from_python(run: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(num_samples=20, batch_size=10, steps=1, features="classifier")
    result, file = evaluate_images(str(run), config, tmp_path / "a")
    assert json.loads(file.read_text())["figures"]["kid"]["value"] == result["figures"]["kid"]["value"]
    few, _ = evaluate_images(str(run), replace(config, num_samples=3), tmp_path / "b")
    assert set(few["left_out"]) == {"precision", "recall"}


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory, digits: np.ndarray) -> Path:
    """A run on float images without a value_range: digits from 0.1 to 0.8."""
    data = kdiff.data.load("digits")
    path = tmp_path_factory.mktemp("floats") / "pale.npz"
    np.savez(path, x=(0.45 + 0.35 * data.x.numpy()).astype(np.float32), y=data.y.numpy())
    config = TrainConfig(data=str(path), network="MLP(width=16, depth=1)", steps=2, batch_size=32, ema=[0.9])
    return train_run(config, path.parent / "run").folder


def test_float_images_without_a_range_are_judged_by_their_own_data_with_a_word(
    stretched: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(classifier, "RECIPE", replace(classifier.RECIPE, steps=20))  # how well it judges does not matter here
    with pytest.warns(
        UserWarning, match=r"pale has no value_range, so black and white are taken as 0\.1 and 0\.8, the extremes"
    ):
        result = judged(tmp_path, str(stretched), *OPTIONS)
    assert "compare the figures only with those of the same data" in result["warnings"][0]
    with pytest.warns(UserWarning, match="pale has no value_range"):
        judged(tmp_path / "named", str(stretched), *OPTIONS, "--reference", str(stretched))


def test_float_images_without_a_range_are_not_compared_with_others(
    stretched: Path, run: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    """With files, with another run, in a file of statistics, or as the reference of files."""
    told = "pale has no value_range, so black and white are taken as 0.1 and 0.8, the extremes of the training part. Such "
    own = [str(stretched), *OPTIONS, "--out", str(tmp_path)]
    for argv in (
        ["evaluate", *own, "--reference", str(folder)],
        ["evaluate", *own, "--reference", str(run)],
        ["evaluate", *own, "--save-statistics", str(tmp_path / "pale.npz")],
        ["evaluate", str(folder), *OPTIONS[:2], "--reference", str(stretched), "--out", str(tmp_path)],
        ["sweep", str(stretched), "--features", "dinov2", "--reference", str(folder), "--steps", "2", "--num-samples", "40"],
    ):
        assert main(argv) == 2
        message = capsys.readouterr().err
        assert told in message
        assert '--data "images.npz(value_range=[0, 255])"' in message
        assert message.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was sampled"
