"""`Batch`: machines that advance together on a thread pool, without the GIL, and what a policy reads of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

import numpy as np

from thp_env.machine import NEVER, SMAPS_DTYPE, Machine, MachineError, Status, Verb, _core, layout  # noqa: F401
from thp_env.machine.arguments import up_to, whole
from thp_env.machine.counters import MTHP_STATS, TIMES, VM_EVENTS, Counters

GAUGES: tuple[str, ...] = _core.GAUGES
"""What `Batch.snapshot` holds besides counters (`monitor.hpp`): clock in ps, free memory in pages, and so on."""

_ORDERS = layout.PMD_ORDER + 1
SNAPSHOT_DTYPE = np.dtype(
    [("vm", "<i8", len(VM_EVENTS)), ("mthp", "<i8", (_ORDERS, len(MTHP_STATS))), ("times", "<i8", len(TIMES)),
     ("gauges", "<i8", len(GAUGES))]
)  # fmt: skip
"""A row of `Snapshot`."""
_BEGIN = {name: offset // 8 for name, (_, offset, *_) in (SNAPSHOT_DTYPE.fields or {}).items()}
SNAPSHOT_COLUMNS = {
    name: _BEGIN[group] + i
    for group, names in (("vm", VM_EVENTS), ("times", TIMES), ("gauges", GAUGES))
    for i, name in enumerate(names)
}
"""Column of each event, kind of time and figure in a row of `Snapshot`."""
_WIDTH = SNAPSHOT_DTYPE.itemsize // 8
DECISION_DTYPE = np.dtype([("vma", "<u4"), ("verb", "<u4"), ("value", "<u4")])
"""What is done to a VMA: its id, a `Verb`, an order mask, advice or an order."""


def stat_columns(name: str) -> list[int]:
    """Return the columns of one of `MTHP_STATS` in a row of `Snapshot`, by order."""
    return [_BEGIN["mthp"] + order * len(MTHP_STATS) + MTHP_STATS.index(name) for order in range(_ORDERS)]


class Question(IntEnum):
    """The question at the end of a window."""

    NONE = 0
    VMA = 1
    """One VMA to decide about: new ones first, then round robin among those that faulted. Without one, the next
    window follows at once, unless `Window.idle`."""
    SLOTS = 2
    """All VMAs at once, in slots."""
    ORDER = 3
    """The order that a fault waits for, if one does before the window is over: the row of its VMA, without what
    reading page tables would say, and a row of each of `slots` 2M blocks of it around the fault."""


class Reason(IntFlag):
    """Why a VMA is asked about: `reasons` of its row (`monitor.hpp`)."""

    NEW = 1
    """It never was."""
    FAULTS = 2
    """It faulted since it was last asked about."""
    ZAPPED = 4
    """Much of it was unmapped since: 2M, or an eighth of it where that is less."""
    IDLE = 8
    """There was no other reason for a second; it is asked about again after twice as long each time."""
    WALKS = 16
    """The PMU's samples of page walks name it: 64 since it was last asked about (`Machine.sample_walks`)."""


class Window(NamedTuple):
    """How far machines run: to the first limit.

    Attributes:
        ps: simulated picoseconds.
        choices: faults with a choice, that is, faults that could get a large folio.
        accesses: simulated accesses.
        new_vma: also end after an operation that made a new anonymous VMA of 64K or more.
        question: what is read at the end.
        slots: the number of VMAs, or blocks, with a row of their own.
        every: of so many 2M ranges, the page tables of one are read; 0: none.
        idle: with `Question.VMA`, end without a VMA, too.
        reasons: for which VMAs are asked about besides `Reason.NEW` and `Reason.FAULTS`, as one number.
    """

    ps: int = NEVER
    choices: int = NEVER
    accesses: int = NEVER
    new_vma: bool = False
    question: Question = Question.NONE
    slots: int = 0
    every: int = 1
    idle: bool = False
    reasons: int = 0


class Snapshot:
    """Counters and figures of all machines at one moment.

    Attributes:
        raw: int64, shape (machines, width), as the core writes them.
    """

    def __init__(self, raw: np.ndarray) -> None:
        """Take smaps of the core."""
        self.raw = raw

    @property
    def counters(self) -> Counters:
        """Views of the counters, with the machines as first axis."""
        return Counters(self._row["vm"], self._row["mthp"], self._row["times"], self["clock"])

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one of `SNAPSHOT_COLUMNS` of every machine."""
        return self.raw[:, SNAPSHOT_COLUMNS[name]]

    def stat(self, name: str) -> np.ndarray:
        """Return one of `MTHP_STATS`, shape (machines, 10 orders)."""
        return self._row["mthp"][:, :, MTHP_STATS.index(name)]

    @property
    def _row(self) -> np.ndarray:
        return self.raw.view(SNAPSHOT_DTYPE)[:, 0]


class NotedRun(NamedTuple):
    """The record of a machine that `Batch.note` makes.

    Attributes:
        status: how the run ended.
        snapshot: of each point, the first where the run began and the last where it ended.
        vmas: `SMAPS_DTYPE` of the VMAs at the points, one point after the other, if they were noted.
        vmas_at: how many of them belong to each point.
    """

    status: Status
    snapshot: Snapshot
    vmas: np.ndarray
    vmas_at: np.ndarray


MAX_SLOTS = 1 << 16
"""VMAs that can have a row of their own."""


def _array(name: str, value: np.ndarray, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array as the core reads it.

    Raises:
        MachineError: when it is of another shape, or no array of numbers.
    """
    try:
        array: np.ndarray = np.ascontiguousarray(value, dtype)
    except (OverflowError, TypeError, ValueError):
        raise MachineError(f"{name} is an array of {np.dtype(dtype)}") from None
    if array.shape != shape:
        raise MachineError(f"{name} is an array of shape {shape}, not {array.shape}")
    return array


def _decision_words(decisions: np.ndarray) -> np.ndarray:
    """Return decisions with their fields as a last axis of uint32."""
    if getattr(decisions, "dtype", None) != DECISION_DTYPE:
        return decisions
    return np.ascontiguousarray(decisions).view(np.uint32).reshape(*decisions.shape, -1)


def _is_written(array: np.ndarray, value: np.ndarray) -> bool:
    """Return whether writing to the one writes to the other."""
    same = array.__array_interface__["data"] == value.__array_interface__["data"]
    return same and array.flags.writeable


class Batch:
    """Machines that advance together. The same code runs one machine and many.

    Args:
        machines: the machines; None: an empty place, to be filled by assignment.
        threads: threads that share them out, the calling one included; None: one for each CPU, at most one each
            machine.

    A machine stands in one place, and is refused in a second one. While a batch runs, its machines do.

    Raises:
        MachineError: for no machines, one that is there twice, or less than one thread.
    """

    def __init__(self, machines: Sequence[Machine | None], threads: int | None = None) -> None:
        """Make the batch; nothing runs yet."""
        if not machines:
            raise MachineError("a batch needs at least one machine")
        cpus = len(os.sched_getaffinity(0))
        threads = min(len(machines), cpus) if threads is None else whole("threads", threads, 1)
        self.threads = min(threads, len(machines))
        self._machines = list(machines)
        if len({id(m._core) for m in machines if m}) < len([m for m in machines if m]):
            for i in range(len(self._machines) - 1, -1, -1):
                self._refuse_twice(i, self._machines[i])
        self._empty = self._machines.count(None)
        self._core = _core.CoreBatch([m._core if m else None for m in machines], self.threads)

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self._machines)

    def __getitem__(self, i: int) -> Machine:
        """Return a machine.

        Raises:
            MachineError: for an empty place.
        """
        if (machine := self._machines[i]) is None:
            raise MachineError(f"there is no machine {i} yet")
        return machine

    def _refuse_twice(self, i: int, machine: Machine | None) -> None:
        for other, there in enumerate(self._machines):
            if machine and there and there._core is machine._core and other != i:
                raise MachineError(f"machine {i} of the batch is machine {other}, too: put a clone there")

    def __setitem__(self, i: int, machine: Machine) -> None:
        """Put a machine into a place.

        Raises:
            IndexError: when there is no such place.
            MachineError: when the machine is in another place.
        """
        i = range(len(self._machines))[i]
        self._refuse_twice(i, machine)
        self._empty -= self._machines[i] is None
        self._machines[i] = machine
        self._core.set(i, machine._core)

    def run(
        self,
        window: Window,
        *,
        active: np.ndarray | None = None,
        decisions: np.ndarray | None = None,
        slots: np.ndarray | None = None,
        last: Snapshot | None = None,
    ) -> tuple[np.ndarray, np.ndarray, Snapshot]:
        """Carry out decisions, run each machine for a window, and read what the window's question asks for.

        A failing system call of a program goes on as in a kernel. Ctrl-C stops all machines between two accesses.

        Args:
            window: how far.
            active: bool of shape (N,), which machines; None: all.
            decisions: `DECISION_DTYPE`, shape (N, max(1, slots)); or its three fields as uint32, as last axis.
            slots: uint32, shape (N, slots): the ids of the VMAs that hold a slot, 0 for none; updated in place.
            last: snapshot of the machines that do not run; None: zeros.

        Raises:
            MachineError: while the batch or one of its machines is running, for arrays of another shape, and when a
                machine's clock or a counter has come to its end.

        Returns:
            status: uint8 `Status` of each machine.
            smaps: `SMAPS_DTYPE` of shape (N, 1 + slots); id 0 where there is no VMA; the last row of
            `Question.SLOTS` is the sum of all VMAs without a slot.
            snapshot: `Snapshot` at the end.
        """
        n = len(self)
        if not isinstance(window.question, Question):
            window = window._replace(question=Question(window.question))
        nr_slots, interval = whole("slots", window.slots, most=MAX_SLOTS), whole("every", window.every, most=layout.NIL)
        mask = np.ones(n, np.uint8) if active is None else _array("active", active, np.uint8, (n,))
        if self._empty:
            for i in np.flatnonzero(mask):
                self[int(i)]
        before = None if last is None else _array("last", last.raw, np.int64, (n, _WIDTH))
        new = np.empty if active is None else np.zeros  # a machine that runs writes all of its own
        snapshot, smaps = new((n, _WIDTH), np.int64), new((n, nr_slots + 1), SMAPS_DTYPE)
        if active is not None and before is not None:
            snapshot[:] = before
        status = np.full(n, Status.WINDOW, np.uint8)
        ps, choices = up_to("ps", window.ps), up_to("choices", window.choices)
        accesses = up_to("accesses", window.accesses)
        if decisions is not None:
            decisions = _array("decisions", _decision_words(decisions), np.uint32, (n, max(1, nr_slots), 3))
        if window.question is Question.SLOTS and slots is None:
            raise MachineError("slots: Question.SLOTS needs the ids of the VMAs that hold a slot")
        if slots is not None and not _is_written(_array("slots", slots, np.uint32, (n, nr_slots)), slots):
            raise MachineError("slots is updated in place: an array of uint32, contiguous and writeable")
        self._core.advance(
            mask, decisions, ps, choices, accesses, bool(window.new_vma), int(window.question), nr_slots, interval,
            bool(window.idle), whole("reasons", window.reasons, most=sum(Reason)),
            slots, smaps.view(np.uint8), snapshot.view(np.uint64), status,
        )  # fmt: skip
        return status, smaps, Snapshot(snapshot)

    def note(
        self, machines: Sequence[Machine], most: int = 128, ps: int = 100_000_000, vmas: bool = False
    ) -> list[NotedRun]:
        """Run machines to the end of their programs, on the threads of the batch, and note snapshots on the way.

        Args:
            machines: which; they need not stand in the batch, and change.
            most: points besides the first and the last, at most.
            ps: simulated time between two of them, at first: twice as far whenever there would be too many.
            vmas: note the VMAs that are decided about, too.

        Raises:
            MachineError: while the batch or one of the machines is running, for one that is there twice, and when a
                machine's clock or a counter has come to its end.
        """
        cores = [machine._core for machine in machines]
        runs = self._core.note(cores, whole("most", most, 1), up_to("ps", whole("ps", ps, 1)), bool(vmas))
        return [
            NotedRun(Status(status), Snapshot(np.frombuffer(raw, np.int64).reshape(-1, _WIDTH)),
                     np.frombuffer(smaps, SMAPS_DTYPE), np.frombuffer(counts, np.uint32))
            for status, raw, smaps, counts in runs
        ]  # fmt: skip

    def snapshot(self) -> Snapshot:
        """Return counters and figures of all machines; zeros for empty places."""
        raw = np.zeros((len(self), _WIDTH), np.int64)
        self._core.snapshot(raw.view(np.uint64))
        return Snapshot(raw)
