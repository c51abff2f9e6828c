"""The network that is chosen before a training: what is said, what is written, what a time as a budget does."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdiff.commands.main import main
from kdiff.config.parts import Part, parse
from kdiff.config.plain import as_dict, from_dict
from kdiff.config.studies import CompareConfig
from kdiff.config.training import PlanConfig, TrainConfig
from kdiff.networks import JiT
from kdiff.networks.choice import candidates
from kdiff.run.folder import read_run_config
from kdiff.run.run import load_run
from kdiff.studies.comparison import plan
from kdiff.training import choosing
from kdiff.training.choosing import Chosen, choose_network, in_words, plan_network, seconds_per_step
from kdiff.training.trainer import train_run

SHAPE = (2, 12, 16)
TINY = "auto(patch_size=4, hidden_size=8, num_heads=1, depth=1)"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "fields.npy", np.random.default_rng(0).normal(size=(60, *SHAPE)).astype(np.float32))
    return folder / "fields.npy"


def settings(data: Path, network: str | Part = TINY, **changes) -> TrainConfig:
    return TrainConfig(data=str(data), network=network, steps=2, batch_size=8, split_loss=False, **changes)


def test_the_chosen_network_is_written_and_read_back_and_resumed(data, tmp_path):
    run = train_run(settings(data), tmp_path / "run")
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["network"]
    assert stored["name"] == "JiT"
    assert (stored["hidden_size"], stored["patch_size"]) == (8, 4)
    assert isinstance(run.model.network, JiT)
    assert load_run(tmp_path / "run").config.network == parse(stored)
    # Another default, as of later steps, changes nothing: the run keeps its network.
    longer = train_run(replace(settings(data, "auto"), steps=3), tmp_path / "run", resume=True)
    assert longer.step == 3
    assert longer.config.network == parse(stored)


def test_a_stored_configuration_without_a_network_means_an_mlp(data, tmp_path):
    train_run(settings(data, "MLP"), tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    del values["network"]
    path.write_text(yaml.safe_dump(values))
    assert read_run_config(tmp_path / "run", TrainConfig).network == Part("MLP")
    assert train_run(replace(settings(data, "auto"), steps=3), tmp_path / "run", resume=True).config.network == Part("MLP")
    assert from_dict(TrainConfig, {}).network == Part("auto")  # a configuration that is no run's


def test_a_network_that_is_named_is_not_chosen(data):
    config = settings(data, "MLP")
    assert choose_network(config, SHAPE, 0) == (config, None)


def test_training_from_a_run_takes_its_network(data, tmp_path):
    run = train_run(settings(data), tmp_path / "first")
    config = settings(data, "auto", start_from=str(tmp_path / "first"))
    assert train_run(config, tmp_path / "second").config.network == run.config.network


def test_the_same_settings_have_the_same_network_on_every_machine(monkeypatch):
    found = []
    for speed in (1e-3, 10.0):
        monkeypatch.setattr(choosing, "seconds_per_step", lambda config, speed=speed, **given: speed)
        found.append(choose_network(TrainConfig(), (3, 32, 32), 0)[0].network)
    assert found[0] == found[1]


def test_a_budget_of_time_takes_the_largest_network_that_trains_within_it(monkeypatch):
    """A machine of 4 · 10¹⁰ FLOPs a second; smaller networks are tried first, and hopeless ones never."""
    tried = []
    flops = {str(each.network): each.flops for each in candidates(Part("auto"), (3, 32, 32))}

    def timed(config, shape, num_classes, threads):
        tried.append(str(config.network))
        return flops[str(config.network)] * config.batch_size / 4e10

    monkeypatch.setattr(choosing, "seconds_per_step", timed)
    config = TrainConfig(network="auto(budget='1h')")
    chosen = choose_network(config, (3, 32, 32), 0)[0].network
    fitting = [name for name, each in flops.items() if each * 512000 / 4e10 <= 3600]
    assert 1 < len(fitting) < len(flops)
    assert str(chosen) == fitting[-1]
    assert tried == list(itertools.islice(flops, len(tried)))
    assert len(tried) <= len(fitting) + 1
    least, found = choose_network(replace(config, network="auto(budget='1s')"), (3, 32, 32), 0)
    assert str(least.network) == next(iter(flops))
    assert "the smallest of the ladder, although it takes longer than its budget" in found.why


def test_a_plan_spends_a_budget_of_time_on_one_of_its_devices():
    plain = PlanConfig(network="auto(budget='1h')", precision="bf16")
    slow, fast = (plan_network(replace(plain, peak_tflops=peak), (3, 64, 64))[0].network for peak in (0.1, 100.0))
    assert slow.options["hidden_size"] < fast.options["hidden_size"]
    assert plan_network(PlanConfig(network="MLP"), (3, 64, 64))[1] is None


def test_timing_a_step_leaves_random_numbers_and_threads_alone():
    config = TrainConfig(network="MLP(width=8)", batch_size=6, accumulate=2, target="spectral")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    assert 0 < seconds_per_step(config, (4,), 3, threads=1) < 60
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


def test_large_samples_are_timed_with_few_and_scaled(monkeypatch):
    sizes = []
    real = choosing.fit
    monkeypatch.setattr(choosing, "NUMBERS", 100)
    monkeypatch.setattr(choosing, "fit", lambda *args, **given: sizes.append(args[3].batch_size) or real(*args, **given))
    seconds_per_step(TrainConfig(network="MLP(width=8)", batch_size=64), (40,), 0)
    seconds_per_step(TrainConfig(network="MLP(width=8)", batch_size=64), (400,), 0)
    assert sizes == [2, 1]


def test_what_is_said_names_network_reason_time_and_what_to_type():
    config = TrainConfig(steps=1000, batch_size=64)
    text = Chosen(Part("JiT", {"patch_size": 4}), "the samples are images", 0.3).as_text(config, 32000, runs=12, workers=5)
    assert text.splitlines() == [
        "network JiT(patch_size=4), chosen because the samples are images",
        "12 runs, 5 at a time, 1,000 steps of 64 samples, 2 times the 32,000 samples: a step takes 0.3 s here, "
        "so training takes about 15 minutes",
        "for another time add --network.budget 10m, or fewer --steps; for another network --network MLP",
        "--precision auto trains in bfloat16 if that is faster here",
    ]
    chosen = Chosen(Part("JiT", {"patch_size": 4}), "so")
    assert "--precision" not in chosen.as_text(TrainConfig(precision="bf16"))
    assert Chosen(Part("MLP"), "so").as_text(config) == "network MLP, chosen because so"
    assert [in_words(each) for each in (0.2, 1.4, 40, 100, 7200, 3e5)] == [
        "1 second",
        "1 second",
        "40 seconds",
        "1.7 minutes",
        "2 hours",
        "3.5 days",
    ]


def test_a_comparison_gives_all_its_runs_one_network_and_continues_with_it(data, tmp_path, capsys):
    config = CompareConfig(data=str(data), network=TINY, targets=["velocity", "data"], seeds=2, steps=2, batch_size=8)
    _, jobs = plan(config, tmp_path, say=True)
    said = capsys.readouterr().err
    assert "network JiT(" in said
    assert "4 runs, 2 at a time" in said
    assert {str(job.config.network) for job in jobs} == {str(jobs[0].config.network)}
    assert jobs[0].config.network.name == "JiT"
    train_run(jobs[0].config, jobs[0].folder)
    later = plan(replace(config, network="auto"), tmp_path)[1]
    assert later[0].config.network == jobs[0].config.network
    assert as_dict(later[0].config) == as_dict(jobs[0].config)


def test_commands_say_what_was_chosen(data, tmp_path, capsys):
    options = ["--data", str(data), "--network", TINY, "--steps", "2", "--batch-size", "8"]
    assert main(["plan", *options]) == 0
    assert "network JiT(" in capsys.readouterr().out
    assert main(["train", *options, "--dry-run"]) == 0
    assert "cut into 12 tokens by patches of 4×4" in capsys.readouterr().err
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "network JiT(" in said
    assert "a step takes" in said
    assert main(["train", *options[:2], "--network.budget", "soon"]) != 0
    assert "budget is 'soon'; expected a time such as 90s, 30m, 2h or 1d" in capsys.readouterr().err
