"""A native run beside a recorded one: faults on anonymous memory, and how much of it was there at once.

The native run has large folios turned off for itself (prctl), so that each fault brings one page.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from thp_workloads.recording.errors import RecordingError

PR_SET_THP_DISABLE = 41
EVENTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel")
MAPPED = re.compile(r"\s(\d+)/\d+: \[0x([0-9a-f]+)\(0x([0-9a-f]+)\) @ [^\]]*\]: (\S+) (.*)$")
FAULT = re.compile(r"^\s*(\d+) .*page_fault_(?:user|kernel): address=0x([0-9a-f]+) .*error_code=0x([0-9a-f]+)")
FORKED = re.compile(r"PERF_RECORD_FORK\((\d+):\d+\):\((\d+):\d+\)")
EXECUTED = re.compile(r"PERF_RECORD_COMM exec: .*:(\d+)/\d+")
WRITE = 2


def _without_large_folios() -> None:
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def faults(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command under perf and count its faults on anonymous memory.

    Raises:
        RecordingError: when perf is missing or not allowed.
    """
    if shutil.which("perf") is None:
        raise RecordingError("counting a native run's faults needs perf: apt-get install linux-perf")
    with tempfile.NamedTemporaryFile(suffix=".data") as data:
        events = [word for event in EVENTS for word in ("-e", event)]
        perf = ["perf", "record", "-q", "-d", "-m", "4096", "-c", "1", *events, "-o", data.name, "--", *command]
        done = subprocess.run(
            perf, env=dict(environment), preexec_fn=_without_large_folios, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        script = [
            "perf",
            "script",
            "-i",
            data.name,
            "--show-mmap-events",
            "--show-task-events",
            "-F",
            "pid,event,trace",
        ]
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as printed:
            assert printed.stdout
            counted = _Counter()
            for line in printed.stdout:
                counted.line(line)
    if not counted.lines:
        raise RecordingError(f"perf cannot trace page faults here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return counted.faults


class _Counter:
    """Follows which mappings are files, process by process."""

    def __init__(self) -> None:
        self.faults = self.lines = 0
        self._maps: dict[int, _Maps] = {}

    def line(self, line: str) -> None:
        if "PERF_RECORD_MMAP" in line:
            if found := MAPPED.search(line):
                pid, start, length, prot, path = found.groups()
                self._of(int(pid)).add(int(start, 16), int(length, 16), prot, path.strip())
        elif found := FORKED.search(line):
            child, parent = map(int, found.groups())
            if child != parent:
                self._maps[child] = self._of(parent).copy()
        elif found := EXECUTED.search(line):
            self._maps.pop(int(found[1]), None)
        elif found := FAULT.search(line):
            self.lines += 1
            address, code = int(found[2], 16), int(found[3], 16)
            if address < 1 << 47:
                self.faults += self._of(int(found[1])).anonymous(address, bool(code & WRITE))

    def _of(self, pid: int) -> _Maps:
        return self._maps.setdefault(pid, _Maps())


class _Maps:
    """The last mapping made at each address: (start, end, whether a read, or a write, makes anonymous memory)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[tuple[int, int, bool, bool]] = []

    def copy(self) -> _Maps:
        other = _Maps()
        other._starts, other._pieces = list(self._starts), list(self._pieces)
        return other

    def add(self, start: int, length: int, prot: str, path: str) -> None:
        end = start + length
        anonymous = not path.startswith("/") or path.startswith(("//anon", "/dev/zero"))
        kept = []
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = bisect_right(self._starts, end)
        for s, e, r, w in self._pieces[first:last]:
            kept += [(s, min(e, start), r, w)] if s < start else []
            kept += [(max(s, end), e, r, w)] if e > end else []
        kept = [p for p in kept if p[0] < p[1]] + [(start, end, anonymous, anonymous or prot.endswith("p"))]
        kept.sort()
        self._pieces[first:last] = kept
        self._starts[first:last] = [p[0] for p in kept]

    def anonymous(self, address: int, write: bool) -> bool:
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._pieces[at][1]:
            return True  # the heap and the stack grow without an event
        return self._pieces[at][3] if write else self._pieces[at][2]


def peak(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, float]:
    """Run a command and return its anonymous memory at most, in bytes, and its CPU seconds.

    All of its processes are looked at every millisecond; each counts with the most that it had if it is alone.
    """
    before = os.times()
    process = subprocess.Popen(
        command, env=dict(environment), preexec_fn=_without_large_folios, stdout=subprocess.DEVNULL
    )
    ended = threading.Event()
    most = [0]

    def watch() -> None:
        while not ended.wait(0.001):
            most[0] = max(most[0], sum(_anonymous(pid) for pid in _family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    ended.set()
    watcher.join()
    after = os.times()
    return most[0], after.children_user + after.children_system - before.children_user - before.children_system


def _family(pid: int) -> list[int]:
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _anonymous(pid: int) -> int:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text()
        return sum(int(v) for v in re.findall(r"^(?:RssAnon):\s+(\d+) kB", text, re.MULTILINE)) * 1024
    return 0
