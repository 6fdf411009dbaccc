"""Methods that read a machine: address spaces, page tables, and memory as in /proc."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thp_env.machine import layout
from thp_env.machine.arguments import whole
from thp_env.machine.arrays import Addresses, Records
from thp_env.machine.records import PAGE_DTYPE, SMAPS_DTYPE, ControlGroup, Pressure, Stall, Vma

if TYPE_CHECKING:
    from thp_env.machine._core import CoreMachine
    from thp_env.machine.program import Program


def vma_id(vma: int) -> int:
    """Return the id of a VMA; one that is no number cannot be one."""
    return whole("vma", vma, most=layout.NIL)


def _mm(mm: int) -> int:
    return whole("mm", mm, most=layout.NIL)


def _position(what: str, name: str, there_are: tuple[str, ...]) -> int:
    """Return where a name stands.

    Raises:
        KeyError: when there is none, with those that there are.
    """
    if name not in there_are:
        raise KeyError(f"no {what} {name!r}: there are {', '.join(there_are) or 'none'}")
    return there_are.index(name)


def _pressure(*states: tuple[list[int], int]) -> Pressure:
    """Return pressure from averages in parts of 2^11 of a percent, of which two digits are shown, and picoseconds."""
    stalls = []
    for averages, ps in states:
        avg10, avg60, avg300 = ((a >> 11) + (a & 2047) * 100 // 2048 / 100 for a in averages)
        stalls.append(Stall(avg10, avg60, avg300, ps // 1_000_000))
    return Pressure(*stalls)


class Reading:
    """A part of `Machine`."""

    program: Program
    _core: CoreMachine

    def vmas(self, mm: int | None = None) -> list[Vma]:
        """Return the VMAs in address order, of one address space or of all."""
        return [v for v in map(Vma._make, self._core.vmas()) if mm is None or v.mm == mm]

    def vma(self, vma: int) -> Vma:
        """Return the VMA with an id.

        Raises:
            KeyError: when there is no such VMA.
        """
        return Vma._make(self._core.vma(vma_id(vma)))

    @property
    def mapped_bytes(self) -> int:
        """The length of all VMAs together."""
        return self._core.mapped_bytes()

    def smaps(self, vma: int, *, clear_refs: bool = False) -> np.void:
        """Read the page tables of a VMA: one `SMAPS_DTYPE` record.

        Args:
            vma: its id.
            clear_refs: also clear the accessed bits; this costs simulated time.

        Raises:
            KeyError: when there is no such VMA.
        """
        return np.frombuffer(self._core.smaps(vma_id(vma), bool(clear_refs)), SMAPS_DTYPE)[0]

    def pagemap(self, mm: int, start: int, length: int) -> Records:
        """Return one `PAGE_DTYPE` record for each 4K page of an address range, of 64 GiB at most.

        Raises:
            IndexError: when there is no such address space.
            MachineError: when there is no such range.
        """
        pages = whole("length", length) // layout.PAGE_SIZE
        return np.frombuffer(self._core.pagemap(_mm(mm), whole("start", start), pages), PAGE_DTYPE)

    def process(self, name: str) -> tuple[int, int, int, int, int] | None:
        """Return (mm, rss in pages, minor faults, major faults, VMAs) of a process, None when it has ended.

        Raises:
            KeyError: when the program has no such process.
        """
        return self._core.process(_position("process", name, self.program.processes))

    def region(self, name: str) -> tuple[int, int]:
        """Return (address, bytes) of a region as it was mapped.

        Raises:
            KeyError: when the program has no such region.
        """
        return self._core.region(_position("region", name, self.program.regions))

    def upcoming_accesses(self, first: int = 0, count: int = 1 << 20) -> Addresses:
        """Return the coming accesses of the next operation.

        Args:
            first: how many to skip.
            count: how many at most.

        Returns:
            uint64 for each access: the address of its page, plus 1 if it writes; empty if the operation has no
            accesses, or no more than `first`.
        """
        return np.frombuffer(self._core.upcoming(whole("first", first), whole("count", count)), np.uint64)

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
        return self._core.unusable_free_index(whole("order", order, most=layout.MAX_PAGE_ORDER)) / 1000

    def fragmentation_index(self, order: int) -> float:
        """Return why an allocation of this order fails, as debugfs' extfrag/extfrag_index.

        Near 0: for want of memory, near 1: because of fragmentation; -1: it would not fail.

        Raises:
            ValueError: when there is no such order.
        """
        return self._core.fragmentation_index(whole("order", order, most=layout.MAX_PAGE_ORDER)) / 1000

    def control_groups(self) -> list[ControlGroup]:
        """Return the memory control groups that there are, in the order of their numbers."""
        none, names = layout.NO_LIMIT // layout.PAGE_SIZE, ("max", "oom", "oom_kill")
        return [
            ControlGroup(number, current, anon, peak, None if limit >= none else limit, swap, swappiness,
                         dict(zip(names, events, strict=True)), _pressure(*stalls))
            for number, current, anon, peak, limit, swap, swappiness, events, stalls in self._core.memcgs()
        ]  # fmt: skip

    def control_group_of(self, mm: int) -> int:
        """Return the number of the control group that an address space is charged to.

        Raises:
            IndexError: when there is no such address space.
        """
        return self._core.memcg_of(_mm(mm))

    @property
    def pressure(self) -> Pressure:
        """Pressure stall information of the whole system, as /proc/pressure/memory shows it."""
        return _pressure(*self._core.pressure())

    @property
    def watermarks(self) -> tuple[int, int, int]:
        """The zone's min, low and high watermark in pages, as in /proc/zoneinfo."""
        return self._core.watermarks

    @property
    def free_pages(self) -> int:
        """Free 4K pages."""
        return self._core.nr_free_pages
