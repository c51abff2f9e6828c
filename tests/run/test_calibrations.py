"""A calibration is stored beside its weights, used with them alone, and refused when it is damaged."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdiff import LinearPath
from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import Damaged
from kdiff.run.calibrations import FACTS, TENSORS, calibration_place, read_calibration, read_facts, save_calibration
from kdiff.run.run import Run, load_run
from kdiff.targets.bases import KINDS, make_basis
from kdiff.targets.calibration import Calibration
from kdiff.training.trainer import train_run

DATA = "gaussian_mixture(num_samples=300, ambient_dim=4, components=2)"
SETTINGS = {"data": DATA, "network": "MLP(width=8, depth=1)", "steps": 4, "batch_size": 16, "checkpoint_every": 2, "keep": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(TrainConfig(**SETTINGS), folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def some(kind: str = "random", shape: tuple[int, ...] = (4,), seed: int = 0) -> Calibration:
    generator = torch.Generator().manual_seed(seed)
    basis = make_basis(kind, shape)
    h = torch.randn(3, *basis.coefficient_shape, generator=generator)
    return Calibration(basis, torch.tensor([0.1, 0.5, 0.9]), h, torch.randn(basis.coordinate_shape, generator=generator))


def store(run: Run, adopted: bool = True, calibration: Calibration | None = None) -> Path:
    place = calibration_place(run.folder, run.step, run.weights)
    save_calibration(place, calibration or some(), adopted, run.step, run.weights, run.weights_digest, {"why": "because"})
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_a_calibration_is_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    one, shape = some(kind, (2, 4, 4)), (5, 2, 4, 4)
    if kind in ("principal", "patch"):
        one.basis.directions.copy_(torch.linalg.qr(torch.randn(one.basis.directions.shape)).Q)
    save_calibration(tmp_path / "place", one, True, 1, "raw", "0", {"more": (1, float("nan"))})
    other, z = read_calibration(tmp_path / "place"), torch.randn(shape)
    path = LinearPath()
    assert torch.equal(one(z, z, 0.3, path), other(z, z, 0.3, path))
    assert read_facts(tmp_path / "place")["more"] == [1, None]
    assert not list(tmp_path.glob(".*"))


def test_an_adopted_calibration_is_used_with_its_weights_unless_it_is_left_out(folder: Path) -> None:
    plain = load_run(folder)
    assert not plain.calibrated
    store(plain)
    run = load_run(folder)
    assert run.calibrated
    assert not load_run(folder, calibrated=False).calibrated
    before, after = (each.sample(8, steps=3)[0] for each in (plain, run))
    assert not torch.allclose(before, after)
    assert torch.equal(load_run(folder, calibrated=False).sample(8, steps=3)[0], before)


def test_a_calibration_that_is_not_adopted_is_kept_but_not_used(folder: Path) -> None:
    place = store(load_run(folder), adopted=False)
    assert not load_run(folder).calibrated
    assert read_facts(place)["why"] == "because"


@pytest.mark.parametrize("other", [{"ema": "none"}, {"checkpoint": 2}])
def test_a_calibration_of_other_weights_is_not_used_and_a_warning_says_so(folder: Path, other: dict[str, object]) -> None:
    store(load_run(folder))
    with pytest.warns(
        UserWarning, match=r"other weights \(step 4, ema 0\.999\), which is not used for step \d, .*kdiff calibrate"
    ):
        run = load_run(folder, **other)  # type: ignore[arg-type]
    assert not run.calibrated
    assert not load_run(folder, calibrated=False, **other).calibrated  # type: ignore[arg-type]
    store(run, calibration=some(seed=1))
    assert load_run(folder, **other).calibrated  # type: ignore[arg-type]
    assert load_run(folder).calibrated


def test_a_calibration_of_weights_that_have_been_replaced_is_not_used(folder: Path) -> None:
    run = load_run(folder)
    run.weights_digest = "0" * 32
    store(run)
    with pytest.warns(UserWarning, match="since replaced"):
        assert not load_run(folder).calibrated


def cut(place: Path) -> None:
    (place / TENSORS).write_bytes((place / TENSORS).read_bytes()[:-5])


def flip(place: Path) -> None:
    content = bytearray((place / TENSORS).read_bytes())
    content[-1] ^= 1
    (place / TENSORS).write_bytes(content)


def change(place: Path) -> None:
    facts = json.loads((place / FACTS).read_text())
    (place / FACTS).write_text(json.dumps({**facts, "adopted": not facts["adopted"]}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "tensors cut": cut,
    "a bit of the tensors": flip,
    "tensors deleted": lambda place: (place / TENSORS).unlink(),
    "a fact changed": change,
    "facts deleted": lambda place: (place / FACTS).unlink(),
    "facts cut": lambda place: (place / FACTS).write_text("{"),
    "facts of another kind": lambda place: (place / FACTS).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_calibration_is_one_clear_error_and_can_be_left_out_or_replaced(folder: Path, damage: str) -> None:
    run = load_run(folder)
    DAMAGE[damage](store(run))
    with pytest.raises(Damaged, match=r"calibration.*(damaged|missing).*kdiff calibrate .*--calibrated false"):
        load_run(folder)
    assert not load_run(folder, calibrated=False).calibrated
    store(run)
    assert load_run(folder).calibrated


def test_damage_of_a_calibration_of_other_weights_disturbs_nothing(folder: Path) -> None:
    cut(store(load_run(folder)))
    with pytest.warns(UserWarning, match="not used"):
        load_run(folder, ema="none")
    (calibration_place(folder, 4, "ema 0.999") / FACTS).unlink()
    load_run(folder, ema="none")


def test_a_removed_calibration_is_none(folder: Path) -> None:
    shutil.rmtree(store(load_run(folder)).parent)
    assert not load_run(folder).calibrated


def test_a_newer_format_is_refused(folder: Path) -> None:
    place = store(load_run(folder))
    facts = json.loads((place / FACTS).read_text())
    (place / FACTS).write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(ValueError, match="has format 2; this version of kdiff reads format 1"):
        load_run(folder)


def test_training_is_resumed_as_if_there_were_no_calibration(folder: Path, trained: Path, tmp_path: Path) -> None:
    store(load_run(folder))
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    longer = TrainConfig(**{**SETTINGS, "steps": 6})  # type: ignore[arg-type]
    for each in (folder, other):
        assert not train_run(longer, each, resume=True).calibrated
    states = [load_run(each, calibrated=False).model.state_dict() for each in (folder, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.warns(UserWarning, match="not used for step 6"):
        load_run(folder)
    assert load_run(folder, checkpoint=4).calibrated


def test_other_runs_start_from_the_weights_without_the_calibration(folder: Path, tmp_path: Path) -> None:
    store(load_run(folder))
    run = train_run(TrainConfig(**{**SETTINGS, "start_from": str(folder)}), tmp_path / "next")  # type: ignore[arg-type]
    assert json.loads((tmp_path / "next" / "start.json").read_text())["velocity_change"]["0.5"] < 1e-5
    assert not run.calibrated


@pytest.mark.parametrize("command", ["sample", "sweep"])
def test_what_is_compared_is_calibrated_alike(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guidance by a checkpoint without a calibration, and a ranking of averages of which one has none, use none at all."""
    store(load_run(folder))
    argv = {
        "sample": ["--num", "4", "--guidance", "2", "--guidance-checkpoint", "2", "--out", str(folder / "x")],
        "sweep": ["--ema", "0.999", "none", "--num-samples", "40", "--steps", "3"],
    }[command]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main([command, str(folder), *argv]) == 0
    said = [str(each.message) for each in caught if "no calibration is used" in str(each.message)]
    assert len(said) == 1
    assert ("step 2" if command == "sample" else "(raw, step 4)") in said[0]
    if command == "sweep":
        assert json.loads(next(folder.glob("sweeps/*/sweep.json")).read_text())["calibrated"] is False
        return
    found = load_file(folder / "x.safetensors")
    assert main([command, str(folder), *argv, "--calibrated", "false"]) == 0
    again = load_file(folder / "x.safetensors")
    assert all(torch.equal(found[name], again[name]) for name in again)


def test_a_sweep_of_one_average_uses_its_calibration_unless_told_not_to(folder: Path) -> None:
    store(load_run(folder))
    values = []
    for used in ("true", "false"):
        out = folder / f"out_{used}"
        argv = ["--num-samples", "40", "--steps", "3", "--calibrated", used, "--out", str(out)]
        assert main(["sweep", str(folder), *argv]) == 0
        found = json.loads((out / "sweep.json").read_text())
        assert found["calibrated"] is (used == "true")
        values.append(found["settings"][0]["value"])
    assert values[0] != values[1]
