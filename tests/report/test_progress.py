"""What is drawn of a run besides its end: samples as it trains, and how noise becomes samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.report import run_pictures as module_under_test
from kdiff.report.run_pictures import SampleGrids, draw_denoising
from kdiff.run.run import load_run
from kdiff.training.trainer import train_run

CONFIG = TrainConfig(data="digits", network="MLP(width=8, depth=1)", steps=6, batch_size=16, log_every=2, sample_every=2)


def pixels(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[:, :, :3]


@pytest.mark.parametrize("data", ["digits", "spiral(num_samples=100)"])
def test_pictures_while_a_run_trains_lie_beside_its_last_one(tmp_path, monkeypatch, data) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--data", data, "--network", "MLP(width=8, depth=1)", "--steps", "6", "--sample-every", "2"]
    assert main([*argv, "--checkpoint-every", "2", "--out", "run"]) == 0
    folder = tmp_path / "run" / "samples"
    names = [f"step_0000000{step}_seed_0.png" for step in (2, 4, 6)]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    assert len({(folder / name).read_bytes() for name in names}) == 3
    # A picture drawn in training is the one that the checkpoint of that step gives.
    for step in (2, 4):
        assert main(["sample", "run", "--checkpoint", str(step), "--num", "2000" if "spiral" in data else "64"]) == 0
    again = [folder / name for name in names[:2]]
    sampled = [path.read_bytes() for path in again]
    for path in again:
        path.unlink()
    monkeypatch.setattr("kdiff.training.loop.keep_newest", lambda *_: None)
    assert main([*argv, "--checkpoint-every", "2", "--out", "other"]) == 0
    assert [(tmp_path / "other" / "samples" / path.name).read_bytes() for path in again] == sampled


def test_a_picture_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module_under_test, "save_samples", fail)
    with pytest.warns(UserWarning, match="the picture of the samples at step [24] was not written: .*No space left") as caught:
        run = train_run(CONFIG, tmp_path / "run", on_sample=SampleGrids())
    assert [" 2 was" in str(warning.message) for warning in caught] == [True, False]
    assert run.step == 6
    assert "at step 4" in (tmp_path / "run" / "warnings.log").read_text()


def test_a_strip_of_images_has_a_row_per_sample_and_a_column_per_time(tmp_path, monkeypatch) -> None:
    run = train_run(CONFIG, tmp_path / "run")
    drawn = {}
    monkeypatch.setattr(
        module_under_test.ImageView, "draw", lambda view, axes, x, columns: drawn.update(x=x, columns=columns), raising=True
    )
    assert draw_denoising(run) == tmp_path / "run" / "denoising.png"
    assert drawn["columns"] == 9
    strip = drawn["x"].reshape(6, 9, 1, 8, 8)
    states = []
    samples, _ = run.sample(6, steps=48, last_step="data", callback=lambda step, t, z: states.append((t.item(), z)))
    for column in range(9):
        t, z = states[6 * column]
        assert t == pytest.approx(column / 8)
        assert torch.equal(strip[:, column], z)
    torch.testing.assert_close(run.normalisation.undo(strip[:, 8]), samples)


def test_the_strips_can_be_looked_at(tmp_path) -> None:
    for number, data in enumerate(["digits", "spiral(num_samples=100)"]):
        run = train_run(replace(CONFIG, data=data), tmp_path / str(number))
        picture = pixels(draw_denoising(run))
        assert picture.shape[0] > 300
        assert picture.shape[1] > 900
        # Something is drawn in every column.
        for column in np.array_split(picture, 9 if data == "digits" else 5, axis=1):
            assert (column < 0.5).mean() > 0.002
    assert load_run(tmp_path / "1").step == 6
