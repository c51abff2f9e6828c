"""SIGTERM and Ctrl-C: the loop finishes its step, saves and leaves. Nothing here imports torch; the command uses it too."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A training run stopped by a signal, with everything saved.

    Args:
        signum: the signal.
        message: what was saved, and where.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(signum, message)
        self.signum, self.message = signum, message

    def __str__(self) -> str:
        return self.message

    @property
    def code(self) -> int:
        """The conventional exit code: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class StopSignals:
    """While entered, SIGINT and SIGTERM are noted in `signum` instead of acted on; a second Ctrl-C is acted on.

    Outside the main thread, where Python allows no handlers, it does nothing; neither to signals that the process was started
    to ignore. The handlers of before are put back on leaving.

    Args:
        active: False to do nothing.
        launched: whether this is one of several processes. Their launcher hands a Ctrl-C on that they have seen themselves, so
            that a second one means nothing.
    """

    def __init__(self, active: bool = True, launched: bool = False) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.launched = launched
        self.signum: int | None = None
        self._interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for signum in ASKING if self.active else ():
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._interrupted and not self.launched:
            raise KeyboardInterrupt
        self.signum = self.signum or signum
        if signum == signal.SIGINT and not self._interrupted:
            self._interrupted = True
            # Not by print: the handler may have come in the middle of one.
            with contextlib.suppress(OSError):
                os.write(2, b"\nfinishing this step and saving; Ctrl-C again leaves at once\n")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """While entered (in the main thread), SIGTERM raises `Stopped`, as Ctrl-C raises KeyboardInterrupt."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def acting_once(message: str) -> Iterator[None]:
    """While entered (in the main thread), the first SIGINT or SIGTERM says `message` and acts as before; others do nothing.

    For a pool of processes, whose shutdown a second exception would leave waiting for ever. And many a signal comes twice: from
    `timeout`, which tells the group too, or from an impatient hand.
    """
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: handler for signum in ASKING if callable(handler := signal.getsignal(signum))}
    told = False

    def act(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            return
        told = True
        with contextlib.suppress(OSError):
            os.write(2, f"\n{message}\n".encode())
        before[signum](signum, frame)

    for signum in before:
        signal.signal(signum, act)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
