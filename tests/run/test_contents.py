"""Every damaged file of a run folder is refused in one line that names it, or mended: no traceback, and nothing is believed."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files.schema import Numbers, problem
from kdiff.report.evaluation_section import features_of, sweep_section
from kdiff.report.page import write_page
from kdiff.report.record import read_record
from kdiff.run.checkpoint import check_checkpoint, list_checkpoints, record_again, set_damaged_aside
from kdiff.run.contents import ENVIRONMENT, read_evaluation, read_finished, read_start, record_settings
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run, target_at_start
from kdiff.training import loop
from kdiff.training.trainer import train_run

pytestmark = pytest.mark.usefixtures("no_pictures")
DATA = ["--data", "moons(num_samples=120)", "--network", "MLP(width=8, depth=1)", "--batch-size", "8"]
ARGV = ["train", *DATA, "--steps", "20", "--log-every", "5", "--checkpoint-every", "10"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that started from another, was evaluated and swept; read only."""
    base = tmp_path_factory.mktemp("runs")
    assert main(["train", *DATA, "--steps", "2", "--out", str(base / "first")]) == 0
    argv = [*ARGV, "--start_from", str(base / "first"), "--out", str(base / "run")]
    assert main(argv) == 0
    assert main(["evaluate", str(base / "run"), "--num-samples", "40", "--exact", "false", "--sampler", "paper"]) == 0
    assert main(["sweep", str(base / "run"), "--steps", "1", "2", "--num-samples", "40"]) == 0
    return base / "run"


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of the run, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def again(whole) -> Callable[[Path], int]:
    """Resume the training of a copy; returns the exit code."""
    first = str(whole.parent / "first")
    return lambda run, *more: main([*ARGV, *more, "--start_from", first, "--out", str(run), "--resume"])


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all entries of a JSON value, and to the first of each list."""
    yield at
    for key in value if isinstance(value, dict) else range(min(len(value), 1)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def damages(text: str) -> Iterator[bytes]:
    """The content of a file, damaged in many ways."""
    for content in ("", text[: len(text) // 2], "null", "[]", "{}", "7", '"text"', "[" * 100_000):
        yield content.encode()
    yield b"\xff\xfe" + text.encode()
    for at in places(json.loads(text)):
        for new in (KeyError, None, "text", -7.5, True, [], {}, [None], {"a": None}) if at else ():
            value = whole_value = json.loads(text)
            for key in at[:-1]:
                value = value[key]
            if new is KeyError:
                del value[at[-1]]
            elif type(value[at[-1]]) is type(new) and value[at[-1]] == new:
                continue
            else:
                value[at[-1]] = copy.deepcopy(new)
            yield json.dumps(whole_value).encode()


def refusal(read: Callable[[], object]) -> str:
    """The message of a refusal; empty if nothing was refused."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return ""


def outcomes(path: Path, read: Callable[[], object], every: int = 1) -> tuple[int, int]:
    """How many damages of a file are refused, and how many are read; each refusal is one line that names the file.

    `every` 4 takes every fourth damage.
    """
    text, refused, accepted = path.read_text(), 0, 0
    for content in [*damages(text)][::every]:
        path.write_bytes(content)
        said = refusal(read)
        assert "\n" not in said
        assert not said or path.name in said or path.parent.name in said, (content, said)
        refused, accepted = refused + bool(said), accepted + (not said)
    path.write_text(text)
    read()
    return refused, accepted


def test_data_json_is_refused_whatever_is_changed(run) -> None:
    """Only the name of the data may differ."""
    refused, accepted = outcomes(run / "data.json", lambda: load_run(run))
    assert refused > 150
    assert accepted <= 1


def test_state_json_is_refused_whatever_is_changed(run) -> None:
    newest = list_checkpoints(run / "checkpoints")[-1]
    refused, accepted = outcomes(newest / "state.json", lambda: check_checkpoint(newest, digests=False))
    assert refused > 400
    assert accepted == 0


def test_a_state_of_an_older_version_is_checked_as_far_as_it_goes(run) -> None:
    newest = list_checkpoints(run / "checkpoints")[-1]
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({key: state[key] for key in ("format", "step", "files")}))
    refused, accepted = outcomes(newest / "state.json", lambda: check_checkpoint(newest))
    assert refused > 80
    assert accepted <= 6  # a file that is not listed is not checked
    assert load_run(run).step == 20


READERS: dict[str, Callable[[Path], object]] = {
    "finished.json": lambda path: read_finished(path.parent),
    "target.json": lambda path: target_at_start(path.parent).position,
    "start.json": lambda path: read_start(path.parent),
    "evaluation.json": read_evaluation,
}


@pytest.mark.parametrize(
    ("name", "every", "least", "most"),
    [("finished.json", 1, 70, 28), ("target.json", 1, 80, 12), ("start.json", 1, 85, 55), ("evaluation.json", 4, 200, 360)],
)
def test_other_files_are_refused_or_read(name, every, least, most, run) -> None:
    """What is read has only another value where any value of its type is allowed, or more entries."""
    refused, accepted = outcomes(run / name, lambda: READERS[name](run / name), every)
    assert refused >= least
    assert accepted <= most


def test_the_page_of_a_run_with_damaged_files(run) -> None:
    """Files of which the page shows little: whatever passes the schema can be shown."""
    write_page(run)  # draws missing pictures
    record_of = read_record(run)
    for path in (next(run.glob("sweeps/*/sweep.json")), run / "environment.json", next(run.glob("samples/*.json"))):
        text = path.read_text()
        show = (lambda: sweep_section(record_of)) if path.name == "sweep.json" else (lambda: write_page(run))
        for content in [*damages(text)][::11]:
            path.write_bytes(content)
            said = refusal(show)
            assert not said or path.name in said, said
        path.write_text(text)
    assert features_of(record_of) == []
    assert problem(json.loads((run / "environment.json").read_text()), ENVIRONMENT) == ""


def test_a_setting_that_is_changed_since_the_checkpoint(run) -> None:
    """A noise scale fits any weights, so that nothing else would tell."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for changes, wrong in (
        ({"noise_scale": 2.0}, "noise_scale"),
        ({"path": "variance_preserving", "null_rate": 0.5}, "path, null_rate"),
        ({"steps": 30, "sampling": {**config["sampling"], "steps": 3}, "data": "elsewhere.npz"}, ""),
    ):
        (run / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))
        if wrong:
            with pytest.raises(ValueError, match=rf"config\.yaml is damaged: {wrong} changed since the checkpoint was written"):
                load_run(run)
        else:
            assert load_run(run).config.steps == 30


def test_a_run_folder_of_an_older_version(run, again) -> None:
    """Without a record, without start.json and target.json: it is read, and resumed."""
    for checkpoint in list_checkpoints(run / "checkpoints"):
        state = json.loads((checkpoint / "state.json").read_text())
        (checkpoint / "state.json").write_text(json.dumps({key: state[key] for key in ("format", "step", "files")}))
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**data, "more": 1}))
    assert load_run(run).step == 20
    assert len(read_metrics(run / "metrics.jsonl")) == 4
    assert again(run, "--steps", "25") == 0
    assert "run" in check_checkpoint(list_checkpoints(run / "checkpoints")[-1])


# The way back


def test_a_damaged_state_falls_back_to_the_checkpoint_before(run) -> None:
    state = list_checkpoints(run / "checkpoints")[-1] / "state.json"
    content = json.loads(state.read_text())
    content["files"]["model.safetensors"] = None
    state.write_text(json.dumps(content))
    (run / "checkpoints" / "step_x").mkdir()
    assert "continuing from step_00000010" in set_damaged_aside(run / "checkpoints")
    assert load_run(run).step == 10


@pytest.mark.parametrize("content", ["", "{", '{"shape": [2]}', None], ids=["empty", "cut", "changed", "missing"])
def test_data_json_is_written_again_by_a_resumed_run(content, run, again) -> None:
    before = (run / "data.json").read_bytes()
    if content is None:
        (run / "data.json").unlink()
    else:
        (run / "data.json").write_text(content)
    with pytest.raises(ValueError, match=r"data\.json is (damaged|missing).*resume the run .*which writes it again"):
        load_run(run)
    with pytest.warns(UserWarning, match=r"data\.json is .*it is written again, because the data are the same"):
        assert again(run) == 0
    assert (run / "data.json").read_bytes() == before


def test_data_json_is_not_written_again_for_other_data(run, again, capsys) -> None:
    (run / "data.json").write_text("{")
    before = (run / "checkpoints").stat().st_mtime_ns
    assert main([*ARGV, "--data", "moons(num_samples=130)", "--out", str(run), "--resume"]) == 2
    assert re.search(r"data\.json is damaged: .*fingerprint.* changed since the checkpoint", capsys.readouterr().err)
    assert (run / "checkpoints").stat().st_mtime_ns == before
    assert (run / "data.json").read_text() == "{"


@pytest.mark.parametrize("content", ["", "null", '{"seconds": 1}'])
def test_finished_json_is_written_again_by_a_resumed_run(content, run, again) -> None:
    (run / "finished.json").write_text(content)
    with pytest.raises(ValueError, match=r"finished\.json is damaged.*resume the run"):
        read_record(run)
    with pytest.warns(UserWarning, match=r"finished\.json is damaged.*it is written again"):
        assert again(run) == 0
    assert read_finished(run)["last"]["step"] == 20


def test_what_is_mended_is_recorded_again(run) -> None:
    (run / "data.json").write_text(json.dumps({**json.loads((run / "data.json").read_text()), "num_classes": 3}))
    newest = list_checkpoints(run / "checkpoints")[-1]
    record_again(newest, **record_settings(run))
    with pytest.raises(ValueError, match="weights of another network"):
        load_run(run)


@pytest.mark.parametrize(
    "change", [lambda text: text + "note: [\n", lambda text: text.replace("noise_scale: 1.0", "noise_scale: 2.0")]
)
def test_a_config_that_is_changed_while_the_run_trains_does_not_stop_it_and_is_found(change, tmp_path, monkeypatch) -> None:
    """Checkpoints record the configuration that the run began with, and not what the file holds when they are written."""
    step = loop.Steps.run

    def run_step(self, number, **options) -> None:
        step(self, number, **options)
        if number == 5:
            path = tmp_path / "run" / "config.yaml"
            path.write_text(change(path.read_text()))

    monkeypatch.setattr(loop.Steps, "run", run_step)
    config = TrainConfig(data="moons(num_samples=120)", network="MLP(width=8, depth=1)", steps=10, batch_size=8)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged"):  # when the finished run is loaded
        train_run(config, tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000010"]


# The schema


@pytest.mark.parametrize(
    ("schema", "value", "found"),
    [
        (int, 1.5, "its content is 1.5; expected a whole number"),
        (int, True, "its content is True; expected a whole number"),
        (float, 1, ""),
        (None, 0, "its content is 0; expected null"),
        ((str, None), 7, "its content is 7; expected text or null"),
        ([int], [1, None], "[1] is null; expected a whole number"),
        ([int, str], [1], "its content is a list of 1; expected a list of 2"),
        ({"a": {"b": int}}, {"a": {}}, "a.b is missing"),
        ({"a?": int, ...: str}, {"a": 1, "c": "d", "e": []}, "e is a list of 0; expected text"),
        (({"a": int}, None), {"a": "b"}, "a is 'b'; expected a whole number"),
        (Numbers, [[1, 2.5], [3, 4]], ""),
        (Numbers, [[1, None]], "its content is a list of 1; expected numbers"),
        (object, {"a": []}, ""),
        ({"a": int}, "a" * 60, f"its content is '{'a' * 39}…; expected an object"),
    ],
)
def test_what_differs_from_a_schema(schema, value, found) -> None:
    assert problem(value, schema) == found
