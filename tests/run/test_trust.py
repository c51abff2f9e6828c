"""A run folder imports nothing from outside kdiff unless this user wrote it here or says that it is trusted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdiff.commands.main import main
from kdiff.config.parts import parse
from kdiff.config.training import TrainConfig
from kdiff.report.page import write_page
from kdiff.run.build import build
from kdiff.run.checkpoint import list_checkpoints, record_again
from kdiff.run.contents import record_settings
from kdiff.run.folder import read_run_config, sampling_of
from kdiff.run.run import load_run
from kdiff.run.trust import trusting
from kdiff.training.trainer import train_run

OWN = """
from pathlib import Path

import numpy as np
import torch
from kdiff.data import make_dataset

Path(__file__).with_name("imported").mkdir(exist_ok=True)

class Line(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = torch.nn.Linear(shape[0], shape[0])

    def forward(self, z, t, y=None):
        return self.layer(z)

def make_line(shape):
    Path(__file__).with_name("called").mkdir()
    return Line(shape)

def make_data(count=40):
    return make_dataset("mine", np.random.default_rng(0).standard_normal((count, 2)))
"""
PLAIN = TrainConfig(data="moons(num_samples=60)", network="MLP(width=8, depth=1)", steps=2, batch_size=8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run folder that names nothing outside kdiff; read only."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    train_run(PLAIN, folder)
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a module `own_parts_of_a_user`, which can be imported; the module leaves a trace when it is."""
    (tmp_path / "own_parts_of_a_user.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_parts_of_a_user", raising=False)
    yield tmp_path
    sys.modules.pop("own_parts_of_a_user", None)


def received(plain: Path, place: Path, **settings: object) -> Path:
    """A copy of a run folder whose configuration has other settings, as a stranger could send it."""
    shutil.copytree(plain, place)
    config = yaml.safe_load((place / "config.yaml").read_text())
    for name, value in settings.items():
        where, _, key = name.partition("__")
        (config[where] if key else config)[key or where] = value
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    for checkpoint in list_checkpoints(place / "checkpoints"):
        record_again(checkpoint, **record_settings(place))
    return place


pytestmark = pytest.mark.usefixtures("no_pictures")
LINE = "own_parts_of_a_user.Line"
NAMED = [
    {"network": LINE},
    {"network": "own_parts_of_a_user:Line"},
    {"network": {"name": LINE}},
    {"network": f"MLP(width='{LINE}')"},
    {"network": {"name": "MLP", "options": [{"deep": f"x('{LINE}')"}]}},
    {"network": f"kdiff.model.KDiff(target='{LINE}')"},
    {"target": LINE},
    {"path": LINE},
    {"timesteps": LINE},
    {"sampling__solver": LINE},
    {"sampling__times": LINE},
    {"data": "own_parts_of_a_user.make_data"},
    {"data": "kdiff.training.own_latents.own_latents(images='own_parts_of_a_user.make_data')"},
    {"data": {"name": "kdiff.training.own_latents.own_latents", "images": {"name": "own_parts_of_a_user.make_data"}}},
    {"data": "kdiff.data.load(source='own_parts_of_a_user.make_data')"},
]


@pytest.mark.parametrize("settings", NAMED, ids=str)
def test_nothing_that_a_strange_folder_names_is_imported(settings, plain, own, capsys) -> None:
    folder = received(plain, own / "run", **settings)
    for read in (load_run, write_page, lambda path: read_run_config(path, TrainConfig), lambda path: sampling_of(str(path))):
        with pytest.raises(
            ValueError,
            match=r"own_parts_of_a_user.* would run code from outside kdiff.*--trust.*load_run\(folder, trust=True\)",
        ):
            read(folder)
    assert main(["info", str(folder)]) == 2
    assert "add --trust" in capsys.readouterr().err
    assert not (own / "imported").exists()


COMMANDS = [
    ["info", "RUN"],
    ["sample", "RUN"],
    ["sample", "PLAIN", "--guidance", "2", "--guidance-run", "RUN"],
    ["evaluate", "RUN"],
    ["evaluate", "RUN", "--features", "classifier"],
    ["evaluate", "pictures.npz", "--features", "classifier", "--reference", "RUN"],
    ["sweep", "RUN"],
    ["report", "RUN"],
    ["report", "PLAIN", "--compare", "RUN"],
    ["export", "RUN"],
    ["train", "--data", "moons(num_samples=60)", "--out", "RUN", "--resume"],
    ["train", "--data", "moons(num_samples=60)", "--out", "NEW", "--start_from", "RUN"],
    ["train", "RUN/config.yaml", "--out", "NEW"],
    ["train", "--config", "RUN/config.yaml", "--out", "NEW"],
    ["train", "--config=RUN/config.yaml", "--out", "NEW", "--dry-run"],
    ["plan", "RUN/config.yaml"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_strange_folder(words, plain, own, monkeypatch, capsys) -> None:
    monkeypatch.chdir(own)
    received(plain, own / "run", network=LINE)
    np.savez("pictures.npz", np.zeros((4, 8, 8, 3), np.uint8))
    argv = [word.replace("RUN", "run").replace("PLAIN", str(plain)).replace("NEW", "new") for word in words]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert f"names {LINE} (network), which would run code from outside kdiff or write files" in err, err
    assert err.count("\n") == 1
    assert not (own / "imported").exists()
    assert not (own / "new").exists()


def test_trust_is_for_one_command(plain, own, capsys) -> None:
    folder = received(plain, own / "run", network=LINE)
    assert main(["info", str(folder), "--trust"]) == 2  # it is imported, and its weights are others
    assert "weights of another network" in capsys.readouterr().err
    assert (own / "imported").exists()
    assert main(["info", "--trust", str(plain)]) == 0
    for again in (main(["info", str(folder)]), main(["sample", str(folder)])):
        assert again == 2
    assert capsys.readouterr().err.count("add --trust") == 2
    with pytest.raises(ValueError, match="weights of another network"):
        load_run(folder, trust=True)
    with trusting(), pytest.raises(ValueError, match="weights of another network"):
        load_run(folder)
    with pytest.raises(ValueError, match="--trust"):
        load_run(folder)


def test_folders_of_ones_own_need_no_flag_until_they_are_moved_or_changed(own, monkeypatch, capsys) -> None:
    monkeypatch.chdir(own)
    argv = ["--data", "own_parts_of_a_user.make_data", "--network", LINE, "--batch-size", "8", "--out", "mine"]
    assert main(["train", *argv, "--steps", "2"]) == 0
    assert main(["info", "mine"]) == main(["sample", str(own / "mine"), "--num", "2"]) == 0
    assert main(["train", *argv, "--steps", "3", "--resume"]) == 0
    assert load_run("mine").step == 3
    os.symlink("mine", "also_mine")
    assert load_run("also_mine").step == 3
    capsys.readouterr()
    shutil.copytree("mine", "copy")
    assert main(["info", "copy"]) == 2
    err = capsys.readouterr().err
    assert "names own_parts_of_a_user.make_data (data), own_parts_of_a_user.Line (network), which would run" in err
    assert main(["info", "copy", "--trust"]) == main(["report", "copy", "--trust"]) == 0
    assert main(["train", *argv[:-1], "copy", "--steps", "4", "--resume"]) == 2
    assert main(["train", *argv[:-1], "copy", "--steps", "4", "--resume", "--trust"]) == 0
    assert main(["info", "copy"]) == 0  # it is written here now
    with Path("mine/config.yaml").open("a") as file:
        file.write("# changed\n")
    assert main(["info", "mine"]) == 2


def test_a_folder_is_read_where_the_cache_cannot_be_written(own, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "file" / "cache"))
    config = TrainConfig(data="own_parts_of_a_user.make_data", network=LINE, steps=2, batch_size=8)
    assert train_run(config, tmp_path / "mine").step == 2
    assert load_run(tmp_path / "mine").step == 2


# Paths inside kdiff

WAYS_AROUND = [
    {"data": "kdiff.files.atomic.write_text(path=PLACE, text=x)"},
    {"data": "kdiff.run.metrics.MetricsFile(path=PLACE, resumed_step=0)"},
    {"data": "kdiff.files.atomic.os"},
    {"sampling__solver": "kdiff.files.atomic.write_text(path=PLACE, text=x)"},
    {"sampling__solver": "kdiff.run.metrics.MetricsFile(path=PLACE, resumed_step=0)"},
    {"sampling__times": "kdiff.files.atomic.write_text(path=PLACE, text=x)"},
    {"network": "kdiff.files.atomic.write_text(path=PLACE, text=x)"},
    {"network": "kdiff.files.tensors.load_file(filename=PLACE)"},
    {"network": "kdiff.export.diffusers_model.ModelMixin"},
    {"network": "kdiff.run.metrics.MetricsFile(path=PLACE, resumed_step=0)"},
    {"target": "kdiff.run.metrics.MetricsFile(path=PLACE, resumed_step=0)"},
    {"path": "kdiff.run.metrics.MetricsFile(path=PLACE, resumed_step=0)"},
    {"timesteps": "kdiff.run.metrics.MetricsFile(path=PLACE, resumed_step=0)"},
]


@pytest.mark.parametrize("settings", WAYS_AROUND, ids=str)
def test_a_path_inside_kdiff_is_no_way_around(settings, plain, tmp_path) -> None:
    place = tmp_path / "written"
    settings = {name: value.replace("PLACE", repr(str(place))) for name, value in settings.items()}
    folder = received(plain, tmp_path / "run", **settings)
    with pytest.raises(ValueError, match="kdiff"):
        load_run(folder)
    assert not place.exists()


INSIDE = {
    "network": "kdiff.networks.mlp.MLP(width=8, depth=1)",
    "target": "kdiff.targets.LearnedK",
    "path": "kdiff.path.LinearPath",
    "timesteps": "kdiff.sampling.Uniform",
    "data": "kdiff.data.toys.moons(num_samples=60)",
    "sampling": {"solver": "kdiff.sampling.runge_kutta.heun", "times": "kdiff.sampling.times.uniform_times"},
}


def test_kdiffs_own_parts_by_class_path_need_no_flag(tmp_path) -> None:
    train_run(TrainConfig(**INSIDE, steps=2, batch_size=8), tmp_path / "run")
    run = load_run(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    assert run.dataset().name == "moons"
    assert len(run.sample(2)[0]) == 2


@pytest.mark.parametrize("data", ["vectors.npz", "photos.v2/train(size=8)", "/data/a.b.npy", "a.safetensors(labels='b.npy')"])
def test_names_of_files_are_no_class_paths(data, plain, tmp_path) -> None:
    assert str(load_run(received(plain, tmp_path / "run", data=data)).config.data) == str(parse(data))


# What is imported


@pytest.mark.parametrize("kind", ["network", "target", "path", "timesteps"])
def test_a_class_path_of_a_function_is_refused_before_it_is_called(kind, own) -> None:
    with pytest.raises(ValueError, match=r"make_line is a function; expected the class path of a subclass of "):
        build(kind, "own_parts_of_a_user.make_line", shape=(2,))
    with pytest.raises(ValueError, match=r"pathlib\.Path is the class Path; expected the class path of a subclass of"):
        build(kind, "pathlib.Path", shape=(2,))
    assert not (own / "called").exists()


SCRIPT = "import sys; sys.path.pop(0); from kdiff.commands.main import main; sys.exit(main())"  # like the script of pip


@pytest.mark.parametrize("command", [["-m", "kdiff", "info", "PLAIN"], ["-c", SCRIPT, "--help"]], ids=["module", "script"])
def test_a_file_in_the_working_folder_replaces_no_module(command, plain, tmp_path) -> None:
    for name in ("random", "numpy", "yaml", "difflib", "traceback", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')\n")
    argv = [sys.executable, *(word.replace("PLAIN", str(plain)) for word in command)]
    found = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
