"""Runs with targets off the line: trained, resumed to the same bytes, read back without the data, and sampled."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kdiff.commands.main import main
from kdiff.config.studies import CompareConfig
from kdiff.config.training import TrainConfig
from kdiff.data import load
from kdiff.run.build import build_model
from kdiff.run.run import load_run
from kdiff.studies.comparison import plan
from kdiff.training.trainer import train_run

DATA = "spiral(num_samples=300, ambient_dim=8)"
CONFIG = TrainConfig(data=DATA, network="MLP(width=16)", steps=12, checkpoint_every=6, batch_size=32, ema=[0.9], log_every=4)
TARGETS = [
    "spectral(basis=principal)",
    "spectral(basis=patch, size=4, pull=0.1)",
    "spectral(basis=dct, learned=false)",
    "spectral(basis=random)",
    "spectral(basis=channels)",
    "learned_directions(basis=principal, pull=0.1)",
    "asymflow(rank=2)",
    "wiener(basis=principal)",
    "two_ended",
    "two_ended(learned=true)",
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_is_resumed_to_the_same_bytes_and_needs_no_data_to_sample(target, tmp_path, contents) -> None:
    config = dataclasses.replace(CONFIG, target=target)
    run = train_run(config, tmp_path / "run")
    train_run(dataclasses.replace(config, steps=6), tmp_path / "cut")
    train_run(config, tmp_path / "cut", resume=True)
    whole, cut = (contents(tmp_path / name / "checkpoints" / "step_00000012") for name in ("run", "cut"))
    assert whole.pop("state.json") != cut.pop("state.json")
    assert whole == cut
    learned = any(True for _ in run.model.target.parameters())
    assert learned == bool({"w0_gradient", "w_gradient"} & run.metrics()[-1].keys())
    assert ("penalty" in run.metrics()[-1]) == ("pull" in target)
    assert run.model.target.state().keys() <= run.metrics()[-1].keys()
    text = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "run" / "config.yaml").write_text(text.replace("spiral", "nowhere.npz"), encoding="utf-8")
    read = load_run(tmp_path / "run")
    assert read.model.target.describe() == run.model.target.describe()
    assert torch.equal(read.sample(3)[0], run.sample(3)[0])


def test_averages_leave_a_basis_as_it_is(tmp_path) -> None:
    run = train_run(dataclasses.replace(CONFIG, target=TARGETS[0]), tmp_path / "run")
    averaged = load_run(tmp_path / "run", ema=0.9).model.target
    dataset = load("spiral", num_samples=300, ambient_dim=8)
    made = build_model(CONFIG, TARGETS[0], dataset.shape, 0, moments=dataset.moments, samples=dataset.samples).target
    for target in (averaged, run.model.target):
        assert torch.equal(target.basis.directions, made.basis.directions)
        assert torch.equal(target.variances, made.variances)


def test_path_and_noise_scale_of_the_model_reach_the_target(tmp_path) -> None:
    config = dataclasses.replace(CONFIG, path="variance_preserving", noise_scale=2.0)
    dataset = load("spiral", num_samples=300, ambient_dim=8)
    given = {"moments": dataset.moments, "samples": dataset.samples}
    model = build_model(config, "wiener(basis=principal)", dataset.shape, 0, **given)
    assert model.target.path is model.path
    torch.testing.assert_close(4 * model.target.variances.clamp_min(1e-3), dataset.moments().variances.clamp_min(4e-3))


def test_commands_take_them(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--network", "MLP(width=16)", "--steps", "6", "--batch-size", "32", "--ema", "0.9"]
    assert main(["train", "--data", DATA, "--target", TARGETS[0], "--out", "run", *common]) == 0, capsys.readouterr().err
    for command in ("info run", "report run", "sample run --num 4"):
        assert main(command.split()) == 0, capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "k over direction" in page


def test_a_comparison_builds_them_all(tmp_path) -> None:
    config = CompareConfig(data=DATA, network="MLP(width=16)", targets=TARGETS, seeds=1)
    assert len(plan(config, tmp_path)[1]) == len(TARGETS)


def test_a_bfloat16_run_learns_in_float32(tmp_path) -> None:
    config = dataclasses.replace(CONFIG, target="spectral(basis=principal)", precision="bf16")
    run = train_run(config, tmp_path / "run")
    assert all(value.dtype == torch.float32 for value in run.model.target.state_dict().values())
    assert run.model.target.state()["w1"] != 0.5
