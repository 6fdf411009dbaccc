"""`record`: runs a program under valgrind and writes what it does to memory as a trace program.

Only the first process is followed here: children after fork are silent, and a program that replaces itself by
exec (a shell wrapper) cannot be recorded. `thp_workloads.recording.tree` follows children.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_env.traces.npz import save_program
from thp_env.traces.program import Program, ProgramError
from thp_workloads.recording import windows as sampling
from thp_workloads.recording._lackey import Lackey
from thp_workloads.recording.command import facts
from thp_workloads.recording.content import ContentSampler
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.process_layout import ClientLayout, NativeLayout, client_layout, native_layout
from thp_workloads.recording.program_writer import Log, log_arrays, write_program
from thp_workloads.recording.replayer import Replayer
from thp_workloads.recording.unmapped_area import mmap_base

WINDOW = 1 << 15
BUDGET = 600_000
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
TUNABLES = ":".join(f"glibc.cpu.x86_rep_{x}sb_threshold={1 << 62}" for x in ("mov", "sto"))
"""Valgrind counts each byte of a `rep movsb` as an instruction, so glibc is told to copy with vectors."""
LIMITATIONS = (
    "one process, its threads one at a time",
    "kernel writes into memory are seen for read, pread64 and getrandom only",
    "the stack is mapped at its final size",
)


@dataclass(frozen=True)
class Run:
    """A finished run under valgrind."""

    log: Lackey
    native: NativeLayout
    client: ClientLayout
    stack_address: int
    samples: list[tuple[int, int, int]]
    status: int
    seconds: float


def record(
    command: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    window: int = WINDOW,
    budget: int = BUDGET,
    ns_per_instruction: float = 0.3,
    keep_full: bool = False,
    environment: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Program:
    """Record one run of a program.

    The program's standard streams go through.

    Args:
        command: the program and its arguments.
        out: the .npz file to write; nothing is written if the run fails. None: only return the program.
        name: the trace program's name; that of the command if not given.
        window: W, instructions in a sampled window.
        budget: runs of accesses to keep at most.
        ns_per_instruction: nanoseconds an instruction takes besides translation and faults.
        keep_full: keep every access, none merged, all of weight 1. The log of a small run is gigabytes.
        environment: variables to add to the environment of the program. GLIBC_TUNABLES is set to `TUNABLES`
            unless it is set already.
        progress: show the progress on standard error.

    Returns:
        The program. `meta` says what was recorded, how, and the sampling error.

    Raises:
        RecordingError: when the command cannot be recorded or the file cannot be written.
    """
    if out is not None:
        check_writable(Path(out))
    added = dict(environment or {})
    log = Lackey(window, 0 if keep_full else budget, 1 if keep_full else 4)
    run = _run(list(command), {"GLIBC_TUNABLES": TUNABLES, **os.environ, **added}, log, progress)
    program = _program(run, command, added, name, window, ns_per_instruction)
    if out is not None:
        save(program, Path(out))
    return program


def sampling_error(command: Sequence[str], **options: Any) -> dict[str, float]:
    """Record a (short) run and return how far the sample is from the run as a whole.

    Every access of the run goes through a model TLB (64 entries in 4 ways, 1536 in 12 ways, 4K pages) while
    the log is read; the sampled accesses go through the same model afterwards.

    Args:
        command: as for `record`.
        options: as for `record`.

    Returns:
        Relative errors of "accesses", "l1_misses" and "walks".
    """
    return record(command, **options).meta["sampling_error"]


@dataclass(frozen=True)
class Prepared:
    """A process's run, ready to be written.

    Attributes:
        log: its arrays.
        windows: its sampled windows.
        replayer: its address space before the first instruction.
        stack_touched: bytes of the stack that hold arguments and environment.
        sampling_error: see `sampling_error`.
    """

    log: Log
    windows: sampling.Windows
    replayer: Replayer
    stack_touched: int
    sampling_error: dict[str, float]

    @property
    def maps_memory(self) -> bool:
        """Whether the process made anonymous mappings."""
        return any(call["number"] in (9, 12) and _is_anonymous(call) for call in self.log.calls)


def prepare(run: Run, window: int, prefix: str = "") -> Prepared:
    """Weigh the windows of a run and lay out its address space; its regions' names begin with `prefix`."""
    log = log_arrays(run.log, window)
    begun = np.frombuffer(run.log.windows).reshape(-1, 3)
    windows = sampling.weigh(window, log.runs, begun, run.log.misses)
    top = run.client.stack_top
    address = log.touches["page"] * PAGE_SIZE
    stack = address[(address < top) & (address >= top - _stack_limit())]
    replayer = Replayer(run.native, run.client, int(stack.min(initial=run.stack_address)), prefix)
    exact = log.touches[windows.outside(log.touches["instruction"])]
    touched = -(-(run.client.stack_top - run.stack_address) // PAGE_SIZE) * PAGE_SIZE
    error = sampling.sampling_error(windows, log.runs, exact, run.log.misses)
    return Prepared(log, windows, replayer, touched, error)


def _program(
    run: Run,
    command: Sequence[str],
    environment: Mapping[str, str],
    name: str | None,
    window: int,
    ns: float,
) -> Program:
    p = prepare(run, window)
    meta = {
        **facts(command, environment, name, run.status),
        "instructions": p.log.instructions,
        "accesses_anonymous": run.log.accesses_anonymous,
        "accesses_other": run.log.accesses_other,
        "touched_bytes": len(np.unique(p.log.touches["page"])) * PAGE_SIZE,
        "log_lines": run.log.lines,
        "log_bytes": run.log.bytes,
        "seconds": round(run.seconds, 1),
        "window": window,
        "period": window << run.log.level,
        "sampling_error": p.sampling_error,
    }
    try:
        program = write_program(
            p.log, p.windows, p.replayer, run.samples, stack_touched=p.stack_touched, ns=ns, meta=meta
        )
    except ProgramError as error:
        raise RecordingError(f"the run of {command[0]} is not a trace program: {error}") from error
    notes = [*LIMITATIONS, *sorted(p.replayer.notes)]
    if run.log.forks:
        notes.append(f"{run.log.forks} children or threads were started; children were not followed")
    if run.log.brk_refused:
        program.meta["brk_refused"] = run.log.brk_refused
    program.meta["distortions"] = notes
    if not p.maps_memory:
        raise RecordingError(f"{command[0]} made no anonymous mapping: there is nothing to record")
    return program


def _is_anonymous(call: np.void) -> bool:
    return (call["number"] == 12 and call["args"][0] > 0) or bool(int(call["args"][3]) & 0x20)


# -- running ---------------------------------------------------------------------------------------


def _run(command: list[str], environment: dict[str, str], log: Lackey, progress: bool) -> Run:
    path = executable(command)
    try:
        native = native_layout(path, command, environment)
    except OSError as error:
        raise RecordingError(f"cannot read the layout of {command[0]}: {error.strerror}") from error
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, bar(progress) as show:
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
            declare(log, native, client, stack_address)
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
    if status < 0:
        raise RecordingError(f"{command[0]} was killed by signal {-status} under valgrind")
    if not log.finish():
        raise RecordingError(f"cannot record {command[0]}: {log.error}")
    return Run(log, native, client, stack_address, sampler.samples, status, time.monotonic() - started)


def executable(command: Sequence[str]) -> str:
    """Return the path of a command that can be recorded.

    Raises:
        RecordingError: when it or valgrind is not there, or the address space is not one that is simulated.
    """
    path = shutil.which(command[0]) if command else None
    if path is None:
        raise RecordingError(f"command not found: {command[0] if command else '(none)'}")
    if shutil.which(VALGRIND[0]) is None:
        raise RecordingError("recording needs valgrind: apt-get install valgrind")
    mmap_base()  # refuses a layout that is not simulated
    return path


def declare(log: Lackey, native: NativeLayout, client: ClientLayout, stack_address: int) -> None:
    """Tell the log's reader which memory is anonymous from the start."""
    log.anonymous(client.stack_top - _stack_limit(), client.stack_top)
    log.anonymous(stack_address, client.stack_top, written=True)
    for line in native.mappings:
        if line.anonymous and line.path != "[stack]":
            moved = client.moved[native.executable]
            log.anonymous(line.start + moved, line.end + moved)


def _head(fd: int, process: subprocess.Popen) -> tuple[bytes, int]:
    """Read the log up to its first access, which is to the stack; return the text and the address."""
    text = b""
    while True:
        first = first_access(text)
        if first is not None:
            return text, first
        ended = process.poll() is not None
        try:
            data = os.read(fd, PAGE_SIZE)
        except BlockingIOError:
            data = b""
        if not data:
            if ended:
                reason = f"exit status {process.returncode}"
                raise RecordingError(f"valgrind died before the program's first access: {reason}")
            time.sleep(0.005)
        text += data


def first_access(text: bytes) -> int | None:
    """Return the first address in whole lines of a log, which is in the stack."""
    for line in text.split(b"\n")[:-1]:
        if line[:3] in (b" S ", b" L ", b" M "):
            return int(line[3:].split(b",")[0], 16)
    return None


def _follow(fd: int, process: subprocess.Popen, log: Lackey, head: bytes, sampler: ContentSampler, show: Any) -> None:
    """Read the log to its end; look into the process's pages now and then."""
    if not log.feed(head):
        raise RecordingError(log.error)
    last_sample = 0.0
    while True:
        ended = process.poll() is not None
        n = log.feed_fd(fd, 64 << 20, 200)
        if n < 0:
            raise RecordingError(log.error)
        show(log)
        if n == 0 and (ended or (log.exited and process.poll() is not None)):
            return
        if n == 0:
            time.sleep(0.002)
        if not ended and time.monotonic() - last_sample > 0.3:
            sampler.sample(log)
            last_sample = time.monotonic()


@contextmanager
def bar(progress: bool) -> Iterator[Any]:
    """Yield a function that shows how far a log is read."""
    try:
        from tqdm import tqdm
    except ImportError:
        progress = False
    if not progress:
        yield lambda log: None
        return
    with tqdm(desc="recording", unit=" lines", unit_scale=True) as shown:

        def show(log: Lackey) -> None:
            shown.set_postfix_str(f"{log.bytes / 1e9:.2f} GB of log", refresh=False)
            shown.update(log.lines - shown.n)

        yield show


def _stack_limit() -> int:
    """Return the stack's size under valgrind: the limit, at least 1 and at most 16 MB."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return 16 << 20 if limit == resource.RLIM_INFINITY else min(max(limit, 1 << 20), 16 << 20)


# -- output ----------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Refuse before a long run what could not be written after it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}") from error


def save(program: Program, path: Path) -> None:
    """Write a recording; a `RecordingError` says why it cannot be."""
    try:
        save_program(program, path)
    except ProgramError as error:
        raise RecordingError(str(error)) from error
