"""Ending a command by a signal: SIGTERM does what ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, so that it has the same effect as ctrl-C."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    with handle_signals({signal.SIGTERM: end}):
        yield


@contextmanager
def handle_signals(handlers: Mapping[signal.Signals, signal._HANDLER]) -> Iterator[None]:
    """Handle signals in the block; outside of the main thread, where Python allows no handlers, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def hold_signals(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back in the block, SIGINT and SIGTERM by default; they arrive at its end.

    This is for work that must not be interrupted, and for imports of libraries that end the process when a signal
    raises during the import, as PyTorch does. A process that is started in the block also holds them back.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers or (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_code(stopped: KeyboardInterrupt) -> int:
    """Return the exit code of a command that a signal ended: 128 plus the signal's number, as in a shell."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
