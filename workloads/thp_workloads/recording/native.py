"""What a native run does, to compare recordings with: faults on anonymous memory, and how much of it there is."""

from __future__ import annotations

import os
import subprocess
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from thp_env.processes import anonymous_bytes, family
from thp_workloads.recording import perf_events
from thp_workloads.recording.perf_events import WRITE, Event


def faults(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command under perf and count its faults on anonymous memory, shared or private, and its copies of files.

    Raises:
        RecordingError: when perf is missing or not allowed.
    """
    counter = _Counter()
    with perf_events.run(command, environment, calls=False) as (events, _):
        for event in events:
            counter.take(event)
    return counter.faults


class _Counter:
    """Follows which mappings are files, process by process."""

    def __init__(self) -> None:
        self.faults = 0
        self._maps: dict[int, _Maps] = {}

    def take(self, event: Event) -> None:
        if event.kind == "mmap":
            start, length, _ = event.values
            prot, _, path = event.text.partition(" ")
            self._of(event.pid).add(start, length, prot, path)
        elif event.kind == "fork":
            self._maps[event.pid] = self._of(event.values[0]).copy()
        elif event.kind == "exec":
            self._maps.pop(event.pid, None)
        elif event.kind == "fault":
            address, code = event.values
            self.faults += self._of(event.pid).anonymous(address, bool(code & WRITE))

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
        anonymous = is_anonymous(path)
        others = []
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = bisect_right(self._starts, end)
        for s, e, r, w in self._pieces[first:last]:
            others += [(s, min(e, start), r, w)] if s < start else []
            others += [(max(s, end), e, r, w)] if e > end else []
        others = [p for p in others if p[0] < p[1]] + [(start, end, anonymous, anonymous or prot.endswith("p"))]
        others.sort()
        self._pieces[first:last] = others
        self._starts[first:last] = [p[0] for p in others]

    def anonymous(self, address: int, write: bool) -> bool:
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._pieces[at][1]:
            return True  # the heap and the stack grow without an event
        return self._pieces[at][3] if write else self._pieces[at][2]


def is_anonymous(path: str) -> bool:
    """Whether perf names anonymous memory by this path."""
    return not path.startswith("/") or path.startswith(("//anon", "/dev/zero"))


def peak(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, float]:
    """Run a command and return its anonymous memory at most, in bytes, and its CPU seconds.

    All of its processes are looked at every millisecond; what lives shorter is not seen.
    """
    before = os.times()
    process = subprocess.Popen(command, env=dict(environment), preexec_fn=perf_events.plain, stdout=subprocess.DEVNULL)
    end = threading.Event()
    most = [0]

    def watch() -> None:
        while not end.wait(0.001):
            most[0] = max(most[0], sum(_anonymous(pid) for pid in family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    end.set()
    watcher.join()
    after = os.times()
    return most[0], after.children_user + after.children_system - before.children_user - before.children_system


def _anonymous(pid: int) -> int:
    with suppress(OSError):
        return anonymous_bytes(Path(f"/proc/{pid}/status").read_text())
    return 0
