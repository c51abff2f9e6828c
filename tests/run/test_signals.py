"""SIGTERM and Ctrl-C: the step in hand is done and saved, the exit code is the conventional one, and resuming is exact."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from kdiff.commands.main import main
from kdiff.config.training import LoopConfig
from kdiff.run.checkpoint import list_checkpoints
from kdiff.run.signals import Stopped, StopSignals, sigterm_raises
from kdiff.training.loop import fit

pytestmark = pytest.mark.usefixtures("no_pictures")
CONFIG = LoopConfig(steps=30, batch_size=16, warmup=0, log_every=4, checkpoint_every=10)
CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]

NETWORK = """
import os, signal
import torch

class Signals(torch.nn.Module):
    calls, at, what = 0, 8, []

    def __init__(self, shape):
        super().__init__()
        self.layer = torch.nn.Linear(shape[0], shape[0])

    def forward(self, z, t, y=None):
        Signals.calls += self.training
        if self.training and Signals.calls == Signals.at:
            for what in Signals.what or [int(os.environ.get("KDIFF_TEST_SIGNAL", "0"))]:
                os.kill(os.getpid(), what)
        return self.layer(z)
"""


@pytest.fixture(autouse=True)
def _handlers():
    """Whatever a test does, Ctrl-C stops the tests afterwards."""
    # A shell starts background jobs with SIGINT ignored, and what is ignored stays ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {what: signal.getsignal(what) for what in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = {what: signal.getsignal(what) for what in before}
    for what, handler in before.items():
        signal.signal(what, handler)
    assert after == before


def signalled(objective, at: int, *signals: int):
    """The objective, which sends its process these signals in the middle of step `at` (from 0)."""

    def send(call: int) -> None:
        if call == at:
            for number in signals:
                os.kill(os.getpid(), number)

    objective.module.network.before = send
    return objective


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("at", [0, 5, 9, 29])
def test_the_step_in_hand_is_done_and_saved(make_objective, samples, tmp_path, contents, number, code, at):
    """In the first step, in the middle of two intervals, at a checkpoint that is due anyway, and in the last step."""
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    fit(make_objective(), *samples, CONFIG, folder=tmp_path / "whole")
    cut = signalled(make_objective(), at, number)
    with pytest.raises(Stopped, match=f"saved at step {at + 1} of 30") as caught:
        fit(cut, *samples, CONFIG, folder=tmp_path / "cut")
    assert caught.value.code == code
    assert len(cut.module.network.calls) == at + 1
    assert list_checkpoints(tmp_path / "cut" / "checkpoints")[-1].name == f"step_{at + 1:08d}"
    fit(make_objective(seed=9), *samples, CONFIG, folder=tmp_path / "cut", resume=True)
    cut, whole = contents(tmp_path / "cut"), contents(tmp_path / "whole")
    assert {name: cut[name] for name in whole if name in cut} == {name: whole[name] for name in whole if name in cut}
    assert {"metrics.jsonl", "checkpoints/step_00000030/model.safetensors"} <= set(cut) & set(whole)


def test_a_second_ctrl_c_leaves_at_once(make_objective, samples, tmp_path, capfd):
    objective = signalled(make_objective(), 14, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(objective, *samples, CONFIG, folder=tmp_path)
    assert not isinstance(caught.value, Stopped)
    assert len(objective.module.network.calls) == 14, "not even the step in hand was done"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000010"]
    assert "press Ctrl-C again to stop at once" in capfd.readouterr().err


def test_other_repetitions_mean_nothing_new(make_objective, samples, tmp_path):
    for number, signals in enumerate([(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(Stopped) as caught:
            fit(signalled(make_objective(), 3, *signals), *samples, CONFIG, folder=tmp_path / str(number))
        assert caught.value.code == 143
    with StopSignals(launched=True) as stop:  # a launcher of several processes hands on what they have seen themselves
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.signum == signal.SIGINT


def test_without_a_folder_there_is_nothing_to_save(make_objective, samples):
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(signalled(make_objective(), 3, signal.SIGINT), *samples, CONFIG)
    assert not isinstance(caught.value, Stopped)


def test_signals_that_are_ignored_stay_ignored(make_objective, samples, tmp_path):
    """As for a process that was started by nohup or in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(signalled(make_objective(), 3, signal.SIGINT), *samples, replace(CONFIG, steps=5), folder=tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_trains_without_handlers(make_objective, samples, tmp_path):
    seen = []
    objective = make_objective()
    objective.module.network.before = lambda call: seen.append(
        (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    )

    def train() -> None:
        with sigterm_raises():
            fit(objective, *samples, replace(CONFIG, steps=3), folder=tmp_path)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert set(seen) == {(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


def test_between_the_steps_sigterm_is_an_exception_too():
    with pytest.raises(Stopped) as caught, sigterm_raises():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143


def test_a_worker_can_send_it_home():
    """Processes of a pool return what they raise pickled."""
    again = pickle.loads(pickle.dumps(Stopped(15, "saved at step 3")))
    assert (again.code, str(again)) == (143, "saved at step 3")


@pytest.fixture
def command(tmp_path, monkeypatch) -> list[str]:
    """kdiff train on a network of one's own that sends its process signals in its eighth step."""
    (tmp_path / "kdiff_test_signals.py").write_text(NETWORK)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return ["train", "--data", "x.npy", "--network", "kdiff_test_signals.Signals", "--steps", "20", "--out", "a run"]


@pytest.mark.parametrize(("signals", "code"), [([15], 143), ([2], 130), ([2, 2], 130)])
def test_the_command_says_how_to_go_on(command, monkeypatch, tmp_path, capsys, signals, code):
    module = importlib.import_module("kdiff_test_signals")
    monkeypatch.setattr(module.Signals, "what", signals)
    try:
        assert main(command) == code
        out = capsys.readouterr().out
        assert "continue from the last checkpoint with: kdiff train --data x.npy " in out
        assert "--out 'a run' --resume\n" in out
        assert ("stopped; a run is saved at step 8 of 20; continue" in out) == (len(signals) == 1)
        assert (tmp_path / "a run" / "checkpoints" / "step_00000008").exists() == (len(signals) == 1)
        assert main([*command, "--resume"]) == 0
        assert (tmp_path / "a run" / "finished.json").exists()
    finally:
        sys.modules.pop("kdiff_test_signals", None)


def test_the_process_leaves_with_the_conventional_code(command, tmp_path):
    environment = {**os.environ, "KDIFF_TEST_SIGNAL": str(int(signal.SIGTERM)), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "kdiff", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 143, result.stderr
    assert "--out 'a run' --resume" in result.stdout
    assert "Traceback" not in result.stderr
    assert (tmp_path / "a run" / "checkpoints" / "step_00000008").exists()
