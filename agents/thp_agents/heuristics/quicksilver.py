"""Quicksilver: a block gets single pages until it has enough, then all others at once (Zhu et al., USENIX ATC 2020).

FreeBSD reserves 2M at the first fault. When enough pages exist, Quicksilver fills the others: in the fault (Sync), or
in a thread that runs every second (Async). The simulated kernel has no reservations. So filling is a collapse, which
also copies the existing pages, and there are no idle reservations to evict.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import Timer, occupied_blocks
from thp_agents.policy import Policy
from thp_agents.view import KernelView


class Quicksilver(Policy):
    """Promotes a block that has enough pages.

    Args:
        mode: "sync" or "async".
        threshold: pages.
        scan_ms: how often the thread of "async" looks.
    """

    source = "Zhu et al., USENIX ATC 2020"
    environment = "thp_env/VmaHints-v0"

    def __init__(self, mode: str = "sync", threshold: int = 64, scan_ms: float = 1000) -> None:
        """Make the policy."""
        self.name = f"quicksilver_{mode}_{threshold}"
        self.mode, self.threshold, self.scan = mode, threshold, Timer(scan_ms)
        if mode == "sync" and threshold == 1:
            self.default_sizes = "2M"  # the first fault fills the block
        faults = 64 if mode == "sync" else 512
        self.arguments = {"scan_share": 0, "slots": 1, "window_ms": 50.0, "window_faults": faults}

    def reset(self, view: KernelView) -> None:
        """Begin an interval."""
        self.scan.begin(view)
        self.failures: dict[Any, int] = {}

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Collapse the blocks that have enough pages; one that failed is tried again when it has more."""
        if self.mode == "async" and not self.scan.due(view):
            return view.no_op
        for block, pages, huge in occupied_blocks(view):
            if not huge and pages >= self.threshold and self.failures.get(block, 0) < pages:
                if view.collapse(block.mm, block.start, block.end):
                    self.failures[block] = pages
                else:
                    self.failures.pop(block, None)
        return view.no_op


POLICIES = {
    f"quicksilver_{mode}_{pages}": partial(Quicksilver, mode, pages)
    for mode, pages in (("sync", 1), ("sync", 64), ("async", 64), ("async", 256))
}
"""The four of the paper."""
