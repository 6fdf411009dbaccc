"""Processes that do one job at a time, and are missed when they die.

A `ProcessPoolExecutor` fails the jobs of all its workers when one of them dies, and does not say whose. So each worker
here is a pool of one process, and the job of a pool that breaks is the one that broke it.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe
from typing import Any

Work = Callable[[Any], Any]


class Worker:
    """A process that does jobs one after the other.

    It leaves ctrl-C, which a terminal sends to all, to whoever started it; and it ends with whoever started it.
    """

    def __init__(self) -> None:
        """Make the worker; the process starts with its first job."""
        theirs, self._lifeline = Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (theirs,))

    def start(self, work: Work, job: Any) -> Future:
        """Begin a job.

        Args:
            work: a function of a module, for the process to import.
            job: what it takes.

        Returns:
            The future of its result; `BrokenProcessPool` is its exception when the process died.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the process inherits
        try:
            return self._pool.submit(_done, work, job)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self) -> None:
        """End the process, whatever it does."""
        self._lifeline.close()
        self._pool.shutdown(cancel_futures=True)


def _begin(lifeline: Connection) -> None:
    """Let this process end when the other end of its lifeline is closed, by whatever."""

    def watch() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _done(work: Work, job: Any) -> Any:
    try:
        return work(job)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some exceptions cannot be read back
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise
