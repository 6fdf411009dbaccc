"""Collapses whatever can be collapsed, at once: the other end from never.

All sizes for faults, and MADV_COLLAPSE on every block of 2M that is not huge yet, whenever it has more pages than when
that last failed. A rule this simple shows how much of a policy's lead is collapsing alone.
"""

from __future__ import annotations

from thp_agents.heuristics.quicksilver import Quicksilver


class CollapseEverywhere(Quicksilver):
    """Quicksilver from the first page on, on top of all sizes."""

    name = "collapse_everywhere"
    source = "a reference: MADV_COLLAPSE (Linux 6.1) on every block"

    def __init__(self) -> None:
        """Make the policy."""
        super().__init__("sync", 1)
        self.name, self.default_sizes = type(self).name, "all"
