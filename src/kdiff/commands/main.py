"""The command `kdiff`: it finds the subcommand, runs it, and turns an error into one line and an exit code.

A subcommand is one file of this folder, and is imported when it is used. No subcommand imports torch before there is work to
do, so that `kdiff --help` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import io
import os
import shlex
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn

from kdiff import __version__
from kdiff.commands.arguments import TRUST
from kdiff.files.atomic import FULL, check_utf8
from kdiff.run.heap import keep_freed_memory
from kdiff.run.signals import sigterm_raises
from kdiff.run.trust import trusting

# The subcommands, in the order in which a new user needs them: the argument of each, and what it does.
COMMANDS = {
    "compare": ("DATA", "find out which prediction target suits this data: noise, velocity, data or learned"),
    "estimate": ("DATA", "compute what theory says about k for this data, before any training"),
    "train": ("[CONFIG]", "train a model and write it to a run folder"),
    "train-autoencoder": ("DATA", "train a small autoencoder of images"),
    "encode": ("DATA", "encode images into a folder of latents, which `train` reads like any other data"),
    "sample": ("RUN", "draw samples from a run: a picture and a file"),
    "evaluate": ("SOURCE", "measure how good a run's samples are, or judge images by FID and other figures"),
    "calibrate": ("RUN", "correct a trained run by a gain for each direction and time, if samples get closer"),
    "sweep": ("RUN", "find the guidance, solver, number of steps and weights that give the best samples"),
    "report": ("RUN", "show a run as one HTML page, alone or beside another run"),
    "export": ("RUN", "write a run as a pipeline of diffusers"),
    "info": ("RUN or DATA", "print what a run folder holds, or what is in data"),
    "plan": ("[CONFIG]", "compute what a run would cost: parameters, FLOPs, memory, device-hours"),
    "reproduce": ("CLAIM", "test a claim of the paper: table, picture, verdict (--list shows the claims)"),
}
# Where the same command line continues after a stop. `train` and `train-autoencoder` also need --resume.
CONTINUES = {
    **dict.fromkeys(("compare", "reproduce", "train", "train-autoencoder"), "from the last checkpoint"),
    "encode": "from the first missing shard",
    **dict.fromkeys(("evaluate", "sweep"), "where it stopped"),
}
OVERVIEW = """usage: kdiff COMMAND …

Train diffusion and flow models whose prediction target is learned (k-Diff, arXiv 2601.21419).

commands:
{commands}

Start with:          kdiff compare digits --seeds 1
Help on a command:   kdiff COMMAND --help
DATA is a file (.npy, .npz, .safetensors), a folder (images, IDX files, latents), or a name: digits, fashion,
glyphs, photo_patches, spiral, moons, gaussian, gaussian_mixture, sphere. Options stand in brackets:
"spiral(ambient_dim=32)".
"""


def overview() -> str:
    """The text that `kdiff --help` prints."""
    lines = [f"  {f'{name} {takes}':25}{does}" for name, (takes, does) in COMMANDS.items()]
    return OVERVIEW.format(commands="\n".join(lines))


def command_line() -> NoReturn:
    """Run the command that was typed, and end this process with its exit code.

    torchrun counts a process as failed, and ends the others, if it aborts after its work is done. A thread of a C++ library
    that still runs while Python is torn down can abort it. So a process of torchrun runs everything that was registered for
    its end, and then ends without being torn down.
    """
    code = main()
    if "RANK" in os.environ:  # set by torchrun and other launchers
        with contextlib.suppress(KeyboardInterrupt):  # torchrun sends a Ctrl-C again that this process has received
            # Python itself begins to end a process with these two steps.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    0 is success, 2 a mistake of the user, 1 a run that failed, 130 Ctrl-C, 143 SIGTERM, and 141 an output that nobody reads.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    if arguments[0] == "--version":
        print(f"kdiff {__version__}")
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"kdiff: error: no command is called {name!r}{hint} (kdiff --help lists the commands)", file=sys.stderr)
        return 2
    # Users name their own modules relative to the folder in which they type the command. The folder comes last, so that a file
    # random.py there replaces no module of Python.
    sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())] + [os.getcwd()]
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as on stderr: a name in a message must not end a command
    try:
        for word in arguments:
            check_utf8(word)
        with sigterm_raises(), _short_warnings(name), trusting(TRUST in arguments):
            import_module(f"kdiff.commands.{name.replace('-', '_')}").command(list(arguments))
            sys.stdout.flush()
            _close_processes()
        return 0
    except BrokenPipeError:  # "| head" has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python complains when it exits
        return 141  # the code of a process that SIGPIPE ends
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if os.environ.get("KDIFF_TRACEBACK"):
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in FULL:
            first = "choose another place" if error.errno == errno.EROFS else "make room"
            again = _how_to_continue(name, arguments, "", first).strip()
            place = f"{error.filename} could not be written: " if error.filename else ""
            print(f"kdiff {name}: error: {place}{error.strerror}; {again}", file=sys.stderr)
            return 1
        print(f"kdiff {name}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | TypeError | OSError) else 1
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":  # only the first of several processes prints
            print(_how_to_continue(name, arguments, str(stop)), flush=True)
        return getattr(stop, "code", 130)


def _how_to_continue(name: str, arguments: list[str], what: str, first: str = "stopped") -> str:
    """A message that says what was stopped, and which command continues it."""
    again = list(arguments)
    if name in ("train", "train-autoencoder") and "--resume" not in again:
        again.append("--resume")
    resumable = name in CONTINUES and "--dry-run" not in arguments
    how = f"continue {CONTINUES[name]} with: {shlex.join(['kdiff', name, *again])}" if resumable else ""
    return "\n" + "; ".join(part for part in (first, what, how) if part)


@contextlib.contextmanager
def _short_warnings(command: str) -> Iterator[None]:
    """Print warnings on one line, like errors, without the line of code that gave them; each text once."""
    usual, said = (warnings.formatwarning, warnings.showwarning), set[str]()

    def form(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
        plain = category is UserWarning
        return f"kdiff {command}: warning: {message}\n" if plain else usual[0](message, category, *place, **more)

    def show(message: Any, *more: Any, **named: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            usual[1](message, *more, **named)

    warnings.formatwarning, warnings.showwarning = form, show
    try:
        yield
    finally:
        warnings.formatwarning, warnings.showwarning = usual


def _close_processes() -> None:
    """Close the connections between the processes of torchrun. Open ones can abort Python at exit, and the other processes."""
    distributed = sys.modules.get("torch.distributed")  # imported only where there was work
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    command_line()
