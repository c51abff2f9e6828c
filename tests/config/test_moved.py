"""Everything that stood elsewhere before the rooms were put in order still imports, warns, and is the same object."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from kdiff.commands.main import main
from kdiff.config import moved
from kdiff.files.tensors import load_tensors
from kdiff.run.run import load_run

HERE = Path(__file__).parent / "moved"
BEFORE = (HERE / "modules.txt").read_text(encoding="utf-8").split()  # all modules of kdiff 0.1.0


@pytest.mark.parametrize("name", BEFORE)
def test_every_module_path_still_imports(name: str) -> None:
    sys.modules.pop(name, None) if name in moved.MODULES and name != "kdiff.files" else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        importlib.import_module(name)
    told = [
        str(warning.message) for warning in caught if warning.category is DeprecationWarning and "has moved" in str(warning)
    ]
    if name in moved.MODULES and name != "kdiff.files":
        assert any(f"{name} has moved: import from {moved.MODULES[name][0]}" in text for text in told), told
    else:
        assert not [text for text in told if text.startswith(f"{name} has")]


def test_the_table_names_old_places_and_new_ones() -> None:
    assert moved.MODULES.keys() <= set(BEFORE)
    for places in moved.MODULES.values():
        for place in places:
            assert place not in moved.MODULES or place == "kdiff.files"
            importlib.import_module(place)


@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kdiff.target:LearnedK", "kdiff.targets:LearnedK"),
        ("kdiff.target.varied:LearnedPair", "kdiff.targets.varied:LearnedPair"),
        ("kdiff.timesteps:LogitNormal", "kdiff.sampling:LogitNormal"),
        ("kdiff.precision:full_precision", "kdiff.path:full_precision"),
        ("kdiff.components:Component", "kdiff.config.parts:Part"),
        ("kdiff.components:build", "kdiff.run.build:build"),
        ("kdiff.interop:as_model", "kdiff.published:as_model"),
        ("kdiff.interop.pipeline:KDiffPipeline", "kdiff.export.pipeline:KDiffPipeline"),
        ("kdiff.training.run:train_run", "kdiff.training.trainer:train_run"),
        ("kdiff.training.run:load_run", "kdiff.run.run:load_run"),
        ("kdiff.training.config:as_dict", "kdiff.config.plain:as_dict"),
        ("kdiff.training.encode:decoder", "kdiff.latent.autoencoder:decoder"),
        ("kdiff.evaluation.config:EvaluateConfig", "kdiff.config.evaluation:EvaluateConfig"),
        ("kdiff.experiments.config:fixed_k", "kdiff.targets:fixed_k"),
        ("kdiff.experiments.sweep:Setting", "kdiff.studies.sweep_result:Setting"),
        ("kdiff.theory.linear:whitened", "kdiff.theory.terms:whitened"),
        ("kdiff.files:write_json", "kdiff.files.atomic:write_json"),
    ],
)
def test_a_name_is_the_same_object_at_both_places(old: str, new: str) -> None:
    first, second = (getattr(importlib.import_module(path.partition(":")[0]), path.partition(":")[2]) for path in (old, new))
    assert first is second


@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
def test_a_name_that_is_nowhere_is_refused() -> None:
    module = importlib.import_module("kdiff.target")
    with pytest.raises(AttributeError, match=r"'kdiff.target' has moved to kdiff.targets, which have no 'Lerned'"):
        _ = module.Lerned


def test_a_script_is_told_where_it_imports(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    lines = ["import kdiff", "from kdiff.target import LearnedK", "from kdiff.training.run import train_run"]
    script.write_text("\n".join([*lines, "print(LearnedK.__module__)\n"]), encoding="utf-8")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert run.stdout == "kdiff.targets.constant\n"
    assert "mine.py:2: DeprecationWarning: kdiff.target has moved: import from kdiff.targets" in run.stderr
    # The module was split: the warning names the part that the script needs.
    assert "mine.py:3: DeprecationWarning: train_run has moved: import it from kdiff.training.trainer" in run.stderr


def test_rooms_are_there_without_a_second_import() -> None:
    code = """
import inspect
import sys
import kdiff
print("torch" in sys.modules, kdiff.networks.JiT.__name__, kdiff.targets.LearnedK is kdiff.LearnedK)
names = {name for name, _ in inspect.getmembers(kdiff)}
print({"KDiff", "targets", "model"} <= names, "__main__" in names, "configs" in names)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False JiT True\nTrue False False\n"


@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
def test_a_run_folder_from_before_samples_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Its configuration names data, network, target, path and law of times by old class paths; kdiff 0.1.0 drew the samples."""
    folder = HERE / "run_before_the_move"
    assert "kdiff.target.varied.LearnedKOfTime" in (folder / "config.yaml").read_text(encoding="utf-8")
    run = load_run(folder)
    x, y = run.sample(8, seed=3)
    kept = load_tensors(HERE / "samples_before_the_move.safetensors")
    torch.testing.assert_close(x, kept["x"], rtol=1e-5, atol=1e-5)
    assert torch.equal(y, kept["y"])
    assert len(run.dataset().x) == 60
    assert main(["info", str(folder)]) == 0
    assert "k=" in capsys.readouterr().out or run.model.target.state()["k"] == pytest.approx(run.metrics()[-1]["k"], abs=0.05)


def test_nothing_of_ours_uses_an_old_place() -> None:
    root = Path(__file__).resolve().parents[2]
    for path in [*(root / "src").rglob("*.py"), *(root / "examples").glob("*.py"), *(root / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in moved.MODULES:
                assert node.module == "kdiff.files", f"{path}: {node.module}"
