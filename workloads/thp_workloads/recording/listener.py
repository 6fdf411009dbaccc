"""Runs a command under the valgrind tool in `pagetrace/`, and listens to it and to all that it forks and executes."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from thp_env.machine.layout import PAGE_SIZE
from thp_env.signals import handle_signals
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.image import Image
from thp_workloads.recording.process_layout import (
    MAPPED_FROM,
    ClientLayout,
    NativeLayout,
    client_layout,
    native_layout,
)
from thp_workloads.recording.stream import Stream
from thp_workloads.recording.tool import build_tool
from thp_workloads.recording.unmapped_area import mmap_base

PLACED_BY = 1 << 44
"""The tool puts mappings so far below where Linux would: what lies there is the guest's own."""
BLOCK = 1 << 20
LOOK_MS = 100
GRACE = 5.0
"""Seconds that a program has to end in after SIGTERM."""
TIME_IS_UP, BY_SIGNAL = "after its time", "by a signal"
LOW_BRK = 0x3000_0000_0000
"""Where the heap of a program that is linked to low addresses goes."""


@dataclass
class Traced:
    """An image that is being recorded."""

    connection: socket.socket
    stream: Stream
    command: list[str] = field(default_factory=list)
    native: NativeLayout | None = None
    client: ClientLayout | None = None
    begun_at: float = 0.0
    """Own time of the whole run when it began, ns."""
    open: bool = True
    asleep: int = 0
    """How many looks in a row have found all of its threads asleep."""

    @property
    def pid(self) -> int:
        """The process."""
        return self.stream.hello["pid"] if self.stream.hello else 0

    @property
    def own_ns(self) -> float:
        """Own time of the whole run, in ns, as far as this image knows."""
        waits = self.stream.silent_ns if self.asleep > 1 else 0
        return self.begun_at + self.stream.own_ns + waits

    def look(self) -> None:
        """See whether a process that sends nothing is waiting."""
        states = []
        with suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                states.append((task / "stat").read_text().rpartition(") ")[2][:1])
        self.asleep = self.asleep + 1 if states and set(states) <= {"S", "D"} else 0


@dataclass
class Result:
    """A finished run: what was executed, in order; how the command ended, and who ended it."""

    traced: list[Traced]
    status: int
    stopped: str
    seconds: float
    cpu_seconds: float


class Listener:
    """One run of a command."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        options: Sequence[str],
        window: int,
        children: bool,
        seed: int,
        until: float,
        limit: float = math.inf,
    ) -> None:
        """Prepare to run.

        Args:
            command: the program and its arguments.
            environment: all its variables.
            options: of valgrind and the tool.
            window: instructions in a window.
            children: whether what it executes is recorded too.
            seed: see `NativeLayout.draw`.
            until: own time after which the command is ended, in ns.
            limit: real seconds after which it is ended.
        """
        self._command, self._environment = list(command), dict(environment)
        self._options, self._window, self._children = list(options), window, children
        self._seed, self._until, self._limit = seed, until, limit
        self._traced: list[Traced] = []
        self._base = mmap_base()
        self._stop_reason = ""

    def run(self, show: Callable[[float, int], None]) -> Result:
        """Run the command to its end, or until it is stopped; `show` is told seconds and bytes now and then.

        Raises:
            RecordingError: when valgrind does not run the command, or sends what cannot be understood.
        """
        library = build_tool()
        start, cpu = time.monotonic(), _children_cpu()
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            path = os.path.join(folder, "socket")
            server.bind(path)
            server.listen(128)
            arguments = ["valgrind", "-q", "--tool=pagetrace", "--vgdb=no"]
            arguments += ["--run-libc-freeres=no", "--run-cxx-freeres=no", "--fair-sched=try"]
            arguments += [f"--trace-children={'yes' if self._children else 'no'}", f"--socket={path}"]
            arguments += [*self._options, "--", *self._command]
            self._root = subprocess.Popen(arguments, env={**self._environment, "VALGRIND_LIB": str(library)})
            try:
                with _stop_requests() as requests:
                    self._listen(server, show, requests)
            finally:
                self._kill()
                self._root.wait()
                for traced in self._traced:
                    traced.connection.close()
        if not self._traced:
            status = self._root.returncode
            raise RecordingError(f"valgrind died before the program's first access: exit status {status}")
        seconds = time.monotonic() - start
        return Result(self._traced, self._root.returncode, self._stop_reason, seconds, _children_cpu() - cpu)

    def _listen(self, server: socket.socket, show: Callable[[float, int], None], requests: list[int]) -> None:
        deadline = float("inf")
        signals = iter((signal.SIGTERM, signal.SIGKILL))
        total, over = 0, time.monotonic() + self._limit
        while self._root.poll() is None or any(t.open for t in self._traced):
            total += self._pump(server)
            show(max((t.own_ns for t in self._traced), default=0) / 1e9, total)
            ends = any(t.own_ns >= self._until for t in self._traced) or time.monotonic() >= over
            if not self._stop_reason and ends:
                self._stop_reason, deadline = TIME_IS_UP, 0.0
            if requests:
                requests.clear()
                # The terminal has sent the program a signal too: wait a moment before sending one.
                if self._stop_reason == BY_SIGNAL:
                    signals = iter(())
                deadline = 0.0 if self._stop_reason else time.monotonic() + 1.0
                self._stop_reason = BY_SIGNAL
            if time.monotonic() > deadline:
                self._signal(next(signals, signal.SIGKILL))
                deadline = time.monotonic() + GRACE

    def _pump(self, server: socket.socket) -> int:
        """Wait for news and take them; return the bytes."""
        by_file: dict[int, Traced | None] = {server.fileno(): None}
        by_file |= {t.connection.fileno(): t for t in self._traced if t.open}
        poll = select.poll()
        for file in by_file:
            poll.register(file, select.POLLIN)
        total = 0
        ready = poll.poll(LOOK_MS)
        for silent in (t for t in self._traced if t.open and t.pid and t.stream.silent_ns > 2e6 * LOOK_MS):
            silent.look()
        for file, _ in ready:
            traced = by_file[file]
            if traced:
                traced.asleep = 0
            if traced is None:
                connection, _ = server.accept()
                self._traced.append(Traced(connection, Stream(self._window)))
                continue
            try:
                data = traced.connection.recv(BLOCK)
            except ConnectionError:
                data = b""
            total += len(data)
            greeted = traced.stream.hello is not None
            traced.open = bool(data)
            traced.stream.feed(data)
            if not greeted and traced.stream.hello:
                self._welcome(traced, traced.stream.hello)
        return total

    def _welcome(self, traced: Traced, hello: dict[str, int]) -> None:
        """Tell a new image where to map, and remember where it was loaded."""
        before = [t for t in self._traced if t.pid in (hello["pid"], hello["parent"]) and t is not traced]
        traced.begun_at = max((t.own_ns for t in before), default=0.0)
        reply = struct.pack("<3Q", 0, 0, 0)
        with suppress(OSError, RecordingError):
            if hello["forked"]:
                family = [t for t in self._traced if t.pid == hello["parent"] and t is not traced]
                traced.command, traced.native, traced.client = family[-1].command, family[-1].native, family[-1].client
            else:
                reply = self._place(traced, hello)
        with suppress(OSError):
            traced.connection.sendall(reply)

    def _place(self, traced: Traced, hello: dict[str, int]) -> bytes:
        pid = hello["pid"]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        traced.command = [os.fsdecode(word) for word in words[_program_at(words) :]]
        variables = [line for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in line]
        environment = dict(
            os.fsdecode(v).split("=", 1) for v in variables if not v.startswith((b"VALGRIND_", b"GLIBCPP_"))
        )
        program = _executable(traced.command[0], environment, Path(f"/proc/{pid}/cwd"))
        native = native_layout(program, traced.command, environment).draw(self._seed, self._base)
        traced.client = client_layout(pid, native, hello["stack_pointer"])
        traced.native = native
        if not hello["wide"]:
            return struct.pack("<3Q", 0, 0, 0)
        ranges = [(m.start, m.end) for m in native.mappings if m.start > MAPPED_FROM and m.path != "[stack]"]
        brk = native.brk_start - PLACED_BY if native.brk_start > 2 * PLACED_BY else native.brk_start + LOW_BRK
        reply = struct.pack("<3Q", native.mmap_base - PLACED_BY, -(-brk // PAGE_SIZE) * PAGE_SIZE, len(ranges))
        return reply + b"".join(struct.pack("<2Q", a - PLACED_BY, b - PLACED_BY) for a, b in sorted(ranges))

    def _signal(self, number: int) -> None:
        for pid in {self._root.pid, *(t.pid for t in self._traced if t.open and t.pid)}:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _kill(self) -> None:
        if self._root.poll() is None or any(t.open for t in self._traced):
            self._signal(signal.SIGKILL)

    def images(self, result: Result, level: int) -> list[tuple[Image, float]]:
        """Return what was recorded: each image, and the own time of the run, in ns, at which it began.

        Windows that are not kept at the level are let go of.
        """
        images = []
        for t in result.traced:
            if t.native is None or t.client is None or t.stream.hello is None:
                continue
            hello, stream = t.stream.hello, t.stream
            stream.thin(level)
            image = Image(
                t.command, hello["pid"], hello["parent"], bool(hello["forked"]), stream.log(), stream.begun(),
                stream.misses(), stream.samples, stream.marks, t.native, t.client, hello["stack_pointer"],
                placed_by=PLACED_BY if hello["wide"] else None, ended=stream.ended,
                totals={**stream.totals, "level": stream.level},
            )  # fmt: skip
            images.append((image, t.begun_at))
        return images


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list instead of raising, which would lose what has just been received."""
    requests: list[int] = []
    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    with handle_signals(dict.fromkeys(heard, lambda number, frame: requests.append(number))):
        yield requests


def _program_at(words: list[bytes]) -> int:
    """Return where the program stands in the command line of valgrind's process."""
    at = 1
    while words[at].startswith(b"-"):
        at += 1
        if words[at - 1] == b"--":
            break
    return at


def _executable(name: str, environment: Mapping[str, str], folder: Path) -> str:
    if "/" in name:
        return str(folder / name)
    for place in environment.get("PATH", os.defpath).split(":"):
        path = folder / place / name
        if os.access(path, os.X_OK) and path.is_file():
            return str(path)
    return name


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system
