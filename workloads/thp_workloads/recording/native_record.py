"""`record_native`: records a command at full speed, by perf: first touches, calls on memory and times.

For programs that cannot run under valgrind. Accesses between faults are not seen: each page is accessed once where it
faults, and that is the model of accesses. Large folios are off and the layout is not randomized.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_env.machine.program import Program
from thp_workloads.recording import perf_events
from thp_workloads.recording.command import facts
from thp_workloads.recording.image import MARK_DTYPE, Image, check_something
from thp_workloads.recording.merging import write_images
from thp_workloads.recording.native import is_anonymous
from thp_workloads.recording.perf_events import CALLS, ERRORS, FETCH, WRITE, Event
from thp_workloads.recording.process_layout import ClientLayout, MapsLine, NativeLayout
from thp_workloads.recording.program_writer import Log
from thp_workloads.recording.record import check_writable, executable, save
from thp_workloads.recording.replayer import CALL_DTYPE
from thp_workloads.recording.unmapped_area import mmap_base
from thp_workloads.recording.windows import RUN_DTYPE

FORK = 57
EVERYTHING = 1 << 62
"""One window that holds the run: every touch stands for itself."""
NOTES = (
    "recorded natively: every page is accessed once each time it faults, and nothing in between",
    "time is real time, waiting included",
)


class _Image:
    """What perf says of one image."""

    def __init__(self, name: str, pid: int, parent: int, ns: int, origin: _Image | None) -> None:
        self.name, self.pid, self.parent, self.begin, self.now = name, pid, parent, ns, 0
        self.origin = origin
        self.has_memory = origin is not None
        self.mappings: list[MapsLine] = []
        self.files: list[str] = []
        self.calls: list[tuple[int, int, list[int], int, int]] = []
        self.touches: list[tuple[int, int, bool]] = []
        self._mapped: dict[int, str] = {}
        self._pending: dict[int, tuple[int, ...]] = {}

    def _at(self, ns: int) -> int:
        """Return a moment after all before it."""
        self.now = max(self.now + 1, ns - self.begin)
        return self.now

    def take(self, e: Event) -> None:
        if e.kind == "mmap":
            prot, _, path = e.text.partition(" ")
            start, length, offset = e.values
            self._mapped[start] = "" if is_anonymous(path) else path
            if not self.has_memory:
                file_path = "" if path.startswith("//anon") else path
                self.mappings.append(MapsLine(start, start + length, prot, offset, file_path))
        elif e.kind == "fault":
            address, code = e.values
            if not code & FETCH:
                self.touches.append((self._at(e.ns), address // PAGE_SIZE, bool(code & WRITE)))
        elif e.kind == "enter":
            self.has_memory = True
            self._pending[e.thread] = e.values
        elif e.kind == "exit" and e.thread in self._pending and e.values[0] < ERRORS:
            arguments = self._pending.pop(e.thread)
            path = self._mapped.get(e.values[0], "") if e.text == "mmap" and not arguments[3] & 0x20 else ""
            if path and path not in self.files:
                self.files.append(path)
            number = self.files.index(path) if path else -1
            padded = [*arguments, *[0] * 6][:6]
            self.calls.append((self._at(e.ns), CALLS[e.text], padded, e.values[0], number))

    def forks(self, child: int, ns: int) -> None:
        self.calls.append((self._at(ns), FORK, [0] * 6, child, -1))

    def first(self) -> _Image:
        return self.origin.first() if self.origin else self

    def image(self) -> Image:
        calls = np.zeros(len(self.calls), CALL_DTYPE)
        for i, (ns, number, args, result, file) in enumerate(self.calls):
            calls[i] = (ns, result, args, number, file)
        touches = np.zeros(len(self.touches), RUN_DTYPE)
        if self.touches:
            touches["instruction"], touches["page"], touches["written"] = zip(*self.touches, strict=True)
        touches["count"] = 1
        log = Log(calls, self.files, np.zeros(0, RUN_DTYPE), touches, self.now + 1)
        marks = np.zeros(2, MARK_DTYPE)
        marks["instruction"] = marks["own"] = 0, self.now
        marks["real"] = self.begin, self.begin + self.now
        first = self.first()
        mappings = tuple(sorted(first.mappings, key=lambda line: line.start))
        stack = next((line.end for line in mappings if line.path == "[stack]"), 0)
        brk = next((c[3] for c in first.calls if c[1] == CALLS["brk"]), 0)
        program = next((line.path for line in mappings if line.path.startswith("/")), "")
        native = NativeLayout(mappings, program, -(-brk // PAGE_SIZE) * PAGE_SIZE, mmap_base())
        client = ClientLayout({line.path: 0 for line in mappings}, stack)
        count = float(len(touches))
        forked = self.origin is not None
        return Image(
            [self.name], self.pid, self.parent, forked, log, np.zeros((1, 3)), (count, count, count), [], marks, native,
            client, stack, placed_by=0,
        )  # fmt: skip


def _images(events: Iterator[Event], parts: list[_Image]) -> int:
    """Fill `parts` with the images in the order in which they began; return how many events perf has lost."""
    alive: dict[int, _Image] = {}
    lost = 0
    for e in events:
        if e.kind == "lost":
            lost += 1
        elif e.kind == "exec":
            parent = alive[e.pid].parent if e.pid in alive else 0
            alive[e.pid] = _Image(e.text, e.pid, parent, e.ns, None)
            parts.append(alive[e.pid])
        elif e.kind == "fork" and e.values[0] in alive:
            origin = alive[e.values[0]]
            origin.forks(e.pid, e.ns)
            alive[e.pid] = _Image(origin.name, e.pid, origin.pid, e.ns, origin)
            parts.append(alive[e.pid])
        elif e.pid in alive:
            alive[e.pid].take(e)
    return lost


def record_native(
    command: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Record one native run of a command, with all that it forks and executes.

    Args:
        command: the program and its arguments.
        out: the .npz file to write. None: only return the program.
        name: the trace program's name; that of the command if not given.
        environment: variables to add to the environment of the command.

    Raises:
        RecordingError: when perf is missing or not allowed, or the command cannot be recorded.
    """
    if out is not None:
        check_writable(Path(out))
    executable(command)
    variables = dict(environment or {})
    parts: list[_Image] = []
    with perf_events.run(command, {**os.environ, **variables}, calls=True) as (events, status):
        lost = _images(events, parts)
    images = check_something([p.image() for p in parts if p.touches or p.calls])
    touched = sum(len(np.unique(i.log.runs["page"])) for i in images)
    own = max(p.begin + p.now for p in parts) - parts[0].begin
    meta = {
        **facts(command, variables, name, status),
        "own_seconds": round(own / 1e9, 3),
        "touched_bytes": touched * PAGE_SIZE,
        "native": True,
    }
    program = write_images(images, EVERYTHING, 1.0, meta)
    notes = [*NOTES, *([f"perf has lost events {lost} times"] if lost else [])]
    program.meta["distortions"] = [*notes, *program.meta["distortions"]]
    if out is not None:
        save(program, Path(out))
    return program
