"""Processes that do one job at a time, and are missed when they die.

A `ProcessPoolExecutor` fails the jobs of all its workers when one dies, and does not say whose. Pools of one process
each would, but every pool of the standard library, and loky's, also has a tracker process whose death fails them all.
So each worker here has a connection of its own, which ends with either side, however that happens.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from thp_env.signals import hold_signals

Work = Callable[[Any], Any]


class WorkerDied(Exception):  # noqa: N818 -- it is called after what happened
    """A worker is gone, with a job; says how."""


class Worker:
    """A process that does jobs one after the other.

    It ignores ctrl-C, which a terminal sends to all: whoever started it decides. It ends with whoever started it.

    Attributes:
        connection: for `multiprocessing.connection.wait`: readable when a job is done or the process is gone.
    """

    def __init__(self) -> None:
        """Start the process."""
        self.connection, child_end = Pipe()
        number = child_end.fileno()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({number})"
        with child_end, hold_signals(signal.SIGINT):  # which the process inherits
            self.process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[number], stdin=subprocess.DEVNULL)

    def start(self, work: Work, job: Any) -> None:
        """Begin a job.

        Args:
            work: a function of a module, for the process to import.
            job: what it takes.

        Raises:
            WorkerDied: when the process has died before.
        """
        data = pickle.dumps((work, job))
        try:
            self.connection.send_bytes(data)
        except OSError:
            raise WorkerDied(self._ending()) from None

    def result(self) -> Any:
        """Wait for the job and return what came out.

        Raises:
            WorkerDied: when the process has died.
            Exception: what the job raised.
        """
        try:
            data = self.connection.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDied(self._ending()) from None
        done, value = pickle.loads(data)
        if not done:
            raise value
        return value

    def end(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _ending(self) -> str:
        self.process.kill()  # the connection is gone, so it is of no use
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended by exit code {code}"


def serve(number: int) -> None:
    """Do jobs that come through a connection, until its other end is closed; then end at once.

    Args:
        number: of the connection's file descriptor.
    """
    connection = Connection(number)
    jobs: SimpleQueue[bytes] = SimpleQueue()

    def receive() -> None:
        while True:
            try:
                jobs.put(connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(1)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        connection.send_bytes(_answer(jobs.get()))


def _answer(data: bytes) -> bytes:
    try:
        work, job = pickle.loads(data)
        return pickle.dumps((True, work(job)))
    except (Exception, SystemExit) as error:
        trace = "".join(traceback.format_exception(error))
        try:
            error.add_note(f"in a worker:\n{trace}")
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # some exceptions cannot be read back
        except Exception:
            answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return answer
