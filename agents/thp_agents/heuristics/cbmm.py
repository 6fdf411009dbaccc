"""CBMM: a block becomes a huge page if this saves more than it costs (Mansi et al., USENIX ATC 2022).

multifacet/cbmm, mm/estimator.c. A profile gives the TLB misses of a block's range in a long-term unit of time; the
benefit is 50 cycles for each miss. The cost is that of the allocation (none while a block of 2M is free), of zeroing
(100 us of 2000 cycles), and of reclaim if memory is short. CBMM takes its profile from earlier runs of the program.
Here it is measured during the run, from sampled page walks, so there is none in the first unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import ALL_2M, Block, Timer, inside, occupied_blocks
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import layout

CYCLES_PER_MISS = 50
PREPARATION = 100 * 2000
NO_BLOCK, RECLAIM = 1 << 32, 10**9
ADDRESSES = 1 << 47
"""Of an address space."""


def cost(free_2m: int, reclaim: bool, prezeroed: bool = False) -> int:
    """Return the cost of a huge page, in cycles.

    Args:
        free_2m: free blocks of 2M or more.
        reclaim: whether memory has to be reclaimed for it.
        prezeroed: whether a zeroed one is available.
    """
    return (0 if free_2m else NO_BLOCK) + (0 if prezeroed else PREPARATION) + (RECLAIM if reclaim else 0)


def promote(misses: float, price: int) -> bool:
    """Return whether so many TLB misses of a huge page in a unit of time are worth the price."""
    return CYCLES_PER_MISS * misses > price


class Cbmm(Policy):
    """Compares benefit and cost, per block for collapses and per VMA for later faults.

    Args:
        unit_ms: the long-term unit, after which the policy decides again.
        period: page walks between two samples.
    """

    name = "cbmm"
    source = "Mansi et al., USENIX ATC 2022; multifacet/cbmm, mm/estimator.c"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 100.0}  # noqa: RUF012

    def __init__(self, unit_ms: float = 10_000, period: int = 2003) -> None:
        """Make the policy."""
        self.unit, self.period = Timer(unit_ms), period

    def reset(self, view: KernelView) -> None:
        """Begin without a profile."""
        view.sample_walks(self.period)
        self.misses: dict[Block, float] = {}
        self.unit.begin(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Gather samples; when a unit is over, promote the blocks that are worth it."""
        note_walks(self.misses, view, self.period)
        if self.unit.due(view):
            self.estimate(view)
            self.misses = {}
        return view.no_op

    def estimate(self, view: KernelView) -> None:
        """Decide about every VMA and every block."""
        for vma in view.vmas():
            start, end = inside(vma)
            blocks = (end - start) // layout.PMD_SIZE
            if not blocks:
                continue
            of_vma = sum(n for b, n in self.misses.items() if b.mm == vma.mm and start <= b.start < end)
            mask = ALL_2M if promote(of_vma / blocks, self.price(view)) else 1
            if mask != (vma.orders or 1):
                view.set_orders(vma.mm, vma.start, vma.end, mask)
        for block, _, huge in occupied_blocks(view):
            if not huge and promote(self.misses.get(block, 0.0), self.price(view)):
                view.collapse(block.mm, block.start, block.end)

    def price(self, view: KernelView) -> int:
        """Return the present cost of one more huge page."""
        low = view.watermarks[1] + (1 << layout.PMD_ORDER)
        return cost(sum(view.buddyinfo()[layout.PMD_ORDER :]), view.free_pages < low)


def note_walks(misses: dict[Block, float], view: KernelView, period: int, size: int = layout.PMD_SIZE) -> None:
    """Add the page walks that samples represent to their blocks."""
    samples = view.walk_samples()
    starts = samples["address"] // np.uint64(size) * np.uint64(size)
    places = samples["mm"].astype(np.uint64) * np.uint64(ADDRESSES) + starts
    blocks, index = np.unique(places, return_inverse=True)
    counts = np.bincount(index, samples["count"], len(blocks))
    for place, count in zip(blocks.tolist(), counts.tolist(), strict=True):
        block = Block(place // ADDRESSES, place % ADDRESSES)
        misses[block] = misses.get(block, 0.0) + count * period
