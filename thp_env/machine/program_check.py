"""Checks of a trace program: every field has to be within its bounds, and every index in its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thp_env.machine import layout
from thp_env.machine.operations import CODES, OPERATIONS, OPS, REGION_OPS, rows

if TYPE_CHECKING:
    from thp_env.machine.program import Program

MMAP_FLAGS = layout.VM_READ | layout.VM_WRITE | layout.VM_FILE | layout.VM_SHARED | layout.VM_LOCKED
MMAP_FLAGS |= layout.VM_HUGEPAGE | layout.VM_NOHUGEPAGE
"""What a mapping can have from the start."""
PS_MAX, INSTRUCTION_PS_MAX = 10**12, 10**9
"""Picoseconds for an access, and for an instruction of a recording: what one takes fits the clock."""
FILES_MAX = 256 << 30
"""Bytes of all files together."""


class ProgramError(ValueError):
    """A trace program that cannot be run; the message has place and reason."""


class UnknownOperationError(ProgramError):
    """An operation, advice or setting that this version does not know."""


def check_program(program: Program, lines: list[int] | None, source: str) -> None:
    """Refuse a program whose records point outside its tables.

    Args:
        program: the program.
        lines: the source line of each operation, for messages.
        source: the file's name, for messages.

    Raises:
        ProgramError: with place and reason.
    """
    check = _Check(program, lines, source)
    check.program()
    check.fields()
    check.ranges()
    check.groups()
    check.processes()
    check.mappings()
    check.hints()
    check.accesses()
    check.tables()


class _Check:
    def __init__(self, program: Program, lines: list[int] | None, source: str) -> None:
        self.of, self.lines, self.source = program, lines, source
        self.ops = program.ops
        self.code = program.ops["op"]

    def refuse(self, mask: np.ndarray, reason: str) -> None:
        """Refuse the first operation for which `bad` holds."""
        if mask.any():
            i = int(np.flatnonzero(mask)[0])
            place = f"line {self.lines[i]}" if self.lines else f"operation {i}"
            raise ProgramError(f"{self.source}: {place}: {reason}")

    def uses(self, *names: str) -> np.ndarray:
        """Return which operations are of these names."""
        return np.logical_or.reduce([self.code == CODES[name] for name in names])

    def program(self) -> None:
        for key in ("brk_start", "mmap_base"):
            place = self.of.meta.get(key, 0)
            if not isinstance(place, int) or not 0 <= place <= layout.TASK_SIZE or place % layout.PAGE_SIZE:
                raise ProgramError(f"{self.source}: {key} is no page of a program")
        if not self.of.processes:
            raise ProgramError(f"{self.source}: a program needs at least one process")
        if self.of.file_pages > FILES_MAX // layout.PAGE_SIZE:
            raise ProgramError(f"{self.source}: files of more than 256 GiB")
        self.refuse(self.code >= len(OPS), "unknown operation code")
        self.refuse(self.ops["process"] >= len(self.of.processes), "unknown process")

    def fields(self) -> None:
        """Refuse numbers outside of the declared bounds of their fields."""
        there = set(np.unique(self.code).tolist())
        for name, operation in OPERATIONS.items():
            if CODES[name] not in there:
                continue
            used, of = self.uses(name), rows(self.ops, name)
            for field in operation:
                if field.below:
                    self.refuse(used & (of[field.name] >= field.below), f"unknown {field.what}")
                if field.kind == "region":
                    self.refuse(used & (of[field.name] >= max(1, len(self.of.regions))), "unknown region")
                if field.kind == "process":
                    self.refuse(used & (of[field.name] >= len(self.of.processes)), "unknown process")

    def ranges(self) -> None:
        ops, end = self.ops, self.ops["offset"] + self.ops["length"]
        takes_region, beyond = self.uses(*REGION_OPS), end < ops["offset"]
        self.refuse(self.uses("replay") & ((end > len(self.of.accesses)) | beyond), "slice outside the recording")
        self.refuse(takes_region & ((end > layout.TASK_SIZE) | beyond), "range beyond the end of the address space")
        whole = takes_region & ~self.uses("touch", "access")
        self.refuse(whole & ((ops["offset"] | ops["length"]) % layout.PAGE_SIZE > 0), "range that is not whole pages")

    def groups(self) -> None:
        of = rows(self.ops, "set")
        path, values = of["path"], np.array(layout.SETTING_VALUES, np.uint64)
        most = values[np.minimum(path, len(values) - 1)]
        self.refuse(self.uses("set") & (of["value"] >= most), "unknown value")
        swappiness = list(layout.SETTINGS).index("swappiness")
        self.refuse(self.uses("set") & (of["group"] > 0) & (path != swappiness),
                    "a setting of the whole system, for a control group")  # fmt: skip
        group, moves, of_group = of["group"], self.uses("cgroup"), self.uses("limit", "reclaim", "set")
        for number in sorted(set(group[of_group].tolist()) - {0}):
            moves_to = np.flatnonzero(moves & (group == number))
            before = np.arange(len(group)) < (int(moves_to[0]) if len(moves_to) else len(group))
            self.refuse(of_group & (group == number) & before,
                        f"control group {number} does not exist: `cgroup {number}` makes it")  # fmt: skip

    def processes(self) -> None:
        """Refuse a fork to the name of a process that cannot have ended."""
        forks, exits = self.uses("fork"), self.uses("exit")
        child, ending = rows(self.ops, "fork")["child"], rows(self.ops, "exit")["ending"]
        living, onto_living = {0}, np.zeros(len(self.code), bool)
        for i in np.flatnonzero(forks | exits):
            if exits[i]:
                living.discard(int(ending[i]))
            else:
                onto_living[i] = int(child[i]) in living
                living.add(int(child[i]))
        self.refuse(onto_living, "fork to a process that lives: it has to exit first")

    def mappings(self) -> None:
        for name in ("mmap", "mremap"):
            used, of = self.uses(name), rows(self.ops, name)
            slot = used & (of["placement"] == layout.AT_SLOT)
            align, offset = of["align"], of["slot_offset"]
            self.refuse(slot & (np.maximum(align, offset) > layout.TASK_SIZE), "place beyond the address space")
            self.refuse(slot & ((align == 0) | (align & (align - 1) > 0)), "alignment that is no power of two")
            pages = np.where(slot, offset, of["address" if name == "mmap" else "new_length"])
            if name == "mremap":
                pages |= of["address"]
            self.refuse(used & (pages % layout.PAGE_SIZE > 0), "place that is not at a page")
        used, of = self.uses("mmap"), rows(self.ops, "mmap")
        self.refuse(used & (of["flags"] & ~np.uint64(MMAP_FLAGS) > 0), "unknown VMA flag")
        kind = of["flags"] & (layout.VM_FILE | layout.VM_SHARED)
        self.refuse(used & (kind == layout.VM_SHARED), "shared, but no file")
        onto = used & (of["placement"] == layout.AT_REGION)
        self.refuse(onto & (of["at"] >= len(self.of.regions)), "unknown region")

    def hints(self) -> None:
        used, of, n = self.uses("process_madvise"), rows(self.ops, "process_madvise"), len(self.ops)
        vector = np.zeros(n + 1, np.int64)
        vector[1:] = np.cumsum(self.uses("iovec"))
        count = np.minimum(of["ranges"], n).astype(np.int64)
        ranges = vector[:-1] - vector[np.maximum(np.arange(n) - count, 0)]
        self.refuse(used & ((count == 0) | (ranges != count)), "ranges that no iovec before it names")
        self.refuse(self.uses("collapse") & (rows(self.ops, "collapse")["order"] < 2), "unknown folio order")
        self.refuse(self.uses("fragment") & (rows(self.ops, "fragment")["order"] == 0), "order 0 cannot be fragmented")

    def accesses(self) -> None:
        touches, replays = rows(self.ops, "touch"), rows(self.ops, "replay")
        self.refuse(self.uses("touch") & (touches["stride"] == 0), "stride must be positive")
        used, of = self.uses("access"), rows(self.ops, "access")
        bins, stride = (used & (of["pattern"] == layout.PATTERNS.index(name)) for name in ("bins", "stride"))
        self.refuse(bins & (of["table"] >= len(self.of.alias_tables)), "unknown distribution table")
        self.refuse(stride & (of["stride"] == 0), "stride must be positive")
        self.refuse(used & (of["weight"] == 0), "weight must be at least 1")
        self.refuse(used & (of["ps"] > PS_MAX), "an access takes more than 1 s")
        self.refuse(self.uses("replay") & (replays["ps"] > INSTRUCTION_PS_MAX), "an instruction takes more than 1 ms")
        self.refuse(used & (of["length"] < 64), "accesses need a range of at least 64 bytes")
        accesses: np.ndarray = self.of.accesses
        if len(self.ops) and len(accesses) and (accesses["region"] >= len(self.of.regions)).any():
            raise ProgramError(f"{self.source}: a recorded access names an unknown region")

    def tables(self) -> None:
        bins = self.of.bins
        first, count = self.of.alias_tables.reshape(-1, 2).T.astype(np.uint64)
        if (first + count > len(bins)).any() or (count == 0).any():
            raise ProgramError(f"{self.source}: a distribution table points outside its bins")
        for start, size in self.of.alias_tables:
            table = bins[start : start + size]
            if (table["alias"] >= size).any() or (table["count"] == 0).any():
                raise ProgramError(f"{self.source}: a distribution table is malformed")
