"""The simulated machine: Linux anonymous memory and a TLB, executing a trace program.

`Machine` is the public face; `MachineConfig` says how large it is, on which core it runs and how long things
take. Nothing here knows of Gymnasium.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from thp_env.machine import _core, layout
from thp_env.machine.clock import clock_table
from thp_env.machine.cores import DEFAULT_CORE, Tlb, core
from thp_env.machine.counters import Counters
from thp_env.machine.features import feature_mask, feature_set

if TYPE_CHECKING:
    from thp_env.traces.program import Program

__all__ = ["PAGE_DTYPE", "SMAPS_DTYPE", "Counters", "Machine", "MachineConfig", "MachineError", "Status", "Vma"]

PAGE_DTYPE = np.dtype(
    [("kind", "u1"), ("order", "u1"), ("flags", "<u2"), ("head", "<u4"), ("index", "<u2"), ("content", "u1"),
     ("spare", "u1"), ("mapcount", "<u4")]
)  # fmt: skip
"""One 4K page of an address range: see `kernel/task_mmu.hpp`."""

SMAPS_DTYPE = np.dtype(
    [("vm_start", "<u8"), ("vm_end", "<u8"), ("vm_flags", "<u4"), ("orders", "<u4"), ("id", "<u4"), ("mm", "<u4"),
     ("born", "<u8"), ("faults", "<u8", 10), ("zapped", "<u8"), ("zap_calls", "<u8"), ("by_order", "<u8", 10),
     ("swapped", "<u8"), ("zero", "<u8"), ("young", "<u8"), ("dirty", "<u8"), ("pmd_mapped", "<u8"), ("partial", "<u8"),
     ("scanned", "<u8"), ("asked", "<u8"), ("asked_faults", "<u8"), ("asked_zapped", "<u8"),
     ("times", "<u8", len(_core.TIMES))]
)  # fmt: skip
"""What one VMA's page tables hold, in 4K pages; `born` is picoseconds, `faults` counts by order, `zapped` is the
pages unmapped again so far, in `zap_calls` calls, `scanned` the pages looked at. `asked` numbers the last question
to a policy about it (0: never), with the faults and zapped pages at that time. `times` is the time that was spent
for it, by kind, if the machine keeps it (`charge_vmas`)."""

KIND_NONE, KIND_FOLIO, KIND_ZERO, KIND_HUGE_ZERO, KIND_GUARD, KIND_SWAP, KIND_FILE = range(7)
LAYOUT_PMD, LAYOUT_EXCLUSIVE, LAYOUT_NOT_SWAPBACKED, LAYOUT_NOT_LRU = (1 << bit for bit in range(4))
LAYOUT_YOUNG, LAYOUT_DIRTY, LAYOUT_TOUCHED, LAYOUT_SWAPCACHE, LAYOUT_CONT = (1 << bit for bit in range(4, 9))

NEVER = (1 << 64) - 1
ARCHITECTURES = ("x86_64", "arm64", "arm64-bbml2")
CONT_PTE_SIZE = 16 * layout.PAGE_SIZE


class MachineError(ValueError):
    """A machine that cannot be made, or a saved one that cannot be read."""


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


@dataclass(frozen=True)
class MachineConfig:
    """How large a machine is, on which core it runs and how long things take.

    Attributes:
        memory: bytes of RAM, at least 16 MiB.
        core: name of a TLB preset (`cores.CORES`) or a `Tlb`.
        arch: "x86_64" or "arm64": the latter folds 16 aligned PTEs into one translation (contpte) and never frees an
            empty page table at MADV_DONTNEED; "arm64-bbml2" has FEAT_BBM level 2, so that unfolding invalidates
            nothing. See docs/contpte.md.
        features: a preset of the kernel's switches, "mainline-6.18" or "oppo-5.15", or a set of them: see
            `features.FEATURES` and docs/features.md.
        pool: bytes of the reserve of 64K folios, with the feature pool_64k; 0: an eighth of the memory.
        nr_cpus: CPUs that run the process: the others have to be told when translations go.
        shadow_tlb: also simulate a TLB that sees the same accesses with 4K pages only.
        charge_vmas: keep simulated time by VMA too (`SMAPS_DTYPE`).
        max_vmas: VMAs of all processes together.
        max_mms: processes alive at the same time.
        max_tables: pages of page tables; 0: enough for twice the memory.
        min_free_kbytes: /proc/sys/vm/min_free_kbytes, which only the kernel itself would use; None: as Linux computes
            it from the size of memory and from whether folios of 2M are on.
        clock: picoseconds by name, as from `clock_table()`.
    """

    memory: int = 1 << 30
    core: str | Tlb = DEFAULT_CORE
    arch: str = "x86_64"
    features: str | Iterable[str] = "mainline-6.18"
    pool: int = 0
    nr_cpus: int = 1
    shadow_tlb: bool = False
    charge_vmas: bool = False
    max_vmas: int = 65536
    max_mms: int = 64
    max_tables: int = 0
    min_free_kbytes: int | None = None
    clock: dict[str, int] = field(default_factory=clock_table, hash=False)

    def __post_init__(self) -> None:
        """Make any collection of features one that can be compared and hashed."""
        if not isinstance(self.features, str):
            object.__setattr__(self, "features", frozenset(self.features))

    def as_dict(self) -> dict[str, Any]:
        """Return what the C++ core is made from."""
        tlb = core(self.core) if isinstance(self.core, str) else self.core
        if tlb.base_shift != 12:
            raise ValueError(
                f"{tlb.name} lacks 4K pages, which the simulated kernel has: "
                f"tlb_misses(addresses, core={tlb.name!r}, page_shift={tlb.base_shift}) simulates its TLB alone"
            )
        pages = self.memory // layout.PAGE_SIZE
        if self.arch not in ARCHITECTURES:
            raise MachineError(f"arch is {self.arch!r}; there are {', '.join(ARCHITECTURES)}")
        try:
            mask, pooled = feature_mask(self.features), "pool_64k" in feature_set(self.features)
        except ValueError as error:
            raise MachineError(str(error)) from None
        return {
            "nr_pages": pages,
            "max_vmas": self.max_vmas,
            "max_mms": self.max_mms,
            "max_tables": self.max_tables or min(max(4096, pages // 128), 1 << 26),
            "nr_cpus": self.nr_cpus,
            "shadow_tlb": self.shadow_tlb,
            "charge_vmas": self.charge_vmas,
            "arch": ARCHITECTURES.index(self.arch),
            "features": mask,
            "pool_blocks": (self.pool or self.memory // 8) // CONT_PTE_SIZE if pooled else 0,
            "min_free_kbytes": layout.NIL if self.min_free_kbytes is None else self.min_free_kbytes,
            "clock": self.clock,
            "tlb": tlb.config(),
        }


@dataclass(frozen=True)
class Vma:
    """A VMA as `Machine.vmas` lists it: times in picoseconds, `orders` is its own mask (0: none)."""

    id: int
    mm: int
    start: int
    end: int
    flags: int
    orders: int
    born: int
    faults: int

    @property
    def pages(self) -> int:
        """Its length in 4K pages."""
        return (self.end - self.start) // layout.PAGE_SIZE

    @property
    def anonymous(self) -> bool:
        """Whether it holds anonymous memory."""
        return not self.flags & layout.VM_FILE


class Machine:
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
        raw = [np.ascontiguousarray(a).view(np.uint8).reshape(-1) for a in
               (program.ops, program.accesses, program.bins, program.tables.astype(np.uint32))]  # fmt: skip
        brk, base = (int(program.meta.get(key, 0)) for key in ("brk_start", "mmap_base"))
        try:
            self._core = _core.CoreMachine.create(
                self.config.as_dict(), max(1, len(program.regions)), len(program.processes),
                program.swap_slots, program.file_pages, brk, base, *raw, program.seed & NEVER,
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
        return Status(self._core.run(*limits, new_vma, go_on))

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

    def collapse(self, vma: int) -> int:
        """Collapse the VMA's whole 2M blocks into huge pages (MADV_COLLAPSE, R44); returns the errno."""
        return self.madvise(vma, "collapse")

    def set_default_orders(self, mask: int) -> None:
        """Set the orders of VMAs that have no mask of their own."""
        self._core.set_default_orders(mask)

    def set_thp(self, order: int, mode: str) -> None:
        """Set a size's sysfs control to never, madvise, always or inherit."""
        self._core.set_thp(order, layout.THP_MODES.index(mode))
