"""SIGTERM and Ctrl-C: the training loop finishes its step, saves and exits. Nothing here imports torch."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A training run was stopped by the signal `signum`, after it saved everything; `message` says what was saved and where."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(signum, message)
        self.signum, self.message = signum, message

    def __str__(self) -> str:
        return self.message

    @property
    def code(self) -> int:
        """The conventional exit code: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


@contextlib.contextmanager
def _handled(by: Callable[[int, FrameType | None], Any], *signums: int) -> Iterator[None]:
    """Let `by` handle these signals, except those that the process was started to ignore. The earlier handlers are restored.

    It does nothing outside the main thread, where Python allows no handlers.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: handler for signum in signums if (handler := signal.getsignal(signum)) is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, by)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


class StopSignals:
    """A context in which SIGINT and SIGTERM are only noted, in `signum`. A second Ctrl-C stops the process at once.

    It does nothing if `active` is False, outside the main thread, or to signals that the process was started to ignore. One of
    several processes sets `launched`: their launcher sends a Ctrl-C again that they have already received, so that the second
    one means nothing.
    """

    def __init__(self, active: bool = True, launched: bool = False) -> None:
        self.launched = launched
        self.signum: int | None = None
        self._interrupted = False
        self._handled = _handled(self._note, *(ASKING if active else ()))

    def __enter__(self) -> StopSignals:
        self._handled.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handled.__exit__(*error)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._interrupted and not self.launched:
            raise KeyboardInterrupt
        self.signum = self.signum or signum
        if signum == signal.SIGINT and not self._interrupted:
            self._interrupted = True
            # Not by print, because the handler may have interrupted a print.
            with contextlib.suppress(OSError):
                os.write(2, b"\nfinishing this step and saving; press Ctrl-C again to stop at once\n")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """A context in which SIGTERM raises `Stopped` in the main thread, as Ctrl-C raises KeyboardInterrupt."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled(leave, signal.SIGTERM):
        yield


@contextlib.contextmanager
def acting_once(message: str) -> Iterator[None]:
    """A context in which the first SIGINT or SIGTERM prints `message` and then acts as before, and later ones do nothing.

    It is meant for a pool of processes, whose shutdown would wait for ever after a second exception. Signals often come twice:
    from `timeout`, which also signals the process group, or from an impatient user. It acts in the main thread only.
    """
    before: dict[int, Any] = {signum: handler for signum in ASKING if callable(handler := signal.getsignal(signum))}
    told = False

    def act(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            with contextlib.suppress(OSError):
                os.write(2, f"\n{message}\n".encode())
            before[signum](signum, frame)

    with _handled(act, *before):
        yield
