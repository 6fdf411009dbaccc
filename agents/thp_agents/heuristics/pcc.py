"""PCC: a small cache beside the TLB counts page walks, and the regions with the highest counts become huge.

Manocha et al., "Architectural support for optimizing huge page selection within the OS", MICRO 2023. The promotion
candidate cache holds 128 tags of 2M and is fully associative; the tag with the lowest count is replaced first. Walks
for 4K pages count, except the first one to a region. Counters have 8 bits, and all are halved when one is full. Every
30 s the kernel takes the regions in the order of their counts. No real core has this cache, so here it gets the PMU's
samples, which cost their time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import Block, Timer
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import layout

FULL = 255
_SIZE_2M = 3


class CandidateCache:
    """The hardware.

    Args:
        entries: tags.
    """

    def __init__(self, entries: int = 128) -> None:
        """Make an empty cache."""
        self.entries = entries
        self.counts: dict[Block, int] = {}
        self.first_walks: set[Block] = set()

    def walk(self, block: Block, times: int = 1) -> None:
        """Note page walks for 4K pages of a 2M region. The first ever is cold: its tables were not accessed before."""
        if block not in self.first_walks:
            self.first_walks.add(block)
            times -= 1
        for _ in range(times):
            if block not in self.counts and len(self.counts) >= self.entries:
                del self.counts[min(self.counts, key=self.counts.__getitem__)]
            self.counts[block] = self.counts.get(block, 0) + 1
            if self.counts[block] >= FULL:
                self.counts = {b: n // 2 for b, n in self.counts.items()}

    def take(self) -> list[Block]:
        """Return the regions, the most counted first, and forget them."""
        by_count = sorted(self.counts, key=lambda b: -self.counts[b])
        self.counts = {}
        return by_count


class Pcc(Policy):
    """Promotes the candidates of the cache.

    Args:
        interval_ms: between two promotions.
        entries: of the cache.
        period: page walks between two samples.
    """

    name = "pcc"
    source = "Manocha et al., MICRO 2023"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 100.0}  # noqa: RUF012

    def __init__(self, interval_ms: float = 30_000, entries: int = 128, period: int = 2003) -> None:
        """Make the policy."""
        self.interval, self.entries, self.period = Timer(interval_ms), entries, period

    def reset(self, view: KernelView) -> None:
        """Begin with an empty cache."""
        view.sample_walks(self.period)
        self.cache = CandidateCache(self.entries)
        self.interval.begin(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Feed the cache; promote when it is time."""
        for sample in view.walk_samples():
            if sample["size"] != _SIZE_2M:
                start = int(sample["address"]) // layout.PMD_SIZE * layout.PMD_SIZE
                self.cache.walk(Block(int(sample["mm"]), start), int(sample["count"]))
        if self.interval.due(view):
            for block in self.cache.take():
                view.collapse(block.mm, block.start, block.end)
        return view.no_op
