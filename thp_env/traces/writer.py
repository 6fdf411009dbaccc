"""The base of `ProgramBuilder`, below operations: names, mapped ranges, records, tables."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from thp_env.machine import layout
from thp_env.machine.arrays import Records
from thp_env.machine.operations import ACCESS_DTYPE, BIN_DTYPE, CODES, OP_DTYPE, OPERATIONS, Field
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.traces.intervals import Intervals

PROTECTION = {"none": 0, "r": layout.VM_READ, "rw": layout.VM_READ | layout.VM_WRITE}
"""Protections of `mmap` and `mprotect`."""


STARTS = [offset for _, (_, offset, *_) in sorted((OP_DTYPE.fields or {}).items(), key=lambda item: item[1][1])]


def _column(field: Field) -> tuple[int, int, int]:
    """Return a field's column of `OP_DTYPE`, its first bit there, and the largest number that it holds."""
    column = bisect_right(STARTS, field.at) - 1
    return column, 8 * (field.at - STARTS[column]), (1 << 8 * field.size) - 1


COLUMNS = {name: {field.name: _column(field) for field in fields} for name, fields in OPERATIONS.items()}
"""Where each field of an operation is written."""
RANGE = [COLUMNS["munmap"][name] for name in ("region", "offset", "length")]
WEIGHT = COLUMNS["access"]["weight"][0]
NAMES_MAX = 1 << 16
"""Regions, and processes, of a program."""


class ProgramWriter:
    """Collects records; `ProgramBuilder` adds a method for each operation."""

    def __init__(self, name: str = "program", *, seed: int = 0, checked: bool = True, **meta: object) -> None:
        """Start an empty program with one process, P."""
        self.checked = checked
        self._meta = {"name": name, **meta}
        self.seed = seed
        self._ops: list[tuple[int, ...]] = []
        self._processes: dict[str, int] = {"P": 0}
        self._regions: dict[str, int] = {}
        self._mapped: dict[tuple[int, int], Intervals] = {}
        self._size: dict[int, int] = {}
        self._accesses: list[Records] = []
        self._n_accesses = 0
        self._bins: list[Records] = []
        self._n_bins = 0
        self._alias_tables: list[tuple[int, int]] = []
        self._table_of: dict[bytes, int] = {}
        self.process = "P"
        self._groups = {0}

    def region_number(self, region: str) -> int:
        """The number that `ACCESS_DTYPE.region` uses for a region."""
        return self._region(region)

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of the processes so far."""
        return tuple(self._processes)

    def __len__(self) -> int:
        """Return the number of operations so far."""
        return len(self._ops)

    def build(self, lines: list[int] | None = None, source: str = "") -> Program:
        """Return the finished program.

        Args:
            lines: the source line of each operation, for messages.
            source: the file's name, for messages.
        """
        return Program(
            ops=np.array(self._ops, dtype=OP_DTYPE),
            processes=tuple(self._processes),
            regions=tuple(self._regions),
            accesses=np.concatenate(self._accesses) if self._accesses else np.empty(0, ACCESS_DTYPE),
            bins=np.concatenate(self._bins) if self._bins else np.empty(0, BIN_DTYPE),
            alias_tables=np.array(self._alias_tables, dtype=np.uint32).reshape(-1, 2),
            seed=self.seed,
            meta=dict(self._meta),
        ).check(lines, source)

    def _emit(self, op: str, region: int = 0, offset: int = 0, length: int = 0, **fields: int) -> None:
        """Add an operation: its range, where it has one, and its other fields by name."""
        for value, (_, _, most) in zip((region, offset, length), RANGE, strict=True):
            if not 0 <= value <= most:
                raise ProgramError(f"{op}: {value} is not from 0 to {most}")
        record = [CODES[op], self._processes[self.process], region, offset, length, 0, 0, 0, 0, 1, 0]
        if "weight" in fields:
            record[WEIGHT] = 0
        columns = COLUMNS[op]
        for name, value in fields.items():
            column, shift, most = columns[name]
            if not 0 <= value <= most:
                raise ProgramError(f"{op}: {value} is not from 0 to {most}")
            record[column] |= value << shift
        self._ops.append(tuple(record))

    def _key(self, region: int) -> tuple[int, int]:
        return self._processes[self.process], region

    def _intervals(self, region: int) -> Intervals:
        key = self._key(region)
        if key not in self._mapped:
            self._mapped[key] = Intervals()
        return self._mapped[key]

    def _forget(self, region: int, offset: int, length: int) -> None:
        self._intervals(region).remove(offset, offset + length)

    def _new_region(self, name: str, length: int) -> int:
        if name in self._regions:
            raise ProgramError(f"region {name} exists already")
        if len(self._regions) >= NAMES_MAX:
            raise ProgramError(f"more than {NAMES_MAX} regions")
        number = self._regions[name] = len(self._regions)
        self._size[number] = length
        return number

    def _region(self, name: str) -> int:
        if name not in self._regions:
            raise ProgramError(f"unknown region {name}")
        return self._regions[name]

    def _pages(self, length: int) -> int:
        if length <= 0:
            raise ProgramError(f"length must be positive, not {length}")
        return -(-length // layout.PAGE_SIZE) * layout.PAGE_SIZE

    def _range(self, region: str, offset: int, length: int) -> tuple[int, int, int]:
        number = self._region(region)
        if offset % layout.PAGE_SIZE:
            raise ProgramError(f"offset {offset} is not a multiple of the page size")
        length = self._pages(length)
        self._in_bounds(number, offset, length)
        return number, offset, length

    def _in_bounds(self, region: int, offset: int, length: int) -> None:
        if offset < 0 or length <= 0:
            raise ProgramError(f"offset and length must be positive, not {offset} and {length}")
        if self.checked and not self._intervals(region).covers(offset, offset + length):
            name = list(self._regions)[region]
            raise ProgramError(f"{name} is not mapped at {offset:#x} to {offset + length:#x}")

    def _prot(self, prot: str) -> int:
        if prot not in PROTECTION:
            raise ProgramError(f"unknown protection {prot}: none, r or rw")
        return PROTECTION[prot]

    def _content(self, content: int) -> int:
        if not 0 <= content <= 100:
            raise ProgramError("content is a percentage, 0 (all zero) to 100 (random)")
        return content

    def _place(self, at: str | int | tuple[str, int], align: int, offset: int) -> dict[str, int]:
        """Return the fields that say where a mapping goes."""
        if at == "slot":
            if align & (align - 1) or offset % layout.PAGE_SIZE:
                raise ProgramError(f"align must be a power of two and offset whole pages, not {align} and {offset}")
            return {"placement": layout.AT_SLOT, "align": max(align, layout.PMD_SIZE), "slot_offset": offset}
        if at == "auto":
            return {"placement": layout.AT_UNMAPPED_AREA}
        if isinstance(at, tuple):
            number = self._region(at[0])
            if at[1] % layout.PAGE_SIZE:
                raise ProgramError("a fixed mapping must start at a page")
            return {"placement": layout.AT_REGION, "at": number, "at_offset": at[1]}
        if not isinstance(at, int) or at % layout.PAGE_SIZE or not 0 < at < layout.TASK_SIZE:
            raise ProgramError(f"{at} is no place for a mapping: slot, auto, an address or (region, offset)")
        return {"placement": layout.AT_ADDRESS, "address": at}

    def _table(self, bins: Records) -> int:
        key = bins.tobytes()
        if key not in self._table_of:
            self._table_of[key] = len(self._alias_tables)
            self._alias_tables.append((self._n_bins, len(bins)))
            self._bins.append(bins)
            self._n_bins += len(bins)
        return self._table_of[key]
