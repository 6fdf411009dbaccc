"""The trace program: what a workload does to memory, as data.

A program is a sequence of operations on processes and named regions: the memory system calls of Linux,
accesses that the simulated machine expands itself, and slices of recorded accesses. A few kilobytes can
represent billions of accesses. `thp_env.traces` writes programs and reads them from text and files;
`thp_env.machine.Machine` executes them.
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
from thp_env.machine.arrays import Floats, Ints, Masks, Records
from thp_env.machine.operations import ACCESS_DTYPE, BIN_DTYPE, CODES, OP_DTYPE, among, fields, rows
from thp_env.machine.program_check import ProgramError, check_program

SWAP_MAX = 256 << 30
"""Bytes of the largest swap device."""


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

    ops: Records
    processes: tuple[str, ...]
    regions: tuple[str, ...]
    accesses: Records = field(default_factory=lambda: np.empty(0, ACCESS_DTYPE))
    bins: Records = field(default_factory=lambda: np.empty(0, BIN_DTYPE))
    alias_tables: Masks = field(default_factory=lambda: np.empty((0, 2), np.uint32))
    seed: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        dtypes: dict[str, Any] = {"ops": OP_DTYPE, "accesses": ACCESS_DTYPE, "bins": BIN_DTYPE}
        dtypes["alias_tables"] = np.uint32
        for name, dtype in dtypes.items():
            object.__setattr__(self, name, _frozen(name, getattr(self, name), np.dtype(dtype)))
        object.__setattr__(self, "seed", int(self.seed))
        for name in ("processes", "regions"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        """Make copies and unpickled programs by the constructor."""
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
    def steps(self) -> Ints:
        """Steps of each operation: its simulated accesses, 1 for a system call; int64."""
        ops = self.ops
        touch, access, replay = (ops["op"] == CODES[o] for o in ("touch", "access", "replay"))
        steps = np.ones(len(ops), np.int64)
        length, stride = ops["length"], np.maximum(rows(ops, "touch")["stride"], 1)
        steps[touch] = np.where(length > 0, (np.maximum(length, 1) - 1) // stride + 1, 0)[touch]
        for name, mask in (("access", access), ("replay", replay)):
            steps[mask] = rows(ops, name)["count"][mask]
        return steps

    @cached_property
    def work(self) -> Floats:
        """Real accesses that each operation represents; float64. System calls have none."""
        ops = self.ops
        work: Floats = np.multiply(self.steps, ops["weight"], dtype=np.float64)
        work[~among(ops, "touch", "access", "replay")] = 0
        counts = np.concatenate([[0], np.cumsum(self.accesses["count"], dtype=np.float64)])
        for i in np.flatnonzero(ops["op"] == CODES["replay"]):
            op = rows(ops, "replay")[i]
            first, n = int(op["first"]), int(op["count"])
            work[i] = (counts[first + n] - counts[first]) * float(op["weight"])
        return work

    @cached_property
    def own_ns(self) -> Floats:
        """Nanoseconds of each operation without translation, faults and the kernel; float64."""
        ops = self.ops
        own = np.zeros(len(ops))
        access, replay, compute = (ops["op"] == CODES[o] for o in ("access", "replay", "compute"))
        accesses, replays = rows(ops, "access")[access], rows(ops, "replay")[replay]
        own[access] = accesses["count"] * (accesses["ps"] * accesses["weight"].astype(np.float64) / 1000)
        own[compute] = rows(ops, "compute")["ps"][compute] / 1000
        counts = np.concatenate([[0], np.cumsum(self.accesses["instructions"], dtype=np.float64)])
        first, end = replays["first"], replays["first"] + replays["count"]
        own[replay] = (counts[end] - counts[first]) * (replays["ps"] * replays["weight"].astype(np.float64) / 1000)
        return own

    @cached_property
    def starts(self) -> Ints:
        """Position of each operation's first step, and of the end; int64, one more than there are operations."""
        return np.concatenate([[0], np.cumsum(self.steps)])

    @cached_property
    def half_way(self) -> float:
        """The position at which half of the program's own time is over; of a program without such time, half of all."""
        own = self.own_ns if self.own_ns.any() else self.steps.astype(float)
        done = np.concatenate([[0.0], np.cumsum(own)])
        return float(np.interp(done[-1] / 2, done, self.starts))

    @property
    def swap_slots(self) -> int:
        """Pages of the largest swap device that the program adds."""
        sizes = self.ops["length"][self.ops["op"] == CODES["swap"]]
        return min(int(sizes.max(initial=0)), SWAP_MAX) // layout.PAGE_SIZE

    @property
    def file_pages(self) -> int:
        """Pages of all files that the program maps."""
        ops = self.ops
        files = (ops["op"] == CODES["mmap"]) & (rows(ops, "mmap")["flags"] & np.uint64(layout.VM_FILE) > 0)
        return int((ops["length"][files] // layout.PAGE_SIZE).sum())

    @cached_property
    def checksum(self) -> str:
        """A SHA-256 of everything that determines what the program does."""
        digest = hashlib.sha256(json.dumps([self.processes, self.regions, self.seed]).encode())
        for array in (self.ops, self.accesses, self.bins, self.alias_tables.astype("<u4")):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> int:
        """The first 64 bits of `checksum`, which states of machines carry."""
        return int(self.checksum[:16], 16)

    def begins_as(self, other: Program, operations: int, under_way: bool = False) -> bool:
        """Return whether both programs begin with the same operations.

        Args:
            other: the other program.
            operations: how many.
            under_way: compare the next operation, too, with its recorded accesses or its distribution.
        """
        n = operations + under_way
        names_agree = all(a == b for first, second in ((self.processes, other.processes), (self.regions, other.regions))
                          for a, b in zip(first, second, strict=False) if operations)  # fmt: skip
        if self.seed != other.seed or not names_agree or not np.array_equal(self.ops[:n], other.ops[:n]):
            return False
        return not under_way or all(map(np.array_equal, self._taken_by(operations), other._taken_by(operations)))

    def _taken_by(self, i: int) -> tuple[np.ndarray, ...]:
        op = fields(self.ops[i])
        if op["op"] == CODES["replay"]:
            return (self.accesses[op["first"] : op["first"] + op["count"]],)
        if op["op"] == CODES["access"] and op["pattern"] == layout.PATTERNS.index("bins"):
            first, count = map(int, self.alias_tables.reshape(-1, 2)[op["table"]])
            return (self.bins[first : first + count],)
        return ()

    @property
    def name(self) -> str:
        """The program's name, for messages and reports."""
        return str(self.meta.get("name", "program"))

    def check(self, lines: list[int] | None = None, source: str = "") -> Program:
        """Refuse a program whose records point outside its tables; return it otherwise. It is checked only once.

        Args:
            lines: the source line of each operation, for messages.
            source: the file's name, for messages.

        Raises:
            ProgramError: with place and reason.
        """
        if not self.__dict__.get("_sound"):
            check_program(self, lines, source or self.name)
            object.__setattr__(self, "_sound", True)
        return self


def _frozen(name: str, values: Any, dtype: np.dtype) -> np.ndarray:
    """Return an array that nobody can write to: over bytes, which a writer cannot be made of.

    Raises:
        ProgramError: when it is no such array.
    """
    array = np.asarray(values)
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
