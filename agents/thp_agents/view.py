"""Reading and acting on the machine as a kernel can, besides observation and action, each at its simulated price.

The simulator's own knowledge is hidden: which pages a program really used, its future, its name.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np

from thp_env.envs.env import ThpEnv
from thp_env.envs.vector import ThpVectorEnv
from thp_env.machine import ControlGroup, Machine, OrderQuestion, Pressure, Verb, Vma, layout

TRUTH = frozenset(
    {"nr_untouched", "untouched_page_us", "nr_unmapped", "unmapped_page_us", "shadow_l1_miss", "shadow_l2_miss",
     "shadow_walk_cycles"}
)  # fmt: skip
"""Counters that only the simulator has."""


class KernelView:
    """A policy's view of the machine of an episode.

    Reading page tables and samples takes simulated time, and so do actions. Counters, free lists and the list of VMAs
    cost nothing, as in a kernel.

    Args:
        env: the environment, whose episode has begun.
        hidden: ids of VMAs about which another policy decides.
        machine: which one of a vector environment.
    """

    def __init__(self, env: ThpEnv | ThpVectorEnv, hidden: Collection[int] = (), machine: int = 0) -> None:
        """Look at an environment."""
        self._env, self._hidden, self._index = env, hidden, machine

    def without(self, hidden: Collection[int]) -> KernelView:
        """Return a view of the same machine that has no VMAs of these ids."""
        return KernelView(self._env, hidden, self._index)

    @property
    def _machine(self) -> Machine:
        return self._env.task.batch[self._index]

    # -- the decision ------------------------------------------------------------------------------

    @cached_property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions on one VMA (`thp_env.envs.actions`); empty in environments that have none."""
        return getattr(getattr(self._env.task, "actions", None), "names", ())

    @property
    def masks(self) -> np.ndarray:
        """Which actions can have an effect, int8, as the environment's `action_masks`."""
        return self._env.task.masks()[self._index]

    @property
    def no_op(self) -> Any:
        """The action that changes nothing: at a fault, the largest order that is allowed."""
        return self._env.task.no_op(self._index)

    @property
    def vma(self) -> Vma | None:
        """The VMA in question in VmaOrder-v0, or the VMA of the waiting fault in FaultOrder-v0."""
        return self._by_id(int(self._env.task.smaps["id"][self._index, 0]))

    @property
    def slots(self) -> list[Vma | None]:
        """The VMA of each slot of VmaHints-v0, None for an empty one."""
        return [self._by_id(int(i)) for i in self._env.task.smaps["id"][self._index, :-1]]

    @property
    def question(self) -> OrderQuestion | None:
        """The question of FaultOrder-v0; None when no fault waits."""
        return self._machine.question

    def _by_id(self, vma: int) -> Vma | None:
        try:
            found = self._machine.vma(vma) if vma else None
        except KeyError:
            return None
        return found if found is not None and self._may_decide(found) else None

    def _may_decide(self, vma: Vma) -> bool:
        return vma.anonymous and bool(vma.flags & layout.VM_WRITE) and vma.id not in self._hidden

    # -- seeing ------------------------------------------------------------------------------------

    @property
    def clock_ns(self) -> int:
        """Simulated time in nanoseconds."""
        return self._machine.clock_ps // 1000

    def vmas(self) -> list[Vma]:
        """Return the VMAs that a policy may decide about: anonymous and writable, in address order."""
        return [v for v in self._machine.vmas() if self._may_decide(v)]

    @property
    def memory_pages(self) -> int:
        """The machine's memory in 4K pages."""
        return self._machine.config.memory // layout.PAGE_SIZE

    @property
    def free_pages(self) -> int:
        """Free 4K pages."""
        return self._machine.free_pages

    @property
    def watermarks(self) -> tuple[int, int, int]:
        """The zone's min, low and high watermark in pages."""
        return self._machine.watermarks

    def control_groups(self) -> list[ControlGroup]:
        """Return the memory control groups with limits, usage and pressure: see `Machine.control_groups`."""
        return self._machine.control_groups()

    def control_group_of(self, mm: int) -> int:
        """Return the number of the control group that an address space is charged to."""
        return self._machine.control_group_of(mm)

    @property
    def pressure(self) -> Pressure:
        """Pressure stall information of the whole system."""
        return self._machine.pressure

    def buddyinfo(self) -> list[int]:
        """Return the free blocks by order, 0 to 10, as /proc/buddyinfo does."""
        return self._machine.buddyinfo()

    def unusable_free_index(self, order: int) -> float:
        """Return the share of free memory that an allocation of this order cannot use (Gorman's, also Ingens' FMFI)."""
        return self._machine.unusable_free_index(order)

    def counters(self, *names: str) -> dict[str, int]:
        """Return counters of the kernel and of the PMU, by name (`thp_env.machine.counters`).

        Raises:
            KeyError: for a name that does not exist, or that only the simulator knows.
        """
        if hidden := TRUTH.intersection(names):
            raise KeyError(f"{', '.join(sorted(hidden))}: no kernel knows this")
        now = self._machine.counters
        return {name: now[name] for name in names}

    def time_ns(self, *kinds: str) -> int:
        """Return the time spent in kinds of work so far (`thp_env.machine.counters.TIMES`), in nanoseconds."""
        return self._machine.counters.time_ps(*kinds) // 1000

    def smaps(self, vma: int, *, clear_refs: bool = False) -> np.void:
        """Read the page tables of a VMA: one `thp_env.machine.SMAPS_DTYPE` record.

        Args:
            vma: its id.
            clear_refs: also clear the accessed bits; this costs simulated time.

        Raises:
            KeyError: when there is no such VMA.
        """
        return self._machine.smaps(vma, clear_refs=clear_refs)

    def test_and_clear_young(self, mm: int, addresses: np.ndarray) -> np.ndarray:
        """Read the entries that map addresses and clear their accessed bits: see `Machine.test_and_clear_young`."""
        return self._machine.test_and_clear_young(mm, addresses)

    def young_pages(self, mm: int, start: int, end: int) -> np.ndarray:
        """Do so for each 4K page of an address range: uint8 of `thp_env.machine.YOUNG_MAPPED` and so on."""
        return self._machine.test_and_clear_young(mm, np.arange(start, end, layout.PAGE_SIZE, dtype=np.uint64))

    # What follows up to `count_zero_pages` is free, since a kernel could note it at its own faults, as Ingens does.

    def mapped_pages(self, mm: int, start: int, end: int) -> np.ndarray:
        """Return the folio order behind each 4K page of an address range: see `Machine.mapped_orders`."""
        return self._machine.mapped_orders(mm, start, end)

    def occupied_blocks(self, mm: int, start: int, end: int) -> np.ndarray:
        """Return the aligned 2M blocks that have a page mapped: see `Machine.occupied_blocks`."""
        return self._machine.occupied_blocks(mm, start, end)

    def occupancy_by_size(self, mm: int, start: int, end: int) -> np.ndarray:
        """Return how full aligned blocks of each size are: see `Machine.occupancy_by_size`."""
        return self._machine.occupancy_by_size(mm, start, end)

    def blocks_with_holes(self, mm: int, start: int, end: int) -> np.ndarray:
        """Return aligned blocks of which a part is unmapped: see `Machine.blocks_with_holes`."""
        return self._machine.blocks_with_holes(mm, start, end)

    def count_zero_pages(self, mm: int, start: int, end: int) -> int:
        """Read the pages of large folios in a range, and return how many are all zeros."""
        return self._machine.count_zero_pages(mm, start, end)

    def sample_walks(self, period: int) -> None:
        """Let the PMU sample the address of one in `period` page walks (0: none); each sample takes simulated time."""
        self._machine.sample_walks(period)

    def walk_samples(self) -> np.ndarray:
        """Return the samples since they were last taken (`thp_env.machine.WALK_DTYPE`)."""
        return self._machine.take_walk_samples()

    # -- doing -------------------------------------------------------------------------------------

    def set_orders(self, mm: int, start: int, end: int, mask: int) -> int:
        """Set the orders that faults in an address range may use (extension E1); returns the errno, 0 on success."""
        return self._machine.decide_range(mm, start, end, Verb.ORDERS, mask)

    def madvise(self, mm: int, start: int, end: int, advice: str) -> int:
        """Call process_madvise for an address range (`layout.ADVICE`); returns the errno, 0 on success."""
        return self._machine.decide_range(mm, start, end, Verb.ADVISE, layout.ADVICE[advice])

    def collapse(self, mm: int, start: int, end: int) -> int:
        """Collapse the whole 2M blocks of an address range into huge pages (MADV_COLLAPSE); returns the errno."""
        return self.madvise(mm, start, end, "collapse")

    def split(self, mm: int, start: int, end: int) -> None:
        """Split the large folios of an address range (extension E2); pages of zeros are freed."""
        self._machine.decide_range(mm, start, end, Verb.SPLIT)

    def set(self, name: str, value: int) -> None:
        """Write one of `layout.SETTINGS` below /sys/kernel/mm/transparent_hugepage."""
        self._machine.set(name, value)

    def khugepaged(self, pages: int = 4096, sleep_ms: float = 10_000, alloc_sleep_ms: float = 60_000) -> None:
        """Start khugepaged: see `Machine.khugepaged`."""
        self._machine.khugepaged(pages, sleep_ms, alloc_sleep_ms)

    def set_thp(self, order: int, mode: str) -> None:
        """Set a size's sysfs control to never, madvise, always or inherit."""
        self._machine.set_thp(order, mode)

    def set_default_orders(self, mask: int) -> None:
        """Set the orders of VMAs that have no mask of their own."""
        self._machine.set_default_orders(mask)
