"""Methods by which a policy reads a machine and acts on it, besides decisions about whole VMAs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from thp_env.machine import layout
from thp_env.machine.arguments import milliseconds, one_of, order_mask, up_to, whole
from thp_env.machine.arrays import Addresses, Bytes, Records, SmallInts
from thp_env.machine.config import MachineError
from thp_env.machine.records import BLOCK_DTYPE, HOLE_DTYPE, SIZE_DTYPE, WALK_DTYPE, Verb

if TYPE_CHECKING:
    from thp_env.machine._core import CoreMachine
    from thp_env.machine.program import Program


class Access:
    """A part of `Machine`."""

    _core: CoreMachine
    program: Program

    def set(self, name: str, value: int) -> None:
        """Write one of `layout.SETTINGS`, as the trace program's `set` does.

        Raises:
            MachineError: for an unknown setting or value.
        """
        index = list(layout.SETTINGS).index(one_of("setting", name, layout.SETTINGS))
        self._core.set(index, whole(name, value, most=layout.SETTING_VALUES[index] - 1))

    def khugepaged(self, pages: int = 4096, sleep_ms: float = 10_000, alloc_sleep_ms: float = 60_000) -> None:
        """Start khugepaged; without this call it does not run.

        Args:
            pages: pages_to_scan: after so many pages it sleeps; 0: stop it.
            sleep_ms: scan_sleep_millisecs; 0: it never sleeps, and the program shares the CPU with a thread of nice 19.
            alloc_sleep_ms: alloc_sleep_millisecs: how long it sleeps after a failed allocation of a huge page.

        Raises:
            MachineError: for an invalid number of pages or time.
        """
        sleeps = milliseconds("sleep_ms", sleep_ms), milliseconds("alloc_sleep_ms", alloc_sleep_ms)
        self._core.khugepaged(up_to("pages", pages), *sleeps)

    # -- address ranges and samples ----------------------------------------------------------------

    def decide_range(self, mm: int, start: int, end: int, verb: Verb, value: int = 0) -> int:
        """Decide about an address range, as about a VMA; return the errno, 0 on success.

        Raises:
            MachineError: when there is no such range.
        """
        numbers = {"mm": mm, "verb": verb, "value": value}
        number, verb_number, of = (whole(name, argument, most=layout.NIL) for name, argument in numbers.items())
        begin, last = whole("start", start), whole("end", end)
        try:
            return -self._core.decide_range(number, begin, last, verb_number, of)
        except (ValueError, IndexError) as error:
            raise MachineError(f"cannot decide about {begin:#x} to {last:#x}: {error}") from None

    def collapse(self, vma: int, order: int = layout.PMD_ORDER) -> int:
        """Collapse the VMA's whole blocks of a size into one folio each; returns the errno.

        2M: MADV_COLLAPSE (R44). Smaller sizes, as in DAMON's collapse action (posted in July 2026): blocks that are not
        empty and have no swapped or shared pages.

        Raises:
            KeyError: when there is no such VMA.
            MachineError: when there is no such order.
        """
        of = whole("order", order, layout.ORDERS[0], layout.ORDERS[-1])
        _, mm, start, end, *_ = self._core.vma(whole("vma", vma, most=layout.NIL))
        return -self._core.collapse(mm, start, end, of)

    def process_madvise(
        self, process: str, ranges: Iterable[tuple[int, int]], advice: str, *, caller: str = "", orders: int = 0
    ) -> int:
        """Advise memory of another process, range after range, up to the first that fails (process_madvise(2), R48).

        Args:
            process: whose memory.
            ranges: (address, bytes) of each.
            advice: of another process Linux takes "cold", "pageout", "willneed" and "collapse"; the kernel's switch
                `remote_hints` adds "hugepage" and "nohugepage".
            caller: the process that calls; the program's first one if not given.
            orders: with "hugepage" and `remote_hints`: the set of sizes that the ranges may use, bit o for order o.

        Returns:
            Bytes of the ranges that succeeded or, when the first did not, the negative errno: -3 (ESRCH) for a process
            that has ended, -1 (EPERM) when the caller has dropped CAP_SYS_NICE, -22 (EINVAL) for other advice.

        Raises:
            MachineError: for a process that the program does not have, or unknown advice or sizes.
        """
        names = self.program.processes
        own, other = (names.index(one_of("process", name, names)) for name in (caller or names[0], process))
        number = layout.ADVICE[one_of("advice", advice, layout.ADVICE)]
        vector = [whole("ranges", value) for start, length in ranges for value in (start, length)]
        return self._core.process_madvise(own, other, np.array(vector, np.uint64), number, order_mask(orders))

    def read_blocks(self, mm: int, start: int, end: int, *, clear: bool = True) -> Bytes:
        """Read which 64K blocks of a range were accessed or written, below the size of their folios.

        A block that arm64 folds has one accessed and one dirty bit, and costs one reading, as does a 2M block that a
        PMD maps, all of whose blocks look alike; else all 16 entries are read. What stays in the TLB looks idle until
        it is flushed.

        Args:
            mm: the address space.
            start: first address.
            end: the address after the last.
            clear: also clear the accessed bits; dirty bits stay.

        Returns:
            uint8 for each aligned 64K from that of `start` on: `YOUNG_MAPPED`, `YOUNG_ACCESSED`, `YOUNG_DIRTY`,
            `YOUNG_CONT` (folded), `YOUNG_PMD`, `YOUNG_ZERO_PAGE`, each if it holds for any page.

        Raises:
            MachineError: when there is no such range.
        """

        def read(number: int, begin: int, last: int) -> bytes:
            return self._core.read_blocks(number, begin, last, bool(clear))

        return np.frombuffer(self._read_range(read, mm, start, end), np.uint8)

    def test_and_clear_young(self, mm: int, addresses: Addresses) -> Bytes:
        """Read the entries that map addresses and clear their accessed bits; this costs simulated time.

        What stays in the TLB looks idle until it is flushed, and neighbours in the list that one PMD or one contpte
        block maps have one bit, and cost one reading.

        Args:
            mm: the address space.
            addresses: uint64, any number.

        Returns:
            uint8 for each address: `YOUNG_MAPPED`, `YOUNG_ACCESSED`, `YOUNG_PMD` (mapped by a PMD), `YOUNG_ZERO_PAGE`.

        Raises:
            IndexError: when there is no such address space.
            MachineError: when an address is none of a program.
        """
        try:
            contiguous = np.ascontiguousarray(addresses, np.uint64)
        except (OverflowError, TypeError, ValueError):
            contiguous = np.empty((0, 0), np.uint64)
        if contiguous.ndim != 1:
            raise MachineError("addresses are a one-dimensional array of uint64")
        return np.frombuffer(self._core.test_and_clear_young(whole("mm", mm, most=layout.NIL), contiguous), np.uint8)

    def mapped_orders(self, mm: int, start: int, end: int) -> SmallInts:
        """Return for each 4K page of an address range the order of its folio, or `MAPS_NOTHING` and so on; int8.

        This and the next three methods take no simulated time: a kernel could note it at its faults, as Ingens does.

        Raises:
            MachineError: when there is no such range.
        """
        return np.frombuffer(self._read_range(self._core.mapped_orders, mm, start, end), np.int8)

    def _read_range(self, read: Callable[[int, int, int], bytes], mm: int, start: int, end: int) -> bytes:
        number, begin, last = whole("mm", mm, most=layout.NIL), whole("start", start), whole("end", end)
        try:
            return read(number, begin, last)
        except (ValueError, IndexError) as error:
            raise MachineError(f"cannot read {begin:#x} to {last:#x}: {error}") from None

    def occupied_blocks(self, mm: int, start: int, end: int) -> Records:
        """Return the aligned 2M blocks of an address range that have a page mapped: `BLOCK_DTYPE`, by address."""
        return np.frombuffer(self._read_range(self._core.occupied_blocks, mm, start, end), BLOCK_DTYPE)

    def occupancy_by_size(self, mm: int, start: int, end: int) -> Records:
        """Return how full the aligned blocks of an address range are: `SIZE_DTYPE` for each order, 0 to 9."""
        return np.frombuffer(self._read_range(self._core.occupancy_by_size, mm, start, end), SIZE_DTYPE)

    def blocks_with_holes(self, mm: int, start: int, end: int) -> Records:
        """Return the aligned blocks of each size in which a folio of that size is mapped and a page is not.

        Returns:
            `HOLE_DTYPE`, by order from 2 on, then by address.
        """
        return np.frombuffer(self._read_range(self._core.blocks_with_holes, mm, start, end), HOLE_DTYPE)

    def count_zero_pages(self, mm: int, start: int, end: int) -> int:
        """Read the pages of large folios in a range, and return how many are all zeros; this costs simulated time."""
        return self._core.count_zero_pages(whole("mm", mm, most=layout.NIL), whole("start", start), whole("end", end))

    def sample_walks(self, period: int) -> None:
        """Let the PMU sample the address of one in `period` page walks (0: none); each sample takes simulated time."""
        self._core.sample_walks(up_to("period", period))

    def take_walk_samples(self) -> Records:
        """Return the `WALK_DTYPE` samples since they were last taken; of those beyond 16384 nothing is known."""
        return np.frombuffer(self._core.take_walk_samples(), WALK_DTYPE)
