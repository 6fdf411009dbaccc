"""`record_tree`: records a program with its children, across fork and exec, as one trace program.

Valgrind runs every program that is executed anew and connects a log of its own; each is read in a thread. What they do
is written in the order of the clock on the wall: processes that wait for each other come one after another, others
take turns from system call to system call.
"""

from __future__ import annotations

import heapq
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.program import Program, ProgramError
from thp_workloads.recording._lackey import Lackey
from thp_workloads.recording.command import facts
from thp_workloads.recording.content import ContentSampler
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.process_layout import ClientLayout, NativeLayout, client_layout, native_layout
from thp_workloads.recording.program_writer import ProcessWriter
from thp_workloads.recording.record import (
    LIMITATIONS,
    PIPE_BYTES,
    TUNABLES,
    VALGRIND,
    WINDOW,
    Prepared,
    Run,
    check_writable,
    declare,
    executable,
    first_access,
    prepare,
    save,
)

BUDGET = 100_000
REPLACED = "replaces itself"
"""Of the error of a log that ends with exec: the program that follows has its own log."""
PID = re.compile(rb"^SYSCALL\[(\d+),", re.MULTILINE)
LIMITS = (
    *(note for note in LIMITATIONS if not note.startswith("one process")),
    "threads of a process run one at a time; processes take turns from system call to system call",
    "what a child does between fork and exec, or without exec, is not seen",
    "every process starts empty and has its heap where the highest one begins",
)


@dataclass
class _Process:
    """A program that was executed, and its log so far."""

    number: int
    connection: socket.socket
    log: Lackey
    family: list[_Process]
    pid: int = 0
    read: bool = False
    """Whether the log has come to its end."""
    command: list[str] = field(default_factory=list)
    run: Run | None = None
    marks: list[tuple[int, float]] = field(default_factory=list)
    """(instruction, seconds)"""
    error: str = ""

    @property
    def name(self) -> str:
        return f"{os.path.basename(self.command[0])}{self.number}"

    @property
    def ended_unread(self) -> bool:
        """Whether the process has ended before its log was read."""
        return self.pid > 0 and not self.read and not os.path.exists(f"/proc/{self.pid}")

    def follow(self) -> None:
        """Read the log to its end, in a thread of its own."""
        try:
            self._follow()
        except (RecordingError, OSError) as error:
            self.error = str(error)
        finally:
            self.read = True
            self.connection.close()

    def _follow(self) -> None:
        started = time.monotonic()
        head, pid, stack_address = self._head()
        self.pid = pid
        try:
            native, client = self._layout(pid, stack_address)
        finally:
            os.kill(pid, signal.SIGCONT)
        declare(self.log, native, client, stack_address)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIPE_BYTES)
        sampler = ContentSampler(pid)
        try:
            self._read(head, sampler)
        finally:
            sampler.close()
        if not self.log.finish() and REPLACED not in self.log.error:
            raise RecordingError(self.log.error)
        self.run = Run(self.log, native, client, stack_address, sampler.samples, 0, time.monotonic() - started)

    def _layout(self, pid: int, stack_address: int) -> tuple[NativeLayout, ClientLayout]:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        self.command = [word.decode(errors="surrogateescape") for word in words[_program_at(words) :]]
        environment = dict(
            line.decode(errors="surrogateescape").split("=", 1)
            for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"=" in line and not line.startswith((b"VALGRIND_", b"LD_PRELOAD=", b"GLIBCPP_"))
        )
        native = native_layout(self.command[0], self.command, environment)
        return native, client_layout(pid, native, stack_address)

    def _head(self) -> tuple[bytes, int, int]:
        """Read until the log has named the process, which is then stopped; return the text, the pid and the address.

        The first system call comes after the first access.
        """
        text = bytearray()
        while True:
            data = self.connection.recv(1 << 20)
            if not data:
                raise RecordingError("a program ended before its first system call")
            seen = text.rfind(b"\n") + 1
            text += data
            if pid := PID.search(text, seen):
                os.kill(int(pid[1]), signal.SIGSTOP)
                first = first_access(bytes(text))
                if first is None:
                    raise RecordingError("a program made a system call before its first access to memory")
                return bytes(text), int(pid[1]), first

    def _read(self, head: bytes, sampler: ContentSampler) -> None:
        whole = self.log.feed(head)
        last = 0.0
        while whole:
            select.select([self.connection], [], [], 0.05)
            # Whoever has waited for a process goes on after all that it did, however late that is read.
            while any(p.ended_unread for p in self.family[self.number + 1 :]):
                time.sleep(0.005)
            self.marks.append((self.log.instructions, time.monotonic()))  # it may have slept since the last one
            n = self.log.feed_fd(self.connection.fileno(), 1, 50)
            whole = n >= 0
            self.marks.append((self.log.instructions, time.monotonic()))
            if n == 0 and self._closed():
                return
            if time.monotonic() - last > 0.3:
                sampler.sample(self.log)
                last = time.monotonic()
        raise RecordingError(self.log.error)

    def _closed(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def when(self, instruction: int) -> float:
        """Return the time on the wall at which the process was at an instruction."""
        at, seconds = np.array(self.marks).T
        return float(np.interp(instruction, at, seconds))


def _program_at(words: list[bytes]) -> int:
    """Return where the program stands in the command line of valgrind's process."""
    at = 1
    while words[at].startswith(b"-"):
        at += 1
        if words[at - 1] == b"--":
            break
    return at


def record_tree(
    command: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    window: int = WINDOW,
    budget: int = BUDGET,
    ns_per_instruction: float = 0.3,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Record a run of a program and of all programs that it and its children execute.

    Args:
        command: the program and its arguments.
        out: the .npz file to write; nothing is written if the run fails. None: only return the program.
        name: the trace program's name; that of the command if not given.
        window: W, instructions in a sampled window.
        budget: runs of accesses to keep of each process at most.
        ns_per_instruction: nanoseconds an instruction takes besides translation and faults.
        environment: variables to add to the environment of the program.

    Returns:
        The program: the first process, P, has nothing; each that was executed is forked from it.

    Raises:
        RecordingError: when the command cannot be recorded or the file cannot be written.
    """
    if out is not None:
        check_writable(Path(out))
    executable(command)
    added = dict(environment or {})
    started = time.monotonic()
    processes, status = _run(list(command), {"GLIBC_TUNABLES": TUNABLES, **os.environ, **added}, window, budget)
    program = _merged(processes, window, ns_per_instruction, facts(command, added, name, status))
    program.meta["seconds"] = round(time.monotonic() - started, 1)
    if out is not None:
        save(program, Path(out))
    return program


def _run(command: list[str], environment: dict[str, str], window: int, budget: int) -> tuple[list[_Process], int]:
    """Run the command; return what was executed, in order, and the exit status."""
    processes: list[_Process] = []
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        # A small buffer holds a program up until its layout is read.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.settimeout(0.1)
        port = server.getsockname()[1]
        arguments = [*VALGRIND, "--trace-children=yes", f"--log-socket=127.0.0.1:{port}", "--", *command]
        root = subprocess.Popen(arguments, env=environment, start_new_session=True)
        try:
            while root.poll() is None or any(t.is_alive() for t in threads):
                if any(p.error for p in processes):
                    break
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.setblocking(True)
                processes.append(_Process(len(processes), connection, Lackey(window, budget), processes))
                threads.append(threading.Thread(target=processes[-1].follow, daemon=True))
                threads[-1].start()
        finally:
            with suppress(ProcessLookupError):  # children too
                os.killpg(root.pid, signal.SIGKILL)
            root.wait()
    for p in processes:
        if p.error:
            raise RecordingError(f"cannot record {' '.join(p.command[:1]) or command[0]}: {p.error}")
    if root.returncode < 0:
        raise RecordingError(f"{command[0]} was killed by signal {-root.returncode} under valgrind")
    return processes, root.returncode


def _merged(processes: list[_Process], window: int, ns: float, meta: dict) -> Program:
    prepared: list[tuple[_Process, Run, Prepared]] = []
    for p in processes:
        if p.run is not None:
            ready = prepare(p.run, window, f"{p.name}.")
            if ready.maps_memory:
                prepared.append((p, p.run, ready))
    if not prepared:
        raise RecordingError("no program made an anonymous mapping: there is nothing to record")
    true = np.array([run.log.misses for _, run, _ in prepared], dtype=np.float64)
    names = ("accesses", "l1_misses", "walks")
    errors = np.array([[ready.sampling_error[n] for n in names] for _, _, ready in prepared])
    total = (true * errors).sum(axis=0) / np.maximum(true.sum(axis=0), 1)
    meta |= {
        "programs": [" ".join(p.command)[:200] for p, _, _ in prepared],
        "instructions": sum(ready.log.instructions for _, _, ready in prepared),
        "accesses_anonymous": sum(run.log.accesses_anonymous for _, run, _ in prepared),
        "accesses_other": sum(run.log.accesses_other for _, run, _ in prepared),
        "log_lines": sum(run.log.lines for _, run, _ in prepared),
        "window": window,
        "sampling_error": {n: round(float(e), 4) for n, e in zip(names, total, strict=True)},
        "brk_start": max(ready.replayer.brk_start for _, _, ready in prepared),
        "mmap_base": prepared[0][2].replayer.mmap_base,
    }
    b = ProgramBuilder(**meta)
    queue = []
    for i, (p, run, ready) in enumerate(prepared):
        writer = ProcessWriter(ready.log, ready.windows, ready.replayer, run.samples, ready.stack_touched)
        queue.append((p.marks[0][1], i, writer.write(b, ns)))
    heapq.heapify(queue)
    try:
        while queue:
            _, i, steps = heapq.heappop(queue)
            p = prepared[i][0]
            if p.name not in b.processes:
                b.slice("P")
                b.fork(p.name)
            if b.process != p.name:
                b.slice(p.name)
            instruction = next(steps, None)
            if instruction is None:
                b.slice("P")
                b.exit(p.name)
            else:
                heapq.heappush(queue, (p.when(instruction), i, steps))
        program = b.build()
    except ProgramError as error:
        raise RecordingError(f"the run is not a trace program: {error}") from error
    notes = {note for _, _, ready in prepared for note in ready.replayer.notes}
    program.meta["distortions"] = [*LIMITS, *sorted(notes)]
    return program
