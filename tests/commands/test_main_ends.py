"""How a process of `kdiff` ends: one that torchrun launched is not torn down, and its exit code is that of the command.

The stand-in for a thread that aborts while Python is torn down is an object that aborts when the interpreter deletes it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdiff import __version__
from kdiff.commands.main import main

# Python runs a sitecustomize.py on its path as it starts, in every process.
ABORTS = """
import atexit, os, threading, time

class Torn:
    def __del__(self, abort=os.abort):
        abort()

def late():
    time.sleep(0.3)
    os.write(1, b"the thread ended\\n")

if "kdiff_test" in os.environ:
    torn = Torn()
    atexit.register(print, "what was registered ran")
    threading.Thread(target=late).start()
"""
PRINTED = sorted([f"kdiff {__version__}", "the thread ended", "what was registered ran"])
# The second of two processes fails while the first has work for ten minutes.
ONE_FAILS = """
import os, sys, time

if os.environ["RANK"] == "0":
    time.sleep(600)
sys.argv = ["kdiff", "train", "--stepz", "3"]
from kdiff.commands.main import command_line

command_line()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that aborts when it is torn down."""
    (tmp_path / "sitecustomize.py").write_text(ABORTS)
    places = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    without = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONUNBUFFERED")  # buffered, so that a text can be lost
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, "PYTHONPATH": os.pathsep.join(places), "kdiff_test": "1"}


def ended(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_launched_process_is_not_torn_down(environment) -> None:
    """Everything was written, the threads have ended, and what was registered for the end has run."""
    result = ended({**environment, "RANK": "1", "WORLD_SIZE": "2"}, "-m", "kdiff", "--version")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert sorted(result.stdout.splitlines()) == PRINTED


def test_a_process_that_nobody_launched_ends_as_python_ends(environment) -> None:
    """This also shows that the stand-in aborts."""
    result = ended(environment, "-m", "kdiff", "--version")
    assert result.returncode == -signal.SIGABRT
    assert sorted(result.stdout.splitlines()) == PRINTED


@pytest.mark.parametrize("argv", [("train", "--stepz", "3"), ("trian",)])
def test_a_launched_process_that_fails_keeps_its_code_and_message(argv, environment) -> None:
    result = ended({**environment, "RANK": "0", "WORLD_SIZE": "2"}, "-m", "kdiff", *argv)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdiff")
    assert "error: " in line


def test_a_caller_of_main_goes_on(monkeypatch, capsys) -> None:
    """Whoever calls it from Python has more to do, also in a process of torchrun."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("the process would have ended"))
    assert main(["--version"]) == 0
    assert main(["train", "--stepz", "3"]) == 2


def test_one_process_that_fails_ends_the_others(environment, tmp_path) -> None:
    (tmp_path / "one_fails.py").write_text(ONE_FAILS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "one_fails.py")]
    del environment["kdiff_test"]  # torchrun itself is torn down
    result = ended(environment, *launch)
    assert result.returncode == 1
    assert result.stderr.count("kdiff train: error: ") == 1
    assert "exitcode  : 2" in result.stderr
