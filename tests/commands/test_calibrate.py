"""kdiff calibrate, and the commands that use or leave out what it has found."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from kdiff.commands.main import main
from kdiff.files.tensors import load_tensors
from kdiff.run.run import load_run


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the working directory


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of three dimensions of data among six that has not learned much, calibrated, and what the command said."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("runs") / "run"
    data = ["--data", "gaussian(num_samples=1000, ambient_dim=6, intrinsic_dim=3)"]
    network = ["--network", "MLP(width=16, depth=1)", "--steps", "150", "--batch-size", "64", "--ema", "0.9"]
    assert main(["train", *data, *network, "--out", str(folder)]) == 0
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["calibrate", str(folder), "--samples", "64"]) == 0
    return folder, said.getvalue()


@pytest.fixture
def folder(calibrated: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated[0], tmp_path / "run"))


def test_the_result_fits_on_one_screen_and_says_what_was_found(calibrated: tuple[Path, str]) -> None:
    folder, said = calibrated
    assert len(said.splitlines()) < 30
    for piece in (
        "step 150, ema 0.9",
        "0.95",
        "unseen training data",
        "held-out data",
        "adopted: samples are closer",
        "gains.png",
    ):
        assert piece in said
    place = folder / "calibration" / "step_00000150_ema_0.9"
    assert sorted(file.name for file in place.iterdir()) == ["calibration.json", "calibration.safetensors", "gains.png"]


def test_samples_use_it_unless_told_otherwise_and_their_stamps_say_so(folder: Path, tmp_path: Path) -> None:
    found = {}
    for name, more in {"with": [], "without": ["--calibrated", "false"]}.items():
        assert main(["sample", str(folder), "--num", "6", "--out", str(tmp_path / name), *more]) == 0
        found[name] = load_tensors(tmp_path / f"{name}.safetensors")["x"]
        assert json.loads((tmp_path / f"{name}.json").read_text())["calibrated"] is (name == "with")
    assert not torch.allclose(found["with"], found["without"])
    assert torch.equal(found["without"], load_run(folder, calibrated=False).sample(6)[0])
    assert torch.equal(found["with"], load_run(folder).sample(6)[0])


def test_samples_with_it_get_another_name_than_those_of_training(folder: Path) -> None:
    drawn = folder / "samples" / "step_00000150_seed_0.png"
    before = drawn.read_bytes()
    assert main(["sample", str(folder), "--num", "6"]) == 0
    assert drawn.read_bytes() == before


def test_evaluations_and_info_say_whether_it_was_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {}
    for used in ("true", "false"):
        assert main(["evaluate", str(folder), "--num-samples", "1", "--exact", "false", "--calibrated", used]) == 0
        result = json.loads((folder / "evaluation.json").read_text())
        assert result["calibrated"] is (used == "true")
        assert main(["report", str(folder)]) == 0
        assert ("weights ema 0.9, calibrated, " in (folder / "report.html").read_text()) is (used == "true")
        values[used] = result["samplers"]["clean"]["figures"]["off_manifold"]["value"]
    assert values["true"] < values["false"]
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    assert "calibrated  yes" in capsys.readouterr().out
    shutil.rmtree(folder / "calibration")
    assert main(["info", str(folder)]) == 0
    assert "calibrated" not in capsys.readouterr().out


def test_damage_is_one_line_that_says_what_to_type(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(folder.glob("calibration/*/calibration.safetensors")).write_bytes(b"")
    capsys.readouterr()
    assert main(["sample", str(folder), "--num", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"kdiff calibrate {folder}" in line
    assert "--calibrated false" in line
    assert main(["sample", str(folder), "--num", "2", "--calibrated", "false"]) == 0
    assert main(["calibrate", str(folder), "--samples", "16"]) == 0
    assert main(["sample", str(folder), "--num", "2"]) == 0


def test_mistakes_are_named(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate"]) == 2
    assert "Type kdiff calibrate RUN" in capsys.readouterr().err
    assert main(["calibrate", str(folder), "--samples", "3"]) == 2
    assert "samples is 3" in capsys.readouterr().err
    assert main(["calibrate", str(folder), "--ema", "0.5"]) == 2
    assert "no averages with decay 0.5" in capsys.readouterr().err
