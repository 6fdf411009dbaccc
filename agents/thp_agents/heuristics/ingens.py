"""Ingens: a block becomes huge when nine tenths of it are in use (Kwon et al., OSDI 2016; github.com/ut-osa/ingens).

Faults get base pages, and set a bit in the block's bitmap. A block with enough bits goes to the end of a worklist, and
a thread works on this list at once. Every 4 s the accessed bits of a fifth of the huge pages are read; processes with
idle huge pages have to wait longer. Huge pages are never split again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import PAGES, Block, Timer, occupied_blocks, young_pages
from thp_agents.policy import Policy
from thp_agents.view import KernelView


class Ingens(Policy):
    """Promotes by utilisation, fairly between processes.

    Args:
        util_threshold: percent of the pages (the source's default).
        scan_ms: between two readings of accessed bits.
        sample: share of the huge pages that is read.
    """

    name = "ingens"
    source = "Kwon et al., OSDI 2016; ut-osa/ingens, osa/hugepage_scan.c"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 50.0}  # noqa: RUF012

    def __init__(self, util_threshold: int = 90, scan_ms: float = 4000, sample: float = 0.2) -> None:
        """Make the policy."""
        self.threshold = util_threshold * PAGES // 100
        self.scan, self.sample = Timer(scan_ms), sample
        self.worklists: dict[int, deque[Block]] = {}
        self.huge: dict[int, list[Block]] = {}
        self.idle: dict[int, float] = {}

    def reset(self, view: KernelView) -> None:
        """Begin with empty worklists."""
        self.worklists, self.huge, self.idle = {}, {}, {}
        self.rng = np.random.default_rng(0)
        self.scan.begin(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Append blocks that have become full enough, serve the worklists, read accessed bits when it is time."""
        self.huge = {}
        for block, pages, huge in occupied_blocks(view):
            if huge:
                self.huge.setdefault(block.mm, []).append(block)
                continue
            worklist = self.worklists.setdefault(block.mm, deque())
            if pages >= self.threshold and block not in worklist:
                worklist.append(block)
        self._promote(view)
        if self.scan.due(view):
            self._read(view)
        return view.no_op

    def metric(self, mm: int) -> float:
        """Return the metric of a process: its waiting blocks, divided by the huge pages that it has and uses."""
        used = len(self.huge.get(mm, ())) * (1 - self.idle.get(mm, 0.0))
        return len(self.worklists[mm]) * 100 / max(1.0, used)

    def _promote(self, view: KernelView) -> None:
        while waiting := [mm for mm, worklist in self.worklists.items() if worklist]:
            mm = max(waiting, key=lambda m: (self.metric(m), -m))
            block = self.worklists[mm].popleft()
            if view.collapse(block.mm, block.start, block.end) == 0:
                self.huge.setdefault(mm, []).append(block)

    def _read(self, view: KernelView) -> None:
        for mm, blocks in self.huge.items():
            sample = [block for block in blocks if self.rng.random() < self.sample]
            if sample:
                self.idle[mm] = float((young_pages(view, sample) == 0).mean())
