"""Records that are read of a machine: VMAs, pages, samples, and the question that it waits with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from thp_env.machine import _core, layout

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
     ("asked_clock", "<u8"), ("asked_walks", "<u8"), ("reasons", "<u8"), ("times", "<u8", len(_core.TIMES))]
)  # fmt: skip
"""What one VMA's page tables hold, in 4K pages; `born` is picoseconds, `faults` counts by order, `zapped` is the
pages unmapped again so far, in `zap_calls` calls, `scanned` the pages looked at. `asked` numbers the last question
to a policy about it (0: never), with the faults, zapped pages and picoseconds at that time, and the samples of page
walks since then (`Machine.sample_walks`). `times` is the time that was spent
for it, by kind, if the machine keeps it (`time_by_vma`)."""

WALK_DTYPE = np.dtype([("address", "<u8"), ("mm", "<u4"), ("count", "<u4"), ("size", "<u4"), ("spare", "<u4")])
"""A sampled page walk, taken `count` times; `size` is that of the entry: 0 4K, 1 coalesced, 2 contpte, 3 2M."""

MAPS_NOTHING, MAPS_ZEROS = -1, -2
"""What `Machine.mapped_orders` says of a page that no folio of anonymous memory is mapped to."""

BLOCK_DTYPE = np.dtype([("start", "<u8"), ("mapped", "<u4"), ("huge", "<u4")])
"""An aligned 2M block: pages that folios are mapped to, and of these those of folios of 2M."""

SIZE_DTYPE = np.dtype([("begun", "<u8"), ("partial", "<u8"), ("mapped", "<u8")])
"""Of the aligned blocks of one size: those that have a page mapped; of these those that folios of this size or larger
do not fill; and the pages mapped in the latter."""

HOLE_DTYPE = np.dtype([("start", "<u8"), ("order", "<u4"), ("held", "<u4"), ("nothing", "<u4"), ("spare", "<u4")])
"""An aligned block of a size: pages that folios of this size are mapped to, and pages that nothing is mapped to."""

KIND_NONE, KIND_FOLIO, KIND_ZERO, KIND_HUGE_ZERO, KIND_GUARD, KIND_SWAP, KIND_FILE = range(7)
LAYOUT_PMD, LAYOUT_EXCLUSIVE, LAYOUT_NOT_SWAPBACKED, LAYOUT_NOT_LRU = (1 << bit for bit in range(4))
LAYOUT_YOUNG, LAYOUT_DIRTY, LAYOUT_TOUCHED, LAYOUT_SWAPCACHE, LAYOUT_CONT = (1 << bit for bit in range(4, 9))

YOUNG_MAPPED, YOUNG_ACCESSED, YOUNG_PMD, YOUNG_ZERO_PAGE, YOUNG_DIRTY, YOUNG_CONT = (1 << bit for bit in range(6))


class Verb(IntEnum):
    """The kind of a decision about a VMA."""

    NOTHING = 0
    ORDERS = 1
    """Set its order mask (extension E1): later faults only."""
    SPLIT = 2
    """Split its large folios (extension E2)."""
    ADVISE = 3
    """Call madvise for all of it; MADV_COLLAPSE among others."""
    RESOLVE = 4
    """Answer the order that the machine waits for (`Machine.resolve`); the VMA is not looked at."""
    COLLAPSE = 5
    """Collapse its aligned blocks of one order, as DAMON's action may; the order is the value."""
    COLLAPSE_WALKED = 6
    """Collapse its 2M blocks in which there were as many page walks as the value says, as far as samples tell."""


class Vma(NamedTuple):
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


class Stall(NamedTuple):
    """How long processes waited for memory, as a line of a `memory.pressure` says it: percent, and microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(NamedTuple):
    """Pressure stall information: `some` process waited, or all that could have run did (`full`)."""

    some: Stall
    full: Stall


@dataclass(frozen=True)
class ControlGroup:
    """A memory control group. Sizes are 4K pages; `max` is None without a limit.

    Attributes:
        number: 0 is the group of all processes that were not moved to another one.
        current: charged pages (memory.current), with those that a CPU has charged in advance.
        anon: anonymous memory (memory.stat).
        peak: the most that was ever charged.
        max: memory.max.
        swap: slots of its pages (memory.swap.current).
        swappiness: memory.swappiness.
        events: times that `max` was reached, that reclaim found nothing more (`oom`), and that a process was killed
            (`oom_kill`).
        pressure: of its processes.
    """

    number: int
    current: int
    anon: int
    peak: int
    max: int | None
    swap: int
    swappiness: int
    events: dict[str, int]
    pressure: Pressure


class OrderQuestion(NamedTuple):
    """The question of a machine before a fault, khugepaged or a swap-in takes an order. Nothing has changed yet.

    Attributes:
        vma: id of the VMA.
        mm: its address space.
        address: of the fault; the block that khugepaged looks at.
        type: one of `layout.TVA_TYPES`.
        orders: mask of the orders that may be answered, besides 0.
    """

    vma: int
    mm: int
    address: int
    type: str
    orders: int
