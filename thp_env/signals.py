"""Ending a command by a signal: SIGTERM does what ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

AGAIN = 0.01
"""Seconds after which an interrupt that was ignored comes again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, so that it has the same effect as ctrl-C; neither gets lost."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    with handle_signals({signal.SIGTERM: end}), _ignored_interrupts_come_again():
        yield


@contextmanager
def _ignored_interrupts_come_again() -> Iterator[None]:
    """Send a signal again whose exception Python has ignored: in a finalizer, or a callback of a weak reference.

    These run wherever an object dies, for example right after memory was given back, which takes long enough for a
    signal to come meanwhile.
    """
    before, sent = sys.unraisablehook, list[threading.Timer]()

    def send_again(ignored: sys.UnraisableHookArgs) -> None:
        if isinstance(ignored.exc_value, KeyboardInterrupt):
            number = exit_code(ignored.exc_value) - 128
            sent.append(threading.Timer(AGAIN, os.kill, (os.getpid(), number)))
            sent[-1].start()
        else:
            before(ignored)

    sys.unraisablehook = send_again
    try:
        yield
        for timer in sent:
            timer.join()  # so that it comes while it is handled
    finally:
        sys.unraisablehook = before


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
