"""What a log tells of one process: system calls on memory and touches of pages, as a trace program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thp_env.machine.layout import PAGE_SIZE, TASK_SIZE
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.large_folios import whole_folios
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.process_layout import ClientLayout, MapsLine, NativeLayout
from thp_workloads.recording.program_writer import Log, write_program
from thp_workloads.recording.replayer import CALL_DTYPE, Replayer
from thp_workloads.recording.windows import RUN_DTYPE, Windows

NS_MAX = 1 << 53
"""Nanoseconds that a log may last: 104 days."""
CALLS = {"mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28}
"""System calls on memory and their numbers on x86-64."""

RANGES: dict[str, Callable[[list[int], int], list[tuple[int, int]]]] = {
    "mmap": lambda args, result: [(result, args[1])],
    "mprotect": lambda args, result: [(args[0], args[1])],
    "munmap": lambda args, result: [(args[0], args[1])],
    "brk": lambda args, result: [(result, 0)],
    "mremap": lambda args, result: [(args[0], args[1]), (result, args[2])],
    "madvise": lambda args, result: [(args[0], args[1])],
}
"""(address, length) that a call is about."""

GAP = 16 * PAGE_SIZE
"""Pages that were mapped before the log begins belong to one mapping when they are no further apart."""
EARLY_MAX = 4096
"""Mappings that are found from pages alone."""

WRITTEN_MAX = 1 << 34
"""Bytes that calls may be taken to write, all together: the memory of the largest machine (`memory_for`)."""
BRK_START = 0x555555800000
EVERYTHING = Windows(1 << 62, np.zeros(1, np.int64), np.ones(1, np.int64))
"""One window that holds the run: every touch is in the log and stands for itself."""


@dataclass
class ProcessLog:
    """Events of one process, in order.

    Attributes:
        path: the log, for messages.
        notes: how the program will differ from the run, one sentence each.
        large_folios: touches are faults, which large folios answer for many pages at once.
        left_out: how many events of what were left out, each with the option that would take them in.
    """

    path: Path
    notes: set[str] = field(default_factory=set)
    large_folios: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    _now: int = 0
    _written: int = 0
    _calls: list[tuple[int, int, list[int], int, int]] = field(default_factory=list)
    _files: dict[str, int] = field(default_factory=dict)
    _touches: list[tuple[int, int, bool]] = field(default_factory=list)
    _ranges: list[np.ndarray] = field(default_factory=list)

    def _later(self, ns: int, number: int = 1) -> int:
        """Return a moment after all before it, the first of so many: events of one microsecond keep their order."""
        first = max(self._now + 1, ns)
        self._now = first + number - 1
        if self._now >= NS_MAX:
            raise ValueError(f"a moment {self._now / 1e9:.0f} s after the first one")
        return first

    def call(self, ns: int, name: str, args: list[int], result: int, file: str = "") -> None:
        """Add a system call that succeeded; `ns` counts from the start of the log.

        Raises:
            ValueError: when no kernel would have carried it out.
        """
        for address, length in RANGES[name](args, result):
            if not 0 <= address <= address + length <= TASK_SIZE:
                raise ValueError(f"{name} of {length:#x} bytes at {address:#x} is outside a process's 128 TiB")
        number = self._files.setdefault(file, len(self._files)) if file else -1
        self._calls.append((self._later(ns), CALLS[name], args, result, number))

    def forget(self) -> None:
        """Begin anew: the process has become another program."""
        self._calls.clear()
        self._touches.clear()
        self._ranges.clear()
        self._now = self._written = 0

    def __len__(self) -> int:
        """Return the number of calls and touches so far."""
        return len(self._calls) + len(self._touches) + sum(map(len, self._ranges))

    def touch(self, ns: int, address: int, write: bool) -> None:
        """Add a touch of a page; one of an address that is none of a process is left out."""
        if address >= TASK_SIZE:
            self.left_out["faults at addresses of the kernel, which are none of the process's"] += 1
            return
        self._touches.append((self._later(ns), address // PAGE_SIZE, write))

    def touch_range(self, ns: int, address: int, length: int) -> None:
        """Write all pages of a range.

        Raises:
            ValueError: when more would be written in all than any machine here has.
        """
        self._written += length
        if self._written > WRITTEN_MAX:
            raise ValueError(f"more than {WRITTEN_MAX >> 30} GiB would be written: the log does not say which pages "
                             "were used, perf's page faults do")  # fmt: skip
        first, end = address // PAGE_SIZE, -(-(address + length) // PAGE_SIZE)
        if end > first:
            block = np.zeros(end - first, RUN_DTYPE)
            block["instruction"] = self._later(ns, end - first) + np.arange(end - first, dtype=np.uint64)
            block["page"], block["written"] = np.arange(first, end), 1
            self._ranges.append(block)

    def _all_touches(self) -> np.ndarray:
        touches = np.zeros(len(self._touches), RUN_DTYPE)
        if self._touches:
            touches["instruction"], touches["page"], touches["written"] = zip(*self._touches, strict=True)
        touches = np.concatenate([touches, *self._ranges])
        touches["count"] = 1
        return touches[np.argsort(touches["instruction"], kind="stable")]

    def program(self, name: str, source: str) -> Program:
        """Return the program.

        Raises:
            ImportingError: when nothing was mapped or the calls contradict each other.
        """
        calls = np.zeros(len(self._calls), CALL_DTYPE)
        for i, (ns, number, args, result, file) in enumerate(self._calls):
            calls[i] = (ns, result, (args + [0] * 6)[:6], number, file)
        touches = self._all_touches()
        if self.large_folios:
            touches = self._with_whole_folios(touches)
        if not len(calls) and not len(touches):
            raise ImportingError(f"{self.path}: there is neither a call on memory nor a touch of a page in it")
        files = list(self._files)
        log = Log(calls, files, np.zeros(0, RUN_DTYPE), touches, self._now + 1)
        replayer = Replayer(self._layout(calls, touches), ClientLayout({"": 0}, 0), 0)
        meta = {"name": name, "source": source, "log": self.path.name}
        try:
            program = write_program(log, EVERYTHING, replayer, [], stack_touched=0, ns=1.0, meta=meta)
        except (ProgramError, MemoryError, RecordingError) as error:
            raise ImportingError(f"{self.path}: the calls are not those of one process: {error}") from None
        program.meta["distortions"] = sorted(self.notes | replayer.notes)
        program.meta["left_out"] = [f"{number} {what}" for what, number in self.left_out.most_common()]
        return program

    def _with_whole_folios(self, touches: np.ndarray) -> np.ndarray:
        """Add the pages of the large folios that faults came from."""
        touch_records, orders = whole_folios(touches)
        for order, number in orders.items():
            self.notes.add(
                f"{number} faults lie one in each aligned {4 << order}K: they were taken for those of folios of that "
                f"size, whose pages all count as accessed; record with large folios off to see each page"
            )
        return touch_records

    def _layout(self, calls: np.ndarray, touches: np.ndarray) -> NativeLayout:
        """Find out what was mapped before the log begins: pages that are written where no call has mapped anything."""
        brk = next((int(c["result"]) for c in calls if c["number"] == CALLS["brk"]), BRK_START)
        brk = -(-brk // PAGE_SIZE) * PAGE_SIZE
        if not self._touches:  # a range is written where a call has mapped it
            return NativeLayout((), "", brk)
        replayer = Replayer(NativeLayout((), "", brk), ClientLayout({}, 0), 0)
        before_mapping: set[int] = set()
        files = list(self._files)
        for first, last, call in _between(calls, touches):
            part = touches[first:last]
            for page in np.unique(part["page"][part["written"] > 0]).tolist():
                if not replayer.space.parts(page * PAGE_SIZE, (page + 1) * PAGE_SIZE):
                    before_mapping.add(page)
            if call is not None:
                file = files[call["name"]] if call["name"] >= 0 else ""
                list(replayer.call(call, file))
        if before_mapping:
            self.notes.add("pages written where the log shows no mapping were mapped before it begins")
        gap, mappings = GAP, _mappings(sorted(before_mapping), GAP, brk)
        while len(mappings) > EARLY_MAX:
            gap *= 2
            mappings = _mappings(sorted(before_mapping), gap, brk)
        if gap > GAP:
            self.notes.add(f"mappings up to {gap >> 10}K apart were taken for one: record mmap's system calls, too")
        return NativeLayout(tuple(mappings), "", brk)


def _mappings(pages: list[int], gap: int, brk: int) -> list[MapsLine]:
    """Return mappings that hold pages, in order; the heap begins a new one."""
    mappings: list[MapsLine] = []
    for page in pages:
        start, end = page * PAGE_SIZE, (page + 1) * PAGE_SIZE
        if mappings and start - mappings[-1].end <= gap and not mappings[-1].end <= brk < end:
            start = mappings.pop().start
        mappings.append(MapsLine(start, end, "rw-p", 0, "[anon]"))
    return mappings


def _between(calls: np.ndarray, touches: np.ndarray) -> Iterator[tuple[int, int, np.void | None]]:
    """Yield (first, last) of the touches before each call, with the call; None after the last one."""
    cuts = [0, *np.searchsorted(touches["instruction"], calls["instruction"]).tolist(), len(touches)]
    for i in range(len(calls) + 1):
        yield cuts[i], cuts[i + 1], calls[i] if i < len(calls) else None
