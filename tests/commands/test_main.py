"""The command, in process: train, info, sample and evaluate end to end; every mistake refused before anything is written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kdiff
from kdiff.commands.main import main
from kdiff.files.tensors import load_tensors
from kdiff.run.metrics import read_metrics

TINY = ["--network", "MLP(width=16, depth=1)", "--batch-size", "32", "--log-every", "10"]
STEPS = 40


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files and folders too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the working directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in three dimensions, far from 0 and of unequal scales."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 300)
    x = 1000 + generator.standard_normal((300, 3)) * [1, 2, 0.1] + 5 * y[:, None]
    path = tmp_path_factory.mktemp("data") / "table.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; read only."""
    folder = tmp_path_factory.mktemp("runs") / "table"
    argv = ["--data", str(data), "--steps", str(STEPS), "--checkpoint-every", "20", "--ema", "0.9", "0.5", "--out", str(folder)]
    assert main(["train", *TINY, *argv]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to write in and to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


# What train leaves


def test_a_run_folder_describes_itself(trained, data) -> None:
    files = {name for name, content in contents(trained).items() if content is not None}
    weights = {"model.safetensors", "ema_0.9.safetensors", "ema_0.5.safetensors", "optimizer.safetensors", "state.json"}
    samples = {f"samples/step_{STEPS:08d}_seed_0.{ending}" for ending in ("png", "safetensors", "json")}
    described = {"config.yaml", "data.json", "environment.json", "metrics.jsonl", "finished.json", "training.png"}
    assert files >= described | samples | {f"checkpoints/step_{step:08d}/{name}" for step in (20, 40) for name in weights}
    assert {Path(name).suffix for name in files} - {".log", ""} == {".yaml", ".json", ".jsonl", ".png", ".safetensors"}
    assert not [name for name in files if "partial" in name]
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert (config["data"], config["steps"], config["target"], config["ema"]) == (str(data), STEPS, "learned", [0.9, 0.5])
    assert [row["step"] for row in read_metrics(trained / "metrics.jsonl")] == [10, 20, 30, 40]


def test_info_takes_one_run(trained, capsys) -> None:
    assert main(["info", str(trained), "runs/other", "--foo"]) == 2
    assert "info takes one run and no options; found runs/other --foo as well" in capsys.readouterr().err


def test_a_weaker_model_is_of_the_same_scale(run, data, tmp_path, capsys) -> None:
    for option, value, what in (
        ("--noise-scale", "2", "the noise of {} has the scale 2.0, that of {} 1.0"),
        ("--data.normalise", "none", "; those of {} by none"),
        ("--data.num_classes", "7", "; those of {} have 7"),
    ):
        weaker = tmp_path / option.strip("-")
        assert main(["train", *TINY, "--data", str(data), option, value, "--steps", "1", "--out", str(weaker)]) == 0
        assert main(["sample", str(run), "--guidance", "2", "--guidance-run", str(weaker)]) == 2
        assert what.format(weaker, run) in capsys.readouterr().err


def test_info_says_what_a_run_is(trained, capsys) -> None:
    assert main(["info", str(trained)]) == 0
    out = capsys.readouterr().out
    run = kdiff.load_run(trained)
    parameters = sum(p.numel() for p in run.model.network.parameters())
    for piece in (
        str(trained),
        f"k={run.model.target.k:.4g}",
        f"{parameters:,} parameters",
        "2 classes",
        "20, 40",
        "step 40 of 40",
    ):
        assert piece in out
    assert f"{run.data['counts']['train']} training samples of shape (3,)" in out
    assert f"loss        {run.metrics()[-1]['loss']:.4g}" in out


def test_info_names_the_classes_by_number(tmp_path, capsys) -> None:
    """Folders that are named by numbers, in the order of the numbers."""
    for name in ("10", "2"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(i + len(name)).integers(0, 256, (4, 4), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    network = ["--network", "MLP(width=8, depth=1)", "--batch_size", "4", "--steps", "1"]
    assert main(["train", "--data", str(tmp_path / "pets"), *network, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "run")]) == 0
    assert "classes     0: 2, 1: 10\n" in capsys.readouterr().out


def test_a_preset_by_name_with_overrides(tmp_path, capsys) -> None:
    folder = tmp_path / "digits"
    assert main(["train", "digits", *TINY, "--steps", "3", "--target", "velocity", "--out", str(folder)]) == 0
    assert f"Next: kdiff sample {folder}, kdiff evaluate {folder}" in capsys.readouterr().out
    assert yaml.safe_load((folder / "config.yaml").read_text())["target"] == "velocity"
    assert main(["sample", str(folder), "--num", "2"]) == 0
    assert load_tensors(folder / "samples" / "step_00000003_seed_0.safetensors")["x"].shape == (2, 1, 8, 8)


def test_folders_are_named_after_the_data(data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--steps", "2", "--data", f"{data}(normalise=standard)"]) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["table"]


NETWORK = """
import torch

class Line(torch.nn.Module):
    def __init__(self, shape, scale=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(shape[0], shape[0])
        self.scale = scale

    def forward(self, z, t, y=None):
        return self.scale * self.layer(z)
"""
MAKE = """
import numpy as np
from kdiff.data import make_dataset

def make(count=50):
    return make_dataset("mine", np.random.default_rng(0).standard_normal((count, 2)))
"""


def test_a_network_and_data_of_ones_own_by_class_path(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "kdiff_cli_nets.py").write_text(NETWORK)
    (tmp_path / "kdiff_cli_data.py").write_text(MAKE)
    monkeypatch.chdir(tmp_path)
    argv = ["--data", "kdiff_cli_data.make(count=60)", "--network", "kdiff_cli_nets.Line", "--network.scale", "0.5"]
    try:
        assert main(["train", *argv, "--steps", "2", "--out", "run"]) == 0
        assert kdiff.load_run("run").model.network.scale == 0.5
        assert main(["info", "run"]) == 0
    finally:
        sys.modules.pop("kdiff_cli_nets", None)
        sys.modules.pop("kdiff_cli_data", None)
    assert "Line, 6 parameters" in capsys.readouterr().out


# Samples


def drawn(run: Path, *argv: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors and the stamp of `kdiff sample`."""
    stem = run / "drawn" / "set"
    assert main(["sample", str(run), "--out", str(stem), *argv]) == 0
    assert sorted(path.name for path in stem.parent.iterdir()) == ["set.json", "set.png", "set.safetensors"]
    return load_tensors(stem.with_name("set.safetensors")), json.loads(stem.with_name("set.json").read_text())


def test_samples_are_in_the_units_of_the_data(run) -> None:
    tensors, stamp = drawn(run, "--num", "50", "--seed", "3")
    assert tensors["x"].shape == (50, 3)
    assert tensors["x"].dtype == torch.float32
    assert (tensors["x"] - 1000).abs().max() < 100
    assert tensors["y"].dtype == torch.int64
    assert set(tensors["y"].tolist()) == {0, 1}
    again, labels = kdiff.load_run(run).sample(50, 3, solver="ab3", steps=18, last_step="data")
    assert torch.equal(tensors["x"], again)
    assert torch.equal(tensors["y"], labels)
    assert {key: stamp[key] for key in ("run", "step", "weights", "num", "seed")} == {
        "run": str(run),
        "step": STEPS,
        "weights": "ema 0.9",
        "num": 50,
        "seed": 3,
    }
    assert stamp["options"] == {
        "guidance": 1.0,
        "guidance_interval": [0.0, 1.0],
        "guidance_rescale": 0.0,
        "solver": "ab3",
        "steps": 18,
        "times": "uniform",
        "last_step": "data",
    }
    assert stamp["environment"]["packages"]["torch"] == metadata.version("torch")


def test_samples_do_not_depend_on_how_many_there_are(run) -> None:
    few, many = drawn(run, "--num", "3")[0], drawn(run, "--num", "20")[0]
    assert torch.equal(few["y"], many["y"][:3])
    torch.testing.assert_close(few["x"], many["x"][:3])
    assert torch.equal(drawn(run, "--num", "3")[0]["x"], few["x"])


@pytest.mark.parametrize(
    ("argv", "stamp"),
    [
        (["--seed", "1"], {"seed": 1}),
        (["--ema", "none"], {"weights": "raw"}),
        (["--ema", "0.5"], {"weights": "ema 0.5"}),
        (["--checkpoint", "20"], {"step": 20}),
        (["--guidance", "3"], {}),
        (["--guidance", "3", "--guidance-interval", "0.2", "0.9"], {}),
        (["--guidance", "3", "--guidance-rescale", "0.5"], {}),
        (["--guidance", "3", "--guidance-channels", "0", "2"], {}),
        (["--guidance", "3", "--guidance-checkpoint", "20"], {"guided_away_from": {"step": 20, "weights": "ema 0.9"}}),
        (["--solver", "euler"], {}),
        (["--solver", "sde(diffusion=constant)"], {}),
        (["--steps", "7"], {}),
        (["--times", "shifted(0.3)"], {}),
        (["--times", "[0, 0.2, 1]"], {}),
    ],
)
def test_each_option_changes_the_samples(argv, stamp, run) -> None:
    usual, plain = drawn(run, "--num", "5")
    tensors, changed = drawn(run, "--num", "5", *argv)
    assert not torch.equal(tensors["x"], usual["x"])
    weaker = changed.pop("guided_away_from", None)
    assert {key for key in plain if plain[key] != changed[key]} - {"environment"} == (set(stamp) & set(plain) or {"options"})
    if weaker:
        assert stamp == {"guided_away_from": {key: weaker[key] for key in ("step", "weights")}}
        assert weaker["run"] == str(run)
    else:
        assert {key: changed[key] for key in stamp} == stamp


def test_a_run_is_sampled_from_as_its_configuration_says(data, tmp_path) -> None:
    """Its own pictures, and what kdiff sample does unless told otherwise."""
    folder = tmp_path / "run"
    argv = ["--sampling.solver", "euler", "--sampling.steps", "5", "--sampling.guidance", "2", "--sampling.guidance-interval"]
    assert main(["train", *TINY, "--data", str(data), "--steps", "4", *argv, "0.1", "0.9", "--out", str(folder)]) == 0
    said = {"solver": "euler", "steps": 5, "guidance": 2.0, "guidance_interval": [0.1, 0.9]}
    own = json.loads((folder / "samples" / "step_00000004_seed_0.json").read_text())
    assert {name: own["options"][name] for name in said} == said
    tensors, stamp = drawn(folder, "--num", str(own["num"]))
    assert stamp["options"] == own["options"]
    assert torch.equal(tensors["x"], load_tensors(folder / "samples" / "step_00000004_seed_0.safetensors")["x"])
    _, changed = drawn(folder, "--num", "5", "--steps", "7", "--guidance-interval", "0", "1")
    assert changed["options"] == {**own["options"], "steps": 7, "guidance_interval": [0.0, 1.0]}
    _, away = drawn(folder, "--num", "5", "--guidance-run", str(folder), "--ema", "none")
    for more in ([], ["--ema", "none"], ["--steps", "3"], ["--guidance", "1"]):
        assert main(["sample", str(folder), "--num", "3", *more]) == 0
    names = {path.stem.partition("seed_0")[2] for path in (folder / "samples").glob("*.png")}
    assert len(names) == 5, "samples drawn otherwise take no one's place"
    assert {"", "_guidance_2", "_guidance_1"} < names
    assert json.loads((folder / "samples" / "step_00000004_seed_0.json").read_text()) == own
    assert away["options"]["guidance"] == 2  # from the configuration, so that a weaker model may be named without a scale


def test_the_picture_is_one(run) -> None:
    drawn(run, "--num", "5")
    pixels = matplotlib.image.imread(run / "drawn" / "set.png")
    assert pixels.shape[:2] == (795, 750)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 1


def test_sampling_needs_no_data_and_judging_the_same(run, data, tmp_path, capsys) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = str(tmp_path / "moved.npz")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    before = drawn(run, "--num", "4")[0]["x"]
    assert main(["evaluate", str(run), "--num-samples", "10"]) == 2
    assert "moved.npz" in capsys.readouterr().err
    with np.load(data) as arrays:
        np.savez(tmp_path / "moved.npz", x=arrays["x"] + 1, y=arrays["y"])
    assert main(["evaluate", str(run), "--num-samples", "10"]) == 2
    assert "not what" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()
    assert torch.equal(drawn(run, "--num", "4")[0]["x"], before)


# Evaluation


MEASURES = ("frechet", "frechet_heldout", "sliced_wasserstein", "mmd", "copying")


def test_evaluate_judges_with_floors(run, capsys) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--num-samples", "100", "--seed", "2"]) == 0
    out, result = capsys.readouterr().out, json.loads((run / "evaluation.json").read_text())
    assert (result["step"], result["weights"], result["num_samples"], result["seed"]) == (STEPS, "ema 0.9", 100, 2)
    assert result["data"] == kdiff.load_run(run).data["fingerprint"]
    assert result["k"] == kdiff.load_run(run).model.target.k
    assert set(result["samplers"]) == {"clean"}  # k is far from 0 and 1, where the paper's sampler would be another one
    assert result["samplers"]["clean"]["options"]["steps"] == 18
    for sampler in result["samplers"].values():
        assert set(sampler["figures"]) == set(sampler["exact"]) == set(MEASURES)
        for measure, figure in sampler["figures"].items():
            assert f"{figure['value']:.4g}" in out
            assert f"{result['heldout'][measure]['value']:.4g}" in out
            assert f"{sampler['exact'][measure]['value']:.4g}" in out
    assert result["heldout"]["copying"]["value"] == 1
    assert result["classifier"]["accuracy"] > 0.9
    assert "nan" not in out


def test_evaluate_by_the_papers_sampler(run) -> None:
    options = ["--num-samples", "20", "--exact", "false", "--sampler", "paper"]
    assert main(["evaluate", str(run), *options]) == 0
    result = json.loads((run / "evaluation.json").read_text())
    steps = {name: (each["options"]["steps"], each["options"]["last_step"]) for name, each in result["samplers"].items()}
    assert steps == {"paper": (50, "euler"), "clean": (50, "data")}


def test_evaluate_draws_as_many_as_are_held_out_and_leaves_the_floor_out(run) -> None:
    assert main(["evaluate", str(run), "--num-samples", "1", "--exact", "false", "--ema", "none"]) == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert result["num_samples"] == result["group_size"] > 1
    assert result["weights"] == "raw"
    assert all("exact" not in sampler for sampler in result["samplers"].values())


# Going on


def test_resume_goes_on_as_if_it_had_never_stopped(data, tmp_path) -> None:
    argv = ["train", *TINY, "--data", str(data), "--checkpoint-every", "10"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*argv, "--steps", "30", "--out", str(whole)]) == 0
    assert main([*argv, "--steps", "20", "--out", str(parts)]) == 0
    assert main([*argv, "--steps", "30", "--out", str(parts), "--resume"]) == 0
    for name in ("metrics.jsonl", "checkpoints/step_00000030/model.safetensors", "samples/step_00000030_seed_0.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "already holds a run.*--resume.*--out"),
        (["--resume", "--seed", "1"], "other settings: seed"),
        (["--resume", "--network.width", "8"], "other settings: network"),
        (["--resume", "--steps", "20"], "reached step 40"),
    ],
)
def test_a_folder_that_holds_another_run(argv, message, run, data, capsys) -> None:
    before = contents(run)
    options = ["--data", str(data), "--steps", str(STEPS), "--checkpoint-every", "20", "--ema", "0.9", "0.5", "--out", str(run)]
    assert main(["train", *TINY, *options, *argv]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert contents(run) == before


# Refusals


@pytest.fixture
def bad(tmp_path, monkeypatch) -> Path:
    """A working directory with files that must be refused."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((60, 3)).astype(np.float32), generator.integers(0, 3, 60)
    broken = x.copy()
    broken[7, 1] = np.nan
    arrays = {
        "good": {"x": x, "y": y},
        "nan": {"x": broken, "y": y},
        "infinite": {"x": np.where(np.isnan(broken), np.inf, broken)},
        "text": {"x": x.astype(str)},
        "complex": {"x": x.astype(complex)},
        "rank": {"x": x[:, 0]},
        "few": {"x": x[:3]},
        "negative": {"x": x, "y": y - 1},
        "floats": {"x": x, "y": y + 0.5},
        "short": {"x": x, "y": y[:-1]},
    }
    for name, values in arrays.items():
        np.savez(f"{name}.npz", **values)
    Path("cut.npz").write_bytes(Path("good.npz").read_bytes()[:100])
    np.save("objects.npy", np.array([{}] * 20, dtype=object))
    Path("unknown.yaml").write_text("data: spiral\nstepz: 5\n")
    Path("images").mkdir()
    return tmp_path


REFUSED = [
    (["--data", "missing.npz"], r"'missing.npz': no such file.*\.npy, \.npz, \.safetensors"),
    (["--data", "folder/missing"], "'folder/missing': no such file"),
    (["--data", "goood.npz"], r"did you mean good\.npz"),
    (["--data", "spirall"], "did you mean 'spiral'"),
    (["--data", "nan.npz"], "1 values in 1 samples are NaN.*sample 7"),
    (["--data", "infinite.npz"], "infinite"),
    (["--data", "text.npz"], "integers or floats.*<U"),
    (["--data", "complex.npz"], "integers or floats.*complex"),
    (["--data", "objects.npy"], "Python objects"),
    (["--data", "rank.npz"], r"shape \(N, D\).*found \(60,\)"),
    (["--data", "few.npz"], "at least 10 samples.*found 3"),
    (["--data", "cut.npz"], "cut.npz: cannot be read.*damaged"),
    (["--data", "images"], "images"),
    (["--data", "negative.npz"], "labels must lie in 0.*found -1"),
    (["--data", "good.npz(num_classes=2)"], "labels must lie in 0 … 1.*found 0 … 2"),
    (["--data", "floats.npz"], "labels must be integers, found float64"),
    (["--data", "short.npz"], r"labels must have shape \(60,\).*found \(59,\)"),
    (["--data", "spiral(turns=3)"], "spiral has no option turns; its options are num_samples"),
    (["--data", "spiral(num_samples=many)"], "num_samples of spiral is 'many'; expected a whole number"),
    (["--data", "spiral", "--data.ambient_dim", "1"], "needs ambient_dim ≥ 2, found 1"),
    (["--data", "spiral("], r"spiral\("),
    (["--data", "good.npz", "--network", "MPL"], "no network is called 'MPL' .did you mean 'MLP'"),
    (["--data", "good.npz", "--network.widht", "8"], "no option widht .*width, depth"),
    (["--data", "good.npz", "--network.width", "0"], "width is 0"),
    (["--data", "good.npz", "--network.num_classes", "7"], "has 7 classes, but the data have 3"),
    (["--data", "good.npz", "--sampling.solver", "eul"], "eul"),
    (["--data", "good.npz", "--start_from", "runs/none"], "start_from is runs/none, which does not exist"),
    (["--data", "good.npz", "--start_from.name", "sit", "--start_from.weights", "x.pt"], "no weights at x.pt"),
    (["--data", "good.npz", "--network", "nowhere.Net"], "nowhere"),
    (["--data", "good.npz", "--target", "learnt"], "no target is called 'learnt' .did you mean 'learned'"),
    (["--data", "good.npz", "--target", "1.5"], r"k is 1.5; expected a number in \[0, 1\]"),
    (["--data", "good.npz", "--target", "learned(init=1)"], "init is 1"),
    (["--data", "good.npz", "--path", "lin"], "no path is called 'lin' .did you mean 'linear'"),
    (["--data", "good.npz", "--timesteps", "logit_normal(std=0)"], "std"),
    (["--data", "good.npz", "--learning-rate", "-1"], "learning_rate is -1"),
    (["--stepz", "3"], "did you mean 'steps'"),
    (["unknown.yaml"], "stepz.*did you mean 'steps'"),
    (["spiral"], "kdiff train --data spiral"),
    (["missing.yaml"], "no configuration 'missing.yaml'"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_train_refuses_before_anything_is_written(argv, message, bad, capsys) -> None:
    before = contents(bad)
    place = argv[:1] if not argv[0].startswith("-") else []
    assert main(["train", *place, "--steps", "2", *argv[len(place) :]]) == 2
    out, err = capsys.readouterr()
    assert re.search(message, err), err
    assert err.startswith("kdiff train: error: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert out == ""
    assert contents(bad) == before


COMPARED = [
    (["missing.npz"], "'missing.npz': no such file"),
    (["nan.npz"], "NaN"),
    (["good.npz", "--targets", "noise", "nois"], "no target is called 'nois'"),
    (["good.npz", "--targets", "0.5", "1.5"], "k is 1.5"),
    (["good.npz", "--targets", "noise", "noise"], "no target twice"),
    (["good.npz", "--targets"], "at least one"),
    (["good.npz", "--target", "noise"], "did you mean 'targets'"),
    (["good.npz", "--seeds", "0"], "seeds is 0"),
    (["good.npz", "--workers", "0"], "workers is 0"),
    (["good.npz", "--network.depth", "0"], "depth is 0"),
    (["good.npz", "--data.num_classes", "2"], "labels must lie in 0 … 1"),
    (["--config", "unknown.yaml"], "stepz.*did you mean"),
]


@pytest.mark.parametrize(("argv", "message"), COMPARED, ids=[" ".join(argv) for argv, _ in COMPARED])
def test_compare_refuses_before_anything_is_written(argv, message, bad, capsys) -> None:
    before = contents(bad)
    assert main(["compare", *argv]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert err.startswith("kdiff compare: error: ")
    assert contents(bad) == before


def damage(run: Path, what: str) -> None:
    """Do to a run folder what must be noticed."""
    newest = run / "checkpoints" / f"step_{STEPS:08d}"
    weights = newest / "ema_0.9.safetensors"
    config = yaml.safe_load((run / "config.yaml").read_text())
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "flipped":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
    elif what == "without weights":
        weights.unlink()
    elif what == "without state":
        (newest / "state.json").unlink()
    elif what == "without checkpoints":
        shutil.rmtree(run / "checkpoints")
    elif what == "without data.json":
        (run / "data.json").unlink()
    elif what == "another width":
        config["network"] = "MLP(width=24, depth=1)"
    elif what == "another depth":
        config["network"] = "MLP(width=16, depth=2)"
    elif what == "another target":
        config["target"] = "velocity"
    elif what == "unknown field":
        config["stepz"] = 3
    (run / "config.yaml").write_text("{" if what == "no YAML" else yaml.safe_dump(config))


@pytest.mark.parametrize("command", ["sample", "evaluate", "info"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", r"ema_0\.9\.safetensors is truncated"),
        ("flipped", r"ema_0\.9\.safetensors is damaged: its checksum"),
        ("without weights", r"ema_0\.9\.safetensors is missing"),
        ("without state", r"state\.json is missing"),
        ("without checkpoints", "no checkpoint"),
        ("without data.json", r"data\.json is missing"),
        ("another width", r"config\.yaml is damaged: network changed since the checkpoint was written"),
        ("another depth", r"config\.yaml is damaged: network changed"),
        ("another target", r"config\.yaml is damaged: target changed"),
        ("unknown field", "stepz"),
        ("no YAML", r"config\.yaml is damaged"),
    ],
)
def test_a_damaged_run_is_refused(command, what, message, run, capsys) -> None:
    damage(run, what)
    before = contents(run)
    assert main([command, str(run)]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert str(run) in err
    assert contents(run) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num", "0"], "num is 0"),
        (["--ema", "0.7"], "no averages with decay 0.7; it has: 0.9, 0.5 and none"),
        (["--ema", "raw"], "raw"),
        (["--checkpoint", "7"], "no checkpoint of step 7; it has: 20, 40"),
        (["--solver", "rk45"], "no solver is called 'rk45'.* Known: euler, heun"),
        (["--solver", "dopri5(rtol=0)"], "expected positive tolerances"),
        (["--solver", "dopri5(rtol=a)"], "rtol of dopri5 is 'a'; expected a number"),
        (["--solver", "sde(path=linear)"], "path cannot be set by text"),
        (["--times", "[0, x, 1]"], "expected a list of numbers"),
        (["--times", "cosine"], "no grid of times is called 'cosine'"),
        (["--guidance-checkpoint", "20"], "guidance is 1, which means none"),
        (["--guidance-run", "nowhere", "--guidance", "2"], "nowhere is not a run folder"),
        (["--guidance-rescale", "2"], "guidance_rescale is 2"),
        (["--steps", "0"], "steps is 0"),
        (["--last-step", "clean"], "last_step.*clean"),
        (["--guidance", "2", "--guidance-interval", "0.9", "0.1"], "guidance_interval is .*0.9, 0.1"),
        (["--guidence", "2"], "did you mean 'guidance'"),
        (["--target", "noise"], "--target noise"),
    ],
)
def test_sample_refuses_bad_options(argv, message, run, capsys) -> None:
    before = contents(run)
    assert main(["sample", str(run), *argv]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert contents(run) == before


@pytest.mark.parametrize("command", ["sample", "evaluate", "info"])
def test_a_folder_that_is_no_run(command, tmp_path, capsys) -> None:
    assert main([command]) == 2
    assert f"which run? Type kdiff {command} RUN" in capsys.readouterr().err
    for folder in (tmp_path, tmp_path / "missing"):
        assert main([command, str(folder)]) == 2
        assert f"{folder} is not a run folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The command itself


def test_overview_and_version(capsys) -> None:
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        for command in ("compare DATA", "train [CONFIG]", "sample RUN", "evaluate SOURCE", "info RUN"):
            assert f"  {command} " in out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdiff {kdiff.__version__}\n"


@pytest.mark.parametrize(("word", "hint"), [("trian", "train"), ("smaple", "sample"), ("comapre", "compare"), ("xyz", None)])
def test_an_unknown_command(word, hint, capsys) -> None:
    assert main([word, "--steps", "3"]) == 2
    err = capsys.readouterr().err
    assert f"no command is called '{word}'" in err
    assert (f"did you mean '{hint}'?" in err) if hint else ("did you mean" not in err)


def test_a_run_that_diverges_exits_with_1(data, tmp_path, capsys) -> None:
    argv = ["--data", str(data), "--steps", "20", "--learning-rate", "1e30", "--clip", "0", "--warmup", "0"]
    assert main(["train", *TINY, *argv, "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "kdiff train: error: the loss" in err
    assert "Try a lower learning_rate" in err
    assert not (tmp_path / "run" / "finished.json").exists()


def test_ctrl_c_exits_with_130(monkeypatch, capsys) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdiff.training.trainer.train_run", interrupted)
    assert main(["train"]) == 130
    assert "--resume" in capsys.readouterr().out


def test_the_traceback_of_a_mistake_on_request(monkeypatch, capsys, tmp_path) -> None:
    argv = ["sample", str(tmp_path)]
    monkeypatch.delenv("KDIFF_TRACEBACK", raising=False)
    assert main(argv) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("KDIFF_TRACEBACK", "1")
    assert main(argv) == 2
    assert re.search(r"Traceback[\s\S]*load_run[\s\S]*kdiff sample: error", capsys.readouterr().err)


def test_a_defect_of_kdiff_itself_is_no_mistake_of_the_user(monkeypatch) -> None:
    def defective(*_: object, **__: object) -> None:
        raise KeyError("nothing here")

    monkeypatch.setattr("kdiff.training.trainer.train_run", defective)
    with pytest.raises(KeyError):
        main(["train"])


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in kdiff … | head: nothing is said, and the exit code is a pipe's."""
    command = [sys.executable, "-m", "kdiff", "reproduce", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")


def test_the_connections_of_processes_are_closed(run: Path, tmp_path: Path) -> None:
    """Left open they abort one in three such processes as Python ends, on CPUs."""
    where = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=where)
    try:
        assert main(["info", str(run)]) == 0
        assert not torch.distributed.is_initialized()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
