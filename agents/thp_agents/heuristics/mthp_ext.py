"""mthp_ext: no large folios for small control groups and under memory pressure (Vernon Yang, May 2026, v2).

A BPF program on cgroups. Every second it sets a highest order for the group: order 0 if the group has less than 16 MB
of anonymous and shared memory, or if its PSI "full" stall for memory grew by 100 ms or more in that second; otherwise
order 9. Faults may not get a higher order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import Timer
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import layout

SMALL = (16 << 20) // layout.PAGE_SIZE


class MthpExt(Policy):
    """Decides for each control group; for group 0, by the default sizes.

    Args:
        interval_ms: between two looks.
        small: pages below which there are no large folios.
        stall_ms: growth of the stall in an interval that stops them.
    """

    name = "mthp_ext"
    source = "V. Yang, mthp_ext v2, linux-mm, 8 May 2026"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 100.0}  # noqa: RUF012

    def __init__(self, interval_ms: float = 1000, small: int = SMALL, stall_ms: float = 100) -> None:
        """Make the policy."""
        self.interval, self.small, self.stall_ns = Timer(interval_ms), small, stall_ms * 1e6

    def reset(self, view: KernelView) -> None:
        """Begin an interval, with order 0: the groups have no memory yet."""
        self.interval.begin(view)
        self.stalled = self.stalls(view)
        self.masks: dict[int, int] = {}

    def stalls(self, view: KernelView) -> dict[int, int]:
        """Return the stall of each group so far (PSI "full"), in nanoseconds."""
        return {group.number: group.pressure.full.total * 1000 for group in view.control_groups()}

    def order(self, resident: int, stalled_ns: float) -> int:
        """Return the highest order for a group of so many pages that stalled so long in an interval."""
        return 0 if resident < self.small or stalled_ns >= self.stall_ns else layout.PMD_ORDER

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Decide when an interval is over; new VMAs of groups other than 0 follow at once."""
        if self.interval.due(view):
            before, self.stalled = self.stalled, self.stalls(view)
            for group in view.control_groups():
                stall = self.stalled[group.number] - before.get(group.number, 0)
                order = self.order(group.anon, stall)
                self.masks[group.number] = layout.ORDERS_ALL & ~1 & ((2 << order) - 1) or 1
            view.set_default_orders(self.masks[0])
        for vma in view.vmas() if len(self.masks) > 1 else ():
            group_number = view.control_group_of(vma.mm)
            mask = self.masks.get(group_number, 1) if group_number else 0
            if vma.orders != mask:
                view.set_orders(vma.mm, vma.start, vma.end, mask)
        return view.no_op
