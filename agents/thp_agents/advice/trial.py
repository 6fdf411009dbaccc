"""Native runs of a command: what it takes, and whether advice can be given about it at all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from thp_env.live.collapser import Looks
from thp_env.live.errors import LiveError
from thp_env.live.settings import PR_SET_THP_DISABLE  # noqa: F401 -- what a wrapper calls
from thp_env.processes import anonymous_bytes, children, family

PR_SET_CHILD_SUBREAPER = 36
LIMIT = 600
"""Seconds that a run may take."""
TERMINAL = re.compile(r"\b(tty|terminal|TERM|stdin is not|ioctl for device)\b", re.IGNORECASE)
LOOK = 0.02
"""Seconds between two looks at a running command."""


class AdviceError(LiveError):
    """There is no advice to be given: says why, and what would help."""


@dataclass(frozen=True)
class Request:
    """What advice is about.

    Attributes:
        command: the program and its arguments; empty for a recording.
        environment: variables to add.
        beside: what runs at the same time.
        status: that it exits with when all went well.
    """

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    status: int = 0

    @property
    def name(self) -> str:
        """What it is called in a table."""
        return os.path.basename(self.command[0]) if self.command else "recording"


@dataclass(frozen=True)
class Run:
    """One native run.

    Attributes:
        seconds: from start to end.
        cpu: seconds of CPU of all its processes, user and system.
        faults: minor faults of all its processes.
        peak: bytes of anonymous memory at most, as seen in looks at all processes.
        switched_off: the program has turned large folios off for itself.
    """

    seconds: float
    cpu: float
    faults: int
    peak: int
    switched_off: bool = False


@contextmanager
def beside(command: Sequence[str] | None) -> Iterator[None]:
    """Run something else natively at the same time."""
    if not command:
        yield
        return
    if shutil.which(command[0]) is None:
        raise AdviceError(f"command not found: {command[0]}")
    other = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        with suppress(subprocess.TimeoutExpired):
            other.wait(10)
    finally:
        other.kill()
        other.wait()


def run(
    command: Sequence[str], environment: Mapping[str, str], *, before: Callable[[], None] | None = None,
    limit: float = LIMIT, listen: bool = False, status: int = 0, collapse: float = 0.0,
) -> Run:  # fmt: skip
    """Run a command to its end; it reads nothing, and what it writes goes nowhere.

    Args:
        command: the program and its arguments.
        environment: all its variables.
        before: is called in the process that becomes the command.
        limit: seconds that it may take.
        listen: keep its output for a message, too: some programs say there what went wrong.
        status: that it exits with when all went well.
        collapse: seconds between two looks in which its memory is collapsed from outside, which counts; 0: it is not.

    Raises:
        AdviceError: when it is not there, fails, is ended by a signal, needs a terminal, goes on in the background or
            does not end.
    """
    if not command or shutil.which(command[0], path=environment.get("PATH")) is None:
        raise AdviceError(f"command not found: {command[0] if command else '(none)'}")
    name = os.path.basename(command[0])
    with tempfile.TemporaryFile() as output, _reaping():
        others = _children(os.getpid())
        process, start = _start(command, environment, before, output.fileno(), listen), time.monotonic()
        watch, looks = _Watch(process.pid), None
        try:
            looks = Looks(process.pid, collapse) if collapse else None
            ended, used = _wait(process, start + limit)
        except BaseException:
            _end({process.pid})
            process.wait()
            raise
        finally:
            watch.stop()
            outside = looks.stop() if looks else 0.0
        seconds = time.monotonic() - start
        if ended is None:
            raise AdviceError(f"{name} did not end within {limit:.0f} s: give it less to do, or end it from --beside")
        if orphans := _children(os.getpid()) - others - {process.pid}:
            _end(orphans)
            for pid in orphans:
                os.waitpid(pid, 0)
            raise AdviceError(
                f"{name} went on in the background (pid {min(orphans)}) and was ended: run it in the foreground "
                "(daemonize no, -F, -D or --no-daemon, as it calls it)"
            )
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4096))
        last = (output.read().decode(errors="replace").strip().splitlines() or [""])[-1][:200]
    code = os.waitstatus_to_exitcode(ended)
    if code < 0:
        raise AdviceError(f"{name} was ended by {signal.Signals(-code).name}: advice needs a run that succeeds")
    if code != status:
        if TERMINAL.search(last):
            raise AdviceError(f"{name} needs a terminal ({last}): run it in its batch mode, or by a script")
        raise AdviceError(f"{name} failed with status {code}{f': {last}' if last else ''}")
    return Run(seconds, used.ru_utime + used.ru_stime + outside, used.ru_minflt, watch.peak, watch.switched_off)


def _start(
    command: Sequence[str], environment: Mapping[str, str], before: Callable[[], None] | None, output: int, listen: bool
) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        os.setsid()
        if before:
            before()

    return subprocess.Popen(command, env=dict(environment), preexec_fn=prepare, stdin=subprocess.DEVNULL,
                            stdout=output if listen else subprocess.DEVNULL, stderr=output)  # fmt: skip


def _wait(process: subprocess.Popen[bytes], until: float) -> tuple[int | None, os.struct_rusage]:  # type: ignore[name-defined]
    pidfd = os.pidfd_open(process.pid)
    try:
        import select

        ready, _, _ = select.select([pidfd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            _end({process.pid})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return (status if ready else None), used
    finally:
        os.close(pidfd)


@contextmanager
def _reaping() -> Iterator[None]:
    """Let what a command leaves behind become this process's children, so that it can be found."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _children(pid: int) -> set[int]:
    return {child for child in children(pid) if _state(child) not in ("Z", "X", "")}


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _end(pids: set[int]) -> None:
    """End processes that a run has started, with all their children."""
    descendants = {descendant for pid in pids for descendant in family(pid)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in descendants:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + 2
        while time.monotonic() < end and any(_state(pid) not in ("Z", "X", "") for pid in descendants):
            time.sleep(0.02)


class _Watch:
    """Looks at a command and its descendants while it runs."""

    def __init__(self, pid: int) -> None:
        self.peak, self.switched_off = 0, False
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            anonymous = 0
            for pid in family(self._pid):
                with suppress(OSError):
                    text = Path(f"/proc/{pid}/status").read_text()
                    anonymous += anonymous_bytes(text)
                    self.switched_off |= "\nTHP_enabled:\t0\n" in text
            self.peak = max(self.peak, anonymous)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()
