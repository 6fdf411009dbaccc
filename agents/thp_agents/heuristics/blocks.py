"""Shared by policies of 2M blocks: the blocks of every VMA, which of them are in use, and timers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from thp_agents.view import KernelView
from thp_env.machine import YOUNG_ACCESSED, Vma, layout

PAGES = layout.PMD_SIZE // layout.PAGE_SIZE
ALL_2M = 1 << layout.PMD_ORDER


class Block(NamedTuple):
    """An aligned 2M of an address space."""

    mm: int
    start: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + layout.PMD_SIZE


class Timer:
    """Is due once in each interval of simulated time, the first time after one interval.

    Args:
        ms: the interval.
    """

    def __init__(self, ms: float) -> None:
        """Make a timer that has not begun."""
        self.ns, self.next = int(ms * 1e6), 0

    def begin(self, view: KernelView) -> None:
        """Begin an interval now."""
        self.next = view.clock_ns + self.ns

    def due(self, view: KernelView) -> bool:
        """Return whether the interval is over; if so, begin the next one."""
        if view.clock_ns < self.next:
            return False
        self.begin(view)
        return True


def inside(vma: Vma) -> tuple[int, int]:
    """Return where a VMA's first whole 2M block begins and its last one ends; equal when there is none."""
    start = -(-vma.start // layout.PMD_SIZE) * layout.PMD_SIZE
    return start, max(start, vma.end // layout.PMD_SIZE * layout.PMD_SIZE)


def occupied_blocks(view: KernelView) -> Iterator[tuple[Block, int, bool]]:
    """Yield each whole 2M block with mapped pages, their number, and whether huge folios map all of it."""
    for vma in view.vmas():
        first, end = inside(vma)
        if first == end:
            continue
        for start, mapped, huge in view.occupied_blocks(vma.mm, vma.start, vma.end).tolist():
            yield Block(vma.mm, start), mapped, huge == PAGES


def young_pages(view: KernelView, blocks: list[Block]) -> np.ndarray:
    """Read and clear the accessed bits of blocks: how many pages of each were accessed, one bit a mapping.

    A process may have ended since its blocks were chosen; none of theirs were accessed.
    """
    counts = np.zeros(len(blocks), np.int64)
    for mm in {block.mm for block in blocks} & {vma.mm for vma in view.vmas()}:
        indices = [i for i, block in enumerate(blocks) if block.mm == mm]
        starts = np.array([blocks[i].start for i in indices], np.uint64)
        addresses = starts[:, None] + np.arange(PAGES, dtype=np.uint64) * np.uint64(layout.PAGE_SIZE)
        bits = view.test_and_clear_young(mm, addresses.ravel()).reshape(-1, PAGES)
        counts[indices] = ((bits & YOUNG_ACCESSED) != 0).sum(1)
    return counts
