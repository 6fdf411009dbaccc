"""The trace program: what a workload does to memory, as data.

A program is a sequence of operations on processes and named regions: the memory system calls of Linux,
accesses that the simulated machine expands itself, and slices of recorded accesses. A few kilobytes can
stand for billions of accesses. Programs are written with `ProgramBuilder`, read from text (`text.py`) or
from a file (`npz.py`), and executed by `thp_env.machine.Machine`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from thp_env.machine import layout

OP_DTYPE = np.dtype(
    [
        ("op", "<u2"),
        ("process", "<u2"),
        ("region", "<u4"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("a", "<u8"),
        ("b", "<u8"),
        ("c", "<u8"),
        ("d", "<u8"),
        ("weight", "<u4"),
        ("aux", "<u4"),
    ]
)
"""One operation (64 bytes). What a field holds for an operation is said in `machine/ops.hpp`."""

ACCESS_DTYPE = np.dtype(
    [
        ("page", "<u4"),
        ("region", "<u2"),
        ("written", "<u2"),
        ("count", "<u4"),
        ("instructions", "<u4"),
    ]
)
"""One run of recorded accesses to one 4K page of a region, and the instructions until the next run."""

BIN_DTYPE = np.dtype([("threshold", "<u8"), ("alias", "<u4"), ("first", "<u4"), ("count", "<u4"), ("scatter", "<u4")])
"""One bin of a discrete distribution over pages, as an alias table."""


CONTENT_MAX = 100
"""The content class of random data."""
MMAP_FLAGS = layout.VM_READ | layout.VM_WRITE | layout.VM_FILE | layout.VM_SHARED | layout.VM_LOCKED
MMAP_FLAGS |= layout.VM_HUGEPAGE | layout.VM_NOHUGEPAGE
"""What a mapping can have from the start."""
SWAP_MAX = 256 << 30
"""Bytes of the largest swap device."""


COUNT_MAX = 1 << 62
"""Accesses of one operation."""
PS_MAX, INSTRUCTION_PS_MAX = 10**12, 10**9
"""Picoseconds for an access, and for an instruction of a recording: what one takes fits the clock."""
FILES_MAX = 256 << 30
"""Bytes of all files together."""


class ProgramError(ValueError):
    """A trace program that cannot be run: says where, what and why."""


class UnknownOperationError(ProgramError):
    """An operation, advice or setting that this version does not know."""


@dataclass(frozen=True, eq=False)
class Program:
    """An immutable trace program: its arrays are copied unless nobody can write to them, and are read-only.

    Attributes:
        ops: `OP_DTYPE` array, in the order of execution.
        processes: names of the processes; the first exists from the start.
        regions: names of the regions.
        accesses: `ACCESS_DTYPE` array, the recorded accesses that `replay` operations take slices of.
        bins: `BIN_DTYPE` array, the alias tables one after another.
        alias_tables: (first bin, number of bins) of each table, shape (n, 2), uint32.
        seed: seeds every random choice of the program; does not depend on what a policy does.
        meta: free text facts (source, command, version, family).
    """

    ops: np.ndarray
    processes: tuple[str, ...]
    regions: tuple[str, ...]
    accesses: np.ndarray = field(default_factory=lambda: np.empty(0, ACCESS_DTYPE))
    bins: np.ndarray = field(default_factory=lambda: np.empty(0, BIN_DTYPE))
    alias_tables: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.uint32))
    seed: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what was given from being changed."""
        dtypes: dict[str, Any] = {"ops": OP_DTYPE, "accesses": ACCESS_DTYPE, "bins": BIN_DTYPE}
        dtypes["alias_tables"] = np.uint32
        for name, dtype in dtypes.items():
            object.__setattr__(self, name, _frozen(name, getattr(self, name), np.dtype(dtype)))
        object.__setattr__(self, "seed", int(self.seed))
        for name in ("processes", "regions"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        """Make copies and what is unpickled as every program is made."""
        return Program, tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.ops)

    def __eq__(self, other: object) -> bool:
        """Two programs are equal when they do the same; `meta` does not count."""
        if not isinstance(other, Program):
            return NotImplemented
        return (
            self.processes == other.processes
            and self.regions == other.regions
            and self.seed == other.seed
            and all(
                np.array_equal(getattr(self, name), getattr(other, name))
                for name in ("ops", "accesses", "bins", "alias_tables")
            )
        )

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def steps(self) -> np.ndarray:
        """Steps of each operation: its simulated accesses, 1 for a system call; int64."""
        ops = self.ops
        touch, access, replay = (ops["op"] == layout.OPS.index(o) for o in ("touch", "access", "replay"))
        steps = np.ones(len(ops), np.int64)
        stride = np.maximum(ops["a"], 1)
        steps[touch] = np.where(ops["length"] > 0, (np.maximum(ops["length"], 1) - 1) // stride + 1, 0)[touch]
        steps[access] = ops["b"][access]
        steps[replay] = ops["length"][replay]
        return steps

    @cached_property
    def work(self) -> np.ndarray:
        """Real accesses that each operation stands for; float64. System calls do none."""
        ops = self.ops
        work = self.steps * ops["weight"].astype(np.float64)
        work[~np.isin(ops["op"], [layout.OPS.index(o) for o in ("touch", "access", "replay")])] = 0
        counts = np.concatenate([[0], np.cumsum(self.accesses["count"], dtype=np.float64)])
        for i in np.flatnonzero(ops["op"] == layout.OPS.index("replay")):
            first, n = int(ops["offset"][i]), int(ops["length"][i])
            work[i] = (counts[first + n] - counts[first]) * float(ops["weight"][i])
        return work

    @cached_property
    def own_ns(self) -> np.ndarray:
        """Nanoseconds that each operation takes by itself, without translation, faults and the kernel; float64."""
        ops = self.ops
        own = np.zeros(len(ops))
        access, replay, compute = (ops["op"] == layout.OPS.index(o) for o in ("access", "replay", "compute"))
        rate = ops["c"] * ops["weight"].astype(np.float64) / 1000
        own[access] = (ops["b"] * rate)[access]
        own[compute] = ops["a"][compute] / 1000
        counts = np.concatenate([[0], np.cumsum(self.accesses["instructions"], dtype=np.float64)])
        first, end = ops["offset"][replay], (ops["offset"] + ops["length"])[replay]
        own[replay] = (counts[end] - counts[first]) * rate[replay]
        return own

    @property
    def swap_slots(self) -> int:
        """Pages of the largest swap device that the program adds."""
        added = self.ops["length"][self.ops["op"] == layout.OPS.index("swap")]
        return min(int(added.max(initial=0)), SWAP_MAX) // layout.PAGE_SIZE

    @property
    def file_pages(self) -> int:
        """Pages of all files that the program maps."""
        ops = self.ops
        files = (ops["op"] == layout.OPS.index("mmap")) & (ops["d"] & np.uint64(layout.VM_FILE) > 0)
        return int((ops["length"][files] // layout.PAGE_SIZE).sum())

    @cached_property
    def checksum(self) -> str:
        """A SHA-256 over everything that decides what the program does."""
        digest = hashlib.sha256(json.dumps([self.processes, self.regions, self.seed]).encode())
        for array in (self.ops, self.accesses, self.bins, self.alias_tables.astype("<u4")):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> int:
        """The first 64 bits of `checksum`, which states of machines carry."""
        return int(self.checksum[:16], 16)

    def begins_as(self, other: Program, operations: int, under_way: bool = False) -> bool:
        """Return whether both do the same in the first operations.

        Args:
            other: the other program.
            operations: how many.
            under_way: also in the one behind these, with the recorded accesses or the distribution that it takes.
        """
        n = operations + under_way
        named = all(a == b for ours, theirs in ((self.processes, other.processes), (self.regions, other.regions))
                    for a, b in zip(ours, theirs, strict=False) if operations)  # fmt: skip
        if self.seed != other.seed or not named or not np.array_equal(self.ops[:n], other.ops[:n]):
            return False
        return not under_way or all(map(np.array_equal, self._taken_by(operations), other._taken_by(operations)))

    def _taken_by(self, i: int) -> tuple[np.ndarray, ...]:
        op = self.ops[i]
        if op["op"] == layout.OPS.index("replay"):
            return (self.accesses[op["offset"] : op["offset"] + op["length"]],)
        if op["op"] == layout.OPS.index("access") and op["a"] == layout.PATTERNS.index("bins"):
            first, count = map(int, self.alias_tables.reshape(-1, 2)[op["aux"]])
            return (self.bins[first : first + count],)
        return ()

    def _forks_onto_living(self) -> np.ndarray:
        """Return which operations fork to the name of a process that cannot have ended, bool."""
        fork, code = layout.OPS.index("fork"), self.ops["op"]
        living, found = {0}, np.zeros(len(code), bool)
        for i in np.flatnonzero((code == fork) | (code == layout.OPS.index("exit"))):
            process = int(self.ops["aux"][i])
            if code[i] == fork:
                found[i] = process in living
                living.add(process)
            else:
                living.discard(process)
        return found

    @property
    def name(self) -> str:
        """The program's name, for messages and reports."""
        return str(self.meta.get("name", "program"))

    def check(self, lines: list[int] | None = None, source: str = "") -> Program:
        """Refuse a program whose records point outside its tables; return it otherwise. It is looked at once.

        Args:
            lines: the source line of each operation, for messages.
            source: the file's name, for messages.

        Raises:
            ProgramError: with place and reason.
        """
        if not self.__dict__.get("_sound"):
            self._check(lines, source or self.name)
            object.__setattr__(self, "_sound", True)
        return self

    def _check(self, lines: list[int] | None, source: str) -> None:
        def refuse(bad: np.ndarray, reason: str) -> None:
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                where = f"line {lines[i]}" if lines else f"operation {i}"
                raise ProgramError(f"{source}: {where}: {reason}")

        ops, n = self.ops, len(self.ops)
        code, end = ops["op"], ops["offset"] + ops["length"]

        def uses(*names: str) -> np.ndarray:
            return np.logical_or.reduce([code == layout.OPS.index(name) for name in names])

        def limit(name: str, field: str, size: int, what: str) -> None:
            refuse(uses(name) & (ops[field] >= size), f"unknown {what}")

        for key in ("brk_start", "mmap_base"):
            place = self.meta.get(key, 0)
            if not isinstance(place, int) or not 0 <= place <= layout.TASK_SIZE or place % layout.PAGE_SIZE:
                raise ProgramError(f"{source}: {key} is no page of a program")
        if not self.processes:
            raise ProgramError(f"{source}: a program needs at least one process")
        refuse(code >= len(layout.OPS), "unknown operation code")
        refuse(ops["process"] >= len(self.processes), "unknown process")
        takes_region = uses(*layout.REGION_OPS)
        refuse(takes_region & (ops["region"] >= max(1, len(self.regions))), "unknown region")
        refuse(uses("replay") & ((end > len(self.accesses)) | (end < ops["offset"])), "slice outside the recording")
        beyond = (end > layout.TASK_SIZE) | (end < ops["offset"])
        refuse(takes_region & beyond, "range beyond the end of the address space")
        whole = takes_region & ~uses("touch", "access")
        refuse(whole & ((ops["offset"] | ops["length"]) % layout.PAGE_SIZE > 0), "range that is not whole pages")
        limit("thp", "a", layout.PMD_ORDER + 1, "folio order")
        limit("thp", "b", len(layout.THP_MODES), "mode")
        limit("set", "a", len(layout.SETTINGS), "setting")
        most = np.array(layout.SETTING_VALUES, np.uint64)[np.minimum(ops["a"], len(layout.SETTINGS) - 1)]
        refuse(uses("set") & (ops["b"] >= most), "unknown value")
        if self.file_pages > FILES_MAX // layout.PAGE_SIZE:
            raise ProgramError(f"{source}: files of more than 256 GiB")
        limit("cgroup", "aux", layout.MAX_MEMCGS, "control group")
        refuse(uses("set") & (ops["aux"] > 0) & (ops["a"] != list(layout.SETTINGS).index("swappiness")),
               "a setting of the whole system, for a control group")  # fmt: skip
        of_group = uses("limit", "reclaim", "set")
        made = {0} | {int(group) for group in ops["aux"][uses("cgroup")]}
        for group in sorted(set(ops["aux"][of_group].tolist()) - {0}):
            named = uses("cgroup") & (ops["aux"] == group)
            before = np.arange(n) < (int(np.flatnonzero(named)[0]) if group in made else n)
            refuse(of_group & (ops["aux"] == group) & before,
                   f"control group {group} does not exist: `cgroup {group}` makes it")  # fmt: skip
        for name in ("exit", "fork"):
            limit(name, "aux", len(self.processes), "process")
        refuse(self._forks_onto_living(), "fork to a process that lives: it has to exit first")
        for name in ("mmap", "mremap"):
            limit(name, "c", layout.AT_REGION + 1, "placement")
            slot = uses(name) & (ops["c"] == layout.AT_SLOT)
            refuse(slot & (np.maximum(ops["a"], ops["b"]) > layout.TASK_SIZE), "place beyond the address space")
            refuse(slot & ((ops["a"] == 0) | (ops["a"] & (ops["a"] - 1) > 0)), "alignment that is no power of two")
            pages = np.where(slot, ops["b"], ops["a"]) | (ops["d"] if name == "mremap" else 0)
            refuse(uses(name) & (pages % layout.PAGE_SIZE > 0), "place that is not at a page")
        refuse(uses("mmap") & (ops["d"] & ~np.uint64(MMAP_FLAGS) > 0), "unknown VMA flag")
        kind = ops["d"] & (layout.VM_FILE | layout.VM_SHARED)
        refuse(uses("mmap") & (kind == layout.VM_SHARED), "shared, but no file")
        limit("mremap", "aux", len(self.regions), "region")
        refuse(uses("mmap") & (ops["c"] == layout.AT_REGION) & (ops["aux"] >= len(self.regions)), "unknown region")
        limit("mprotect", "a", (layout.VM_READ | layout.VM_WRITE) + 1, "protection")
        limit("orders", "a", layout.ORDERS_ALL + 1, "folio order")
        limit("process_madvise", "aux", len(self.processes), "process")
        limit("process_madvise", "c", layout.ORDERS_ALL + 1, "folio order")
        vector = np.zeros(n + 1, np.int64)
        vector[1:] = np.cumsum(uses("iovec"))
        count = np.minimum(ops["b"], n).astype(np.int64)
        named = vector[:-1] - vector[np.maximum(np.arange(n) - count, 0)]
        refuse(uses("process_madvise") & ((count == 0) | (named != count)), "ranges that no iovec before it names")
        refuse(uses("collapse") & ((ops["a"] < 2) | (ops["a"] > layout.PMD_ORDER)), "folio order")
        limit("pollute", "a", (1 << 16) + 1, "share")
        limit("fragment", "a", layout.MAX_PAGE_ORDER + 1, "order")
        refuse(uses("fragment") & (ops["a"] == 0), "order 0 cannot be fragmented")
        limit("fragment", "b", 1001, "index")
        limit("swap", "length", SWAP_MAX + 1, "size of swap: at most 256 GiB")
        limit("limit", "length", layout.NO_LIMIT + 1, "limit")
        limit("touch", "b", len(layout.TOUCH), "kind of touch")
        limit("touch", "c", CONTENT_MAX + 1, "content class")
        refuse(uses("touch") & (ops["a"] == 0), "stride must be positive")
        access = uses("access")
        limit("access", "a", len(layout.PATTERNS), "access pattern")
        pattern = np.where(access, ops["a"], len(layout.PATTERNS))
        bins = pattern == layout.PATTERNS.index("bins")
        refuse(bins & (ops["aux"] >= len(self.alias_tables)), "unknown distribution table")
        refuse((pattern == layout.PATTERNS.index("stride")) & (ops["aux"] == 0), "stride must be positive")
        refuse(access & (ops["weight"] == 0), "weight must be at least 1")
        refuse(access & (ops["c"] > PS_MAX), "an access takes more than 1 s")
        refuse(uses("replay") & (ops["c"] > INSTRUCTION_PS_MAX), "an instruction takes more than 1 ms")
        limit("access", "b", COUNT_MAX + 1, "count of accesses")
        refuse(access & (ops["length"] < 64), "accesses need a range of at least 64 bytes")
        refuse(access & (ops["d"] >> np.uint64(32) > CONTENT_MAX), "unknown content class")
        limit("replay", "d", CONTENT_MAX + 1, "content class")
        if n and len(self.accesses) and (self.accesses["region"] >= len(self.regions)).any():
            raise ProgramError(f"{source}: a recorded access names an unknown region")
        first, count = self.alias_tables.reshape(-1, 2).T.astype(np.uint64)
        if (first + count > len(self.bins)).any() or (count == 0).any():
            raise ProgramError(f"{source}: a distribution table points outside its bins")
        for start, size in self.alias_tables:
            table = self.bins[start : start + size]
            if (table["alias"] >= size).any() or (table["count"] == 0).any():
                raise ProgramError(f"{source}: a distribution table is malformed")


def _frozen(name: str, given: Any, dtype: np.dtype) -> np.ndarray:
    """Return an array that nobody can write to: over bytes, which a writer cannot be made of.

    Raises:
        ProgramError: when it is no such array.
    """
    array = np.asarray(given)
    shape = (-1, 2) if name == "alias_tables" else (-1,)
    if array.dtype != dtype and not (name == "alias_tables" and np.issubdtype(array.dtype, np.integer)):
        raise ProgramError(f"{name} is not an array of {dtype}")
    if array.ndim != len(shape) and name != "alias_tables":
        raise ProgramError(f"{name} is not a one-dimensional array of {dtype}")
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, bytes) and array.dtype == dtype and array.flags.c_contiguous:
        return array.reshape(shape)
    return np.frombuffer(np.ascontiguousarray(array, dtype).tobytes(), dtype).reshape(shape)
