"""A program image: what one process did from its exec, or from the fork that made it, to its end."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_workloads.recording import windows as sampling
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.process_layout import ClientLayout, NativeLayout
from thp_workloads.recording.program_writer import Log
from thp_workloads.recording.replayer import Regions, Replayer

MARK_DTYPE = np.dtype([("instruction", "<u8"), ("real", "<u8"), ("own", "<u8"), ("waited", "<u8")])
"""Where the process was when: instruction, CLOCK_MONOTONIC, its own time, how much of that was waiting (ns)."""

STACK = 16 << 20
"""Valgrind gives a stack the size of its limit, 16 MB at most."""


@dataclass(frozen=True)
class Image:
    """A recorded image.

    Attributes:
        command: the program and its arguments.
        pid: the process.
        parent: the process that forked it.
        forked: whether it began with a fork, with the memory of its parent.
        log: its arrays.
        begun: what the model TLB had counted when each window began, shape (windows, 3).
        misses: the same at the end: accesses, first-level misses, walks.
        samples: (instruction, client page, percentage) of pages that were looked at.
        marks: `MARK_DTYPE`, ascending.
        native: its layout in a native run; of its executed ancestor if it is forked.
        client: its layout as it was recorded.
        stack_address: stack pointer at the first instruction.
        placed_by: see `Replayer`.
        ended: whether it came to its end.
        totals: further counts.
    """

    command: list[str]
    pid: int
    parent: int
    forked: bool
    log: Log
    begun: np.ndarray
    misses: tuple[float, float, float]
    samples: list[tuple[int, int, int]]
    marks: np.ndarray
    native: NativeLayout
    client: ClientLayout
    stack_address: int
    placed_by: int | None = None
    ended: bool = True
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The program's name."""
        return os.path.basename(self.command[0])

    @property
    def maps_memory(self) -> bool:
        """Whether it made anonymous mappings."""
        return any(
            (c["number"] == 12 and c["args"][0] > 0) or (c["number"] == 9 and int(c["args"][3]) & 0x20)
            for c in self.log.calls
        )

    @property
    def lowest_stack(self) -> int:
        """The lowest address of the stack that was touched."""
        address = self.log.touches["page"].astype(np.int64) * PAGE_SIZE
        top = self.client.stack_top
        return int(address[(address < top) & (address >= top - STACK)].min(initial=self.stack_address or top))

    @property
    def stack_touched(self) -> int:
        """Bytes of the stack that hold arguments and environment."""
        if self.forked:
            return 0
        return -(-(self.client.stack_top - self.stack_address) // PAGE_SIZE) * PAGE_SIZE

    def when(self, instruction: int) -> float:
        """Return the real time at which the process was at an instruction."""
        return float(np.interp(instruction, self.marks["instruction"].astype(float), self.marks["real"].astype(float)))

    def windows(self, window: int) -> sampling.Windows:
        """Weigh the sampled windows."""
        return sampling.weigh(window, self.log.runs, self.begun, self.misses)

    def replayer(self, prefix: str, lowest_stack: int, regions: Regions) -> Replayer:
        """Return the address space before the first instruction."""
        return Replayer(
            self.native, self.client, lowest_stack, prefix, placed_by=self.placed_by, copies=self.placed_by is not None
        )

    def between(self, window: int, after: float, until: float) -> Image:
        """Return the image with what it did from `after` to `until`, in ns of its own time.

        What it had mapped and touched before stays, but takes no time and holds no sampled window.
        """
        own, at = self.marks["own"].astype(float), self.marks["instruction"].astype(float)
        log, begun, misses, marks = self.log, self.begun, self.misses, self.marks
        samples = self.samples
        if until < own[-1]:
            end = int(np.interp(until, own, at))
            log = Log(
                log.calls[log.calls["instruction"] <= end], log.files, log.touches[log.touches["instruction"] <= end],
                log.runs[log.runs["instruction"] <= end // window * window], min(log.instructions, end),
            )  # fmt: skip
            misses = tuple(begun[min(end // window, len(begun) - 1)]) if len(begun) else misses
            begun = begun[: end // window + 1]
            samples = [s for s in samples if s[0] <= end]
            marks = np.append(marks[marks["instruction"] <= end], _mark_at(marks, end))
        if after > 0:
            start = -(-int(np.interp(after, own, at)) // window) * window
            shift = _Moved(log, start, window)
            log = shift.log()
            begun = np.vstack([np.repeat(begun[start // window : start // window + 1], shift.ahead // window, axis=0),
                               begun[start // window :]])  # fmt: skip
            begun, misses = begun - begun[0], tuple(np.array(misses) - begun[0])
            samples = [(int(shift(np.array([s[0]], np.uint64))[0]), *s[1:]) for s in samples]
            marks = shift.marks(marks)
        return replace(self, log=log, begun=begun, misses=misses, samples=samples, marks=marks)


def _mark_at(marks: np.ndarray, instruction: int) -> np.ndarray:
    mark = np.zeros(1, MARK_DTYPE)
    for name in MARK_DTYPE.names or ():
        mark[name] = np.interp(instruction, marks["instruction"].astype(float), marks[name].astype(float))
    return mark


class _Moved:
    """Moves the instruction `start` to the front, behind one number for each event before it."""

    def __init__(self, log: Log, start: int, window: int) -> None:
        self._log, self._start = log, start
        before = np.concatenate([log.touches["instruction"], log.calls["instruction"]])
        self._events = np.unique(before[before < start])
        self.ahead = (len(self._events) // window + 1) * window
        """What comes before the start, in whole windows."""

    def __call__(self, instruction: np.ndarray) -> np.ndarray:
        rank = np.searchsorted(self._events, instruction).astype(np.uint64)
        later = instruction >= self._start
        numbers = rank.copy()
        numbers[later] = instruction[later] - np.uint64(self._start) + np.uint64(self.ahead)
        return numbers

    def log(self) -> Log:
        log = self._log
        calls, touches, runs = (
            log.calls.copy(),
            log.touches.copy(),
            log.runs[log.runs["instruction"] >= self._start].copy(),
        )
        for part in (calls, touches, runs):
            part["instruction"] = self(part["instruction"])
        instructions = max(log.instructions - self._start, 0) + self.ahead
        return Log(calls, log.files, touches, runs, instructions, self.ahead)

    def marks(self, marks: np.ndarray) -> np.ndarray:
        before = np.concatenate([_mark_at(marks, int(i)) for i in self._events] or [np.zeros(0, MARK_DTYPE)])
        after = marks[marks["instruction"] >= self._start]
        all_marks = np.concatenate([before, _mark_at(marks, self._start), after])
        all_marks["instruction"] = self(all_marks["instruction"])
        return all_marks


def check_something(images: list[Image]) -> list[Image]:
    """Return the images that map memory.

    Raises:
        RecordingError: when none does.
    """
    mapping = [image for image in images if image.forked or image.maps_memory]
    if not any(image.maps_memory for image in mapping):
        raise RecordingError(f"{images[0].command[0]} made no anonymous mapping: there is nothing to record")
    return mapping
