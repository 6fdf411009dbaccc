"""A command under perf: its page faults with addresses, its calls on memory, its forks and execs, in order of time."""

from __future__ import annotations

import ctypes
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from thp_workloads.recording.errors import RecordingError

PR_SET_THP_DISABLE, ADDR_NO_RANDOMIZE = 41, 0x0040000
FAULTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel")
CALLS = {"mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28, "mlock": 149, "munlock": 150}
"""Calls on memory and their numbers on x86-64."""
LINE = re.compile(r"\s*(\d+)/(\d+)\s+(\d+)\.(\d+):\s+(?:PERF_RECORD_(\w+)(.*)|(\S+):(\S+): (.*))")
MAPPED = re.compile(r"\[0x([0-9a-f]+)\(0x([0-9a-f]+)\) @ (\S+) [^\]]*\]: (\S+) (.*)")
FAULT = re.compile(r"address=0x([0-9a-f]+) .*error_code=0x([0-9a-f]+)")
FORKED = re.compile(r"\((\d+):\d+\):\((\d+):\d+\)")
NUMBER = re.compile(r"\w+: (0x[0-9a-f]+|-?\d+)")
WRITE, FETCH = 0x2, 0x10
"""Bits of x86's page fault error code."""
USER_END, ERRORS = 1 << 47, (1 << 64) - 4096


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: "mmap" (a mapping is there), "fork", "exec", "fault", "enter" and "exit" of a call, "lost".
        pid: the process; of a fork, the child.
        thread: the thread.
        ns: when.
        values: start, length and file offset; parent; address and error code; arguments; result.
        text: protection and path; the program's name; the call.
    """

    kind: str
    pid: int
    thread: int
    ns: int
    values: tuple[int, ...] = ()
    text: str = ""


@contextmanager
def run(
    command: Sequence[str], environment: Mapping[str, str], *, calls: bool
) -> Iterator[tuple[Iterator[Event], int]]:
    """Run a command natively and yield its events and its exit status.

    Large folios are turned off for it (prctl), so that each fault brings one page, and its layout is not randomized.

    Args:
        command: the program and its arguments.
        environment: all its variables.
        calls: whether its calls on memory are wanted too.

    Raises:
        RecordingError: when perf is missing or not allowed.
    """
    if shutil.which("perf") is None:
        raise RecordingError("a native run needs perf: apt-get install linux-perf")
    names = [*FAULTS, *(f"syscalls:sys_{side}_{name}" for name in CALLS for side in ("enter", "exit") if calls)]
    with tempfile.NamedTemporaryFile(suffix=".data") as data:
        perf = ["perf", "record", "-q", "-d", "-m", "2048", "-c", "1"]
        perf += [word for name in names for word in ("-e", name)]
        perf += ["-o", data.name, "--", *command]
        with tempfile.TemporaryFile() as output:
            status = _perf(perf, environment, output)
            output.seek(0)
            last = (output.read().decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        options = ["--show-mmap-events", "--show-task-events", "--show-lost-events", "-F", "pid,tid,time,event,trace"]
        script = ["perf", "script", "-i", data.name, *options]
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as perf_script:
            assert perf_script.stdout
            events = filter(None, map(parse, perf_script.stdout))
            first = next(events, None)
            if first is None:
                raise RecordingError(f"perf cannot trace page faults here: {last[:200]}")

            def all_events() -> Iterator[Event]:
                yield first
                yield from events

            yield all_events(), status
            perf_script.kill()


def _perf(arguments: list[str], environment: Mapping[str, str], output: IO[bytes]) -> int:
    """Run perf; an interrupt ends it and the command, and what was recorded until then is kept."""
    process = subprocess.Popen(arguments, env=dict(environment), preexec_fn=plain, stderr=output)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)  # a second one, from the terminal, does no harm
        return process.wait()


def plain() -> None:
    """Turn large folios and randomization off for this process and what it executes."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    libc.personality(ADDR_NO_RANDOMIZE)


def parse(line: str) -> Event | None:
    """Return the event of a line of perf script; None for what is not wanted."""
    match = LINE.match(line)
    if match is None:
        return None
    pid, thread, ns = int(match[1]), int(match[2]), int(match[3]) * 10**9 + int(match[4].ljust(9, "0")[:9])
    record, text = match[5], match[6] or ""
    if record in ("MMAP", "MMAP2"):
        if not pid or (m := MAPPED.search(text)) is None:
            return None
        offset = int(m[3], 0)
        return Event("mmap", pid, thread, ns, (int(m[1], 16), int(m[2], 16), offset), f"{m[4]} {m[5].strip()}")
    if record == "FORK":
        m = FORKED.search(text)
        return Event("fork", int(m[1]), thread, ns, (int(m[2]),)) if m and m[1] != m[2] else None
    if record == "COMM":
        return Event("exec", pid, thread, ns, (), text.split()[1].split(":")[0]) if text.startswith(" exec:") else None
    if record:
        return Event("lost", pid, thread, ns) if record.startswith("LOST") else None
    name, text = match[8], match[9]
    if name.startswith("page_fault"):
        m = FAULT.search(text)
        address = int(m[1], 16) if m else USER_END
        return Event("fault", pid, thread, ns, (address, int(m[2], 16))) if m and address < USER_END else None
    if name.startswith("sys_enter_"):
        arguments = tuple(int(a, 0) & (1 << 64) - 1 for a in NUMBER.findall(text))
        return Event("enter", pid, thread, ns, arguments, name.removeprefix("sys_enter_"))
    if name.startswith("sys_exit_"):
        return Event("exit", pid, thread, ns, (int(text, 0) & (1 << 64) - 1,), name.removeprefix("sys_exit_"))
    return None
