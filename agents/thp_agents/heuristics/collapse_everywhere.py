"""Collapses every possible block at once: the opposite of never.

Faults may get all sizes. MADV_COLLAPSE is called for every block of 2M that is not huge yet; after a failure again when
the block has more pages. This simple rule shows how much of a policy's lead comes from collapsing alone.
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
