"""Runs a command under valgrind's lackey: slow and of one process, for hosts where the recorder's tool cannot be built.

The log of a small run is gigabytes (14 bytes for each instruction and each access); it goes through a pipe and is
never stored. Valgrind writes one to two million lines a second.
"""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_workloads.recording._lackey import Lackey
from thp_workloads.recording.content import ContentSampler
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.image import MARK_DTYPE, STACK, Image
from thp_workloads.recording.process_layout import ClientLayout, NativeLayout, client_layout, native_layout
from thp_workloads.recording.program_writer import log_arrays

PIPE_BYTES = 1 << 20
VALGRIND = (
    "valgrind",
    "-q",
    "--tool=lackey",
    "--trace-mem=yes",
    "--trace-syscalls=yes",
    "--basic-counts=no",
    "--vgdb=no",
    "--run-libc-freeres=no",
    "--run-cxx-freeres=no",
    "--child-silent-after-fork=yes",
)
LIMITATIONS = (
    "one process, its threads one at a time",
    "kernel writes into memory are seen for read, pread64 and getrandom only",
    "timers run natively while the program is slowed down a thousand times",
)


def run_lackey(
    path: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    window: int,
    budget: int,
    depth: int,
    show: Callable[[float, int], None],
) -> tuple[Image, int]:
    """Run a command to its end; return what it did and its exit status.

    Args:
        path: the executable.
        command: the program and its arguments.
        environment: all its variables.
        window: instructions in a window.
        budget: runs of accesses to keep; 0: all.
        depth: accesses to one of so many pages are merged.
        show: told seconds and bytes now and then.

    Raises:
        RecordingError: when the command cannot be recorded.
    """
    try:
        native = native_layout(path, list(command), environment)
    except OSError as error:
        raise RecordingError(f"cannot read the layout of {command[0]}: {error.strerror}") from error
    log = Lackey(window, budget, depth)
    run = _run(log, native, command, environment, show)
    if run.status < 0:
        raise RecordingError(f"{command[0]} was killed by signal {-run.status} under valgrind")
    if not log.finish():
        raise RecordingError(f"cannot record {command[0]}: {log.error}")
    arrays = log_arrays(log, window)
    image = Image(
        list(command), run.pid, os.getpid(), False, arrays, np.frombuffer(log.windows).reshape(-1, 3), log.misses,
        run.samples, np.zeros(1, MARK_DTYPE), native, run.client, run.stack_address,
        totals={"instructions": log.instructions, "anonymous": log.accesses_anonymous, "other": log.accesses_other,
                "level": log.level, "forks": log.forks, "brk_refused": log.brk_refused},
    )  # fmt: skip
    return image, run.status


class _Run(NamedTuple):
    """What a run under valgrind has shown beside its log."""

    pid: int
    status: int
    client: ClientLayout
    stack_address: int
    samples: list[tuple[int, int, int]]


def _run(
    log: Lackey, native: NativeLayout, command: Sequence[str], environment: Mapping[str, str],
    show: Callable[[float, int], None],
) -> _Run:  # fmt: skip
    """Run a command under valgrind, and read its log as it is written."""
    with tempfile.TemporaryDirectory() as folder:
        fifo = os.path.join(folder, "log")
        os.mkfifo(fifo)
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        arguments = [*VALGRIND, f"--log-file={fifo.replace('%', '%%')}", "--", *command]
        process = subprocess.Popen(arguments, env=environment)
        sampler = None
        try:
            # A full pipe stops the program, so that its layout can be read before it ends.
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PAGE_SIZE)
            head, stack_address = _head(fd, process)
            client = client_layout(process.pid, native, stack_address)
            with suppress(OSError):  # a smaller pipe is only slower
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            _declare(log, native, client, stack_address)
            sampler = ContentSampler(process.pid)
            _follow(fd, process, log, head, sampler, show)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(fd)
            if sampler:
                sampler.close()
    return _Run(process.pid, status, client, stack_address, sampler.samples)


def _stack_limit() -> int:
    """Return the stack's size under valgrind: the limit, at least 1 and at most 16 MB."""
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return STACK if limit == resource.RLIM_INFINITY else min(max(limit, 1 << 20), STACK)


def _declare(log: Lackey, native: NativeLayout, client: ClientLayout, stack_address: int) -> None:
    """Tell the log's reader which memory is anonymous from the start."""
    log.anonymous(client.stack_top - _stack_limit(), client.stack_top)
    log.anonymous(stack_address, client.stack_top, written=True)
    for line in native.mappings:
        if line.anonymous and line.path != "[stack]":
            shift = client.moved[native.executable]
            log.anonymous(line.start + shift, line.end + shift)


def _head(fd: int, process: subprocess.Popen) -> tuple[bytes, int]:
    """Read the log up to its first access, which is to the stack; return the text and the address."""
    text = b""
    while True:
        first = _first_access(text)
        if first is not None:
            return text, first
        has_exited = process.poll() is not None
        try:
            data = os.read(fd, PAGE_SIZE)
        except BlockingIOError:
            data = b""
        if not data:
            if has_exited:
                reason = f"exit status {process.returncode}"
                raise RecordingError(f"valgrind died before the program's first access: {reason}")
            time.sleep(0.005)
        text += data


def _first_access(text: bytes) -> int | None:
    """Return the first address in whole lines of a log, which is in the stack."""
    for line in text.split(b"\n")[:-1]:
        if line[:3] in (b" S ", b" L ", b" M "):
            return int(line[3:].split(b",")[0], 16)
    return None


def _follow(
    fd: int, process: subprocess.Popen, log: Lackey, head: bytes, sampler: ContentSampler,
    show: Callable[[float, int], None],
) -> None:  # fmt: skip
    """Read the log to its end; look into the process's pages now and then."""
    if not log.feed(head):
        raise RecordingError(log.error)
    last_sample = 0.0
    while True:
        has_exited = process.poll() is not None
        n = log.feed_fd(fd, 64 << 20, 200)
        if n < 0:
            raise RecordingError(log.error)
        show(log.instructions * 0.3e-9, log.bytes)
        if n == 0 and (has_exited or (log.exited and process.poll() is not None)):
            return
        if n == 0:
            time.sleep(0.002)
        if not has_exited and time.monotonic() - last_sample > 0.3:
            sampler.sample(log)
            last_sample = time.monotonic()
