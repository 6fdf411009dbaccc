"""What a policy reads of a machine and does to it, beside decisions about whole VMAs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from thp_env.machine import layout
from thp_env.machine.config import MachineError
from thp_env.machine.records import WALK_DTYPE, Verb, Vma

if TYPE_CHECKING:
    from thp_env.traces.program import Program


class Access:
    """A part of `Machine`."""

    _core: Any
    program: Program

    def set(self, name: str, value: int) -> None:
        """Write one of `layout.SETTINGS`, as the trace program's `set` does.

        Raises:
            MachineError: for an unknown setting or value.
        """
        if name not in layout.SETTINGS:
            raise MachineError(f"no setting {name!r}: one of {', '.join(layout.SETTINGS)}")
        which = list(layout.SETTINGS).index(name)
        if not 0 <= value < layout.SETTING_VALUES[which]:
            raise MachineError(f"{name} is 0 to {layout.SETTING_VALUES[which] - 1}, not {value}")
        self._core.set(which, value)

    def khugepaged(self, pages: int = 4096, sleep_ms: float = 10_000, alloc_sleep_ms: float = 60_000) -> None:
        """Let khugepaged run by itself; it does not, unless told.

        Args:
            pages: pages_to_scan: after so many it sleeps; 0: stop it.
            sleep_ms: scan_sleep_millisecs.
            alloc_sleep_ms: alloc_sleep_millisecs: how long it sleeps when it got no huge page.
        """
        self._core.khugepaged(pages, int(sleep_ms * 1e9), int(alloc_sleep_ms * 1e9))

    # -- address ranges and samples ----------------------------------------------------------------

    def decide_range(self, mm: int, start: int, end: int, verb: Verb, value: int = 0) -> int:
        """Do to an address range what a decision does to a VMA; returns the errno, 0 on success.

        Raises:
            MachineError: when there is no such range.
        """
        try:
            return -self._core.decide_range(mm, start, end, int(verb), value)
        except (ValueError, IndexError, TypeError) as error:
            raise MachineError(f"cannot decide about {start:#x} to {end:#x}: {error}") from None

    def collapse(self, vma: int, order: int = layout.PMD_ORDER) -> int:
        """Collapse the VMA's whole blocks of a size into one folio each; returns the errno.

        2M: MADV_COLLAPSE (R44). Smaller sizes, as DAMON's collapse action takes one (posted in July 2026): blocks that
        are not empty, of which nothing is swapped or shared.

        Raises:
            KeyError: when there is no such VMA.
            MachineError: when there is no such order.
        """
        found = [v for v in (Vma(*row) for row in self._core.vmas()) if v.id == vma]
        if not found:
            raise KeyError(f"no VMA {vma}")
        if order not in layout.ORDERS:
            raise MachineError(f"order {order}: one of {', '.join(map(str, layout.ORDERS))}")
        return -self._core.collapse(found[0].mm, found[0].start, found[0].end, order)

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
        caller = caller or names[0]
        for name in (caller, process):
            if name not in names:
                raise MachineError(f"no process {name!r}: one of {', '.join(names)}")
        if advice not in layout.ADVICE:
            raise MachineError(f"no advice {advice!r}: one of {', '.join(layout.ADVICE)}")
        if orders & ~layout.ORDERS_ALL:
            raise MachineError(f"mask {orders:#x} names orders that do not exist")
        vector = np.array([*ranges], np.uint64).reshape(-1)
        try:
            return self._core.process_madvise(
                names.index(caller), names.index(process), vector, layout.ADVICE[advice], orders
            )
        except (ValueError, IndexError) as error:
            raise MachineError(f"process_madvise: {error}") from None

    def read_blocks(self, mm: int, start: int, end: int, *, clear: bool = True) -> np.ndarray:
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
        try:
            return np.frombuffer(self._core.read_blocks(mm, start, end, clear), np.uint8)
        except (ValueError, IndexError) as error:
            raise MachineError(f"cannot read {start:#x} to {end:#x}: {error}") from None

    def test_and_clear_young(self, mm: int, addresses: np.ndarray) -> np.ndarray:
        """Read the entries that map addresses and clear their accessed bits; this costs simulated time.

        What stays in the TLB looks idle until it is flushed, and neighbours in the list that one PMD or one contpte
        block maps have one bit, and cost one reading.

        Args:
            mm: the address space.
            addresses: uint64, any number.

        Returns:
            uint8 for each address: `YOUNG_MAPPED`, `YOUNG_ACCESSED`, `YOUNG_PMD` (mapped by a PMD), `YOUNG_ZERO_PAGE`.
        """
        bits = self._core.test_and_clear_young(mm, np.ascontiguousarray(addresses, np.uint64))
        return np.frombuffer(bits, np.uint8)

    def count_zero_pages(self, mm: int, start: int, end: int) -> int:
        """Read the pages of large folios in a range, and return how many are all zeros; this costs simulated time."""
        return self._core.count_zero_pages(mm, start, end)

    def sample_walks(self, period: int) -> None:
        """Let the PMU sample the address of every so many-th page walk (0: none); each sample costs simulated time."""
        self._core.sample_walks(period)

    def take_walk_samples(self) -> np.ndarray:
        """Return the `WALK_DTYPE` samples since they were last taken; of those beyond 16384 nothing is known."""
        return np.frombuffer(self._core.take_walk_samples(), WALK_DTYPE)
