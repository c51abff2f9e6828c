"""A target with coefficients per direction needs nothing but its own file: it trains, resumes, samples, is judged and shown."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from kdiff import FixedK, KDiff, LinearPath, VariancePreservingPath, load_data
from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.data.directions import moments
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.report.comparison_picture import draw_over_time, scales_of
from kdiff.report.drawing import new_figure
from kdiff.report.page import write_page
from kdiff.report.run_pictures import draw_run
from kdiff.run.run import load_run, target_at_start
from kdiff.studies.runner import execute, make_jobs
from kdiff.targets import LINE, Description
from kdiff.training.trainer import train_run

CLASS_PATH, RATIO = "per_direction.PerDirection", "per_direction.Ratio"
DATA = "spiral(num_samples=300, ambient_dim=6)"
CONFIG = TrainConfig(data=DATA, network="MLP(width=16)", steps=12, checkpoint_every=6, batch_size=32, ema=[0.9], log_every=4)


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class, importable by its path here and in processes that are started."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here, prepend=":")
    return importlib.import_module("per_direction").PerDirection


@pytest.fixture
def x() -> torch.Tensor:
    """Samples (200, 2, 3) whose directions vary by different amounts."""
    generator = torch.Generator().manual_seed(2)
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    return (torch.randn(200, 6, generator=generator) * torch.tensor([3.0, 2, 1, 0.5, 0.1, 0.0]) @ turned.T).reshape(200, 2, 3)


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()], ids=repr)
@pytest.mark.parametrize("time", ["number", "batch", "wide"])
def test_conversions_invert_encoding(kind, x, path, time):
    target, n = kind((2, 3), partial(moments, x)), torch.randn(200, 2, 3)
    t = {"number": 0.3, "batch": torch.rand(200), "wide": torch.rand(200, 1, 1)}[time]
    z, v = path.interpolate(x, n, t)
    u = target.encode(x, n, t)
    assert u.shape == x.shape
    torch.testing.assert_close(target.to_velocity(u, z, t, path, 0.0), v, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(target.to_data(u, z, t, path), x, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(target.to_noise(u, z, t, path), n, rtol=1e-3, atol=2e-3)


def test_with_one_k_for_all_it_is_that_fixed_k(kind, x):
    """In whatever basis: conversions, loss and its gradient."""
    target, plain, n, t = kind((2, 3), partial(moments, x)), FixedK(0.8), torch.randn(200, 2, 3), torch.rand(200)
    target.k_each.fill_(0.8)
    both = [torch.randn(200, 2, 3, generator=torch.Generator().manual_seed(4)).requires_grad_() for _ in range(2)]
    losses = [each.loss(u, x, n, t) for each, u in zip((target, plain), both)]
    torch.testing.assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(both[0].grad, both[1].grad, rtol=1e-4, atol=1e-6)


def test_each_direction_has_the_theorys_k(kind, x):
    target = kind((2, 3), partial(moments, x))
    assert (target.k_each.diff() > 0).all(), "rising as variances fall"
    assert target.k_each[-1] == pytest.approx(1, abs=1e-3)
    along = target.turn_back(torch.eye(6))
    for i, k in enumerate(target.k_each):
        u = target.encode(along[i : i + 1], torch.zeros(1, 2, 3), 0.5)
        torch.testing.assert_close(u, k * along[i : i + 1], atol=1e-5, rtol=1e-4)


def test_an_exact_denoiser_samples_its_data(kind, x):
    target = kind((2, 3), partial(moments, x))
    model = KDiff(ExactDenoiser(x[:20], target, LinearPath()), target)
    drawn = model.sample(torch.randn(40, 2, 3), steps=60)
    assert torch.cdist(drawn.flatten(1), x[:20].flatten(1)).min(1).values.max() < 1e-2


def test_a_description_survives_json(kind, x):
    described = kind((2, 3), partial(moments, x)).describe()
    assert Description.from_plain(json.loads(json.dumps(dataclasses.asdict(described)))) == described
    assert described.position == described.scalars["mean k"]


def test_a_run_with_it_needs_no_data_to_be_read(kind, tmp_path, contents):
    config = dataclasses.replace(CONFIG, target=CLASS_PATH)
    run = train_run(config, tmp_path / "run")
    data = load_data("spiral", num_samples=300, ambient_dim=6)
    expected = kind(data.shape, data.moments)
    torch.testing.assert_close(run.model.target.k_each, expected.k_each)
    torch.testing.assert_close(run.model.target.directions, expected.directions)
    assert run.metrics()[0]["mean k"] == pytest.approx(expected.state()["mean k"])
    first = target_at_start(tmp_path / "run")
    assert (first.axis, first.curves[0].over) == (LINE, "direction")
    # Cut off after the first checkpoint, it goes on to the same bytes. state.json also holds a digest of the metrics, and these
    # have one line more.
    train_run(dataclasses.replace(config, steps=6), tmp_path / "cut")
    train_run(config, tmp_path / "cut", resume=True)
    whole, cut = (contents(tmp_path / name / "checkpoints" / "step_00000012") for name in ("run", "cut"))
    assert whole.pop("state.json") != cut.pop("state.json")
    assert whole == cut


def test_every_command_takes_it(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--network", "MLP(width=16)", "--steps", "12", "--batch-size", "32", "--ema", "0.9"]
    assert main(["train", "--data", DATA, "--target", CLASS_PATH, "--out", "run", *common]) == 0
    for command in ("info run", "sample run --num 4 --guidance 2", "evaluate run --num-samples 40", "report run", "export run"):
        assert main(command.split()) == 0, capsys.readouterr().err
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "mean k" in page
    assert re.search("k over direction", page)
    assert "mean k = " in Path("run/diffusers/README.md").read_text(encoding="utf-8")
    judged = json.loads(Path("run/evaluation.json").read_text(encoding="utf-8"))
    assert judged["target_state"].keys() == {"mean k", "least k"}
    targets = ["velocity", "learned", CLASS_PATH, RATIO, "general(a=1, b=1)"]
    options = ["--seeds", "1", "--num-samples", "40", "--workers", "1", "--exact", "false", "--out", "comparison"]
    monkeypatch.setattr("kdiff.studies.comparison.run_jobs", lambda jobs, *_: [execute(job) for job in jobs])
    assert main(["compare", DATA, "--targets", *targets, *common, *options]) == 0, capsys.readouterr().err
    # Its number stands under its own name, here and in the figures; a target that says nothing has none.
    header, _, *lines = (line.split(" | ") for line in Path("comparison/table.md").read_text(encoding="utf-8").splitlines())
    assert header[:5] == ["| target", "k", "mean k", "ratio", "loss"]
    numbers = {line[0].strip("| "): [cell.strip() for cell in line[1:4]] for line in lines}
    mean = f"{judged['target_state']['mean k']:.3g}"
    figures = Path("comparison/results.csv").read_text(encoding="utf-8")
    rows = {row["target"]: row for row in csv.DictReader(figures.splitlines())}
    ratio = f"{float(rows[RATIO]['ratio']):.3g}"
    assert numbers["velocity"] == ["0.5", "", ""]
    assert [numbers[CLASS_PATH], numbers[RATIO], numbers["general(a=1, b=1)"]] == [["", mean, ""], ["", "", ratio], [""] * 3]
    assert [rows[target]["k"] for target in (RATIO, "general(a=1, b=1)")] == ["", ""]
    assert float(rows[CLASS_PATH]["k"]) == float(rows[CLASS_PATH]["mean k"]) == judged["target_state"]["mean k"]
    assert Path("comparison/comparison.png").stat().st_size > 10_000


@pytest.mark.parametrize("named", [True, False])
def test_a_run_on_an_axis_of_the_targets_own_has_pictures_and_a_page(kind, tmp_path, named) -> None:
    config = dataclasses.replace(CONFIG, target=f"per_direction.Ratio(named={named})")
    draw_run(train_run(config, tmp_path / "run"))
    train_run(dataclasses.replace(CONFIG, target="velocity"), tmp_path / "other")
    page = write_page(tmp_path / "run", tmp_path / "other").read_text(encoding="utf-8")
    assert f"between {'one' if named else '0'} and 5" in page
    assert "prediction" not in page.split("</style>")[1].split("<h2>")[0]


def test_numbers_on_different_axes_are_drawn_apart(kind, tmp_path) -> None:
    """No title names what is not drawn, and each line lies within its own axis."""
    config = dataclasses.replace(CONFIG, log_every=4)
    targets = ["general(a=1, b=1)", RATIO, "learned", CLASS_PATH]
    jobs = make_jobs({"cell": config}, targets, [0], tmp_path, 0, exact=False)
    for job in jobs:
        execute(job)
    drawn = {}
    for scale in scales_of(jobs):
        axes = new_figure(4, 3).add_subplot()
        draw_over_time(axes, jobs, dict.fromkeys(targets, "#ff0000"), scale)
        low, high = axes.get_ylim()
        assert all(low < y < high for line in axes.lines for y in line.get_ydata())
        drawn[axes.get_title()] = len(axes.lines)
    assert drawn == {"ratio over the steps": 1, "k, mean k over the steps": 2}
    assert scales_of(jobs[:1]) == []


def test_from_a_run_folder_alone(kind, tmp_path):
    """The data may be gone: what the target made of them lies in the weights."""
    train_run(dataclasses.replace(CONFIG, target=CLASS_PATH, steps=6), tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(
        (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8").replace("spiral", "nowhere.npz"), encoding="utf-8"
    )
    x, _ = load_run(tmp_path / "run", trust=True).sample(3)
    assert x.isfinite().all()
