"""Runs with conditions, from data to samples: training, rates, resuming, examples, values of a user, and files of samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_conditions import A, S, conditional_gaussian

import kdiff
from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.data import Normalisation
from kdiff.files.tensors import load_tensors
from kdiff.report.run_text import describe_run
from kdiff.run.given import EXAMPLES, Given, given_rows
from kdiff.run.run import Run, load_run
from kdiff.training.trainer import train_run

TINY = TrainConfig(
    data="toy_conditions.conditional_gaussian",
    network="MLP(width=8, depth=2)",
    steps=4,
    batch_size=16,
    warmup=2,
    log_every=2,
    split_loss=False,
)
LABELLED = replace(TINY, data="toy_conditions.conditional_gaussian(labels=true, past=true)")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Some seconds of training, enough for the conditional mean."""
    config = replace(
        TINY, network="MLP(width=64, depth=3)", steps=400, batch_size=128, learning_rate=5e-3, schedule="cosine", ema=[0.99]
    )
    return train_run(replace(config, log_every=100), tmp_path_factory.mktemp("given") / "run")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(replace(LABELLED, null_rates={"params": 0.3}), tmp_path_factory.mktemp("given") / "tiny")


def test_a_small_network_learns_the_conditional_mean(trained: Run) -> None:
    """At three values of the condition the mean of 400 samples is A c within 0.1, where x itself varies by more than 1."""
    for c in ([0.5, -1.0], [-1.5, 1.5], [1.0, 1.0]):
        x, y = trained.sample(400, conditions={"params": [10 * value + 5 for value in c]})
        assert y is None
        torch.testing.assert_close(x.mean(0), torch.tensor(c) @ A, rtol=0, atol=0.1)
        assert x.std(0).max() < 2 * S
    x, _ = trained.sample(1000)
    assert x.std(0).min() > 0.9  # the examples of the run: all values of the condition


def test_guidance_on_a_condition_makes_samples_more_alike(trained: Run) -> None:
    """p(x | c)ʷ/p(x)ʷ⁻¹ has about the mean of p(x | c), and a variance of about S²/w."""
    wide, narrow = (trained.sample(200, conditions={"params": [15, -5]}, guidance=w)[0] for w in (1.0, 4.0))
    assert (narrow.std(0) < 0.8 * wide.std(0)).all()


def test_the_run_folder_describes_the_conditions_and_keeps_examples(tiny: Run) -> None:
    data = tiny.data
    assert list(data["conditions"]) == ["params", "past"]
    assert data["conditions"]["params"]["kind"] == "vector"
    assert data["conditions"]["params"]["normalisation"]["kind"] == "features"
    low, high = (data["conditions"]["params"]["range"][key] for key in ("low", "high"))
    assert min(low) >= -15
    assert max(high) <= 25
    assert max(low) < -14
    assert min(high) > 24
    kept, dataset = load_tensors(tiny.folder / EXAMPLES), tiny.dataset()
    parts = dataset.conditions_of("heldout")
    assert set(kept) == {"y", "params", "past"}
    for name, values in kept.items():
        assert torch.equal(values, parts[name][: len(values)])
    assert "condition params: vector, 2; hidden at a rate of 0.3" in describe_run(tiny)
    assert "MLP with conditions" in describe_run(tiny)


def test_sampling_needs_no_data_and_sample_i_gets_row_i(tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiff.run.run.load_dataset", None)
    run = load_run(tiny.folder)
    seen: list[dict[str, Tensor]] = []
    forward = run.model.network.forward

    def spy(z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        seen.append(conditions)
        return forward(z, t, **conditions)

    monkeypatch.setattr(run.model.network, "forward", spy)
    rows = run.given.rows
    number = len(rows["params"])
    _, y = run.sample(number + 3)
    assert y is not None
    assert torch.equal(y, rows["y"][torch.arange(number + 3) % number])
    assert torch.equal(seen[0]["params"], torch.cat([rows["params"], rows["params"][:3]]))
    assert run.given.chosen(range(5, 7))["past"].equal(rows["past"][5:7])


def test_rows_of_a_user_are_normalised_and_an_ensemble_shares_them(tiny: Run) -> None:
    given = tiny.given_by(
        {"params": [[5.0, 5.0], [15.0, -5.0]], "y": ["left", "right"], "past": np.zeros((1, 1, 2))}, ensemble=3
    )
    assert len(given) == 2
    assert given.usual == 6
    chosen = given.chosen(range(6))
    assert chosen["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert chosen["past"].shape == (6, 1, 2)
    normalisation = Normalisation.from_description(tiny.data["conditions"]["params"]["normalisation"])
    torch.testing.assert_close(normalisation.undo(chosen["params"]), torch.tensor([[5.0, 5]] * 3 + [[15.0, -5]] * 3))
    x, y = tiny.sample(conditions={"params": [5, 5], "y": 1, "past": [[0, 0]]}, ensemble=4)
    assert len(x) == 4
    assert y is not None
    assert y.tolist() == [1] * 4


def test_a_sample_does_not_depend_on_the_batch(tiny: Run) -> None:
    whole = tiny.sample(9)[0]
    torch.testing.assert_close(tiny.sample(9, batch_size=4)[0], whole)


@pytest.mark.filterwarnings("ignore:no value is given")
def test_none_and_left_out_are_the_same_rows(tiny: Run) -> None:
    one = given_rows(tiny.data, {"y": 1, "params": [5, 5], "past": None}, tiny.model.null)
    other = given_rows(tiny.data, {"y": 1, "params": [5, 5]}, tiny.model.null)
    third = given_rows(tiny.data, {"y": 1, "params": [5, 5], "past": [[float("nan")] * 2]}, tiny.model.null)
    for rows in (other, third):
        assert all(torch.equal(rows[name].nan_to_num(9), one[name].nan_to_num(9)) for name in one)
    with pytest.warns(UserWarning, match="no value is given for the condition past, so it is none"):
        given_rows(tiny.data, {"y": 1, "params": [5, 5]}, tiny.model.null)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"force": 1}, "no condition 'force'; its conditions are y, params, past"),
        ({"params": [1, 2, 3]}, r"'params' has shape \(3,\); expected one row of shape \(2,\), or several rows \(R, 2\)"),
        ({"params": "big"}, "'params' is 'big'; expected numbers of shape 2"),
        ({"params": [float("inf"), 0]}, "'params' holds an infinite number"),
        ({"y": 3}, "'y' is 3; expected whole numbers from 0 to 1, or 2 for no class"),
        ({"y": 0.5}, "'y' is 0.5; expected whole numbers"),
        ({"y": "middle"}, "'y' has no class 'middle'; its classes are left, right"),
        ({"y": [0, 1], "params": np.zeros((3, 2)), "past": None}, "numbers of rows: y has 2; expected 1 or 3"),
    ],
)
def test_wrong_values_are_refused(tiny: Run, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.sample(2, conditions=values)


@pytest.mark.filterwarnings("ignore:no value is given")
def test_values_outside_the_range_of_training_are_said(tiny: Run) -> None:
    with pytest.warns(UserWarning, match=r"'params' has 400 for number 2; training saw -1\d\.\d+ to 2\d\.\d+"):
        tiny.sample(2, conditions={"params": [5, 400]})


def test_none_is_refused_where_training_never_hid_it(tmp_path: Path) -> None:
    run = train_run(replace(TINY, null_rate=0.0), tmp_path / "run")
    with pytest.raises(ValueError, match="'params' is none, but training never hid it"):
        run.sample(2, conditions={"params": None})
    with pytest.raises(ValueError, match="was not trained both with and without any"):
        run.sample(2, guidance=2.0)
    with pytest.raises(ValueError, match="ensemble is 0; expected at least 1"):
        run.sample(2, ensemble=0)


def test_guidance_on_a_part_needs_its_own_rates(tiny: Run, tmp_path: Path) -> None:
    assert tiny.sample(2, guidance=2.0, guide_on=["params"])[0].isfinite().all()
    assert not torch.equal(tiny.sample(4, guidance=2.0, guide_on=["params"])[0], tiny.sample(4, guidance=2.0)[0])
    with pytest.raises(ValueError, match="not trained both with and without force"):
        tiny.sample(2, guidance=2.0, guide_on=["force"])
    together = train_run(LABELLED, tmp_path / "run")
    with pytest.raises(ValueError, match="hid y, params, past together, so the model does not know the one without the other"):
        together.sample(2, guidance=2.0, guide_on=["y"])
    assert together.sample(2, guidance=2.0)[0].isfinite().all()
    with pytest.raises(ValueError, match="null_rates names force; the data have the conditions y, params, past"):
        train_run(replace(LABELLED, null_rates={"force": 0.1}), tmp_path / "other")


def test_micro_batches_and_resuming_give_the_same_bytes(tmp_path: Path) -> None:
    config = replace(LABELLED, null_rates={"params": 0.5}, accumulate=2, checkpoint_every=2)
    whole = train_run(config, tmp_path / "whole")
    train_run(replace(config, steps=2), tmp_path / "parts")
    parts = train_run(config, tmp_path / "parts", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    assert (tmp_path / "whole" / EXAMPLES).read_bytes() == (tmp_path / "parts" / EXAMPLES).read_bytes()
    assert torch.equal(whole.sample(5)[0], parts.sample(5)[0])


def test_a_run_does_not_resume_with_other_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_run(replace(TINY, steps=2), tmp_path / "run")
    other = conditional_gaussian(scale=11.0)
    monkeypatch.setattr("kdiff.training.trainer.load_dataset", lambda config: other)
    with pytest.raises(ValueError, match="its data have changed: the condition params is normalised by features"):
        train_run(TINY, tmp_path / "run", resume=True)


def test_damaged_examples_are_refused(tmp_path: Path) -> None:
    run = train_run(replace(TINY, steps=1), tmp_path / "run")
    (run.folder / EXAMPLES).unlink()
    with pytest.raises(ValueError, match=r"conditions\.safetensors is missing"):
        load_run(run.folder).sample(2)


@pytest.mark.filterwarnings("ignore:no value is given")
def test_the_command_line_samples_at_given_conditions(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny.folder)
    base = ["sample", "--condition", "params=5,-3.5", folder, "--condition=y=right", "--ensemble", "3"]
    assert main([*base, "--out", str(tmp_path / "one")]) == 0
    stored, stamp = load_tensors(tmp_path / "one.safetensors"), json.loads((tmp_path / "one.json").read_text())
    assert stored["y"].tolist() == [1, 1, 1]
    assert stamp["num"] == 3
    assert stamp["ensemble"] == 3
    torch.testing.assert_close(stored["condition.params"], torch.tensor([[5.0, -3.5]] * 3))
    assert stamp["conditions"]["y"] == 1
    assert stamp["conditions"]["params"] == pytest.approx([5, -3.5])
    x, _ = tiny.sample(3, conditions={"params": [5, -3.5], "y": 1}, ensemble=3)
    assert torch.equal(stored["x"], x)
    np.savez(tmp_path / "rows.npz", params=np.array([[5.0, -3.5], [0.0, 1.0]]), y=np.array([1, 0]))
    assert main(["sample", folder, "--condition", str(tmp_path / "rows.npz"), "--out", str(tmp_path / "two")]) == 0
    two = load_tensors(tmp_path / "two.safetensors")
    assert two["y"].tolist() == [1, 0]
    assert torch.equal(two["x"][0], x[0])
    # A file of samples holds the conditions for further samples.
    assert main(["sample", folder, "--condition", str(tmp_path / "two.safetensors"), "--out", str(tmp_path / "three")]) == 0
    assert torch.equal(load_tensors(tmp_path / "three.safetensors")["x"], two["x"])
    capsys.readouterr()
    for words, message in (
        (["params=1,2,3"], "'params' has shape (3,)"),
        (["params"], "expected NAME=VALUE"),
        (["missing.npz"], "missing.npz, which does not exist"),
        (["y=1", "y=2"], "gives y twice"),
    ):
        assert main(["sample", folder, "--condition", *words]) == 2
        assert message in capsys.readouterr().err
    # Samples at other conditions have files of their own.
    for words in ([], ["--condition", "params=5,5"], ["--condition", "params=5,6"]):
        assert main(["sample", folder, "--num", "2", *words]) == 0
    names = {line for line in capsys.readouterr().out.splitlines() if line.endswith(".json")}
    assert len(names) == 3


def test_given_holds_what_generate_needs() -> None:
    given = Given([1, 1], {"params": torch.arange(6.0).reshape(3, 2)}, ensemble=2, asked=True)
    assert len(given) == 3
    assert given.usual == 6
    assert Given().usual == 64
    assert Given([1]).chosen(range(3)) == {}
    assert given.chosen(range(4, 8))["params"][:, 0].tolist() == [4, 4, 0, 0]
    assert kdiff.load_run is load_run


def test_the_page_of_a_run_lists_its_conditions(tiny: Run) -> None:
    from kdiff.report.page import page
    from kdiff.report.record import read_record

    assert "params: vector, 2; past: field, 1 × 2" in page(read_record(tiny.folder))
