"""metrics.jsonl: a cut last line is forgiven; any other damage is named, and costs no line that is whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdiff.commands.main import main
from kdiff.run import metrics
from kdiff.run.checkpoint import list_checkpoints
from kdiff.run.metrics import mend_metrics, read_metrics
from kdiff.run.run import load_run

pytestmark = pytest.mark.usefixtures("no_pictures")
ARGV = ["train", "--data", "moons(num_samples=120)", "--network", "MLP(width=8, depth=1)", "--batch-size", "8"]
ARGV += ["--log-every", "1", "--checkpoint-every", "10"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of 20 steps with a line for each; read only."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main([*ARGV, "--steps", "20", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A function that changes a line, counted from 1, of a file's content."""

    def edited(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join([*lines[: number - 1], change(lines[number - 1]), *lines[number:]])

    return edited


DAMAGES = {
    "a quote lost": (edit(3, lambda line: line.replace(b'"', b"", 1)), "line 3: "),
    "not UTF-8": (edit(5, lambda line: line.replace(b"loss", b"lo\xffs", 1)), "line 5: .*utf-8"),
    "null": (edit(2, lambda line: b"null\n"), "line 2: its content is null; expected an object"),
    "a list": (edit(2, lambda line: b"[]\n"), "line 2: its content is a list of 0"),
    "empty": (edit(7, lambda line: b"\n"), "line 7"),
    "no step": (edit(4, lambda line: line.replace(b'"step"', b'"stop"')), "line 4: step is missing"),
    "text": (edit(4, lambda line: re.sub(rb'"loss": [^,]+', b'"loss": "low"', line)), "line 4: loss is 'low'"),
    "a line twice": (edit(6, lambda line: line + line), "line 7: its step is 6, after step 6"),
    "deep": (edit(6, lambda line: b"[" * 100_000 + b"\n"), "line 6"),
    "a digit": (edit(8, lambda line: re.sub(rb'"loss": \d', b'"loss": 9', line)), "its lines have changed since"),
    "a line lost": (edit(8, lambda line: b""), r"has \d+ bytes; expected at least the \d+"),
    "cut in the middle": (lambda content: content[: len(content) // 2], r"has \d+ bytes; expected at least the \d+"),
    "gone": (None, "is missing; expected at least"),
}


def damage(path: Path, name: str) -> None:
    change = DAMAGES[name][0]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_by_every_reader(name, run, capsys) -> None:
    path = run / "metrics.jsonl"
    damage(path, name)
    with pytest.raises(ValueError, match=rf"metrics\.jsonl .*{DAMAGES[name][1]}.*restore it from a copy, or resume"):
        load_run(run).metrics()
    for command in ("info", "report"):
        assert main([command, str(run)]) == 2
        err = capsys.readouterr().err
        assert str(path) in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["a quote lost", "not UTF-8", "null", "a digit", "cut in the middle", "gone"])
def test_mending_loses_no_whole_line(name, run, finished) -> None:
    path = run / "metrics.jsonl"
    damage(path, name)
    damaged = path.read_bytes() if path.exists() else None
    assert re.match(rf"{re.escape(str(path))} .*{DAMAGES[name][1]}.* whole lines are kept in a new", mend_metrics(path))
    aside = run / "damaged_metrics.jsonl"
    assert (aside.read_bytes() if aside.exists() else None) == damaged
    there, kept = ({json.dumps(row) for row in read_metrics(folder / "metrics.jsonl")} for folder in (finished, run))
    assert len(there & kept) >= 20 - {"cut in the middle": 11, "gone": 20}.get(name, 1)


@pytest.mark.parametrize(
    ("name", "steps", "lines"), [("gone", 20, 0), ("null", 25, 24)], ids=["a finished run", "a run that goes on"]
)
def test_a_resumed_run_mends_its_metrics(name, steps, lines, run, caplog) -> None:
    path = run / "metrics.jsonl"
    damage(path, name)
    with pytest.warns(
        UserWarning, match=rf"{re.escape(str(path))} .*{DAMAGES[name][1]}.* whole lines are kept in a new"
    ) as said:
        assert main([*ARGV, "--steps", str(steps), "--out", str(run), "--resume"]) == 0
    assert len(said) == 1, "there is no second warning, such as for the empty legend of a curve without lines"
    assert "legend" not in caplog.text
    assert len(read_metrics(path)) == lines
    assert main(["info", str(run)]) == 0
    assert "metrics.jsonl" in (run / "warnings.log").read_text()


def test_a_last_line_that_is_cut_is_forgiven(run, finished, recwarn) -> None:
    """A process that was killed after its last checkpoint."""
    shutil.rmtree(list_checkpoints(run / "checkpoints")[-1])
    (run / "finished.json").unlink()
    path = run / "metrics.jsonl"
    content = path.read_bytes()
    for length in (1, 30, 150):
        path.write_bytes(content[:-length])
        assert len(read_metrics(path)) == 20 - (length > 1)
    assert main([*ARGV, "--steps", "20", "--out", str(run), "--resume"]) == 0
    assert path.read_bytes() == content
    assert not [warning for warning in recwarn if "metrics" in str(warning.message)]
    assert not (run / "damaged_metrics.jsonl").exists()


def test_no_file_that_was_set_aside_is_lost(run) -> None:
    path = run / "metrics.jsonl"
    for name in ("damaged_metrics.jsonl", "damaged_1_metrics.jsonl", "damaged_2_metrics.jsonl"):
        damage(path, "null")
        assert f"copied to {name}; the" in mend_metrics(path)
        assert (run / name).read_bytes().splitlines()[1] == b"null"
        assert mend_metrics(path) == ""
    assert len(read_metrics(path)) == 17


def test_older_checkpoints_agree_with_the_mended_file(run) -> None:
    """So that the run can still fall back to them."""
    damage(run / "metrics.jsonl", "null")
    mend_metrics(run / "metrics.jsonl")
    shutil.rmtree(list_checkpoints(run / "checkpoints")[-1])
    assert len(read_metrics(run / "metrics.jsonl")) == 19


def test_a_process_that_is_killed_while_it_mends_loses_nothing(run, monkeypatch) -> None:
    path = run / "metrics.jsonl"
    damage(path, "null")
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mend_metrics(path)
    assert "the 19 whole lines are kept" in mend_metrics(path)


def test_a_file_that_grows_while_it_is_read_is_not_damaged(run, monkeypatch) -> None:
    """The trainer adds a line and saves a checkpoint while another process reads."""
    path = run / "metrics.jsonl"
    whole, newest = path.read_bytes(), run / "checkpoints" / "step_00000020"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:15]))
    newest.rename(run / "later")
    read = Path.read_bytes

    def read_and_go_on(file: Path) -> bytes:
        content = read(file)
        if file == path:
            (run / "later").rename(newest)
            path.write_bytes(whole)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_go_on)
    assert len(read_metrics(path)) == 15
