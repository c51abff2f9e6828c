"""What `kdiff evaluate` measures of fields, tables and ensembles: which applies, floors, limits, and a wrong sampler."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdiff import KDiff
from kdiff.config.condition_spec import ConditionSpec
from kdiff.config.evaluation import EvaluateConfig
from kdiff.data import Dataset, make_dataset
from kdiff.data.condition import Condition
from kdiff.data.normalisation import Normalisation
from kdiff.evaluation import own_data
from kdiff.evaluation.judge import Judge
from kdiff.evaluation.own_data import OwnData
from kdiff.evaluation.own_data_text import own_lines, own_table
from kdiff.files.atomic import finite
from kdiff.files.schema import problem
from kdiff.networks import MLP
from kdiff.run.contents import JUDGED


def waves(params: np.ndarray, seed: int) -> np.ndarray:
    """Periodic fields of two channels whose phase the parameter gives; their amplitude is chance."""
    g = np.random.default_rng(seed)
    at = 2 * np.pi * np.arange(16) / 16
    phase = at[:, None] + at + 3 * params[:, :1, None]
    amplitude = g.normal(size=(2, len(params), 1, 1))
    fields = [10 + (1 + 0.3 * amplitude[0]) * np.sin(phase), 1000 * amplitude[1] * np.cos(2 * phase)]
    x = np.stack(fields, axis=1) + [[[[0.05]], [[20.0]]]] * g.normal(size=(len(params), 2, 16, 16))
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def fields() -> Dataset:
    params = np.random.default_rng(0).uniform(-1, 1, (400, 1)).astype(np.float32)
    dataset = make_dataset("waves", waves(params, 1), normalise="channels", about={"channels": ["height", "wind"]})
    values = torch.from_numpy(params)
    scale = Normalisation.fit("features", values)
    condition = Condition(ConditionSpec("phase", "vector", (1,)), scale.apply(values), scale)
    return replace(dataset, conditions={"phase": condition})


@pytest.fixture(scope="module")
def table() -> Dataset:
    g = np.random.default_rng(0)
    rows = np.stack([g.normal(size=600), g.choice([0.0, 1.0], 600), 1e6 * g.exponential(size=600)], axis=1)
    return make_dataset("table", rows, normalise="features", about={"columns": ["age", "kind", "income"]})


def judge_of(
    dataset: Dataset, draw: Callable[[np.ndarray, int], np.ndarray] | None = None, **options: Any
) -> tuple[OwnData, list[dict[str, Any]]]:
    """An `OwnData` of a run that samples by `draw`, and a list of what the run is asked for."""
    asked: list[dict[str, Any]] = []

    def sample(num: int, seed: int, conditions: Any, **how: Any) -> tuple[Tensor, None]:
        asked.append({"num": num, "seed": seed, **how})
        assert draw
        rows = (
            dataset.conditions["phase"].normalisation.undo(conditions.rows["phase"]).repeat_interleave(conditions.ensemble, 0)
        )
        assert len(rows) == num
        return torch.from_numpy(draw(rows.numpy(), 7)), None

    known = {"normalisation": dataset.normalisation, "shape": dataset.shape, "class_counts": None}
    run: Any = SimpleNamespace(**known, sample=sample, model=KDiff(MLP(dataset.shape, width=8), "velocity"))
    return OwnData(run, Judge(dataset), EvaluateConfig(**options)), asked


def drawn(dataset: Dataset, raw: np.ndarray) -> Tensor:
    return dataset.normalisation.apply(torch.from_numpy(raw)).float()


def values(entry: dict[str, Any], sampler: str = "clean", what: str = "value") -> dict[str, float]:
    return {line["measure"]: line[what] for line in entry["figures"] if line["sampler"] == sampler}


def test_fields_are_judged_by_channel_beside_their_floor(fields) -> None:
    params = np.random.default_rng(3).uniform(-1, 1, (300, 1))
    right = drawn(fields, waves(params, 4))
    wrong = right.clone()
    wrong[:, 1] = 0.5 * wrong[:, 1].roll(1, dims=2) + 0.5 * wrong[:, 1]  # blurred
    own, _ = judge_of(fields, members=0)
    found = own.judge({"paper": wrong, "clean": right})
    assert found.keys() == {"fields"}
    entry = found["fields"]
    measures = [f"{m}{c}" for m in ("spectrum", "one-point distribution") for c in ("", ": height", ": wind")]
    good, bad, floor = values(entry), values(entry, "paper"), values(entry, what="floor")
    assert sorted(good) == sorted(bad) == sorted(measures)
    for measure in measures:
        assert good[measure] < 2 * floor[measure]
    assert bad["spectrum: wind"] > 5 * floor["spectrum: wind"]
    assert bad["spectrum: height"] == good["spectrum: height"]
    assert bad["spectrum"] > 2 * good["spectrum"]
    train, heldout = (int((fields.split == part).sum()) for part in (0, 2))
    counted = min(train, 300)
    assert (entry["samples"], entry["train"], entry["heldout"], entry["heldout_of"]) == (counted, counted, heldout, heldout)
    assert (entry["window"], entry["window_chosen"], entry["left_out"]) == ("none", "auto", {})
    chosen = judge_of(fields, members=0, window="hann")[0].judge({"clean": right})["fields"]
    assert (chosen["window"], chosen["window_chosen"]) == ("hann", "hann")
    assert chosen["spectrum"]["density"] != entry["spectrum"]["density"]
    # In the data's own units: the second channel has values of the order of 1000.
    assert max(entry["one_point"]["quantiles"]["heldout"][1]) > 1000


def test_training_data_as_samples_have_the_figure_of_their_floor(fields, table) -> None:
    for dataset, name in ((fields, "fields"), (table, "table")):
        own, _ = judge_of(dataset, members=0)
        entry = own.judge({"clean": dataset.part("train")[0]})[name]
        for measure, value in values(entry).items():
            assert value == pytest.approx(values(entry, what="floor")[measure], rel=1e-3, abs=1e-6), measure


def test_rows_are_limited_and_this_is_said(fields, monkeypatch) -> None:
    own, _ = judge_of(fields, members=0, heldout_rows=30)
    found = own.judge({"clean": fields.part("train")[0]})
    assert [found["fields"][name] for name in ("samples", "train", "heldout")] == [30, 30, 30]
    assert f"(30 of {found['fields']['heldout_of']} rows)" in own_table(found)
    monkeypatch.setattr(own_data, "ENTRIES", 55 * 512)
    own, _ = judge_of(fields, members=0)
    assert own.judge({"clean": fields.part("train")[0]})["fields"]["samples"] == 55


def test_a_grid_that_is_too_small_has_no_spectrum_and_this_is_said() -> None:
    dataset = make_dataset("small", np.random.default_rng(0).normal(size=(200, 1, 3)).astype(np.float32))
    own, _ = judge_of(dataset)
    found = own.judge({"clean": dataset.part("train")[0]})
    assert list(values(found["fields"])) == ["one-point distribution"]
    assert "spectrum is left out: samples of shape (1, 3) have no spectrum" in own_table(found)


def test_tables_are_judged_by_columns_pairs_and_a_classifier(table) -> None:
    own, _ = judge_of(table)
    wrong = table.part("train")[0].clone()
    wrong[:, 2] = 1 + torch.randn(len(wrong))
    entry = own.judge({"paper": wrong, "clean": wrong})["table"]
    found, floor = values(entry), values(entry, what="floor")
    assert len(found) == 8
    assert found["columns: the worst"] > 2 * floor["columns: the worst"]
    assert found["classifier: AUC"] > 0.6
    assert entry["distances"]["clean"]["worst_column"] == 2
    assert [column["kind"] for column in entry["distances"]["clean"]["columns"]] == ["number", "category", "number"]
    # Equal samplers have one line together.
    assert len(own_lines(entry)) == 8
    assert [line["sampler"] for line in own_lines(entry)] == [""] * 8
    assert [entry["columns"][column] for column in entry["histograms"]["columns"]] == ["age", "kind", "income"]


def test_ensembles_for_held_out_conditions(fields) -> None:
    """The true law is as good as its own floor and better than the climatology; an ensemble that ignores conditions is not."""
    sharp, asked = judge_of(fields, waves, truths=40, members=8, seed=5, guidance=1.5)
    x = fields.part("train")[0]
    entry = sharp.judge({"clean": x})["ensemble"]
    found, floor, climate = values(entry), values(entry, what="floor"), values(entry, what="baseline")
    error = values(entry, what="spread")["CRPS (fair)"]
    assert found["CRPS (fair)"] == pytest.approx(floor["CRPS (fair)"], abs=3 * error)
    assert found["CRPS (fair)"] < 0.8 * climate["CRPS (fair)"]
    assert found["spread / skill"] == pytest.approx(1, abs=0.3)
    assert asked[0]["num"] == 40 * 8
    assert (asked[0]["seed"], asked[0]["guidance"], asked[0]["last_step"]) == (5, 1.5, "data")
    assert (entry["conditions"], entry["members"], entry["names"]) == (40, 8, ["phase"])
    blind, _ = judge_of(
        fields, lambda rows, seed: waves(rows[np.random.default_rng(0).permutation(len(rows))], seed), truths=40
    )
    ignoring = values(blind.judge({"clean": x})["ensemble"])
    assert ignoring["CRPS (fair)"] == pytest.approx(climate["CRPS (fair)"], abs=3 * error)
    # What a picture needs: the first conditions in their own units.
    seen = sharp.seen
    assert seen is not None
    assert seen.members.shape == (4, 8, 2, 16, 16)
    rows = own_data.drawn(len(fields.part("heldout")[0]), 40)[:4]
    phases = fields.conditions["phase"].normalisation.undo(fields.conditions_of("heldout")["phase"][rows]).flatten().tolist()
    assert seen.conditions == [f"phase = {phase:.3g}" for phase in phases]
    torch.testing.assert_close(seen.truth, fields.normalisation.undo(fields.part("heldout")[0][rows]))
    assert all(math.isfinite(score) for score in seen.scores)


def test_the_entries_fit_the_schema_of_evaluation_json_and_the_text(fields, table) -> None:
    plain = {
        **dict.fromkeys(("step", "num_samples", "group_size", "seed"), 1),
        "weights": "raw",
        "heldout": {},
        "samplers": {
            name: {"options": {"solver": "heun", "steps": 1, "guidance": 1.0}, "figures": {}} for name in ("paper", "clean")
        },
    }
    assert problem(plain, JUDGED) == ""
    for dataset in (fields, table):
        own, _ = judge_of(dataset, waves, truths=5, members=2)
        found = own.judge({"clean": dataset.part("train")[0]})
        written = json.loads(json.dumps(finite(found)))
        assert problem({**plain, **written, "pictures": ["a.png"]}, JUDGED) == ""
        text = own_table(found)
        for entry in found.values():
            for line in entry["figures"]:
                assert line["measure"] in text
    assert problem({**plain, "fields": {}}, JUDGED) != ""
    assert own_table({}) == ""


def test_the_options_belong_to_judging_without_features() -> None:
    with pytest.raises(ValueError, match="members is 1, but one sample has no spread"):
        EvaluateConfig(members=1)
    with pytest.raises(ValueError, match="heldout_rows, window belong to judging a run without features"):
        EvaluateConfig(features="inception", heldout_rows=50, window="hann")
    assert EvaluateConfig(members=0).members == 0
