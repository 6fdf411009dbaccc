"""DAMON: how often regions of an address space are accessed, from the accessed bit of one page of each.

mm/damon/core.c, mm/damon/vaddr.c: in every sampling interval, DAMON checks one random page of each region. After every
aggregation interval, neighbouring regions with similar counts are merged, and each region is cut in two at random, so
that the borders follow the program. The number of regions bounds the overhead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thp_agents.heuristics.blocks import Timer
from thp_agents.view import KernelView
from thp_env.machine import YOUNG_ACCESSED, layout

MIN_REGIONS, MAX_REGIONS = 10, 1000


@dataclass
class Region:
    """Addresses that behave alike.

    Attributes:
        mm, start, end: where.
        accesses: samples of the last aggregation that found it accessed.
        age: aggregations that it has behaved so.
    """

    mm: int
    start: int
    end: int
    accesses: int = 0
    age: int = 0
    hits: int = 0
    page: int = -1


class Damon:
    """The monitor.

    Args:
        sample_ms: sampling interval.
        aggregation_ms: aggregation interval.
        update_ms: how often it looks for new VMAs.
        seed: of the pages that it draws.
    """

    def __init__(
        self, sample_ms: float = 5, aggregation_ms: float = 100, update_ms: float = 1000, seed: int = 0
    ) -> None:
        """Make a monitor that has not begun."""
        self.sampling, self.update = Timer(sample_ms), Timer(update_ms)
        self.samples = round(aggregation_ms / sample_ms)
        self.aggregation_ns, self.seed = int(aggregation_ms * 1e6), seed

    def begin(self, view: KernelView) -> None:
        """Begin with the VMAs that there are."""
        self.rng = np.random.default_rng(self.seed)
        self.regions: list[Region] = []
        self.sample_count = 0
        self._find(view)
        self._cut()
        self.sampling.begin(view)
        self.update.begin(view)

    def step(self, view: KernelView) -> bool:
        """Take a sample if it is time; True when an aggregation is complete: then the regions have their figures."""
        if not self.sampling.due(view):
            return False
        if self.sample_count >= self.samples:
            self._split()
            self.sample_count = 0
        self._sample(view)
        self.sample_count += 1
        if self.sample_count < self.samples:
            return False
        self._aggregate()
        if self.update.due(view):
            self._find(view)
        return True

    def _sample(self, view: KernelView) -> None:
        for mm in sorted({r.mm for r in self.regions}):
            regions = [r for r in self.regions if r.mm == mm]
            try:
                if self.sample_count:
                    pages = np.array([r.page for r in regions], np.uint64)
                    for r, bits in zip(regions, view.test_and_clear_young(mm, pages), strict=True):
                        r.hits += bool(bits & YOUNG_ACCESSED)
                fractions = self.rng.random(len(regions))
                for r, share in zip(regions, fractions, strict=True):
                    r.page = r.start + int(share * ((r.end - r.start) // layout.PAGE_SIZE)) * layout.PAGE_SIZE
                view.test_and_clear_young(mm, np.array([r.page for r in regions], np.uint64))
            except IndexError:  # the process has ended
                self.regions = [r for r in self.regions if r.mm != mm]

    def _aggregate(self) -> None:
        """Note the figures, and merge neighbours that are alike."""
        alike = self.samples // 10
        for r in self.regions:
            r.age = r.age + 1 if abs(r.hits - r.accesses) <= alike else 0
            r.accesses, r.hits = r.hits, 0
        limit = max(1, sum(r.end - r.start for r in self.regions) // MIN_REGIONS)
        merged: list[Region] = []
        for r in self.regions:
            last = merged[-1] if merged else None
            if (last and last.mm == r.mm and last.end == r.start and abs(last.accesses - r.accesses) <= alike
                    and r.end - last.start <= limit):  # fmt: skip
                a, b = last.end - last.start, r.end - r.start
                last.accesses = (last.accesses * a + r.accesses * b) // (a + b)
                last.age = (last.age * a + r.age * b) // (a + b)
                last.end = r.end
            else:
                merged.append(r)
        self.regions = merged

    def _split(self) -> None:
        if len(self.regions) > MAX_REGIONS // 2:
            return
        out: list[Region] = []
        for r, share in zip(self.regions, self.rng.random(len(self.regions)), strict=True):
            pages = (r.end - r.start) // layout.PAGE_SIZE
            cut = r.start + int(1 + share * (pages - 1)) * layout.PAGE_SIZE
            if pages < 2 or cut >= r.end:
                out.append(r)
            else:
                out += [Region(r.mm, r.start, cut, r.accesses, r.age), Region(r.mm, cut, r.end, r.accesses, r.age)]
        self.regions = out

    def _cut(self) -> None:
        """Cut evenly, so that there are about as many as the least number of regions (damon_va_init)."""
        size = max(layout.PAGE_SIZE, sum(r.end - r.start for r in self.regions) // MIN_REGIONS)
        size = size // layout.PAGE_SIZE * layout.PAGE_SIZE
        self.regions = [
            Region(r.mm, at, min(at + size, r.end)) for r in self.regions for at in range(r.start, r.end, size)
        ]

    def _find(self, view: KernelView) -> None:
        """Keep the parts of regions that still lie in VMAs, and begin new ones where there are none."""
        out: list[Region] = []
        for vma in view.vmas():
            at = vma.start
            for r in (r for r in self.regions if r.mm == vma.mm and r.end > vma.start and r.start < vma.end):
                if r.start > at:
                    out.append(Region(vma.mm, at, r.start))
                r.start, r.end = max(r.start, vma.start), min(r.end, vma.end)
                out.append(r)
                at = r.end
            if at < vma.end:
                out.append(Region(vma.mm, at, vma.end))
        self.regions = out
