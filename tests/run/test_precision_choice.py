"""The precision of a network: what it changes, what it leaves in float32, and how `auto` chooses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from kdiff.commands.main import main
from kdiff.config.evaluation import EvaluateConfig
from kdiff.evaluation.judge import Judge, evaluate
from kdiff.model import KDiff, autocast_to
from kdiff.networks.mlp import MLP
from kdiff.path import at_least_float32
from kdiff.run import precision_choice
from kdiff.run.precision_choice import GAIN, LIMIT, PrecisionChoice, choose_precision, measure, run_in
from kdiff.run.run import load_run
from kdiff.sampling import draw_noise

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = MLP((6,), num_classes=3, width=32, depth=2)
    torch.nn.init.normal_(network.output.weight, std=0.2)
    return KDiff(network, target=0.9, null={"y": 3}, null_rate=0.1).eval()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_network_alone_is_in_half_precision(model, precision, dtype):
    """Its output has eleven or eight bits; z, conversion and solver have the same bits as with such a network in float32."""
    seen = []
    model.network.output.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    noise, y, options = draw_noise(range(5), (6,), 0), torch.arange(5) % 3, {"solver": "heun", "steps": 4, "guidance": 2.0}
    plain = model.sample(noise, y=y, **options)
    model.precision = precision
    found = model.sample(noise, y=y, **options)
    assert seen == [torch.float32] * (len(seen) // 2) + [dtype] * (len(seen) // 2)
    assert model.predict(noise, 0.3, y=y).dtype == model.velocity(noise, 0.3, y=y).dtype == found.dtype == torch.float32
    assert 0 < (found - plain).norm() < 4 * torch.finfo(dtype).eps * plain.norm()

    network, model.precision = model.network, "no"

    class Rounded(torch.nn.Module):
        def forward(self, z, t, y):
            with autocast_to(precision, z.device):
                return at_least_float32(network(z, t, y))

    reference = KDiff(Rounded(), target=0.9, null={"y": 3}, null_rate=0.1)
    assert torch.equal(reference.sample(noise, y=y, **options), found)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_the_loss_and_its_gradient_to_k_are_those_of_the_rounded_output_in_float32():
    torch.manual_seed(0)
    network = MLP((6,), width=16, depth=2)
    torch.nn.init.normal_(network.output.weight, std=0.2)
    model, x, n, t = KDiff(network), torch.randn(8, 6), torch.randn(8, 6), torch.rand(8)
    model.precision = "bf16"
    loss = model.loss(x, t, n)
    loss.backward()
    with torch.no_grad(), autocast_to("bf16", CPU):
        u = network(model.path.mix(x, n, t), t)
    assert u.dtype == torch.bfloat16
    expected = model.target.loss(u.float(), x, n, t)
    (gradient,) = torch.autograd.grad(expected, model.target.w)
    assert loss.dtype == model.target.w.grad.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(model.target.w.grad, gradient)


def test_another_precision_is_refused(model):
    model.precision = "half"
    with pytest.raises(ValueError, match="precision is 'half'; expected no, bf16 or fp16"):
        model.predict(torch.zeros(1, 6), 0.5)


def test_weights_are_cast_once_for_all_evaluations_of_a_sampling(model, monkeypatch):
    """Autocast keeps its casts until the outermost context ends; the solver's arithmetic within is still in float32."""
    model.precision = "bf16"
    inside, exits = torch.clear_autocast_cache, []
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: (exits.append(torch.is_autocast_enabled("cpu")), inside()))
    model.sample(draw_noise(range(2), (6,), 0), solver="euler", steps=5)
    assert exits == [False]  # of the outer context alone


def planned(float32: float, bf16: float, asked: list):
    """Seconds for each sample, without waiting."""

    def seconds(count: int, precision: str) -> float:
        asked.append((count, precision))
        return count * (float32 if precision == "no" else bf16)

    return seconds


@pytest.mark.parametrize(
    ("each", "count"), [((1e-3, 5e-4), 64), ((0.05, 0.02), 4), ((0.9, 0.4), 1), ((5.0, 2.0), 1), ((1e-6, 1e-6), 64)]
)
def test_measuring_stays_below_its_limit_and_takes_as_much_of_the_batch_as_fits(each, count):
    asked: list[tuple[int, str]] = []
    found = measure(planned(*each, asked), batch=64)
    spent = sum(many * each[precision == "bf16"] for many, precision in asked)
    assert spent <= max(LIMIT, sum(each))
    assert len(asked) < 40
    assert found == {"samples": count, "float32": pytest.approx(count * each[0]), "bf16": pytest.approx(count * each[1])}


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """`choose_precision` with planned seconds, on a machine with instructions for bfloat16; counts the measurements."""
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision_choice, "lacks_bfloat16", lambda device: "")
    state = {"times": (1e-3, 5e-4), "measured": 0}

    def measured(seconds, batch):
        state["measured"] += 1
        return {"samples": batch, "float32": state["times"][0], "bf16": state["times"][1]}

    monkeypatch.setattr(precision_choice, "measure", measured)
    return state


def test_the_choice_is_measured_once_and_kept_for_machine_network_and_batch(timed):
    def choose(batch=8, fact="JiT"):
        return choose_precision("an evaluation", torch.zeros, batch, CPU, fact)

    first = choose()
    assert (
        str(first) == "precision bf16: an evaluation of 8 samples takes 0.5 ms in bfloat16 and 1 ms in float32 on this machine"
    )
    timed["times"] = (1e-3, 1e-3)
    assert choose() == first
    assert timed["measured"] == 1
    assert choose(batch=9).precision == choose(fact="DiT").precision == "no"
    timed["times"] = (1e-3, 1.01e-3 * GAIN)  # faster, but too little to pay digits for
    assert choose(batch=10).precision == "no"


def test_a_cache_that_cannot_be_written_to_costs_the_measurement_alone(timed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert choose_precision("an evaluation", torch.zeros, 8, CPU).precision == "bf16"
    assert timed["measured"] == 2


def test_a_processor_without_instructions_is_not_measured(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)

    def work(count):
        raise AssertionError

    found = choose_precision("an evaluation", work, 8, CPU)
    why = "this CPU has no instructions for bfloat16 (AVX-512 BF16 or AMX)"
    assert found == PrecisionChoice("no", "an evaluation", why=why)
    assert str(found).startswith("precision no (float32): this CPU has no")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from kdiff.config.training import TrainConfig
    from kdiff.training.trainer import train_run

    base = tmp_path_factory.mktemp("runs")
    folder = base / "run"
    np.save(base / "x.npy", np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32))
    network = "MLP(width=16, depth=2)"
    config = TrainConfig(data=str(base / "x.npy"), network=network, steps=20, split_loss=False, warmup=0)
    train_run(config, folder)
    return folder


def test_run_in_auto_says_what_it_chose_and_sets_it_for_all_runs(trained, timed, capsys):
    runs = [load_run(trained), load_run(trained, ema="none")]
    assert run_in("auto", *runs, batch=64) == "bf16"
    assert [run.model.precision for run in runs] == ["bf16", "bf16"]
    assert capsys.readouterr().err.startswith("precision bf16: an evaluation of 64 samples takes 0.5 ms in bfloat16 and 1 ms")
    assert run_in("no", *runs) == runs[0].model.precision == "no"
    with pytest.raises(ValueError, match="precision is 'half'; expected no or bf16 or fp16 or auto"):
        run_in("half", *runs)


def test_an_evaluation_is_timed_for_as_many_samples_as_asked(trained):
    """The real measurement, whatever this machine finds."""
    run = load_run(trained)
    evaluate_some = precision_choice.evaluation_of(run.model, run.shape, run.given)
    assert [tuple(evaluate_some(count).shape) for count in (1, 4, 3)] == [(1, 6), (4, 6), (3, 6)]
    assert run_in("auto", run, batch=4) in ("no", "bf16")


def test_samples_in_half_precision_have_their_own_files_and_say_so(trained, capsys):
    def drawn(*words: str):
        main(["sample", str(trained), "--num", "8", *words])
        stamp = next(line for line in capsys.readouterr().out.splitlines() if line.endswith(".json"))
        with open(stamp, encoding="utf-8") as file:
            return stamp, json.load(file)["precision"]

    (plain, no), (half, bf16) = drawn(), drawn("--precision", "bf16")
    assert (no, bf16) == ("no", "bf16")
    assert plain != half


def test_judging_in_half_precision_is_recorded_and_leaves_the_floors_as_they_are(trained):
    run = load_run(trained)
    judge = Judge(run.dataset())
    results = {}
    for precision in ("no", "bf16"):
        run_in(precision, run)
        results[precision] = evaluate(run, judge, num_samples=100)
    assert [results[name]["precision"] for name in results] == ["no", "bf16"]
    full, half = (results[name]["samplers"]["clean"] for name in results)
    assert str(full["exact"]) == str(half["exact"])  # a spread of one group is NaN
    measure_of = full["figures"]["sliced_wasserstein"]["value"]
    assert 0 < abs(half["figures"]["sliced_wasserstein"]["value"] - measure_of) < 0.05 * measure_of


def test_images_are_not_judged_in_a_precision():
    config = dataclasses.replace(EvaluateConfig(), precision="bf16")
    with pytest.raises(ValueError, match="precision say how a run is sampled from"):
        config.check_for_images()
