"""From a parsed log to a trace program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from thp_env.machine.operations import ACCESS_DTYPE
from thp_env.machine.program import Program
from thp_env.traces.builder import ProgramBuilder
from thp_workloads.recording._lackey import Lackey
from thp_workloads.recording.content import ContentClasses
from thp_workloads.recording.replayer import CALL_DTYPE, FORKS, Operation, Replayer, TooManyRegionsError
from thp_workloads.recording.windows import RUN_DTYPE, Windows, without_needless_warmth

TOUCH_DTYPE = np.dtype([("instruction", "<u8"), ("page", "<u8")])
"""A first touch as the log reader keeps it; the page's highest bit says that it wrote."""
WRITE_BIT = np.uint64(1 << 63)

EVENT_DTYPE = np.dtype(
    [("instruction", "<u8"), ("page", "<i8"), ("region", "<i8"), ("count", "<u4"), ("written", "u1"),
     ("content", "u1"), ("weight", "<u4"), ("exact", "u1")]
)  # fmt: skip
"""A run or a first touch, by region. exact: a first touch outside the windows."""


@dataclass(frozen=True)
class Log:
    """What the log reader kept, as arrays.

    Attributes:
        calls: `CALL_DTYPE`.
        files: the files that calls name.
        touches: `RUN_DTYPE`, exact first touches, count 1.
        runs: `RUN_DTYPE`, accesses in windows.
        instructions: length of the run.
        timeless: instructions at the beginning that take no time: they only number what had happened before.
    """

    calls: np.ndarray
    files: list[str]
    touches: np.ndarray
    runs: np.ndarray
    instructions: int
    timeless: int = 0


def unpacked_touches(packed: bytes) -> np.ndarray:
    """Return `TOUCH_DTYPE` records as `RUN_DTYPE`."""
    records = np.frombuffer(packed, TOUCH_DTYPE)
    touches = np.zeros(len(records), RUN_DTYPE)
    touches["instruction"], touches["page"] = records["instruction"], records["page"] & ~WRITE_BIT
    touches["written"], touches["count"] = records["page"] >> np.uint64(63), 1
    return touches


def log_arrays(log: Lackey, window: int) -> Log:
    """Take the arrays out of a log reader whose windows are of `window` instructions."""
    return Log(
        np.frombuffer(log.calls, CALL_DTYPE),
        log.names,
        unpacked_touches(log.touches),
        without_needless_warmth(window, np.frombuffer(log.runs, RUN_DTYPE)),
        log.instructions,
    )


def write_program(
    log: Log,
    windows: Windows,
    replayer: Replayer,
    samples: list[tuple[int, int, int]],
    *,
    stack_touched: int,
    ns: float,
    meta: dict[str, Any],
) -> Program:
    """Write the program of one process.

    Args:
        log: the parsed log.
        windows: its windows.
        replayer: holds the address space before the first instruction.
        samples: (instruction, client page, percentage) of sampled pages.
        stack_touched: bytes at the stack's top that hold arguments and environment.
        ns: nanoseconds an instruction takes.
        meta: for `Program.meta`.
    """
    part = ProcessWriter(log, windows, replayer, samples, stack_touched)
    builder = ProgramBuilder(**meta, brk_start=replayer.brk_start, mmap_base=replayer.mmap_base)
    for _ in part.write(builder, ns):
        pass
    return builder.build()


class ProcessWriter:
    """Writes what one process did, from call to call, so that several can take turns."""

    def __init__(
        self,
        log: Log,
        windows: Windows,
        replayer: Replayer,
        samples: list[tuple[int, int, int]],
        stack_touched: int,
        forked: Callable[[int, Replayer], list[Operation]] | None = None,
    ) -> None:
        """Follow the calls, translate pages to regions and learn what the pages hold.

        Args:
            log: as for `write_program`.
            windows: as for `write_program`.
            replayer: as for `write_program`.
            samples: as for `write_program`.
            stack_touched: as for `write_program`.
            forked: called with the child's pid and the address space at each fork; returns what to write then.
        """
        self._log, self._replayer, self._stack_touched = log, replayer, stack_touched
        exact = log.touches[windows.outside(log.touches["instruction"])]
        stream = np.concatenate([exact, log.runs])
        order = np.argsort(stream["instruction"], kind="stable")
        events = np.zeros(len(stream), EVENT_DTYPE)
        for name in ("instruction", "page", "count", "written"):
            events[name] = stream[name][order]
        events["exact"] = order < len(exact)
        events["weight"][events["exact"] == 0] = windows.weights(log.runs)
        events["count"] = np.maximum(events["count"], 1)
        sample_rows = np.array(sorted(samples), dtype=np.int64).reshape(-1, 3)
        classes = ContentClasses()
        ends = log.calls["instruction"]
        cuts = [0, *np.searchsorted(events["instruction"], ends, side="right").tolist(), len(events)]
        sample_cuts = [0, *np.searchsorted(sample_rows[:, 0], ends, side="right").tolist(), len(sample_rows)]
        self._operations: list[list[Operation]] = []
        for i in range(len(log.calls) + 1):
            part = events[cuts[i] : cuts[i + 1]]
            part["region"], part["page"] = replayer.space.translate(part["page"])
            rows = sample_rows[sample_cuts[i] : sample_cuts[i + 1]]
            classes.add(*replayer.space.translate(rows[:, 1]), rows[:, 2])
            if i < len(log.calls):
                try:
                    self._operations.append(self._call(log.calls[i], forked))
                except TooManyRegionsError as error:
                    replayer.notes.add(f"{error}: what was done after that is left out")
                    self._log = log = replace(log, calls=log.calls[:i], instructions=int(ends[i]))
                    events, cuts = events[: cuts[i + 1]], cuts[: i + 2]
                    break
        classes.finish()
        events["content"] = classes.of(events["region"], events["page"])
        self._events, self._cuts = events, cuts

    def _call(self, call: np.void, forked: Callable[[int, Replayer], list[Operation]] | None) -> list[Operation]:
        if int(call["number"]) in FORKS:
            return forked(int(call["result"]), self._replayer) if forked else []
        file = int(call["name"])
        return list(self._replayer.call(call, self._log.files[file] if file >= 0 else ""))

    def write(self, builder: ProgramBuilder, ns: float) -> Iterator[int]:
        """Write the operations; yield the instruction before each call and the accesses after it, and at the end."""
        log, replayer = self._log, self._replayer
        writer = _EventWriter(builder, ns, log.timeless)
        writer.operations(replayer.initial)
        numbers = np.zeros(len(replayer.names), np.int64)  # the builder counts the regions of all processes
        if self._stack_touched:
            name, stack = next((a[0], a[1]) for _, a, _ in replayer.initial if a[0] == replayer.stack)
            builder.touch(name, stack - self._stack_touched, self._stack_touched)
        for i in range(len(log.calls) + 1):
            yield int(log.calls["instruction"][i - 1]) if i else 0
            if i:
                writer.operations(self._operations[i - 1])
            end = int(log.calls["instruction"][i]) if i < len(log.calls) else log.instructions
            part = self._events[self._cuts[i] : self._cuts[i + 1]]
            part = part[part["region"] >= 0]
            for region in np.unique(part["region"]).tolist():
                numbers[region] = builder.region_number(replayer.names[region])
            part["region"] = numbers[part["region"]]
            writer.events(part, end)
        yield log.instructions


class _EventWriter:
    """Writes events in order; keeps the time."""

    def __init__(self, builder: ProgramBuilder, ns: float, timeless: int) -> None:
        self._builder = builder
        self._ps = round(ns * 1000)
        self._now = self._timeless = timeless

    def operations(self, operations: list[Operation]) -> None:
        """Write operations, which take no instructions."""
        for method, args, keywords in operations:
            getattr(self._builder, method)(*args, **keywords)

    def _pass_until(self, instruction: int) -> None:
        if instruction > self._now:
            self._builder.compute((instruction - self._now) * self._ps / 1000)
            self._now = instruction

    def events(self, events: np.ndarray, end: int) -> None:
        """Write events, all before instruction `end`, and let time pass until then.

        Slices are of one weight and, outside windows, of pages of one content class.
        """
        if len(events):
            self._pass_until(int(events["instruction"][0]))
            records = np.zeros(len(events), ACCESS_DTYPE)
            for name in ("page", "region", "written", "count"):
                records[name] = events[name]
            at = np.maximum(np.append(events["instruction"], np.uint64(end)), np.uint64(self._timeless))
            records["instructions"] = np.minimum(np.diff(at), (1 << 32) - 1)
            key = events["weight"].astype(np.int64) << 8 | np.where(events["exact"], events["content"], 0)
            edges = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(events)]
            for first, last in pairwise(edges):
                content = int(np.bincount(events["content"][first:last]).argmax())
                self._replay(records[first:last], int(events["weight"][first]), content)
        self._pass_until(end)

    def _replay(self, records: np.ndarray, weight: int, content: int) -> None:
        # A weight multiplies the time of instructions too, but what passes between the windows is in the
        # program: what the division leaves over passes afterwards.
        share = self._ps // weight if weight else 0
        self._builder.replay(records, ns=share / 1000, weight=weight, content=content)
        instructions = int(records["instructions"].sum(dtype=np.uint64))
        self._now += instructions
        if remaining_ps := (self._ps - share * weight) * instructions:
            self._builder.compute(remaining_ps / 1000)
