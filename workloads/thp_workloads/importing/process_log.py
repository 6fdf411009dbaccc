"""What a log tells of one process: system calls on memory and touches of pages, as a trace program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_env.traces.program import Program, ProgramError
from thp_workloads.importing.errors import ImportingError
from thp_workloads.recording.process_layout import ClientLayout, MapsLine, NativeLayout
from thp_workloads.recording.program_writer import Log, write_program
from thp_workloads.recording.replayer import CALL_DTYPE, Replayer
from thp_workloads.recording.windows import RUN_DTYPE, Windows

CALLS = {"mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28}
"""System calls on memory and their numbers on x86-64."""

GAP = 16 * PAGE_SIZE
"""Pages that were mapped before the log begins belong to one mapping when they are no further apart."""

MAX_WRITTEN = 1 << 36
BRK_START = 0x555555800000
EVERYTHING = Windows(1 << 62, np.zeros(1, np.int64), np.ones(1, np.int64))
"""One window that holds the run: every touch is in the log and stands for itself."""


@dataclass
class ProcessLog:
    """Events of one process, in order.

    Attributes:
        path: the log, for messages.
        notes: how the program will differ from the run, one sentence each.
    """

    path: Path
    notes: set[str] = field(default_factory=set)
    _now: int = 0
    _calls: list[tuple[int, int, list[int], int, int]] = field(default_factory=list)
    _files: list[str] = field(default_factory=list)
    _touches: list[tuple[int, int, bool]] = field(default_factory=list)

    def _later(self, ns: int) -> int:
        """Return a moment after all before it: events of one microsecond keep their order."""
        self._now = max(self._now + 1, ns)
        return self._now

    def call(self, ns: int, name: str, args: list[int], result: int, file: str = "") -> None:
        """Add a system call that succeeded; `ns` counts from the start of the log."""
        if file and file not in self._files:
            self._files.append(file)
        number = self._files.index(file) if file else -1
        self._calls.append((self._later(ns), CALLS[name], args, result, number))

    def touch(self, ns: int, address: int, written: bool) -> None:
        """Add a touch of a page."""
        self._touches.append((self._later(ns), address // PAGE_SIZE, written))

    def touch_range(self, ns: int, address: int, length: int) -> None:
        """Write all pages of a range.

        Raises:
            ValueError: when it is larger than any program would write at once.
        """
        if length > MAX_WRITTEN:
            raise ValueError(f"{length >> 30} GiB cannot be written at once")
        for page in range(address // PAGE_SIZE, -(-(address + length) // PAGE_SIZE)):
            self.touch(ns, page * PAGE_SIZE, True)

    def program(self, name: str, source: str) -> Program:
        """Return the program.

        Raises:
            ImportingError: when nothing was mapped or the calls contradict each other.
        """
        calls = np.zeros(len(self._calls), CALL_DTYPE)
        for i, (ns, number, args, result, file) in enumerate(self._calls):
            calls[i] = (ns, result, (args + [0] * 6)[:6], number, file)
        touches = np.zeros(len(self._touches), RUN_DTYPE)
        if self._touches:
            touches["instruction"], touches["page"], touches["written"] = zip(*self._touches, strict=True)
        touches["count"] = 1
        if not len(calls) and not len(touches):
            raise ImportingError(f"{self.path}: there is neither a call on memory nor a touch of a page in it")
        log = Log(calls, self._files, np.zeros(0, RUN_DTYPE), touches, self._now + 1)
        replayer = Replayer(self._layout(calls, touches), ClientLayout({"": 0}, 0), 0)
        meta = {"name": name, "source": source, "log": self.path.name}
        try:
            program = write_program(log, EVERYTHING, replayer, [], stack_touched=0, ns=1.0, meta=meta)
        except (ProgramError, MemoryError) as error:
            raise ImportingError(f"{self.path}: the calls are not those of one process: {error}") from None
        program.meta["distortions"] = sorted(self.notes | replayer.notes)
        return program

    def _layout(self, calls: np.ndarray, touches: np.ndarray) -> NativeLayout:
        """Find out what was mapped before the log begins: pages that are written where no call has mapped anything."""
        brk = next((int(c["result"]) for c in calls if c["number"] == CALLS["brk"]), BRK_START)
        brk = -(-brk // PAGE_SIZE) * PAGE_SIZE
        replayer = Replayer(NativeLayout((), "", brk), ClientLayout({}, 0), 0)
        early: set[int] = set()
        for first, last, call in _between(calls, touches):
            part = touches[first:last]
            for page in np.unique(part["page"][part["written"] > 0]).tolist():
                if not replayer.space.parts(page * PAGE_SIZE, (page + 1) * PAGE_SIZE):
                    early.add(page)
            if call is not None:
                file = self._files[call["name"]] if call["name"] >= 0 else ""
                list(replayer.call(call, file))
        if early:
            self.notes.add("pages written where the log shows no mapping were mapped before it begins")
        mappings: list[MapsLine] = []
        for page in sorted(early):
            start, end = page * PAGE_SIZE, (page + 1) * PAGE_SIZE
            if mappings and start - mappings[-1].end <= GAP and not mappings[-1].end <= brk < end:
                start = mappings.pop().start
            mappings.append(MapsLine(start, end, "rw-p", 0, "[anon]"))
        return NativeLayout(tuple(mappings), "", brk)


def _between(calls: np.ndarray, touches: np.ndarray) -> Iterator[tuple[int, int, np.void | None]]:
    """Yield (first, last) of the touches before each call, with the call; None after the last one."""
    cuts = [0, *np.searchsorted(touches["instruction"], calls["instruction"]).tolist(), len(touches)]
    for i in range(len(calls) + 1):
        yield cuts[i], cuts[i + 1], calls[i] if i < len(calls) else None
