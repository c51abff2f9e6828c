"""kdiff sample and its kin: what is no run folder, guidance that was never learned, and samples that are not finite."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import kdiff
from kdiff.commands.main import main
from kdiff.evaluation.judge import Judge, evaluate
from kdiff.files.tensors import load_tensors
from kdiff.report.run_pictures import NotFinite, draw_samples, sample_to_files

TINY = ["--network", "MLP(width=8, depth=1)", "--steps", "4", "--batch-size", "16", "--checkpoint-every", "2", "--keep", "0"]
# The sde makes noise of √w, so a large w makes infinite numbers: as large as they are in a diverged model.
BROKEN = ["--solver", "sde(norm=1e38)"]


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the working directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs on labelled data: one that saw "no class", one that did not, and one that saw nothing else."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    data = "gaussian_mixture(num_samples=300, ambient_dim=3, components=2)"
    for name, rate in {"usual": "0.1", "never": "0", "always": "1"}.items():
        assert main(["train", "--data", data, *TINY, "--null-rate", rate, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]):
    """The error line of a command that must fail with this code."""

    def run(code: int, *argv: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in argv]) == code
        return capsys.readouterr().err.splitlines()[-1]

    return run


# What is no run folder


@pytest.mark.parametrize("command", ["sample", "evaluate", "sweep", "report", "export", "info"])
def test_every_command_says_what_the_named_place_is_instead_of_a_run(command, runs, error, tmp_path):
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    run = runs / "usual"
    for place, message in {
        run / "config.yaml": f"it lies within the run folder {run}. Name that folder",
        run
        / "checkpoints"
        / "step_00000002": f"within the run folder {run}. Name that folder, and its checkpoint by --checkpoint 2",
        run / "samples": f"it lies within the run folder {run}. Name that folder",
        runs: f"it holds the run folders {runs / 'always'}, {runs / 'never'}, {runs / 'usual'}. Name one of them",
        tmp_path / "note.txt": "it is a file. Name the folder that kdiff train has made",
        tmp_path / "note.txt" / "below": "there is nothing at this place",
        tmp_path / "nowhere": "there is nothing at this place. Make a run with kdiff train",
        tmp_path / "empty": "it has no config.yaml. Make a run with kdiff train",
    }.items():
        found = error(2, command, place)
        assert f"{place} is not a run folder: " in found
        assert message in found


def test_runs_that_options_name_are_checked_alike(runs, error):
    run, file = runs / "usual", runs / "usual" / "config.yaml"
    for argv in (
        ["sample", run, "--guidance", "2", "--guidance-run", file],
        ["report", run, "--compare", file],
        ["evaluate", run / "checkpoints" / "step_00000002", "--reference", run],
    ):
        assert "is not a run folder: it lies within the run folder" in error(2, *argv)


# Guidance of a run that never saw "no class"


@pytest.mark.parametrize(
    ("name", "never"), [("never", 'never saw "no class"'), ("always", 'never saw a class, only "no class"')]
)
def test_guidance_that_was_not_learned_is_refused_wherever_it_is_asked_for(name, never, runs, error):
    run = runs / name
    for argv in (
        ["sample", run, "--guidance", "2"],
        ["sample", run, "--guidance", "0"],
        ["evaluate", run, "--guidance", "2"],
        ["sweep", run, "--guidance", "1", "1.5"],
    ):
        found = error(2, *argv)
        assert f"{run} was trained with null_rate {'0' if name == 'never' else '1'} and {never}" in found
        assert "only a weaker model (--guidance-run) can guide it; leave --guidance out" in found
    assert not list((run / "samples").glob("*guidance*"))
    with pytest.raises(ValueError, match=never):
        kdiff.load_run(run).sample(2, guidance=2.0)


def test_a_run_that_would_be_drawn_with_it_is_refused_before_it_is_trained(error, tmp_path):
    argv = ["train", "--data", "digits", *TINY, "--null-rate", "0", "--sampling.guidance", "2", "--out", tmp_path / "run"]
    assert 'sampling.guidance is 2, but with null_rate 0 the model never sees both a class and "no class"' in error(2, *argv)
    assert not (tmp_path / "run").exists()


def test_the_model_of_such_a_run_refuses_too_and_a_weaker_model_guides_it(runs, tmp_path):
    run, y = kdiff.load_run(runs / "never"), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"needs to know what 'no condition' is: train with .* a null_rate above 0"):
        run.model.sample(torch.randn(2, 3), y=y, guidance=2.0)
    run.model.sample(torch.randn(2, 3), y=y)
    assert (
        main(["sample", str(runs / "never"), "--guidance", "2", "--guidance-checkpoint", "2", "--out", str(tmp_path / "x")])
        == 0
    )
    assert main(["sample", str(runs / "never"), "--guidance", "1", "--out", str(tmp_path / "y")]) == 0
    assert main(["sample", str(runs / "usual"), "--guidance", "2", "--out", str(tmp_path / "z")]) == 0


def test_an_older_run_that_asks_for_it_is_not_drawn(runs):
    run = kdiff.load_run(runs / "never")
    run.config.sampling.guidance = 2.0
    with pytest.raises(ValueError, match='never saw "no class"'):
        draw_samples(run)


# Samples that are not finite


def test_samples_that_are_not_finite_end_with_code_1_and_are_kept_under_another_name(runs, error, tmp_path):
    found = error(1, "sample", runs / "usual", "--num", "9", *BROKEN, "--steps", "10", "--out", tmp_path / "drawn.png")
    kept = tmp_path / "drawn_not_finite.safetensors"
    assert "9 of 9 samples are not finite numbers (NaN or infinite); the first at step 2 of 10 (t = 0.2)" in found
    assert f"They were written to {kept}" in found
    assert sorted(tmp_path.iterdir()) == [kept.with_suffix(ending) for ending in (".json", ".png", ".safetensors")]
    tensors = load_tensors(kept)
    assert len(tensors["x"]) == len(tensors["y"]) == 9
    assert not tensors["x"].isfinite().all()
    assert json.loads(kept.with_suffix(".json").read_text())["num"] == 9


def test_without_a_name_they_do_not_stand_among_the_pictures_of_the_run(runs, error, tmp_path):
    run = Path(shutil.copytree(runs / "usual", tmp_path / "run"))
    error(1, "sample", run, "--num", "4", *BROKEN)
    assert [path.suffix for path in sorted((run / "samples").glob("*_not_finite.*"))] == [".json", ".png", ".safetensors"]
    assert main(["report", str(run)]) == 0
    assert "not_finite" not in (run / "report.html").read_text()


def test_values_that_are_infinite_only_in_the_datas_own_units_count(runs, error, tmp_path):
    run = Path(shutil.copytree(runs / "usual", tmp_path / "run"))
    data = json.loads((run / "data.json").read_text())
    far = (3e38 * torch.ones(torch.tensor(data["normalisation"]["scale"]).shape)).tolist()
    loaded = kdiff.load_run(run)
    loaded.data = {**data, "normalisation": {**data["normalisation"], "kind": "scaling", "shift": far, "scale": far}}
    with pytest.raises(NotFinite, match=r"\d+ of 20 samples are not finite numbers \(NaN or infinite\)\. They were written to"):
        sample_to_files(loaded, 20, 0, tmp_path / "far")


def test_a_training_whose_pictures_are_not_finite_ends_well_and_warns(tmp_path, capsys):
    data = ["--data", "gaussian_mixture(num_samples=300, ambient_dim=3, components=2)", "--sample-every", "2"]
    argv = [*TINY, "--sampling.solver", "sde(norm=1e38)", "--out", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match="samples are not finite numbers"):
        assert main(["train", *data, *argv]) == 0
    assert "step_00000004_seed_0_not_finite.png" in capsys.readouterr().out
    assert "samples are not finite numbers" in (tmp_path / "run" / "warnings.log").read_text()


@pytest.mark.filterwarnings("ignore:.*not finite:UserWarning")
def test_a_run_whose_samples_are_not_finite_cannot_be_judged(runs, error, tmp_path):
    run = Path(shutil.copytree(runs / "usual", tmp_path / "run"))
    checkpoint = kdiff.load_run(run)
    with torch.no_grad():
        checkpoint.model.network.output.bias.fill_(torch.inf)
    with pytest.raises(RuntimeError, match=r"\d+ of \d+ samples of .*run are not finite numbers .*, so they cannot be judged"):
        evaluate(checkpoint, Judge(checkpoint.dataset()), 30, exact=False)
