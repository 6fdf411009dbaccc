"""The simulated machine: Linux anonymous memory and a TLB, executing a trace program.

`Machine` is the public face; `MachineConfig` says how large it is, on which core it runs and how long things
take. Nothing here knows of Gymnasium.
"""

from __future__ import annotations

import errno
import warnings
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from thp_env.machine import _core, layout
from thp_env.machine.access import Access
from thp_env.machine.config import ARCHITECTURES, MachineConfig, MachineError  # noqa: F401
from thp_env.machine.counters import Counters
from thp_env.machine.records import (  # noqa: F401 -- what is read of a machine belongs to its face
    KIND_FILE,
    KIND_FOLIO,
    KIND_GUARD,
    KIND_HUGE_ZERO,
    KIND_NONE,
    KIND_SWAP,
    KIND_ZERO,
    LAYOUT_CONT,
    LAYOUT_DIRTY,
    LAYOUT_EXCLUSIVE,
    LAYOUT_NOT_LRU,
    LAYOUT_NOT_SWAPBACKED,
    LAYOUT_PMD,
    LAYOUT_SWAPCACHE,
    LAYOUT_TOUCHED,
    LAYOUT_YOUNG,
    PAGE_DTYPE,
    SMAPS_DTYPE,
    WALK_DTYPE,
    YOUNG_ACCESSED,
    YOUNG_CONT,
    YOUNG_DIRTY,
    YOUNG_MAPPED,
    YOUNG_PMD,
    YOUNG_ZERO_PAGE,
    OrderQuestion,
    Verb,
    Vma,
)  # fmt: skip

if TYPE_CHECKING:
    from thp_env.traces.program import Program

__all__ = ["PAGE_DTYPE", "SMAPS_DTYPE", "WALK_DTYPE", "Counters", "KernelWarning", "Machine", "MachineConfig",
           "MachineError", "OrderQuestion", "Status", "Vma"]  # fmt: skip

NEVER = (1 << 64) - 1
KERNEL_WARNINGS = ("mTHP collapse only supports max_ptes_none values of 0 or 511: it counts as 0",)
"""What the kernel may warn of, once in a run; the position is the bit."""


class KernelWarning(UserWarning):
    """What a kernel would write to its log (pr_warn_once)."""



class Status(IntEnum):
    """Why `Machine.run` returned."""

    DONE = 0
    """The program has ended."""
    WINDOW = 1
    """The budget is used up."""
    OOM = 2
    """The simulated machine ran out of memory."""
    ERROR = 3
    """An operation failed: see `Machine.error`."""
    NEED_ORDER = 4
    """A fault waits for an order: see `Machine.question`, and answer with `Machine.resolve`."""


def _records(program: Program) -> tuple[np.ndarray | int, ...]:
    """Return the arrays of a program as the core reads them, and its seed."""
    arrays = (program.ops, program.accesses, program.bins, program.tables.astype(np.uint32))
    return *(np.ascontiguousarray(a).view(np.uint8).reshape(-1) for a in arrays), program.seed & NEVER


class Machine(Access):
    """A simulated machine that executes one trace program.

    Args:
        program: what it executes.
        config: how it is built.

    Raises:
        MachineError: when the configuration makes no sense.
    """

    def __init__(self, program: Program, config: MachineConfig | None = None) -> None:
        """Build the machine; nothing has run yet."""
        self.program = program
        self.config = config or MachineConfig()
        brk, base = (int(program.meta.get(key, 0)) for key in ("brk_start", "mmap_base"))
        try:
            self._core = _core.CoreMachine.create(
                self.config.as_dict(), max(1, len(program.regions)), len(program.processes),
                program.swap_slots, program.file_pages, brk, base, *_records(program),
            )  # fmt: skip
        except (ValueError, TypeError, MemoryError, RuntimeError) as error:
            raise MachineError(f"cannot build the machine: {error}") from None

    # -- running -----------------------------------------------------------------------------------

    def run(
        self,
        *,
        until_ps: int = NEVER,
        choices: int = NEVER,
        ops: int = NEVER,
        accesses: int = NEVER,
        new_vma: bool = False,
        go_on: bool = False,
    ) -> Status:
        """Run on, until the program ends or the first of the limits is reached.

        Cutting a run in pieces does not change its result. The GIL is released meanwhile; ctrl-C stops the run
        between two accesses.

        Args:
            until_ps: the machine's clock, in picoseconds.
            choices: faults that could have had a large folio.
            ops: whole operations.
            accesses: simulated accesses.
            new_vma: pause after an operation that makes a new anonymous VMA of 64K or more.
            go_on: note a failing system call in `error` and go on, as a kernel does.
        """
        limits = (min(limit, NEVER) for limit in (until_ps, choices, ops, accesses))
        before = self._core.warned
        status = Status(self._core.run(*limits, new_vma, go_on))
        if fresh := self._core.warned & ~before:
            for bit, text in enumerate(KERNEL_WARNINGS):
                if fresh >> bit & 1:
                    warnings.warn(text, KernelWarning, stacklevel=2)
        return status

    def extend(self, program: Program) -> None:
        """Go on with a program that begins with what has run so far: what follows may be written step by step.

        The machine keeps the size that it was built with. A larger device of swap is refused when it is added
        (ENOMEM), further files when they are mapped (ENFILE).

        Raises:
            MachineError: when the program begins otherwise, or has more regions or processes than the first one.
        """
        done = self.position[0]
        if program.seed != self.program.seed or not np.array_equal(program.ops[:done], self.program.ops[:done]):
            raise MachineError(f"the program does not begin with the {done} operations that have run")
        try:
            self._core.extend(len(program.regions), len(program.processes), *_records(program))
        except ValueError as error:
            raise MachineError(f"cannot go on with the program: {error}") from None
        self.program = program

    @property
    def clock_ps(self) -> int:
        """Simulated time in picoseconds."""
        return self._core.clock

    @property
    def position(self) -> tuple[int, int]:
        """The operation that runs next, and how many of its steps are done."""
        return self._core.op, self._core.step

    @property
    def error(self) -> int:
        """What the last system call returned: 0 or an errno."""
        return -self._core.error

    @property
    def counters(self) -> Counters:
        """A snapshot of all counters."""
        return Counters.of(self._core.vm, self._core.mthp, self._core.times, self._core.clock)

    @property
    def fault_latencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Upper ends of ranges of nanoseconds, four an octave, and how many page faults took so long; uint64."""
        counts = np.array(self._core.fault_latency, np.uint64)
        first = np.arange(len(counts), dtype=np.uint64) + np.uint64(1)
        octave, quarter = first // np.uint64(4), first % np.uint64(4)
        return (np.uint64(4) + quarter << octave) // np.uint64(4) - np.uint64(1), counts

    # -- state -------------------------------------------------------------------------------------

    def clone(self) -> Machine:
        """Return an independent copy that stands where this one stands."""
        other = object.__new__(Machine)
        other.program, other.config, other._core = self.program, self.config, self._core.clone()
        return other

    def save(self) -> bytes:
        """Return the state as bytes; the program and the configuration are not part of it."""
        return self._core.save()

    def load(self, data: bytes) -> None:
        """Take over a state that `save` returned, of a machine of the same configuration and program.

        Raises:
            MachineError: when it is none.
        """
        try:
            self._core.load(data)
        except ValueError as error:
            raise MachineError(f"not a saved machine: {error}") from None

    def __eq__(self, other: object) -> bool:
        """Two machines are equal when their states are, byte for byte."""
        return self._core.equals(other._core) if isinstance(other, Machine) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def state_bytes(self) -> int:
        """Bytes of state in use."""
        return self._core.state_bytes

    # -- looking -----------------------------------------------------------------------------------

    def vmas(self, mm: int | None = None) -> list[Vma]:
        """Return the VMAs in address order, of one address space or of all."""
        return [v for v in (Vma(*row) for row in self._core.vmas()) if mm is None or v.mm == mm]

    def smaps(self, vma: int, *, clear_refs: bool = False) -> np.void:
        """Read the page tables of a VMA: one `SMAPS_DTYPE` record.

        Args:
            vma: its id.
            clear_refs: also clear the accessed bits; this costs simulated time.

        Raises:
            KeyError: when there is no such VMA.
        """
        return np.frombuffer(self._core.smaps(vma, clear_refs), SMAPS_DTYPE)[0]

    def pagemap(self, mm: int, start: int, length: int) -> np.ndarray:
        """Return one `PAGE_DTYPE` record for each 4K page of an address range."""
        return np.frombuffer(self._core.pagemap(mm, start, length // layout.PAGE_SIZE), PAGE_DTYPE)

    def process(self, name: str) -> tuple[int, int, int, int, int] | None:
        """Return (mm, rss in pages, minor faults, major faults, VMAs) of a process, None when it has ended."""
        return self._core.process(self.program.processes.index(name))

    def region(self, name: str) -> tuple[int, int]:
        """Return (address, bytes) of a region as it was mapped."""
        start, length, _ = self._core.region(self.program.regions.index(name))
        return start, length

    def buddyinfo(self) -> list[int]:
        """Return the free blocks by order, 0 to 10, as /proc/buddyinfo does."""
        return [sum(blocks) for blocks in zip(*self._core.free_blocks, strict=True)]

    def pagetypeinfo(self) -> dict[str, list[int]]:
        """Return the free blocks by order for each of `layout.MIGRATE_TYPES`, as /proc/pagetypeinfo does."""
        return dict(zip(layout.MIGRATE_TYPES, self._core.free_blocks, strict=True))

    def pageblocks(self) -> dict[str, int]:
        """Return how many 2M blocks are of each of `layout.MIGRATE_TYPES`."""
        return dict(zip(layout.MIGRATE_TYPES, self._core.pageblocks, strict=True))

    def unusable_free_index(self, order: int) -> float:
        """Return the share of free memory that an allocation of this order (0 to 10) cannot use.

        As debugfs' extfrag/unusable_index: three digits; 1 when nothing is free (Gorman and Whitcroft 2006).

        Raises:
            ValueError: when there is no such order.
        """
        return self._core.unusable_free_index(order) / 1000

    def fragmentation_index(self, order: int) -> float:
        """Return why an allocation of this order fails, as debugfs' extfrag/extfrag_index.

        Near 0: for want of memory, near 1: because of fragmentation; -1: it would not fail.

        Raises:
            ValueError: when there is no such order.
        """
        return self._core.fragmentation_index(order) / 1000

    @property
    def watermarks(self) -> tuple[int, int, int]:
        """The zone's min, low and high watermark in pages, as in /proc/zoneinfo."""
        return self._core.watermarks

    @property
    def free_pages(self) -> int:
        """Free 4K pages."""
        return self._core.nr_free_pages

    def validate(self) -> None:
        """Count everything that the machine keeps anew from its page tables, for tests.

        Raises:
            MachineError: naming the first number that does not agree.
        """
        if broken := self._core.validate():
            raise MachineError(f"inconsistent state: {broken}")

    # -- deciding ----------------------------------------------------------------------------------

    def set_orders(self, vma: int, mask: int) -> int:
        """Set the orders that a VMA may use (bit o: order o; bit 0 alone: no large folios; 0: the default).

        Returns the errno, 0 on success.
        """
        return -self._core.set_orders(vma, mask)

    def split(self, vma: int) -> None:
        """Split the large folios that a VMA maps, as the deferred-split shrinker does (extension E2)."""
        self._core.split(vma)

    def madvise(self, vma: int, advice: str) -> int:
        """Call madvise for a whole VMA: "hugepage", "nohugepage", "collapse", ... (`layout.ADVICE`).

        Returns the errno, 0 on success.
        """
        return -self._core.madvise(vma, layout.ADVICE[advice])

    def set_default_orders(self, mask: int) -> None:
        """Set the orders of VMAs that have no mask of their own."""
        self._core.set_default_orders(mask)

    def set_thp(self, order: int, mode: str) -> None:
        """Set a size's sysfs control to never, madvise, always or inherit."""
        self._core.set_thp(order, layout.THP_MODES.index(mode))

    def ask_orders(self, interface: str) -> None:
        """From now on let `run` return `Status.NEED_ORDER` at every fault that has a choice.

        Each 2M block of a VMA is asked about once for its faults, once for khugepaged and once for swapping in, until
        it is unmapped. The answer is remembered in the state and masks the allowed orders.

        Args:
            interface: "bpf": as the proposed thp_get_order (Y. Shao, linux-mm, September 2025): a fault that the
                chosen order does not fit gets order 0. "address": it falls back to smaller orders. "none": do not
                ask (the default); earlier answers no longer count. A fault that waits for an answer is tried again.

        Raises:
            ValueError: for another interface.
        """
        if interface not in layout.ORDER_INTERFACES:
            raise ValueError(f"no interface {interface!r}: one of {', '.join(layout.ORDER_INTERFACES)}")
        self._core.set_order_interface(layout.ORDER_INTERFACES.index(interface))

    @property
    def question(self) -> OrderQuestion | None:
        """What the machine waits for, None when it does not wait."""
        if (asked := self._core.question) is None:
            return None
        vma, mm, address, kind, orders = asked
        return OrderQuestion(vma, mm, address, layout.TVA_TYPES[kind], orders)

    def resolve(self, order: int) -> None:
        """Answer the question; `run` goes on with it.

        Args:
            order: 0, or one that `OrderQuestion.orders` offers.

        Raises:
            MachineError: when nothing was asked, or the order was not offered.
        """
        asked = self.question
        error = self._core.resolve(order) if order >= 0 else -1
        if error and asked is None:
            raise MachineError("nothing was asked: resolve() answers after run() returned NEED_ORDER")
        if error == -errno.ENOMEM:
            raise MachineError("no room for another answer: raise max_tables or max_vmas")
        if error:
            offered = [0, *(o for o in layout.ORDERS if asked and asked.orders >> o & 1)]
            raise MachineError(f"order {order} was not offered: one of {offered}")
