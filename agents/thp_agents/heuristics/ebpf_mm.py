"""eBPF-mm: at a fault, a program takes the size with the largest difference of benefit and cost (arXiv 2409.11220).

A profile gives the benefit of 4K, 64K and 2M for each region. The cost is that of zeroing, and of compaction if free
memory is fragmented. The source makes its profile with DAMON in an earlier run. Here DAMON monitors the run itself, and
a region that is not in the profile yet gets the size for the VMA around it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.damon import Damon
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.envs.fault_order import ORDERS

CANDIDATES = (0, 4, 9)
"""Orders of 4K, 64K and 2M."""
ZEROING_NS, COMPACTION_NS = 430, 1200
"""Per 4K page: zeroing it; moving away another one and scanning, where no block is free."""
FAULT_NS, WALK_NS = 1350, 10
"""Saved: a fault; a page walk that an access in a hundred needs, with 4K pages."""


def best_order(rate: float, free: dict[int, bool]) -> int:
    """Return the order with the greatest difference of benefit and cost.

    The benefit grows with the rate of accesses to the region. An entry of 2^order pages saves all faults but one if all
    pages are used; the rate stands for this. It saves walks in proportion to the logarithm of its size.

    Args:
        rate: share of DAMON's samples that found the region accessed, 0 to 1.
        free: whether a block of each candidate is free.
    """

    def gain(order: int) -> float:
        pages = 1 << order
        benefit = rate * (pages - 1) * (FAULT_NS + WALK_NS * order)
        cost = (pages - 1) * ZEROING_NS + (0 if free[order] or not order else pages * COMPACTION_NS)
        return benefit - cost

    return max(CANDIDATES, key=lambda order: (gain(order), -order))


class EbpfMm(Policy):
    """Answers at faults."""

    name = "ebpf_mm"
    source = "eBPF-mm, arXiv 2409.11220, 2024"
    default_sizes = "all"
    environment = "thp_env/FaultOrder-v0"
    arguments = {"window_ms": 5.0}  # noqa: RUF012

    def __init__(self) -> None:
        """Make the policy."""
        self.damon = Damon()

    def reset(self, view: KernelView) -> None:
        """Begin to monitor."""
        self.damon.begin(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Take a sample when it is time; answer a fault that waits."""
        self.damon.step(view)
        question = view.question
        if question is None:
            return view.no_op
        info = view.buddyinfo()
        order = best_order(self.rate(view, question.mm, question.address), {o: any(info[o:]) for o in CANDIDATES})
        allowed = [ORDERS.index(o) for o in CANDIDATES if o <= order and (o == 0 or question.orders >> o & 1)]
        return allowed[-1]

    def rate(self, view: KernelView, mm: int, address: int) -> float:
        """Return how often DAMON found the region of an address accessed, or the VMA's mean if it is new."""
        regions = [r for r in self.damon.regions if r.mm == mm]
        region = next((r for r in regions if r.start <= address < r.end and r.age), None)
        if region is not None:
            return region.accesses / self.damon.samples
        vma = view.vma
        around = [r for r in regions if vma is not None and r.start < vma.end and r.end > vma.start]
        length = sum(r.end - r.start for r in around)
        accessed = sum(r.accesses * (r.end - r.start) for r in around)
        return accessed / length / self.damon.samples if length else 0.0
