"""The behaviour of a workload over time: the data for its picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thp_env.machine import Machine, Vma, layout
from thp_env.machine.operations import fields
from thp_env.workload import Instance

CELLS, COLUMNS = 300, 160
"""Cells of the address axis and of the time axis."""
MIB = 1 << 20
CHUNK = 16
"""Pages of a recording that are drawn as one."""


@dataclass
class Trail:
    """One run, on an address axis without untouched memory.

    Attributes:
        seconds: edges of the time axis, `COLUMNS + 1` values.
        vmas: the VMA of a cell at a time, -1 for none; (CELLS, COLUMNS).
        heat: real accesses of the program per cell and time; (CELLS, COLUMNS).
        roles: (name, middle cell) of each role.
        mapped, resident: MiB over time, of writable VMAs and of folios.
        resident_2m: MiB of folios over time when every folio that fits has 2M.
        limit: MiB of the memory limit over time; NaN without a limit.
        freed: bytes given back by size of the piece, at powers of two from 4K to 2M and above.
    """

    seconds: np.ndarray
    vmas: np.ndarray
    heat: np.ndarray
    roles: list[tuple[str, float]]
    mapped: np.ndarray
    resident: np.ndarray
    resident_2m: np.ndarray
    limit: np.ndarray
    freed: np.ndarray


class _Axis:
    """Cells for the (process, address) ranges that a program uses."""

    def __init__(self, ranges: list[tuple[int, int, int]]) -> None:
        spans: list[list[int]] = []
        for process, start, end in sorted(ranges):
            if spans and spans[-1][0] == process and start <= spans[-1][2] + 64 * 1024:
                spans[-1][2] = max(spans[-1][2], end)
            else:
                spans.append([process, start, end])
        self.process, self.start, self.end = np.array(spans, np.int64).reshape(-1, 3).T
        self.offsets = np.concatenate([[0], np.cumsum(self.end - self.start)])

    def cells(self, process: int, start: int, end: int) -> list[tuple[int, int]]:
        """Return the half-open runs of cells that a range covers."""
        cells = []
        size = max(1.0, self.offsets[-1] / CELLS)
        mask = (self.process == process) & (self.start < end) & (self.end > start)
        for i in np.flatnonzero(mask):
            a = self.offsets[i] + max(start, self.start[i]) - self.start[i]
            z = self.offsets[i] + min(end, self.end[i]) - self.start[i]
            first = min(CELLS - 1, int(a / size))
            cells.append((first, max(first + 1, min(CELLS, round(z / size)))))
        return cells


@dataclass
class _Step:
    """An operation that ran: its record, when, and where its region lay."""

    op: np.void
    name: str
    begin: float
    end: float
    uses: list[_Use]


class _Use(NamedTuple):
    """Accesses to a range: whose, when, where, to which region, and how many real ones."""

    process: int
    begin: float
    end: float
    start: int
    length: int
    region: int
    accesses: float


class _Look(NamedTuple):
    """The machine at one moment: its VMAs, the process of each address space, resident pages."""

    seconds: float
    vmas: list[Vma]
    processes: dict[int, int]
    resident: int


def _run(instance: Instance, mask: int) -> tuple[list[_Step], list[_Look]]:
    """Run operation by operation; return the steps and, now and then, the VMAs and resident pages."""
    machine = Machine(*instance)
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(mask)
    steps, looks = [], []
    interval = max(1, len(instance.program) // (2 * COLUMNS))
    for i, op in enumerate(instance.program.ops):
        begin = machine.clock_ps / 1e12
        if machine.position[0] != i:
            break  # memory ran out
        machine.run(ops=1, go_on=True)
        name = layout.OPS[op["op"]]
        steps.append(_Step(op, name, begin, machine.clock_ps / 1e12, list(_uses(machine, op, name, begin))))
        if i % interval == 0 or i == len(instance.program) - 1:
            rows = [machine.process(name) for name in instance.program.processes]
            processes = {row[0]: number for number, row in enumerate(rows) if row}
            resident = machine.counters["nr_resident"]
            looks.append(_Look(machine.clock_ps / 1e12, machine.vmas(), processes, resident))
    return steps, looks


def _uses(machine: Machine, op: np.void, name: str, begin: float) -> Iterator[_Use]:
    """Yield what an operation that has just run accessed; recorded accesses in chunks of `CHUNK` pages."""
    program, end, process = machine.program, machine.clock_ps / 1e12, int(op["process"])
    if name in ("touch", "access"):
        region, length = int(op["region"]), int(op["length"])
        start = machine.region(program.regions[region])[0] + int(op["offset"])
        of = fields(op)
        number = float(of["count"] * of["weight"]) if name == "access" else float(of["length"] / of["stride"])
        yield _Use(process, begin, end, start, length, region, number)
    elif name == "replay":
        of = fields(op)
        records = program.accesses[int(of["first"]) : int(of["first"] + of["count"])]
        for region in np.unique(records["region"]).tolist():
            start = machine.region(program.regions[region])[0]
            in_region = records[records["region"] == region]
            chunks, inverse = np.unique(in_region["page"] // CHUNK, return_inverse=True)
            numbers = np.bincount(inverse, in_region["count"]) * float(op["weight"])
            size = CHUNK * layout.PAGE_SIZE
            for chunk, number in zip(chunks.tolist(), numbers.tolist(), strict=True):
                yield _Use(process, begin, end, start + chunk * size, size, region, number)


def trail(instance: Instance) -> Trail:
    """Run an instance twice, with folios of 4K and of 2M, and return its trail."""
    program = instance.program
    steps, looks = _run(instance, 1)
    looks_2m = _run(instance, 1 << layout.PMD_ORDER)[1]
    own = [s for s in steps if program.processes[s.op["process"]] != "others"]
    used = [use for s in own for use in s.uses]
    axis = _Axis([(u.process, u.start, u.start + u.length) for u in used] or [(0, 0, 4096)])
    begin = next((s.begin for s in own if s.name == "mmap" and not fields(s.op)["flags"] & layout.VM_FILE), 0.0)
    seconds = np.linspace(begin, max(steps[-1].end, begin + 1e-9), COLUMNS + 1)
    middle = (seconds[:-1] + seconds[1:]) / 2
    times = np.array([look.seconds for look in looks])
    at = np.minimum(np.searchsorted(times, middle), len(times) - 1)
    vmas = np.full((CELLS, COLUMNS), -1)
    mapped = np.zeros(COLUMNS)
    for column, i in enumerate(at):
        for v in looks[i].vmas:
            if not v.anonymous or v.flags & layout.VM_NOHUGEPAGE or not v.flags & layout.VM_WRITE:
                continue
            mapped[column] += (v.end - v.start) / MIB
            for first, last in axis.cells(looks[i].processes.get(v.mm, -1), v.start, v.end):
                vmas[first:last, column] = v.id
    times_2m = np.array([look.seconds for look in looks_2m])
    at_2m = np.searchsorted(times_2m * seconds[-1] / times_2m[-1], middle)
    return Trail(
        seconds, vmas, _heat(used, axis, seconds), _roles(used, axis, program.regions), mapped,
        np.array([looks[i].resident for i in at]) / 256,
        np.array([looks_2m[i].resident for i in np.minimum(at_2m, len(times_2m) - 1)]) / 256,
        _limits(steps, middle), _released_pages(own),
    )  # fmt: skip


def _heat(used: list[_Use], axis: _Axis, seconds: np.ndarray) -> np.ndarray:
    heat = np.zeros((CELLS, COLUMNS))
    for u in used:
        places = axis.cells(u.process, u.start, u.start + u.length)
        columns = np.clip(np.searchsorted(seconds, [u.begin, u.end], "right") - 1, 0, COLUMNS - 1)
        number = sum(z - a for a, z in places) * (columns[1] - columns[0] + 1)
        for a, z in places:
            heat[a:z, columns[0] : columns[1] + 1] += u.accesses / number
    return heat


def _roles(used: list[_Use], axis: _Axis, regions: tuple[str, ...]) -> list[tuple[str, float]]:
    """Name the places: the middle of the cells of each kind of region, the largest ones."""
    cells: dict[str, set[int]] = {}
    for u in used:
        role = re.sub(r"\d+", "", regions[u.region])
        for a, z in axis.cells(u.process, u.start, u.start + u.length):
            cells.setdefault(role, set()).update(range(a, z))
    largest = sorted(cells.items(), key=lambda item: -len(item[1]))[:10]
    return [(role, float(np.median(list(rows)))) for role, rows in largest]


def _limits(steps: list[_Step], middle: np.ndarray) -> np.ndarray:
    limit = np.full(COLUMNS, np.nan)
    for s in steps:
        if s.name == "limit":
            limit[middle >= s.begin] = int(s.op["length"]) / MIB
    return limit


def _released_pages(own: list[_Step]) -> np.ndarray:
    """Return bytes given back by size of the piece: 4K, 8K, ... 1M, 2M and above."""
    totals = np.zeros(10)
    advice = {layout.ADVICE["dontneed"], layout.ADVICE.get("free", -1)}
    size = 0
    for s in own:
        length = int(s.op["length"])
        if s.name == "brk":
            length, size = max(0, size - length), length
        elif not (s.name == "munmap" or (s.name == "advise" and int(fields(s.op)["advice"]) in advice)):
            continue
        if length:
            totals[min(9, max(0, (length // 4096).bit_length() - 1))] += length
    return totals
