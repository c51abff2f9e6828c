"""kdiff evaluate and kdiff report for a run on fields with a condition, and for a table with few rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import read_json, write_json
from kdiff.run.contents import read_evaluation
from kdiff.training.trainer import train_run

MODULE = """
import numpy as np
from kdiff.data import make_dataset

def waves():
    g = np.random.default_rng(0)
    phase = g.uniform(0, 6, (120, 1)).astype(np.float32)
    at = 2 * np.pi * np.arange(8) / 8
    x = np.sin(at[:, None] + at + phase[:, :, None]) + 0.1 * g.normal(size=(120, 8, 8))
    # The second channel is constant, like a mask of land.
    x = np.stack([x, np.full_like(x, 3.0)], axis=1).astype(np.float32)
    return make_dataset("waves", x, conditions={"phase": phase})
"""


def test_a_run_on_fields_with_a_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data_of_waves.py").write_text(MODULE, encoding="utf-8")
    folder = tmp_path / "run"
    train_run(TrainConfig(data="data_of_waves.waves", steps=2, network="MLP(width=8, depth=1)"), folder)
    options = ["--num-samples", "60", "--truths", "6", "--members", "3", "--exact", "false", "--seed", "4"]
    assert main(["evaluate", str(folder), *options]) == 0
    out = capsys.readouterr().out
    assert "sliced_wasserstein" in out
    assert "spectrum" in out
    assert "6 × 3 members" in out
    found = read_evaluation(folder / "evaluation.json")
    assert found["samplers"].keys() == {"clean"}
    assert found["ensemble"]["sampler"]["steps"] == 18
    assert (found["ensemble"]["conditions"], found["ensemble"]["members"], found["ensemble"]["seed"]) == (6, 3, 4)
    assert found["ensemble"]["names"] == ["phase"]
    values = {line["measure"]: line["value"] for line in found["fields"]["figures"] if line["sampler"] == "clean"}
    assert values["spectrum: 0"] > 0
    assert values["spectrum: 1"] is None  # a constant has no spectrum to compare with
    names = ["spectrum", "one_point", "ensemble", "ranks"]
    assert found["pictures"] == [f"evaluation_{name}.png" for name in names]
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in ("CRPS (fair)", "climatology", "All ranks are equally frequent", "Power spectra by channel"):
        assert text in page, text
    # The same command gives the same figures, and evaluations of older versions are still shown.
    assert main(["evaluate", str(folder), *options]) == 0
    again = read_json(folder / "evaluation.json")
    assert (again["fields"], again["ensemble"]) == (found["fields"], found["ensemble"])
    old = {key: value for key, value in again.items() if key not in ("fields", "table", "ensemble", "pictures")}
    write_json(folder / "evaluation.json", old)
    assert main(["report", str(folder)]) == 0
    assert "CRPS (fair)" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_table_with_few_rows_says_what_is_left_out(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    folder = tmp_path / "run"
    train_run(TrainConfig(data=str(tmp_path / "few.npy"), steps=2, network="MLP(width=8, depth=1)"), folder)
    assert main(["evaluate", str(folder), "--num-samples", "20", "--exact", "false"]) == 0
    assert "table is left out: " in capsys.readouterr().out
    assert read_evaluation(folder / "evaluation.json")["table"]["figures"] == []
    assert main(["report", str(folder)]) == 0
